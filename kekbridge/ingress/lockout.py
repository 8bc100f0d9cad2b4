"""Who failed to authenticate too often is not listened to for a while, by address (IPv6 by /64: one customer has a whole one).

It saves work and log lines under a flood; what keeps strangers out is the 190-bit key. Memory is bounded, time is an argument. Addresses
shared by many senders are never counted: a stranger could otherwise shut the trader out.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_interface, ip_network

from kekbridge.errors import ConfigError
from kekbridge.ingress.addresses import Client
from kekbridge.model.networks import Address

_MOST_ADDRESSES = 10_000
_IPV6_HOST_BITS = 64


@dataclass(slots=True)
class _Failures:
    since: datetime
    count: int
    locked_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedOut:
    """An address that is not listened to: `address` as people write it (IPv6: the /64), `count` failures since `since`."""

    address: str
    count: int
    since: datetime
    until: datetime


def _tell_nobody(_locked: LockedOut) -> None:
    """Nobody asks who is locked out."""


class Lockout:
    """Counts failures per address in a window that opens with the first one."""

    def __init__(
        self, *, failures: int, window_s: int, lockout_s: int, told: Callable[[LockedOut], None] = _tell_nobody
    ) -> None:
        """So many failures within window_s seconds lock the address out for lockout_s seconds.

        `told` hears of every lock-out once, when it begins; it must not block.
        """
        self._told = told
        self._limit = failures
        self._window = timedelta(seconds=window_s)
        self._duration = timedelta(seconds=lockout_s)
        self._known: OrderedDict[Address, _Failures] = OrderedDict()

    def blocked_for(self, client: Client, now: datetime) -> int:
        """Whole seconds (rounded up) for which the client is still locked out; 0 when it is not."""
        found = self._known.get(_key(client.address)) if client.address and not client.is_shared else None
        if found is None or found.locked_until is None:
            return 0
        return max(0, math.ceil((found.locked_until - now).total_seconds()))

    def failed(self, client: Client, now: datetime) -> bool:
        """Count one failed authentication. True when this one locks the address out."""
        if client.address is None or client.is_shared:
            return False
        key = _key(client.address)
        found = self._known.get(key)
        if found is None or now - found.since > self._window or (found.locked_until and now >= found.locked_until):
            found = self._known[key] = _Failures(since=now, count=0)
            if len(self._known) > _MOST_ADDRESSES:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        found.count += 1
        if found.count < self._limit or found.locked_until:
            return False
        found.locked_until = now + self._duration
        self._told(_describe(key, found, found.locked_until))
        return True

    def succeeded(self, client: Client) -> None:
        """Forget an address's failures: it holds a valid proof."""
        if client.address is not None:
            self._known.pop(_key(client.address), None)

    @property
    def remembered(self) -> int:
        """How many addresses are remembered now: bounded, whatever comes."""
        return len(self._known)

    def release(self, address: Address) -> bool:
        """Lift a lock-out by hand. True when there was something to forget."""
        return self._known.pop(_key(address), None) is not None

    def locked(self, now: datetime) -> tuple[LockedOut, ...]:
        """Every address locked out now, the latest failure last."""
        return tuple(
            _describe(key, found, found.locked_until)
            for key, found in self._known.items()
            if found.locked_until and found.locked_until > now
        )


def read_address(text: str) -> Address:
    """An address as an operator types it; of a network, such as a listed /64, its first one. Raises ConfigError."""
    try:
        return ip_interface(text.strip()).network.network_address if "/" in text else ip_interface(text.strip()).ip
    except ValueError:
        raise ConfigError(
            f"{text[:60]!r} is no address; write one as `kekbridge lockouts list` shows it, such as 203.0.113.7"
        ) from None


def _describe(key: Address, found: _Failures, until: datetime) -> LockedOut:
    shown = str(ip_network((key, _IPV6_HOST_BITS))) if isinstance(key, IPv6Address) else str(key)
    return LockedOut(address=shown, count=found.count, since=found.since, until=until)


def _key(address: Address) -> Address:
    if isinstance(address, IPv6Address):
        return IPv6Address(int(address) >> _IPV6_HOST_BITS << _IPV6_HOST_BITS)
    return address
