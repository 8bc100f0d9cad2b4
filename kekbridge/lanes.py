"""Which orders are under way, by symbol, and whether one more may join them. Memory only, any thread.

A lane is a symbol with orders under way. Within it the order of admission is the order at the exchange: one is sent when those before it
are settled or, where their end cannot change what it does, when the exchange has taken them. No I/O, no store: what stands in the queue is
said by store/order_queue.py.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from kekbridge.model import Order, OrderType


@dataclass(slots=True)
class _Place:
    """An order's place in its lane."""

    order: Order
    is_taken: bool = False  # by the exchange, which may not have ended it yet


class Lanes:
    """The orders under way of one daemon, at most `concurrency` symbols at a time."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._under_way: dict[str, dict[str, _Place]] = {}  # in the order of entering
        self._lock = threading.Lock()  # places are also taken on the writer thread, in the transaction that claims

    def __len__(self) -> int:
        """How many orders are under way."""
        return sum(len(lane) for lane in list(self._under_way.values()))

    @property
    def names(self) -> frozenset[str]:
        """Their client order ids."""
        with self._lock:
            return frozenset(name for lane in self._under_way.values() for name in lane)

    @property
    def taken(self) -> frozenset[str]:
        """Client order ids of those that the exchange took: it may not be written down yet, and they never come back to the queue."""
        with self._lock:
            lanes = self._under_way.values()
            return frozenset(name for lane in lanes for name, place in lane.items() if place.is_taken)

    def enter(self, order: Order) -> bool:
        """Put it under way, if it may go now. From True on it holds its place until `leave`."""
        with self._lock:
            if not self._has_room(order):
                return False
            self._under_way.setdefault(order.intent.symbol, {})[order.client_order_id] = _Place(order)
            return True

    def was_taken(self, order: Order) -> None:
        """The exchange took it: another that its end cannot change may follow."""
        with self._lock:
            place = self._under_way.get(order.intent.symbol, {}).get(order.client_order_id)
            if place is not None:
                place.is_taken = True

    def leave(self, order: Order) -> None:
        """Its way is over, or it never began; the second call has no effect."""
        with self._lock:
            lane = self._under_way.get(order.intent.symbol, {})
            lane.pop(order.client_order_id, None)
            if not lane:
                self._under_way.pop(order.intent.symbol, None)

    def _has_room(self, order: Order) -> bool:
        lane = self._under_way.get(order.intent.symbol)
        if lane is None:
            return len(self._under_way) < self._concurrency
        if order.client_order_id in lane or not all(place.is_taken for place in lane.values()):
            return False
        return may_join(order, (place.order for place in lane.values()))


def may_join(order: Order, others: Iterable[Order]) -> bool:
    """True when an order may be sent although the others, which the exchange took before it, have no known end yet.

    So may plain entries at market of one side: their sizes are fixed, their room in the limits is reserved, and whichever trades first, the
    position is the same. Whatever is sized by the position, brackets (a symbol has one positional stop), limits, and
    orders that may have to change the symbol's leverage wait.
    """
    return _stands_alone(order) and all(
        _stands_alone(other) and other.intent.side is order.intent.side for other in others
    )


def _stands_alone(order: Order) -> bool:
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
