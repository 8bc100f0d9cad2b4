"""Every transition of an order: one function each, allowed from certain states only.

Each writes row, reservation, day totals, the alert's headline and history in the caller's transaction (order_journal.py). A transition
that is not allowed raises IllegalTransition; late news (the stream was faster than the response) changes nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from msgspec.structs import replace

from kekbridge.model import Order, OrderIntent, OrderStatus, Purpose, TradingState, Verdict
from kekbridge.model.orders import OrderStatusReport
from kekbridge.store import order_queue, reservations, settings
from kekbridge.store.codec import storable
from kekbridge.store.order_journal import (
    IllegalTransition,
    UnsavedTransition,
    append_order_event,
    append_transition,
    commit,
    commit_unsaved,
    finished,
    require,
)
from kekbridge.store.order_queue import ALERT_EXPIRED, overdue
from kekbridge.store.orders import ImmediateClaim, get, insert, replace_intent, set_signed_at

_IN_FLIGHT: Final = frozenset({OrderStatus.SUBMITTING, OrderStatus.UNKNOWN})
# The exchange has, or had, the order.
_KNOWN_TO_EXCHANGE: Final = frozenset(
    {OrderStatus.ACCEPTED, OrderStatus.PARTIALLY_FILLED, OrderStatus.FILLED, OrderStatus.CANCELED}
)
# Progress of an order that is not final: late reports never move it back.
_PROGRESS: Final = {
    OrderStatus.QUEUED: 0,
    OrderStatus.SUBMITTING: 1,
    OrderStatus.UNKNOWN: 2,
    OrderStatus.ACCEPTED: 3,
    OrderStatus.PARTIALLY_FILLED: 4,
}


# ------------------------------------------------------------------------------------------------- admission and claim


def queue(
    connection: sqlite3.Connection, planned: Iterable[Order], *, immediate_claim: ImmediateClaim | None = None
) -> tuple[Order, ...]:
    """Store the new orders of an alert with their reservations and return them with their sequence.

    With an immediate claim the first of them is stored as `submitting`, as `claim` would leave it.
    """
    stored: list[Order] = []
    for order in planned:
        stored.append(insert(connection, order, immediate_claim if not stored else None))
        reservations.update(connection, None, stored[-1])
    return tuple(stored)


def append_immediate_claim(connection: sqlite3.Connection, order: Order, immediate_claim: ImmediateClaim) -> None:
    """Append the event of an order that was stored as `submitting`."""
    append_order_event(connection, order, {"attempt": order.attempt}, now=immediate_claim.at)


def claim(
    connection: sqlite3.Connection,
    client_order_id: str,
    *,
    now: datetime,
    intent: OrderIntent | None = None,
    request: str | None = None,
    verdicts: tuple[Verdict, ...] = (),
    known: Order | None = None,
) -> Order:
    """queued -> submitting: from the commit on, the order counts as sent. `intent` replaces the admitted one (a resized close).

    `known`: the order, if this transaction has read it already. Raises IllegalTransition if it is not queued or has expired.
    """
    before = known or get(connection, client_order_id)
    require(before, "claim", {OrderStatus.QUEUED})
    if now >= before.expires_at:
        raise IllegalTransition(f"order {client_order_id} may not be claimed: it expired at {before.expires_at}")
    after = replace(
        before,
        intent=intent or before.intent,
        status=OrderStatus.SUBMITTING,
        attempt=before.attempt + 1,
        next_attempt_at=None,
        submitted_at=now,
        code=None,
        error=None,
    )
    if after.intent != before.intent:
        replace_intent(connection, client_order_id, after.intent)
    return commit(connection, before, after, now=now, request=request, verdicts=verdicts)


def requeue_unsent(connection: sqlite3.Connection, client_order_id: str, *, now: datetime) -> Order:
    """submitting -> queued, as if it had never been claimed: it is proven that its request was not sent."""
    before = get(connection, client_order_id)
    require(before, "requeue_unsent", {OrderStatus.SUBMITTING})
    queued = replace(before, status=OrderStatus.QUEUED, attempt=before.attempt - 1, submitted_at=None)
    return commit(connection, before, queued, now=now)


def mark_deferred(
    connection: sqlite3.Connection,
    client_order_id: str,
    *,
    next_attempt_at: datetime,
    now: datetime,
    code: str | None = None,
    error: str | None = None,
) -> Order:
    """Back to its place in the queue until `next_attempt_at`: it is proven that the exchange did not accept it."""
    before = get(connection, client_order_id)
    if before.status in _KNOWN_TO_EXCHANGE:
        return before
    require(before, "mark_deferred", _IN_FLIGHT)
    deferred = replace(
        before,
        status=OrderStatus.QUEUED,
        next_attempt_at=next_attempt_at,
        code=code,
        error=None if error is None else storable(error),
    )
    return commit(connection, before, deferred, now=now)


# -------------------------------------------------------------------------------------------------- outcome of sending


def mark_accepted(
    connection: sqlite3.Connection,
    client_order_id: str,
    *,
    order_id: str,
    now: datetime,
    signed_at: datetime | None = None,
) -> Order:
    """The exchange accepted the order, signed at `signed_at`, under its `order_id`."""
    before = get(connection, client_order_id)
    if before.status in _KNOWN_TO_EXCHANGE:
        # The stream was faster than the response, which only adds the id.
        if before.order_id is None:
            return commit(connection, before, replace(before, order_id=order_id), now=now, signed_at=signed_at)
        if signed_at is not None:
            set_signed_at(connection, client_order_id, signed_at)
        return before
    if before.status is not OrderStatus.UNKNOWN:  # even a closed unknown order may turn out to be at the exchange
        require(before, "mark_accepted", _IN_FLIGHT)
    return commit(connection, before, _accepted(before, order_id, now), now=now, signed_at=signed_at)


def begin_acceptance(
    connection: sqlite3.Connection,
    client_order_id: str,
    *,
    order_id: str,
    now: datetime,
    signed_at: datetime | None = None,
) -> UnsavedTransition | None:
    """`mark_accepted` for an order whose report is known, too: appends the event; `apply_report` must follow and writes the row.

    Returns None, without an event, for an order that is not `submitting`.
    """
    before = get(connection, client_order_id)
    if before.status is not OrderStatus.SUBMITTING or before.finished_at is not None:
        return None
    accepted = _accepted(before, order_id, now)
    append_transition(connection, before, accepted, now=now)
    return UnsavedTransition(stored=before, order=accepted, now=now, signed_at=signed_at)


def mark_rejected(
    connection: sqlite3.Connection, client_order_id: str, *, code: str, error: str, now: datetime
) -> Order:
    """The exchange rejected the order, or it is proven that it never accepted it and it will not be sent again."""
    before = get(connection, client_order_id)
    require(before, "mark_rejected", _IN_FLIGHT)
    return commit(connection, before, finished(before, OrderStatus.REJECTED, code, error, now), now=now)


def mark_unknown(
    connection: sqlite3.Connection, client_order_id: str, *, reason: str, now: datetime, sent_at: datetime | None = None
) -> Order:
    """The order was sent and its outcome is not known: it keeps its reservation and its place until it is resolved.

    `sent_at`: when it was sent, perhaps long after the claim; the acceptance window counts from then.
    """
    before = get(connection, client_order_id)
    if before.status in _KNOWN_TO_EXCHANGE:
        return before  # the stream has reported it already
    require(before, "mark_unknown", _IN_FLIGHT)
    unknown = replace(
        before,
        status=OrderStatus.UNKNOWN,
        submitted_at=sent_at or before.submitted_at,
        code="outcome_unknown",
        error=storable(reason),
    )
    return commit(connection, before, unknown, now=now)


def mark_unknown_after_restore(
    connection: sqlite3.Connection, client_order_id: str, *, reason: str, now: datetime
) -> Order:
    """Mark a restored queued order unknown: it may have been sent after the backup was made, so look it up instead of sending it."""
    before = get(connection, client_order_id)
    require(before, "mark_unknown_after_restore", {OrderStatus.QUEUED})
    sent_at = min(now, before.expires_at)  # it cannot have been sent later
    unknown = replace(
        before,
        status=OrderStatus.UNKNOWN,
        submitted_at=sent_at,
        attempt=before.attempt + 1,
        next_attempt_at=None,
        code="outcome_unknown",
        error=storable(reason),
    )
    return commit(connection, before, unknown, now=now)


def close_unknown(connection: sqlite3.Connection, client_order_id: str, *, reason: str, now: datetime) -> Order:
    """End an order whose outcome cannot be found out any more: it stays unknown, without a reservation, and holds back no other.

    If the exchange reports it after all, apply_report continues it.
    """
    before = get(connection, client_order_id)
    require(before, "close_unknown", _IN_FLIGHT)
    return commit(connection, before, finished(before, OrderStatus.UNKNOWN, "outcome_unknown", reason, now), now=now)


def apply_report(
    connection: sqlite3.Connection,
    client_order_id: str,
    report: OrderStatusReport,
    *,
    now: datetime,
    known: Order | UnsavedTransition | None = None,
) -> Order:
    """Apply the exchange's report about an order. Reports may repeat, be late, or arrive out of order.

    A final order stays final and the executed quantity never decreases; figures of a report with less are ignored. A larger executed
    quantity is always recorded, even for a finished order: the exchange is right. `known`: the order, if this transaction has it
    already. Raises IllegalTransition for an order that was never sent.
    """
    before = known.order if isinstance(known, UnsavedTransition) else known or get(connection, client_order_id)
    if before.attempt == 0:
        raise IllegalTransition(
            f"order {client_order_id} was never sent, but the exchange reports it as {report.status}"
        )
    changes: dict[str, Any] = {"order_id": before.order_id or report.order_id}
    if report.executed_quantity >= before.executed_quantity:
        changes |= {
            "executed_quantity": report.executed_quantity,
            "average_price": before.average_price if report.average_price is None else report.average_price,
            "fee": report.fee,
            "realized_pnl": before.realized_pnl if report.realized_pnl is None else report.realized_pnl,
        }
    status = _status_after(before, max(report.executed_quantity, before.executed_quantity), report.status)
    if status is not before.status:
        changes |= {
            "status": status,
            "accepted_at": before.accepted_at or (now if status in _KNOWN_TO_EXCHANGE else None),
            "finished_at": (before.finished_at or now) if status.is_final else None,
            "next_attempt_at": None,
            "code": None,
            "error": None,
        }
    after = replace(before, **changes)
    if isinstance(known, UnsavedTransition):
        return commit_unsaved(connection, known, after, now=now)
    return before if after == before else commit(connection, before, after, now=now)


def _accepted(before: Order, order_id: str, now: datetime) -> Order:
    return replace(
        before,
        status=OrderStatus.ACCEPTED,
        order_id=order_id,
        accepted_at=now,
        finished_at=None,
        code=None,
        error=None,
    )


def _status_after(before: Order, executed: Decimal, reported: OrderStatus) -> OrderStatus:
    """The status after a report; `executed` is the quantity traded so far."""
    if before.status.is_final:
        has_filled = executed > before.executed_quantity and reported is OrderStatus.FILLED
        return OrderStatus.FILLED if has_filled else before.status
    if reported.is_final:
        return reported
    if executed and _PROGRESS[reported] < _PROGRESS[OrderStatus.PARTIALLY_FILLED]:
        reported = OrderStatus.PARTIALLY_FILLED  # some exchanges report `accepted` while any of it is open
    return reported if _PROGRESS[reported] >= _PROGRESS[before.status] else before.status


# ---------------------------------------------------------------------------------------- orders that must not be sent


def mark_denied(
    connection: sqlite3.Connection,
    client_order_id: str,
    *,
    code: str,
    error: str,
    now: datetime,
    verdicts: tuple[Verdict, ...] = (),
) -> Order:
    """A risk rule denied the order before it was sent."""
    before = get(connection, client_order_id)
    require(before, "mark_denied", {OrderStatus.QUEUED, OrderStatus.SUBMITTING})
    denied = finished(before, OrderStatus.DENIED, code, error, now)
    return commit(connection, before, denied, now=now, verdicts=verdicts)


def mark_expired(
    connection: sqlite3.Connection,
    client_order_id: str,
    *,
    now: datetime,
    code: str = ALERT_EXPIRED,
    error: str = "the alert waited longer than allowed",
) -> Order:
    """The order became too old before it was sent; also for one in flight that is proven not to be at the exchange."""
    before = get(connection, client_order_id)
    require(before, "mark_expired", {OrderStatus.QUEUED, *_IN_FLIGHT})
    return commit(connection, before, finished(before, OrderStatus.EXPIRED, code, error, now), now=now)


def has_unsendable(connection: sqlite3.Connection, *, now: datetime) -> bool:
    """True if `expire_unsendable` would finish an order. Reads only: called twice a second, with any number of queued orders."""
    if not order_queue.is_any_waiting(connection):
        return False
    return bool(overdue(connection, now=now, limit=1)) or any(
        _forbidden(connection, *kind, now=now) for kind in order_queue.waiting_kinds(connection)
    )


def expire_unsendable(connection: sqlite3.Connection, *, now: datetime) -> tuple[Order, ...]:
    """Expire queued orders that are too old, deny those that the trading state forbids, each in order of admission; return them."""
    finished = [mark_expired(connection, order.client_order_id, now=now) for order in overdue(connection, now=now)]
    denied: list[tuple[Order, str, str]] = []
    for kind in order_queue.waiting_kinds(connection):
        reason = _forbidden(connection, *kind, now=now)
        if reason is not None:
            denied += ((order, *reason) for order in order_queue.waiting_of(connection, *kind))
    for order, code, error in sorted(denied, key=lambda each: each[0].sequence):
        finished.append(mark_denied(connection, order.client_order_id, code=code, error=error, now=now))
    return tuple(finished)


def _forbidden(
    connection: sqlite3.Connection, webhook_id: str, purpose: Purpose, *, now: datetime
) -> tuple[str, str] | None:
    """Code and reason if the trading state of the account or the webhook forbids sending such an order now, else None.

    A breach does not count: the order had room when it was admitted, and the limits are checked again when it is claimed. Protective
    orders always pass: a halt leaves positions and their stops as they are.
    """
    if purpose is Purpose.PROTECT:
        return None
    state = settings.effective_state(connection, now=now, webhook_id=webhook_id, ignore_breaches=True)
    if state is TradingState.HALTED:
        return "trading_halted", "trading was halted before the order was sent"
    if state is TradingState.EXITS_ONLY and purpose is Purpose.ENTRY:
        return "exits_only", "entries were stopped before the order was sent"
    return None
