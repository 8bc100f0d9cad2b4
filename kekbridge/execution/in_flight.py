"""In-flight orders by symbol, and whether another may be sent beside them. In memory; thread-safe.

Within a symbol the order of admission is the order at the exchange: an order is sent once those before it are settled or, where their
final state cannot change what it does, once the exchange has accepted them. Until then it may wait here already claimed, so that a burst
costs one flush instead of one per order: an order that the store shows as submitting was sent only if everything before it was accepted
(`sent_only_after`), which is what a start after a crash relies on. No I/O; what is queued is known to store/order_queue.py.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from kekbridge.model import Order, OrderType

# How long a claim's risk check stays valid (the rules, a halt that came since). An order still waiting for its predecessors after that
# is requeued and rechecked.
CLAIM_TTL_S: Final = 0.5
# As many orders are claimed ahead as should be accepted within half of that time, at most what the exchange takes in a second.
_PIPELINE_S: Final = CLAIM_TTL_S / 2
_MAX_PIPELINE_DEPTH: Final = 10
_SAMPLES: Final = 8


@dataclass(slots=True, eq=False)
class _Entry:
    """An order and its state in flight."""

    order: Order
    #: The exchange accepted it; its final state may not be known yet.
    is_accepted: bool = False
    #: It was not accepted, or that is unknown: nothing behind it is sent.
    is_blocked: bool = False
    #: Called once: True if it is clear to be sent, False if that will not happen.
    callback: Callable[[bool], None] | None = None


class InFlightOrders:
    """The orders of one daemon that are claimed or sent and not settled, of at most `concurrency` symbols at a time."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._by_symbol: dict[str, dict[str, _Entry]] = {}  # by symbol and client order id, in the order of admission
        self._lock = threading.Lock()  # entries are also added on the writer thread, in the transaction that claims
        # Seconds from clear to accepted, of the last orders.
        self._round_trips: deque[float] = deque(maxlen=_SAMPLES)

    def __len__(self) -> int:
        return sum(len(entries) for entries in list(self._by_symbol.values()))

    @property
    def ids(self) -> frozenset[str]:
        """Client order ids of all orders in flight."""
        with self._lock:
            return frozenset(name for entries in self._by_symbol.values() for name in entries)

    @property
    def overlappable_ids(self) -> frozenset[str]:
        """Client order ids of those that another order may be claimed behind: accepted, or not known to have failed."""
        with self._lock:
            entries = [item for each in self._by_symbol.values() for item in each.items()]
            return frozenset(name for name, entry in entries if not entry.is_blocked)

    def try_add(self, order: Order, *, pipelined: bool = False) -> bool:
        """Add an order if it may be sent now; once True it stays in flight until `remove`.

        `pipelined`: it is being claimed, so it may also wait behind others and be sent once they are accepted (`on_clear`).
        """
        with self._lock:
            if not self._has_room(order, self._pipeline_depth() if pipelined else 1):
                return False
            self._by_symbol.setdefault(order.intent.symbol, {})[order.client_order_id] = _Entry(order)
            return True

    def on_clear(self, order: Order, callback: Callable[[bool], None]) -> None:
        """Call back once, perhaps at once: True when everything before the order is accepted, False if that will not happen."""
        with self._lock:
            entry = self._by_symbol.get(order.intent.symbol, {}).get(order.client_order_id)
            if entry is None:
                notifications = [(callback, False)]
            else:
                entry.callback = callback
                notifications = [*self._notifications(order.intent.symbol)]
        _notify(notifications)

    def mark_accepted(self, order: Order, after_s: float) -> None:
        """The exchange accepted it, `after_s` seconds after it was clear: an order that may overlap it can be sent."""
        with self._lock:
            self._round_trips.append(after_s)
            entry = self._by_symbol.get(order.intent.symbol, {}).get(order.client_order_id)
            if entry is not None:
                entry.is_accepted = True
            notifications = [*self._notifications(order.intent.symbol)]
        _notify(notifications)

    def mark_blocked(self, order: Order) -> None:
        """It was not accepted, or that is unknown: nothing behind it is sent while it is in flight, and what waits there is requeued.

        Few orders are claimed ahead for a while: where one is rejected the next may be too, and each would requeue those behind it.
        """
        with self._lock:
            self._round_trips.append(_PIPELINE_S)
            entry = self._by_symbol.get(order.intent.symbol, {}).get(order.client_order_id)
            if entry is not None:
                entry.is_blocked = True
            notifications = [*self._notifications(order.intent.symbol)]
        _notify(notifications)

    def remove(self, order: Order) -> None:
        """It is settled, or was never sent; a second call has no effect. What waits behind one that was not accepted is requeued."""
        symbol = order.intent.symbol
        with self._lock:
            entries = self._by_symbol.get(symbol, {})
            entry = entries.get(order.client_order_id)
            if entry is not None and not entry.is_accepted:
                entry.is_blocked = True
            notifications = [*self._notifications(symbol)]
            entries.pop(order.client_order_id, None)
            if not entries:
                self._by_symbol.pop(symbol, None)
        _notify(notifications)

    def _has_room(self, order: Order, depth: int) -> bool:
        entries = self._by_symbol.get(order.intent.symbol)
        if entries is None:
            return len(self._by_symbol) < self._concurrency
        others = entries.values()
        if order.client_order_id in entries or any(entry.is_blocked for entry in others):
            return False
        is_shallow = sum(not entry.is_accepted for entry in others) < depth
        return is_shallow and can_overlap(order, (entry.order for entry in others))

    def _pipeline_depth(self) -> int:
        """How many orders of a symbol may be claimed and not accepted yet, by how long the last ones took."""
        slowest = max(self._round_trips, default=_PIPELINE_S)
        return max(1, min(int(_PIPELINE_S / max(slowest, 0.001)), _MAX_PIPELINE_DEPTH))

    def _notifications(self, symbol: str) -> Iterator[tuple[Callable[[bool], None], bool]]:
        """The callbacks that are due: of the first order that is not accepted (clear), and of those behind a blocked one (not clear)."""
        is_blocked = is_waiting = False
        for entry in self._by_symbol.get(symbol, {}).values():
            entry.is_blocked = is_blocked = is_blocked or entry.is_blocked
            if entry.callback is not None and (is_blocked or not is_waiting):
                callback, entry.callback = entry.callback, None
                yield callback, not is_blocked
            is_waiting = is_waiting or not entry.is_accepted


