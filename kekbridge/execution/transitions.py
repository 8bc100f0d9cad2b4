"""Every transition of an order: one pure function each, allowed from certain states only.

A transition that is not allowed raises IllegalTransition; late news (the stream was faster than the response) changes nothing. The book
(book.py) applies the result to its sums and appends it to the journal.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from msgspec.structs import replace

from kekbridge.model import Order, OrderIntent, OrderStatus
from kekbridge.model.orders import OrderStatusReport
from kekbridge.store.codec import storable

ALERT_EXPIRED: Final = "alert_expired"
#: Code of an exit that the exchange canceled within a bound of the alert: what is left of it is not sent again.
EXIT_CANCELED: Final = "exit_canceled"
_TOO_LATE: Final = "the alert waited longer than allowed"
_IN_FLIGHT: Final = frozenset({OrderStatus.SUBMITTING, OrderStatus.UNKNOWN})
# The exchange has, or had, the order.
_KNOWN_TO_EXCHANGE: Final = frozenset(
    {OrderStatus.ACCEPTED, OrderStatus.PARTIALLY_FILLED, OrderStatus.FILLED, OrderStatus.CANCELED}
)
_OPEN_AT_EXCHANGE: Final = frozenset({OrderStatus.ACCEPTED, OrderStatus.PARTIALLY_FILLED})
# Progress of an order that is not final: late reports never move it back.
_PROGRESS: Final = {
    OrderStatus.QUEUED: 0,
    OrderStatus.SUBMITTING: 1,
    OrderStatus.UNKNOWN: 2,
    OrderStatus.ACCEPTED: 3,
    OrderStatus.PARTIALLY_FILLED: 4,
}


class IllegalTransition(RuntimeError):
    """A transition that the order's state does not allow: a bug. Nothing was changed."""


# ---------------------------------------------------------------------------------------------------------------- claiming


def claimed(order: Order, *, now: datetime, intent: OrderIntent | None = None) -> Order:
    """queued -> submitting: once this is on disk, the order counts as sent. `intent` replaces the admitted one (a resized close).

    Raises IllegalTransition if it is not queued or has expired.
    """
    _require(order, "claim", {OrderStatus.QUEUED})
    if now >= order.expires_at:
        raise IllegalTransition(f"order {order.client_order_id} may not be claimed: it expired at {order.expires_at}")
    return replace(
        order,
        intent=intent or order.intent,
        status=OrderStatus.SUBMITTING,
        attempt=order.attempt + 1,
        next_attempt_at=None,
        submitted_at=now,
        code=None,
        error=None,
    )


def requeued_unsent(order: Order) -> Order:
    """submitting -> queued, as if it had never been claimed: it is proven that its request was not sent."""
    _require(order, "requeue_unsent", {OrderStatus.SUBMITTING})
    return replace(order, status=OrderStatus.QUEUED, attempt=order.attempt - 1, submitted_at=None)


def deferred(order: Order, *, next_attempt_at: datetime, code: str | None = None, error: str | None = None) -> Order:
    """Back to its place in the queue until `next_attempt_at`: it is proven that the exchange did not accept it."""
    if order.status in _KNOWN_TO_EXCHANGE:
        return order
    _require(order, "defer", _IN_FLIGHT)
    return replace(
        order,
        status=OrderStatus.QUEUED,
        next_attempt_at=next_attempt_at,
        code=code,
        error=None if error is None else storable(error),
    )


def prolonged(order: Order, *, expires_at: datetime) -> Order:
    """The order may be sent until `expires_at`: the leg that it waits for rested at the exchange, which its age does not count."""
    _require(order, "prolong", {OrderStatus.QUEUED})
    return replace(order, expires_at=expires_at)


def due_at(order: Order, *, next_attempt_at: datetime) -> Order:
    """A deferred order with another time for its next attempt: what it waited for has come."""
    _require(order, "bring forward", {OrderStatus.QUEUED})
    return replace(order, next_attempt_at=next_attempt_at)


