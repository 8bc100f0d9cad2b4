"""Which orders are under way, by symbol, and whether one more may join them. Memory only, any thread.

A lane is a symbol with orders under way. Within it the order of admission is the order of sending; an order that could come out otherwise
depending on those before it waits until they are settled, any other until they have left. No I/O, no store: what stands in the queue is
said by store/order_queue.py.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from kekbridge.model import Order, OrderType


@dataclass(slots=True)
class _Place:
    """An order's place in its lane; `has_left` is set when its request is on the wire, or when there will be none."""

    order: Order
    has_turn: bool = False  # in the exchange's rate window
    has_left: asyncio.Event = field(default_factory=asyncio.Event)


class Lanes:
    """The orders under way of one daemon, at most `concurrency` symbols at a time."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._under_way: dict[str, dict[str, _Place]] = {}  # in the order of entering
        self._loop: asyncio.AbstractEventLoop | None = None  # where somebody waits
        self._lock = threading.Lock()  # places are also taken on the writer thread, in the transaction that claims

    def __len__(self) -> int:
        """How many orders are under way."""
        return sum(len(lane) for lane in list(self._under_way.values()))

    @property
    def names(self) -> frozenset[str]:
        """Their client order ids."""
        with self._lock:
            return frozenset(name for lane in self._under_way.values() for name in lane)

    def enter(self, order: Order, *, at_once: bool = False) -> bool:
        """Put it under way, if it may go now. From True on it holds its place until `leave`.

        `at_once`: only where nobody before it in the lane still waits for his turn in the rate window. It must not take the place there
        that he waits for while itself it waits for him.
        """
        with self._lock:
            lane = self._under_way.get(order.intent.symbol, {})
            if not self._has_room(order) or (at_once and not all(place.has_turn for place in lane.values())):
                return False
            self._under_way.setdefault(order.intent.symbol, {})[order.client_order_id] = _Place(order)
            return True

    def has_turn(self, order: Order) -> None:
        """It has its place in the rate window. Any thread."""
        with self._lock:
            place = self._under_way.get(order.intent.symbol, {}).get(order.client_order_id)
            if place is not None:
                place.has_turn = True

    async def wait_for_earlier(self, order: Order) -> None:
        """Return when the requests of all that entered its lane before it have left. On the event loop."""
        self._loop = asyncio.get_running_loop()
        with self._lock:
            places = list(self._under_way.get(order.intent.symbol, {}).values())
        for place in places:
            if place.order.client_order_id == order.client_order_id:
                return
            await place.has_left.wait()

    def has_left(self, order: Order) -> None:
        """Its request is on the wire: the next one of its lane may follow. On the event loop."""
        place = self._under_way.get(order.intent.symbol, {}).get(order.client_order_id)
        if place is not None:
            place.has_left.set()

    def leave(self, order: Order) -> None:
        """Its way is over, or it never began; the second call has no effect."""
        with self._lock:
            lane = self._under_way.get(order.intent.symbol, {})
            place = lane.pop(order.client_order_id, None)
            if not lane:
                self._under_way.pop(order.intent.symbol, None)
        if place is None:
            return
        if self._loop is None:
            place.has_left.set()  # nobody has ever waited
        else:
            self._loop.call_soon_threadsafe(place.has_left.set)

    def _has_room(self, order: Order) -> bool:
        lane = self._under_way.get(order.intent.symbol)
        if lane is None:
            return len(self._under_way) < self._concurrency
        return order.client_order_id not in lane and may_join(order, (place.order for place in lane.values()))


def may_join(order: Order, others: Iterable[Order]) -> bool:
    """True when an order may be sent although the others, sent before it, have no known end yet.

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
