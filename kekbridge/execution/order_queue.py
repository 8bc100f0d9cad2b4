"""The queue: which queued orders may be sent next. Exits first; else first in, first out within a symbol. Pure.

An order that is being sent, or whose outcome is not settled, holds back later orders of its symbol, except where both are plain market
entries of one side: whichever fills first, the position is the same. A queued entry holds back no exit of what is open, an order that
waits for another leg waits outside the queue, and `concurrency` limits entries only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from kekbridge.execution.book import Book
from kekbridge.model import FIRST_RETRY_LEG, NEVER, Order, OrderIntent, OrderStatus, OrderType, Purpose
from kekbridge.model.market import ZERO
from kekbridge.store.alerts import NOTHING_TO_CLOSE

#: Code of an exit that ended because the position that it belonged to is gone, or a later alert of its webhook replaced it.
SUPERSEDED: Final = "superseded"

_AT_THE_EXCHANGE: Final = (OrderStatus.ACCEPTED, OrderStatus.PARTIALLY_FILLED)
_NOTHING_LEFT: Final = (NOTHING_TO_CLOSE, SUPERSEDED)


class QueueHead(msgspec.Struct, frozen=True):
    """A queued order that something can be done with."""

    order: Order
    #: `send`: recheck and send it; `expired`: too old; `leg_failed`: the leg that it waits for did not succeed.
    next_step: Literal["send", "expired", "leg_failed"]


def _flat(_symbol: str) -> Decimal:
    return ZERO


def _never(_order: Order) -> bool:
    return False


def heads(
    book: Book,
    *,
    now: datetime,
    settle_within_s: float,
    concurrency: int,
    entries_allowed: bool = True,
    preparing: Collection[str] = (),
    position_of: Callable[[str], Decimal] = _flat,
    is_held: Callable[[Order], bool] = _never,
) -> list[QueueHead]:
    """The orders that may be sent now, exits first, in order of admission.

    `settle_within_s`: how long an accepted order may stay unsettled before it holds back no other. `concurrency`: symbols with orders in
    flight at a time; exits go beyond it. `preparing`: queued orders that wait for a leverage or a permit; they hold back others but are
    not returned. With `entries_allowed` False queued entries are neither returned nor hold back exits. `position_of`: signed position of
    a symbol in base units. `is_held`: True for exits that a halt holds and entries that wait for fills: neither returned nor in the way.
    """
    if not book.queued:
        return []
    found: list[QueueHead] = []
    busy = sum(has_unsettled(book, symbol, now=now, settle_within_s=settle_within_s) for symbol in book.by_symbol)
    for symbol in {order.intent.symbol: None for order in book.queued.values()}:
        in_flight: list[Order] = []
        waiting: list[tuple[Order, bool]] = []  # and whether it is due
        for name, order in list(book.by_symbol[symbol].items()):
            if order.status is not OrderStatus.QUEUED:
                if is_unsettled(order, now=now, settle_within_s=settle_within_s):
                    in_flight.append(order)
            elif name in book.queued and not (is_held(order) or (order.is_entry and not entries_allowed)):
                next_step = _next_step(book, order, now)
                if next_step == "send" or next_step == "later":
                    waiting.append((order, next_step == "send"))
                elif next_step != "wait":
                    found.append(QueueHead(order, next_step))
        found += [
            QueueHead(order, "send")
            for order in _sendable(waiting, in_flight, position_of(symbol), set(preparing), now=now)
        ]
    found.sort(key=lambda head: (head.order.is_entry, head.order.sequence))
    return _limited(book, found, busy=busy, concurrency=concurrency, now=now, settle_within_s=settle_within_s)


def _sendable(
    waiting: list[tuple[Order, bool]], in_flight: list[Order], position: Decimal, preparing: set[str], *, now: datetime
) -> Iterable[Order]:
    """The orders of one symbol that may be sent now: exits before the entries that they overtake, until one has to wait.

    A deferred exit holds back entries and later partial exits, but none that leaves the whole position.
    """
    first: list[tuple[Order, bool]] = []
    rest: list[tuple[Order, bool]] = []
    for order, is_due in waiting:
        goes_first = not order.is_entry and all(overtakes(order, entry, position, now=now) for entry, _ in rest)
        (first if goes_first else rest).append((order, is_due))
    ahead = list(in_flight)
    is_blocked = False
    for order, is_due in first:
        if is_blocked and not order.closes_position:
            continue
        if not is_due or (order.client_order_id not in preparing and ahead and not can_overlap(order, ahead)):
            is_blocked = True
            continue
        ahead.append(order)
        if order.client_order_id not in preparing:
            yield order
    if is_blocked:
        return
    for order, is_due in rest:
        if order.client_order_id not in preparing:
            if not is_due or (ahead and not can_overlap(order, ahead)):
                return
            yield order
        ahead.append(order)


def overtakes(leaving: Order, earlier: Order, position: Decimal, *, now: datetime) -> bool:
    """True if an exit goes before an order of its symbol that was queued earlier: what it closes is open already.

    `position`: signed, in base units. An exit of a part waits for the entries of its own webhook that are due: it was sized with them.
    """
    open_quantity = -position * leaving.intent.side.sign
    if not earlier.is_entry or open_quantity <= 0:
        return False
    if leaving.closes_position:
        return True
    is_deferred = earlier.next_attempt_at is not None and earlier.next_attempt_at > now
    return leaving.intent.quantity <= open_quantity and (is_deferred or earlier.webhook_id != leaving.webhook_id)


def _limited(
    book: Book, found: list[QueueHead], *, busy: int, concurrency: int, now: datetime, settle_within_s: float
) -> list[QueueHead]:
    """Without the entries that would bring orders of more than `concurrency` symbols in flight."""
    opened: set[str] = set()
    kept: list[QueueHead] = []
    for head in found:
        symbol = head.order.intent.symbol
        if head.next_step == "send" and symbol not in opened:
            if not has_unsettled(book, symbol, now=now, settle_within_s=settle_within_s):
                if busy >= concurrency and head.order.is_entry:
                    continue
                busy += 1
            opened.add(symbol)
        kept.append(head)
    return kept


def _next_step(book: Book, order: Order, now: datetime) -> Literal["send", "later", "wait", "expired", "leg_failed"]:
    """What is to be done with a queued order: `later` if it is deferred, `wait` while the leg before it has no end."""
    leg = leg_before(book, order)
    if now >= order.expires_at and not (leg is not None and is_resting(leg)):
        return "expired"
    if order.intent.after_leg is not None:
        if leg is not None and leg.finished_at is None:
            return "wait"
        if leg is None or not has_succeeded(leg):
            return "leg_failed"
    if order.next_attempt_at is not None and order.next_attempt_at > now:
        return "later"
    return "send"


def leg_before(book: Book, order: Order) -> Order | None:
    """The leg that an order waits or waited for, or the last retry of that leg; None without one."""
    after_leg = order.intent.after_leg
    leg = None if after_leg is None else book.legs.get(order.alert_id, {}).get(after_leg)
    return leg if leg is None or order.is_retry else _last_try(book, leg)


def first_try(book: Book, order: Order) -> Order:
    """The order that a retry continues, as the alert asked for it; any other order itself."""
    return book.legs.get(order.alert_id, {}).get(order.asked_leg, order)


def _last_try(book: Book, order: Order) -> Order:
    legs = book.legs.get(order.alert_id, {})
    while (later := legs.get(order.leg + FIRST_RETRY_LEG)) is not None:
        order = later
    return order


def rest_of(exit_order: Order) -> Decimal:
    """What an exit was to close and the exchange canceled, in base units; zero for any other order or state.

    Zero also if it could rest for a price, if it was to be cancelled, and for a close by hand, which has rounds of its own.
    """
    intent = exit_order.intent
    is_left = exit_order.is_exit and exit_order.status is OrderStatus.CANCELED and not intent.may_rest
    if not is_left or exit_order.cancel_requested_at is not None or exit_order.expires_at != NEVER:
        return ZERO
    return max(intent.quantity - exit_order.executed_quantity, ZERO)


def retry_of(exit_order: Order, rest: Decimal) -> OrderIntent:
    """What is sent again after the exchange canceled an exit with `rest` not executed: never more than that."""
    is_whole = exit_order.intent.close_fraction == 1
    return replace(
        exit_order.intent,
        quantity=rest,
        close_fraction=exit_order.intent.close_fraction if is_whole else None,
        largest_quantity=rest if is_whole else None,
        after_leg=exit_order.leg,
    )


def limited_to_rest(book: Book, order: Order) -> Order:
    """A retry, limited to what the order before it has not executed by now; any other order as it is."""
    before = leg_before(book, order) if order.is_retry else None
    if before is None:
        return order
    rest = max(before.intent.quantity - before.executed_quantity, ZERO)
    return order if rest >= order.intent.quantity else replace(order, intent=retry_of(before, rest))


def has_succeeded(leg: Order) -> bool:
    """True for an ended leg that has done what the next one waits for.

    So has a close that found nothing open, and a market order of which the exchange canceled what it could not fill. A resting order that
    was canceled has not: a cancel applies to what follows, too.
    """
    if leg.code in _NOTHING_LEFT or leg.status is OrderStatus.FILLED:
        return True
    return leg.status is OrderStatus.CANCELED and not leg.intent.may_rest


def left_open(book: Book, order: Order) -> Decimal:
    """What the legs before an entry were to close in its market and did not, in base units: canceled, and not sent again."""
    if order.intent.after_leg is None:
        return ZERO
    earlier = (_last_try(book, leg) for number, leg in book.legs.get(order.alert_id, {}).items() if number < order.leg)
    return sum(
        (
            leg.intent.quantity - leg.executed_quantity
            for leg in earlier
            if leg.is_exit and leg.status is OrderStatus.CANCELED and leg.intent.symbol == order.intent.symbol
        ),
        ZERO,
    )


def is_resting(order: Order) -> bool:
    """True while an order rests at the exchange, perhaps for days."""
    return order.status in _AT_THE_EXCHANGE and order.intent.may_rest


def later_expiry(book: Book, order: Order, *, max_age_s: float) -> datetime | None:
    """When an order behind a leg that rested at the exchange becomes too old; None without such a leg, or while it still rests.

    Its age counts from the end of that leg: the alert was carried out in time, and the trader wanted the order to rest.
    """
    leg = leg_before(book, order)
    if leg is None or leg.finished_at is None or leg.accepted_at is None or not leg.intent.may_rest:
        return None
    return leg.finished_at + timedelta(seconds=max_age_s)


def next_due(book: Book, *, now: datetime) -> float | None:
    """Seconds until a deferred order comes due; None if none waits."""
    times = [order.next_attempt_at for order in book.queued.values() if order.next_attempt_at is not None]
    return max((min(times) - now).total_seconds(), 0.0) if times else None


def is_symbol_free(book: Book, order: Order, *, now: datetime, settle_within_s: float, concurrency: int) -> bool:
    """True if nothing holds back a new order of its symbol, and nothing is queued that it would overtake.

    An exit that overtakes queued entries was sized with them: it goes through the queue, which sizes it by the position.
    """
    others = book.by_symbol.get(order.intent.symbol)
    if others:
        for name, other in others.items():
            if name in book.queued:
                leg = leg_before(book, other)
                if leg is None or leg.finished_at is not None:
                    return False
        ahead = [each for each in others.values() if is_unsettled(each, now=now, settle_within_s=settle_within_s)]
        if ahead:
            return can_overlap(order, ahead)
    if not order.is_entry or len(book.by_symbol) < concurrency:
        return True
    busy = sum(has_unsettled(book, symbol, now=now, settle_within_s=settle_within_s) for symbol in book.by_symbol)
    return busy < concurrency


def may_be_claimed(
    book: Book,
    order: Order,
    *,
    now: datetime,
    settle_within_s: float,
    position_of: Callable[[str], Decimal] = _flat,
) -> bool:
    """True if a queued order that waited for a leverage or a permit may still go: no exit came before it meanwhile."""
    position = position_of(order.intent.symbol)
    for other in book.by_symbol.get(order.intent.symbol, {}).values():
        if not other.is_exit or other.client_order_id == order.client_order_id or not order.is_entry:
            continue
        if is_unsettled(other, now=now, settle_within_s=settle_within_s):
            return False
        leg = leg_before(book, other)
        is_waiting = other.status is OrderStatus.QUEUED and (leg is None or leg.finished_at is not None)
        if is_waiting and overtakes(other, order, position, now=now):
            return False
    return True


def has_unsettled(book: Book, symbol: str, *, now: datetime, settle_within_s: float) -> bool:
    """True if an order of the symbol is in flight."""
    return any(
        is_unsettled(order, now=now, settle_within_s=settle_within_s)
        for order in book.by_symbol.get(symbol, {}).values()
    )


def is_unsettled(order: Order, *, now: datetime, settle_within_s: float) -> bool:
    """True while an order is in flight: being sent, unknown, or accepted a moment ago with its outcome to come.

    Protective orders hold back none: they are placed beside whatever trades.
    """
    if order.intent.purpose is Purpose.PROTECT:
        return False
    if order.status in (OrderStatus.SUBMITTING, OrderStatus.UNKNOWN):
        return True
    if order.status not in _AT_THE_EXCHANGE or order.is_settled:
        return False
    since = order.accepted_at or order.created_at
    return now - since < timedelta(seconds=settle_within_s)


def can_overlap(order: Order, others: Iterable[Order]) -> bool:
    """True if an order may be sent although the others have no known final state yet.

    Plain market entries of one side may: their sizes are fixed, their share of the limits is reserved, and whichever fills first, the
    position is the same. Orders sized by the position, brackets (a symbol has one positional stop), limit orders and orders that may have
    to change the symbol's leverage wait; and nothing overtakes an order whose outcome is unknown, except an exit of the whole position
    that goes beside exits: all of them only reduce.
    """
    others = tuple(others)
    if order.closes_position and all(other.is_exit and other.status is OrderStatus.UNKNOWN for other in others):
        return True
    return _is_plain_entry(order) and all(
        _is_plain_entry(other) and other.intent.side is order.intent.side and other.status is not OrderStatus.UNKNOWN
        for other in others
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