# -------------------------------------------------------------------------------------------------- outcome of sending


def accepted(order: Order, *, order_id: str, now: datetime) -> Order:
    """The exchange accepted the order under its `order_id`."""
    if order.status in _KNOWN_TO_EXCHANGE:
        # The stream was faster than the response, which only adds the id.
        return order if order.order_id is not None else replace(order, order_id=order_id)
    if order.status is not OrderStatus.UNKNOWN:  # even a closed unknown order may turn out to be at the exchange
        _require(order, "accept", _IN_FLIGHT)
    return replace(
        order,
        status=OrderStatus.ACCEPTED,
        order_id=order_id,
        accepted_at=now,
        finished_at=None,
        code=None,
        error=None,
    )


def rejected(order: Order, *, code: str, error: str, now: datetime) -> Order:
    """The exchange rejected the order, or it is proven that it never accepted it and it will not be sent again."""
    _require(order, "reject", _IN_FLIGHT)
    return _finished(order, OrderStatus.REJECTED, code, error, now)


def unknown(order: Order, *, reason: str, sent_at: datetime | None = None) -> Order:
    """The order was sent and its outcome is not known: it keeps its reservation and its place until it is resolved.

    `sent_at`: when it was sent, perhaps long after the claim; the acceptance window counts from then.
    """
    if order.status in _KNOWN_TO_EXCHANGE:
        return order  # the stream has reported it already
    _require(order, "mark_unknown", _IN_FLIGHT)
    return replace(
        order,
        status=OrderStatus.UNKNOWN,
        submitted_at=sent_at or order.submitted_at,
        code="outcome_unknown",
        error=storable(reason),
    )


def unknown_after_restore(order: Order, *, reason: str, now: datetime) -> Order:
    """Mark a restored queued order unknown: it may have been sent after the backup was made, so look it up instead of sending it."""
    _require(order, "mark_unknown_after_restore", {OrderStatus.QUEUED})
    return replace(
        order,
        status=OrderStatus.UNKNOWN,
        submitted_at=min(now, order.expires_at),  # it cannot have been sent later
        attempt=order.attempt + 1,
        next_attempt_at=None,
        code="outcome_unknown",
        error=storable(reason),
    )


def closed_unknown(order: Order, *, reason: str, now: datetime) -> Order:
    """End an order whose outcome cannot be found out any more: it stays unknown, without a reservation, and holds back no other.

    If the exchange reports it after all, `reported` continues it.
    """
    _require(order, "close_unknown", _IN_FLIGHT)
    return _finished(order, OrderStatus.UNKNOWN, "outcome_unknown", reason, now)


def closed_missing(order: Order, *, reason: str, now: datetime) -> Order:
    """End an order that the exchange accepted and does not have: as `closed_unknown`, with what it has executed."""
    _require(order, "close_missing", _OPEN_AT_EXCHANGE)
    return _finished(order, OrderStatus.UNKNOWN, "outcome_unknown", reason, now)


def requeued_missing(order: Order, *, reason: str, now: datetime) -> Order:
    """Back to its place in the queue: the exchange accepted the order, and it is proven that it neither has nor executed it."""
    _require(order, "requeue_missing", {OrderStatus.ACCEPTED})
    return replace(
        order,
        status=OrderStatus.QUEUED,
        order_id=None,
        accepted_at=None,
        next_attempt_at=now,
        code="outcome_unknown",
        error=storable(reason),
    )


