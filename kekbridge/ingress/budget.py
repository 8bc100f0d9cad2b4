"""How many refused requests an address may cause before its requests are refused unread. Pure.

Only refusals of senders that have proven nothing count: a trader whose own alerts are refused is never affected. Addresses shared by
many senders have no budget, since an attacker could use up the trader's.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from kekbridge.ingress.addresses import Client, network_key
from kekbridge.model.networks import Address

_MOST_ADDRESSES: Final = 10_000


@dataclass(slots=True)
class _Account:
    """Refusals that are left to one address."""

    left: float
    updated_at: float


class RefusalBudget:
    """A token bucket per address (IPv6: per /64). Times are seconds of any monotonic clock."""

    def __init__(self, *, burst: int, per_s: float) -> None:
        """An address may cause `burst` refusals at once, and `per_s` a second from then on."""
        self._burst = burst
        self._per_s = per_s
        self._accounts: OrderedDict[Address, _Account] = OrderedDict()

    def __bool__(self) -> bool:
        """True if any address has caused refusals of late."""
        return bool(self._accounts)

    @property
    def address_count(self) -> int:
        """Number of addresses with counted refusals; bounded."""
        return len(self._accounts)

    def wait_s(self, client: Client, now: float) -> int:
        """Whole seconds (rounded up) until a request of this client is read again; 0 if it is read now."""
        if not self._accounts or client.address is None or client.is_shared:
            return 0
        self._forget_full(now)
        account = self._accounts.get(network_key(client.address))
        if account is None:
            return 0
        left = self._refilled(account, now)
        return 0 if left >= 1 else math.ceil((1 - left) / self._per_s)

    def charge(self, client: Client, now: float) -> None:
        """Count one refusal."""
        if client.address is None or client.is_shared:
            return
        key = network_key(client.address)
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account(self._burst, now)
            if len(self._accounts) > _MOST_ADDRESSES:
                self._accounts.popitem(last=False)
        account.left = max(self._refilled(account, now) - 1, 0.0)
        account.updated_at = now
        self._accounts.move_to_end(key)

    def _forget_full(self, now: float) -> None:
        """Forget addresses whose budget is whole again, the one with the oldest refusal first."""
        while self._accounts:
            key, oldest = next(iter(self._accounts.items()))
            if self._refilled(oldest, now) < self._burst:
                return
            del self._accounts[key]

    def _refilled(self, account: _Account, now: float) -> float:
        return min(account.left + (now - account.updated_at) * self._per_s, self._burst)
