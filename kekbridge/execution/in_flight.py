"""Which orders are under way, by symbol, and whether one more may join them. Memory only, any thread.

A lane is a symbol with orders under way. Within it the order of admission is the order at the exchange: one is sent when those before it
are settled or, where their end cannot change what it does, when the exchange has taken them. Until then it may stand in line, claimed
already, so that a burst costs one flush and not one for each: an order that is in flight in the store left only if the exchange took
everything in front of it (`left_only_after`), which is what a start after a crash goes by. No I/O, no store: what stands in the queue is
said by store/order_queue.py.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from kekbridge.model import Order, OrderType

# What was decided when an order was claimed holds for so long (the rules, a halt that came since): whatever did not get to the front
# of its line by then goes back to the queue.
CLAIM_TTL_S: Final = 0.5
# So many are claimed ahead as should be through in half of that time, and never more than the exchange takes in a second.
_THROUGH_IN_S: Final = CLAIM_TTL_S / 2
_LONGEST_LINE: Final = 10
_WAYS: Final = 8


@dataclass(slots=True, eq=False)
class _Entry:
    """An order's place in its lane."""

    order: Order
    is_accepted: bool = False  # by the exchange, which may not have ended it yet
    is_blocked: bool = False  # it did not get there, or nobody knows, and so nothing behind it leaves
    callback: Callable[[bool], None] | None = None  # whoever waits for it to be in front


class InFlightOrders:
    """The orders under way of one daemon, at most `concurrency` symbols at a time."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._by_symbol: dict[str, dict[str, _Entry]] = {}  # in the order of entering, which is the order of admission
        self._lock = threading.Lock()  # places are also taken on the writer thread, in the transaction that claims
        self._round_trips: deque[float] = deque(
            maxlen=_WAYS
        )  # seconds that the last orders took from the front to the exchange's yes

    def __len__(self) -> int:
        """How many orders are under way."""
        return sum(len(lane) for lane in list(self._by_symbol.values()))

    @property
    def ids(self) -> frozenset[str]:
        """Their client order ids."""
        with self._lock:
            return frozenset(name for lane in self._by_symbol.values() for name in lane)

    @property
    def overlappable_ids(self) -> frozenset[str]:
        """Client order ids of those that another may stand behind: the exchange took them, or nothing speaks against it yet."""
        with self._lock:
            lanes = self._by_symbol.values()
            return frozenset(name for lane in lanes for name, place in lane.items() if not place.is_blocked)

    def try_add(self, order: Order) -> bool:
        """Put it under way, if it may be sent now. From True on it holds its place until `leave`."""
        return self._enter(order, line=1)

    def line_up(self, order: Order) -> bool:
        """The same for an order that is being claimed: it may also stand in line, and is sent when it is in front (`when_in_front`)."""
        return self._enter(order, line=self._pipeline_depth())

    def on_clear(self, order: Order, tell: Callable[[bool], None]) -> None:
        """Call back once, perhaps at once: True when the exchange took all before it, False when that will not happen."""
        with self._lock:
            place = self._by_symbol.get(order.intent.symbol, {}).get(order.client_order_id)
            if place is not None:
                place.callback = tell
                news = [*self._notifications(order.intent.symbol)]
            else:
                news = [(tell, False)]
        _spread(news)

    def mark_accepted(self, order: Order, after_s: float) -> None:
        """The exchange took it, so many seconds after it was in front: another that its end cannot change may follow."""
        with self._lock:
            self._round_trips.append(after_s)
            place = self._by_symbol.get(order.intent.symbol, {}).get(order.client_order_id)
            if place is not None:
                place.is_accepted = True
            news = [*self._notifications(order.intent.symbol)]
        _spread(news)

    def mark_blocked(self, order: Order) -> None:
        """The exchange did not take it, or nobody knows: nothing leaves behind it while it is there, and what stands there goes.

        Lines are short for a while: where one is refused the next one may be, too, and each would send a line back to the queue.
        """
        with self._lock:
            self._round_trips.append(_THROUGH_IN_S)
            place = self._by_symbol.get(order.intent.symbol, {}).get(order.client_order_id)
            if place is not None:
                place.is_blocked = True
            news = [*self._notifications(order.intent.symbol)]
        _spread(news)

    def remove(self, order: Order) -> None:
        """Its way is over, or it never began; the second call has no effect. What stands behind one that was not taken goes, too."""
        symbol = order.intent.symbol
        with self._lock:
            lane = self._by_symbol.get(symbol, {})
            place = lane.get(order.client_order_id)
            if place is not None and not place.is_accepted:
                place.is_blocked = True
            news = [*self._notifications(symbol)]
            lane.pop(order.client_order_id, None)
            if not lane:
                self._by_symbol.pop(symbol, None)
        _spread(news)

    def _enter(self, order: Order, *, line: int) -> bool:
        with self._lock:
            if not self._has_room(order, line):
                return False
            self._by_symbol.setdefault(order.intent.symbol, {})[order.client_order_id] = _Entry(order)
            return True

    def _has_room(self, order: Order, line: int) -> bool:
        lane = self._by_symbol.get(order.intent.symbol)
        if lane is None:
            return len(self._by_symbol) < self._concurrency
        places = lane.values()
        if order.client_order_id in lane or any(place.is_blocked for place in places):
            return False
        return sum(not place.is_accepted for place in places) < line and can_overlap(
            order, (place.order for place in places)
        )

    def _pipeline_depth(self) -> int:
        """How many orders of a lane may be claimed and not taken yet, by how long the last ones took."""
        slowest = max(self._round_trips, default=_THROUGH_IN_S)
        return max(1, min(int(_THROUGH_IN_S / max(slowest, 0.001)), _LONGEST_LINE))

    def _notifications(self, symbol: str) -> Iterator[tuple[Callable[[bool], None], bool]]:
        """Who has to be told what of this lane now: the first that is not taken is in front, what is behind a blocked one is blocked."""
        is_blocked = is_waiting = False
        for place in self._by_symbol.get(symbol, {}).values():
            place.is_blocked = is_blocked = is_blocked or place.is_blocked
            if place.callback is not None and (is_blocked or not is_waiting):
                tell, place.callback = place.callback, None
                yield tell, not is_blocked
            is_waiting = is_waiting or not place.is_accepted


def _spread(news: Iterable[tuple[Callable[[bool], None], bool]]) -> None:
    for tell, is_in_front in news:
        tell(is_in_front)


def can_overlap(order: Order, others: Iterable[Order]) -> bool:
    """True when an order may be sent although the others, which the exchange took before it, have no known end yet.

    So may plain entries at market of one side: their sizes are fixed, their room in the limits is reserved, and whichever trades first, the
    position is the same. Whatever is sized by the position, brackets (a symbol has one positional stop), limits, and
    orders that may have to change the symbol's leverage wait.
    """
    return _stands_alone(order) and all(
        _stands_alone(other) and other.intent.side is order.intent.side for other in others
    )


def sent_only_after(order: Order, other: Order) -> bool:
    """True when an order that is in flight can have left only if the exchange took the other, in flight as well, before."""
    return (
        other.sequence < order.sequence and other.intent.symbol == order.intent.symbol and can_overlap(order, (other,))
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