def reported(order: Order, report: OrderStatusReport, *, now: datetime) -> Order:
    """The order after the exchange's report about it. Reports may repeat, be late, or arrive out of order.

    A final order stays final and the executed quantity never decreases; figures of a report with less are ignored. A larger executed
    quantity always counts, even for a finished order: the exchange is right. Raises IllegalTransition for an order that was never sent.
    """
    if order.attempt == 0:
        raise IllegalTransition(
            f"order {order.client_order_id} was never sent, but the exchange reports it as {report.status}"
        )
    changes: dict[str, Any] = {"order_id": order.order_id or report.order_id}
    if report.executed_quantity >= order.executed_quantity:
        changes |= {
            "executed_quantity": report.executed_quantity,
            "average_price": order.average_price if report.average_price is None else report.average_price,
            "fee": report.fee,
            "realized_pnl": order.realized_pnl if report.realized_pnl is None else report.realized_pnl,
        }
    status = _status_after(order, max(report.executed_quantity, order.executed_quantity), report.status)
    if status is not order.status:
        changes |= {
            "status": status,
            "accepted_at": order.accepted_at or (now if status in _KNOWN_TO_EXCHANGE else None),
            "finished_at": (order.finished_at or now) if status.is_final else None,
            "next_attempt_at": None,
            "code": None,
            "error": None,
        }
    return replace(order, **changes)


def left_open(order: Order, *, error: str) -> Order:
    """A canceled exit that is not sent again although its position is open, with the reason."""
    return replace(order, code=EXIT_CANCELED, error=storable(error))


def _status_after(order: Order, executed: Decimal, found: OrderStatus) -> OrderStatus:
    """The status after a report; `executed` is the quantity traded so far."""
    if order.status.is_final:
        has_filled = executed > order.executed_quantity and found is OrderStatus.FILLED
        return OrderStatus.FILLED if has_filled else order.status
    if found.is_final:
        return found
    if executed and _PROGRESS[found] < _PROGRESS[OrderStatus.PARTIALLY_FILLED]:
        found = OrderStatus.PARTIALLY_FILLED  # some exchanges report `accepted` while any of it is open
    return found if _PROGRESS[found] >= _PROGRESS[order.status] else order.status


# ---------------------------------------------------------------------------------------- orders that must not be sent


def denied(order: Order, *, code: str, error: str, now: datetime) -> Order:
    """A risk rule denied the order before it was sent."""
    _require(order, "deny", {OrderStatus.QUEUED, OrderStatus.SUBMITTING})
    return _finished(order, OrderStatus.DENIED, code, error, now)


def canceled_unsent(order: Order, *, now: datetime) -> Order:
    """The order was cancelled, mostly by a later alert, before the exchange had it."""
    return denied(order, code="canceled_by_alert", error="it was cancelled before the exchange had it", now=now)


def withdrawn(order: Order, *, reason: str, now: datetime) -> Order:
    """queued -> canceled: a protective order that is proven not to be at the exchange and that nothing needs any more."""
    _require(order, "withdraw", {OrderStatus.QUEUED})
    return _finished(order, OrderStatus.CANCELED, "withdrawn", reason, now)


def expired(order: Order, *, now: datetime, code: str = ALERT_EXPIRED, error: str = _TOO_LATE) -> Order:
    """The order became too old before it was sent; also for one in flight that is proven not to be at the exchange."""
    _require(order, "expire", {OrderStatus.QUEUED, *_IN_FLIGHT})
    return _finished(order, OrderStatus.EXPIRED, code, error, now)


def _finished(order: Order, status: OrderStatus, code: str, error: str, now: datetime) -> Order:
    """The order in a final status; an earlier `finished_at` is kept."""
    return replace(
        order,
        status=status,
        code=code,
        error=storable(error),
        next_attempt_at=None,
        finished_at=order.finished_at or now,
    )


def _require(order: Order, verb: str, allowed: Iterable[OrderStatus]) -> None:
    """Raise IllegalTransition unless the order is unfinished and in one of these states; `verb` names the transition."""
    if order.status not in allowed or order.finished_at is not None:
        names = ", ".join(sorted(status.value for status in allowed))
        found = f"{order.status}, finished" if order.finished_at else order.status.value
        raise IllegalTransition(
            f"{verb} of order {order.client_order_id} is not possible: it is {found}, expected {names}"
        )
