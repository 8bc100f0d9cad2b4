"""The queue: which queued orders may be sent next. First in, first out within a symbol; exits before entries across symbols. Pure.

An order that is being sent, or whose outcome is not settled, holds back later orders of its symbol, except where both are plain market
entries of one side: whichever fills first, the position is the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec

from kekbridge.execution.book import Book
from kekbridge.model import Order, OrderStatus, OrderType
from kekbridge.store.alerts import NOTHING_TO_CLOSE

_AT_THE_EXCHANGE: Final = (OrderStatus.ACCEPTED, OrderStatus.PARTIALLY_FILLED)


class QueueHead(msgspec.Struct, frozen=True):
    """A queued order that something can be done with."""

    order: Order
    #: `send`: recheck and send it; `expired`: too old; `leg_failed`: the leg that it waits for did not succeed.
    next_step: Literal["send", "expired", "leg_failed"]


def heads(
    book: Book,
    *,
    now: datetime,
    settle_within_s: float,
    concurrency: int,
    entries_allowed: bool = True,
    preparing: Collection[str] = (),
) -> list[QueueHead]:
    """The orders that may be sent now, exits first, in order of admission.

    `settle_within_s`: how long an accepted order may stay unsettled before it holds back no other. `concurrency`: symbols with orders in
    flight at a time. `preparing`: queued orders that wait for a leverage or a permit; they hold back others but are not returned. With
    `entries_allowed` False queued entries are neither returned nor hold back exits.
    """
    if not book.queued:
        return []
    found: list[QueueHead] = []
    busy = sum(has_unsettled(book, symbol, now=now, settle_within_s=settle_within_s) for symbol in book.by_symbol)
    for symbol in {order.intent.symbol: None for order in book.queued.values()}:
        ahead = False
        of_symbol = _of_symbol(book, symbol, now, settle_within_s, entries_allowed, preparing)
        for head in of_symbol:
            ahead = ahead or head.next_step == "send"
            found.append(head)
    found.sort(key=lambda head: (head.order.is_entry, head.order.sequence))
    return _limited(book, found, busy=busy, concurrency=concurrency, now=now, settle_within_s=settle_within_s)


def _limited(
    book: Book, found: list[QueueHead], *, busy: int, concurrency: int, now: datetime, settle_within_s: float
) -> list[QueueHead]:
    """Without those that would bring orders of more than `concurrency` symbols in flight."""
    opened: set[str] = set()
    kept: list[QueueHead] = []
    for head in found:
        symbol = head.order.intent.symbol
        if head.next_step == "send" and symbol not in opened:
            if not has_unsettled(book, symbol, now=now, settle_within_s=settle_within_s):
                if busy >= concurrency:
                    continue
                busy += 1
            opened.add(symbol)
        kept.append(head)
    return kept


def _of_symbol(
    book: Book,
    symbol: str,
    now: datetime,
    settle_within_s: float,
    entries_allowed: bool,
    preparing: Collection[str],
) -> Iterable[QueueHead]:
    """What can be done with the queued orders of one symbol, until one has to wait."""
    ahead: list[Order] = []
    for order in list(book.by_symbol[symbol].values()):
        if order.status is not OrderStatus.QUEUED:
            if is_unsettled(order, now=now, settle_within_s=settle_within_s):
                ahead.append(order)
            continue
        if order.is_entry and not entries_allowed:
            continue
        if order.client_order_id in preparing:
            ahead.append(order)
            continue
        next_step = _next_step(book, order, now)
        if next_step is None:
            return
        if next_step == "send":
            if ahead and not can_overlap(order, ahead):
                return
            ahead.append(order)
        yield QueueHead(order, next_step)


def _next_step(book: Book, order: Order, now: datetime) -> Literal["send", "expired", "leg_failed"] | None:
    """What is to be done with a queued order; None while it has to wait."""
    if now >= order.expires_at:
        return "expired"
    if order.intent.after_leg is not None:
        leg = book.legs.get(order.alert_id, {}).get(order.intent.after_leg)
        if leg is not None and leg.finished_at is None:
            return None
        # A close that found nothing open has done what the next leg waits for; so has one that was canceled.
        if leg is None or not (
            leg.code == NOTHING_TO_CLOSE or leg.status in (OrderStatus.FILLED, OrderStatus.CANCELED)
        ):
            return "leg_failed"
    if order.next_attempt_at is not None and order.next_attempt_at > now:
        return None
    return "send"


def next_due(book: Book, *, now: datetime) -> float | None:
    """Seconds until a deferred order comes due; None if none waits."""
    times = [order.next_attempt_at for order in book.queued.values() if order.next_attempt_at is not None]
    return max((min(times) - now).total_seconds(), 0.0) if times else None


def is_symbol_free(book: Book, order: Order, *, now: datetime, settle_within_s: float, concurrency: int) -> bool:
    """True if nothing holds back a new order of its symbol."""
    others = book.by_symbol.get(order.intent.symbol)
    if not others:
        if len(book.by_symbol) < concurrency:
            return True
    elif any(each.status is OrderStatus.QUEUED for each in others.values()):
        return False
    ahead = [each for each in (others or {}).values() if is_unsettled(each, now=now, settle_within_s=settle_within_s)]
    if ahead:
        return can_overlap(order, ahead)
    busy = sum(has_unsettled(book, symbol, now=now, settle_within_s=settle_within_s) for symbol in book.by_symbol)
    return busy < concurrency


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
    if order.is_protective:
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
    to change the symbol's leverage wait; and nothing overtakes an order whose outcome is unknown.
    """
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
