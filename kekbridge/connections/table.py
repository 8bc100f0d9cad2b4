"""Which connections are open, and which one to close when there is one too many. Pure bookkeeping, no sockets.

A connection is *unfinished* until the head of a request has arrived, and again once that request is answered; then its body arrives; then
the request is handled. At a cap the oldest unfinished connection is closed, or else the one whose body has been arriving longest. One whose
request is handled is never closed, and a new one is not refused while any other can be closed: an attacker may share the trader's address.
Times are seconds of any monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Iterator
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from math import inf
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

#: How long a connection has for the head of its request before it may be closed for one from another address.
PATIENCE_S: Final = 0.25

#: With a quarter of all connections waiting, and at least so many, each new one has enough others in front of it.
ENOUGH_WAITING: Final = 64

_IPV6_PREFIX: Final = 64  # one customer has a whole /64


@lru_cache(maxsize=4096)
def address_key(host: str) -> str:
    """What counts as one address: an IPv4 address, mapped into IPv6 or not, or the /64 of an IPv6 address. Other text is its own key."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((int(address) >> _IPV6_PREFIX << _IPV6_PREFIX, _IPV6_PREFIX)))


class _Queue(Generic[K]):
    """Connections in the order of their arrival here, all together and by address."""

    def __init__(self) -> None:
        # OrderedDict: the oldest of a plain dict is slow to find after many removals at its front.
        self._all: OrderedDict[K, tuple[str | None, float]] = OrderedDict()
        self._by_address: defaultdict[str, OrderedDict[K, None]] = defaultdict(OrderedDict)

    def __len__(self) -> int:
        return len(self._all)

    def add(self, key: K, address: str | None, now: float) -> None:
        self._all[key] = (address, now)
        if address is not None:
            self._by_address[address][key] = None

    def remove(self, key: K) -> None:
        address, _ = self._all.pop(key)
        if address is not None:
            same = self._by_address[address]
            del same[key]
            if not same:
                del self._by_address[address]

    def count_of(self, address: str) -> int:
        return len(self._by_address[address]) if address in self._by_address else 0

    def oldest(self) -> K | None:
        return next(iter(self._all), None)

    def oldest_since(self) -> float | None:
        oldest = next(iter(self._all.values()), None)
        return None if oldest is None else oldest[1]

    def oldest_of(self, address: str) -> K | None:
        return next(iter(self._by_address[address]), None) if address in self._by_address else None


class ConnectionTable(Generic[K]):
    """The open connections of one listener. Keys are the caller's; every operation takes constant time."""

    def __init__(self, *, most: int, most_per_address: int, most_bodies: int, most_bodies_per_address: int) -> None:
        """`most`: connections in all, which may be changed; `most_bodies`: request bodies that are arriving; both also for each address."""
        self.most = most
        self._most_per_address = most_per_address
        self._most_bodies = most_bodies
        self._most_bodies_per_address = most_bodies_per_address
        self._addresses: dict[K, str | None] = {}
        self._counts: dict[str, int] = {}  # connections by address
        self._unfinished: _Queue[K] = _Queue()
        self._bodies: _Queue[K] = _Queue()
        self._queues: dict[K, _Queue[K]] = {}  # where each connection waits; those that are handled wait in none

    def __len__(self) -> int:
        return len(self._addresses)

    def __contains__(self, key: K) -> bool:
        return key in self._addresses

    def __iter__(self) -> Iterator[K]:
        return iter(self._addresses)

    def wait_s(self, now: float) -> float:
        """Seconds until there is room for another connection, or one has waited long enough to be closed for it. Infinity: none waits.

        Without this time new connections would close each other before they can send anything, when nearly all others are handled.
        """
        if len(self._addresses) < self.most or len(self._queues) >= max(self.most // 4, ENOUGH_WAITING):
            return 0.0
        waiting = [since for queue in (self._unfinished, self._bodies) if (since := queue.oldest_since()) is not None]
        return max(min(waiting) + PATIENCE_S - now, 0.0) if waiting else inf

    def unfinished_of(self, address: str) -> int:
        """Number of an address's unfinished connections."""
        return self._unfinished.count_of(address)

    def add(self, key: K, address: str | None, now: float) -> K | None:
        """Add a connection that was accepted; return the one to close for it, which is removed.

        `address`: from `address_key`; None exempts it from the cap of its address.
        """
        victim: K | None = None
        if address is not None:
            count = self._counts.get(address, 0)
            if count >= self._most_per_address:
                victim = self._unfinished.oldest_of(address)
            self._counts[address] = count + 1
        if victim is not None:
            self.remove(victim)
        elif len(self._addresses) >= self.most:
            victim = self.evict(now)
        self._addresses[key] = address
        self._queues[key] = self._unfinished
        self._unfinished.add(key, address, now)
        return victim

    def evict(self, now: float) -> K | None:
        """Remove and return the connection that is to be closed first; None if every one is being handled.

        That is the oldest unfinished one, or the oldest body if the former has only just come and the latter has not.
        """
        unfinished, body = self._unfinished.oldest_since(), self._bodies.oldest_since()
        is_body = unfinished is None or (
            now - unfinished < PATIENCE_S and body is not None and now - body >= PATIENCE_S
        )
        victim = (self._bodies if is_body else self._unfinished).oldest()
        if victim is not None:
            self.remove(victim)
        return victim

    def handle(self, key: K) -> None:
        """A whole request has arrived, or the head of one: it is handled now."""
        queue = self._queues.pop(key, None)
        if queue is not None:
            queue.remove(key)

    def await_body(self, key: K, address: str | None, now: float) -> K | None:
        """The head of a request has arrived, and its body is still to come; return the connection to close for it, which is removed.

        `address`: of the sender, which a proxy's connection does not have; None if unknown, so that only the cap of all bodies counts.
        """
        if key not in self._addresses:
            return None
        self.handle(key)
        victim: K | None = None
        if address is not None and self._bodies.count_of(address) >= self._most_bodies_per_address:
            victim = self._bodies.oldest_of(address)
        elif len(self._bodies) >= self._most_bodies:
            victim = self._bodies.oldest()
        if victim is not None:
            self.remove(victim)
        self._queues[key] = self._bodies
        self._bodies.add(key, address, now)
        return victim

    def answered(self, key: K, now: float) -> None:
        """Its request is answered: it is unfinished again, as the youngest. A connection that was removed meanwhile stays removed."""
        if key in self._addresses:
            self.handle(key)
            self._queues[key] = self._unfinished
            self._unfinished.add(key, self._addresses[key], now)

    def remove(self, key: K) -> None:
        """The connection is closed. Does nothing if it was removed before."""
        if key not in self._addresses:
            return
        address = self._addresses.pop(key)
        if address is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]
        self.handle(key)
