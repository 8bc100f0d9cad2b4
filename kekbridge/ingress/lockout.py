"""Temporary lockout of addresses after repeated authentication failures (IPv6 per /64: one customer has a whole one).

It saves work and log lines under a flood; what keeps strangers out is the 190-bit key. Memory is bounded. Addresses shared by many senders
are never counted: a stranger could otherwise lock the trader out.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_interface, ip_network

from kekbridge.errors import ConfigError
from kekbridge.ingress.addresses import Client, network_key
from kekbridge.model.networks import Address

_MOST_ADDRESSES = 10_000
_IPV6_HOST_BITS = 64


@dataclass(slots=True)
class _Failures:
    """Failures of one address since the first one in the window."""

    since: datetime
    count: int
    locked_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedOut:
    """An address that is locked out."""

    #: As people write it; the /64 network for IPv6.
    address: str
    #: Failures since `since`.
    count: int
    since: datetime
    until: datetime


def _ignore(_locked: LockedOut) -> None:
    pass


class Lockout:
    """Counts failures per address in a window that opens with the first one."""

    def __init__(
        self, *, failures: int, window_s: int, lockout_s: int, on_lockout: Callable[[LockedOut], None] = _ignore
    ) -> None:
        """`failures` failed authentications within `window_s` seconds lock the address out for `lockout_s` seconds.

        `on_lockout` is called once per lockout, when it begins; it must not block.
        """
        self._on_lockout = on_lockout
        self._limit = failures
        self._window = timedelta(seconds=window_s)
        self._duration = timedelta(seconds=lockout_s)
        self._by_address: OrderedDict[Address, _Failures] = OrderedDict()

    def blocked_for(self, client: Client, now: datetime) -> int:
        """Whole seconds (rounded up) for which the client is still locked out; 0 if it is not."""
        if not self._by_address:
            return 0
        found = self._by_address.get(network_key(client.address)) if client.address and not client.is_shared else None
        if found is None or found.locked_until is None:
            return 0
        return max(0, math.ceil((found.locked_until - now).total_seconds()))

    def record_failure(self, client: Client, now: datetime) -> bool:
        """Count one failed authentication. True if this one locks the address out."""
        if client.address is None or client.is_shared:
            return False
        key = network_key(client.address)
        found = self._by_address.get(key)
        if found is None or now - found.since > self._window or (found.locked_until and now >= found.locked_until):
            found = self._by_address[key] = _Failures(since=now, count=0)
            if len(self._by_address) > _MOST_ADDRESSES:
                self._by_address.popitem(last=False)
        self._by_address.move_to_end(key)
        found.count += 1
        if found.count < self._limit or found.locked_until:
            return False
        found.locked_until = now + self._duration
        self._on_lockout(_describe(key, found, found.locked_until))
        return True

    def record_success(self, client: Client) -> None:
        """Clear an address's failures: it sent a valid proof."""
        if self._by_address and client.address is not None:
            self._by_address.pop(network_key(client.address), None)

    @property
    def address_count(self) -> int:
        """Number of addresses with counted failures; bounded."""
        return len(self._by_address)

    def release(self, address: Address) -> bool:
        """Lift a lockout, and clear the address's failures. True if there were any."""
        return self._by_address.pop(network_key(address), None) is not None

    def locked(self, now: datetime) -> tuple[LockedOut, ...]:
        """Every address that is locked out at `now`, the one with the latest failure last."""
        return tuple(
            _describe(key, found, found.locked_until)
            for key, found in self._by_address.items()
            if found.locked_until and found.locked_until > now
        )


def read_address(text: str) -> Address:
    """Parse an address as an operator types it; a network, such as a listed /64, gives its first address. Raises ConfigError."""
    try:
        return ip_interface(text.strip()).network.network_address if "/" in text else ip_interface(text.strip()).ip
    except ValueError:
        raise ConfigError(
            f"{text[:60]!r} is not an address; write one as `kekbridge lockouts list` shows it, such as 203.0.113.7"
        ) from None


def _describe(key: Address, found: _Failures, until: datetime) -> LockedOut:
    shown = str(ip_network((key, _IPV6_HOST_BITS))) if isinstance(key, IPv6Address) else str(key)
    return LockedOut(address=shown, count=found.count, since=found.since, until=until)