def _notify(notifications: Iterable[tuple[Callable[[bool], None], bool]]) -> None:
    for callback, is_clear in notifications:
        callback(is_clear)


def can_overlap(order: Order, others: Iterable[Order]) -> bool:
    """True if an order may be sent although the others, accepted before it, have no known final state yet.

    Plain market entries of one side may: their sizes are fixed, their share of the limits is reserved, and whichever fills first, the
    position is the same. Orders sized by the position, brackets (a symbol has one positional stop), limit orders and orders that may have
    to change the symbol's leverage wait.
    """
    return _is_plain_entry(order) and all(
        _is_plain_entry(other) and other.intent.side is order.intent.side for other in others
    )


def sent_only_after(order: Order, other: Order) -> bool:
    """True if an order that is in flight can have been sent only after the exchange accepted the other, in flight as well."""
    return (
        other.sequence < order.sequence and other.intent.symbol == order.intent.symbol and can_overlap(order, (other,))
    )


def _is_plain_entry(order: Order) -> bool:
    intent = order.intent
    return (
        order.is_entry
        and intent.order_type is OrderType.MARKET
        and not intent.is_algo
        and not intent.reduce_only
        and intent.leverage is None
        and intent.close_fraction is None
        and intent.target_quantity is None
        and intent.after_leg is None
    )
