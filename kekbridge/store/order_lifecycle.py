"""The life of an order: each step is one verb, allowed from certain states only, and one transaction with all it entails.

With the row move its reservation, the day's totals, its alert's headline and the history. A step that cannot happen raises; news
that came late (the stream was quicker than the answer) changes nothing. Finding orders: order_rows.py and order_queue.py.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from kekbridge.model import Order, OrderIntent, OrderStatus, Purpose, TradingState, Verdict
from kekbridge.model.orders import OrderStatusReport
from kekbridge.store import order_queue, reservations, settings
from kekbridge.store.codec import storable
from kekbridge.store.order_journal import (
    IllegalTransition,
    UnsavedTransition,
    commit,
    commit_with,
    finished,
    require,
    tell,
    tell_step,
)
from kekbridge.store.order_queue import (
    ALERT_EXPIRED,
    overdue,
)
from kekbridge.store.orders import ImmediateClaim, get, insert, note_signed, replace_intent

_IN_FLIGHT: Final = frozenset({OrderStatus.SUBMITTING, OrderStatus.UNKNOWN})
# The exchange has, or had, the order.
_KNOWN_THERE: Final = frozenset(
    {OrderStatus.ACCEPTED, OrderStatus.PARTIALLY_FILLED, OrderStatus.FILLED, OrderStatus.CANCELED}
)
# How far an order that is not final has come: reports that arrive late never take it back.
_PROGRESS: Final = {
    OrderStatus.QUEUED: 0,
    OrderStatus.SUBMITTING: 1,
    OrderStatus.UNKNOWN: 2,
    OrderStatus.ACCEPTED: 3,
    OrderStatus.PARTIALLY_FILLED: 4,
}


def queue(
    connection: sqlite3.Connection, planned: Iterable[Order], *, departure: ImmediateClaim | None = None
) -> tuple[Order, ...]:
    """Store the new orders of an alert, take their room from the limits, and return them with their place in the queue.

    With a departure the first of them is stored as being sent: claimed, as `claim` would, and without being queued before.
    """
    stored: list[Order] = []
    for order in planned:
        stored.append(insert(connection, order, departure if not stored else None))
        reservations.update(connection, None, stored[-1])
    return tuple(stored)


def append_immediate_claim(connection: sqlite3.Connection, order: Order, departure: ImmediateClaim) -> None:
    """The history's row of an order that was stored as being sent."""
    tell_step(connection, order, {"attempt": order.attempt}, now=departure.at)


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

    `known` is the order as this transaction read it already. Raises IllegalTransition when it is not queued, or too old to be sent.
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


def mark_accepted(
    connection: sqlite3.Connection,
    client_order_id: str,
    *,
    order_id: str,
    now: datetime,
    signed_at: datetime | None = None,
) -> Order:
    """The exchange took the order, signed and sent at `signed_at`, and named it `order_id`."""
    before = get(connection, client_order_id)
    if before.status in _KNOWN_THERE:
        # The stream told it first; the answer only adds the name.
        if before.order_id is None:
            return commit(connection, before, replace(before, order_id=order_id), now=now, signed_at=signed_at)
        if signed_at is not None:
            note_signed(connection, client_order_id, signed_at)
        return before
    if before.status is not OrderStatus.UNKNOWN:  # one given up as unknown may still turn out to be there
        require(before, "mark_accepted", _IN_FLIGHT)
    return commit(connection, before, _accepted(before, order_id, now), now=now, signed_at=signed_at)


def begin_accepted(
    connection: sqlite3.Connection,
    client_order_id: str,
    *,
    order_id: str,
    now: datetime,
    signed_at: datetime | None = None,
) -> UnsavedTransition | None:
    """`mark_accepted` for an order whose report is known, too: told in the history, and written by `apply_report`, which must follow.

    None, and nothing is told, for an order that is not simply being sent.
    """
    before = get(connection, client_order_id)
    if before.status is not OrderStatus.SUBMITTING or before.finished_at is not None:
        return None
    accepted = _accepted(before, order_id, now)
    tell(connection, before, accepted, now=now)
    return UnsavedTransition(stored=before, order=accepted, now=now, signed_at=signed_at)


def mark_rejected(
    connection: sqlite3.Connection, client_order_id: str, *, code: str, error: str, now: datetime
) -> Order:
    """The exchange said no, or it is proven that it never took the order and it will not be sent again."""
    before = get(connection, client_order_id)
    require(before, "mark_rejected", _IN_FLIGHT)
    return commit(connection, before, finished(before, OrderStatus.REJECTED, code, error, now), now=now)


def mark_denied(
    connection: sqlite3.Connection,
    client_order_id: str,
    *,
    code: str,
    error: str,
    now: datetime,
    verdicts: tuple[Verdict, ...] = (),
) -> Order:
    """A rule of ours said no right before sending; nothing was sent."""
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
    error: str = "the alert waited longer than it may",
) -> Order:
    """It became too old before the exchange had it; also for an order in flight that is proven not to be there."""
    before = get(connection, client_order_id)
    require(before, "mark_expired", {OrderStatus.QUEUED, *_IN_FLIGHT})
    return commit(connection, before, finished(before, OrderStatus.EXPIRED, code, error, now), now=now)


def mark_unknown(
    connection: sqlite3.Connection, client_order_id: str, *, reason: str, now: datetime, sent_at: datetime | None = None
) -> Order:
    """It was sent and no answer proves either case: it keeps its reservation and its place until it is looked up.

    `sent_at` is when it left, which may be long after the claim: from then on the acceptance window counts.
    """
    before = get(connection, client_order_id)
    if before.status in _KNOWN_THERE:
        return before  # the stream knows better than the missing answer
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
    """queued -> unknown, in a store brought back from a backup: it may have been sent since, so it is asked for, never just sent."""
    before = get(connection, client_order_id)
    require(before, "doubt", {OrderStatus.QUEUED})
    sent_at = min(now, before.expires_at)  # later than that nobody can have sent it
    doubted = replace(
        before,
        status=OrderStatus.UNKNOWN,
        submitted_at=sent_at,
        attempt=before.attempt + 1,
        next_attempt_at=None,
        code="outcome_unknown",
        error=storable(reason),
    )
    return commit(connection, before, doubted, now=now)


def close_unknown(connection: sqlite3.Connection, client_order_id: str, *, reason: str, now: datetime) -> Order:
    """Nobody can tell any more and it is not sent again: the order ends as unknown, out of the way and without reservation.

    Should the exchange name it after all, apply_report takes it up again.
    """
    before = get(connection, client_order_id)
    require(before, "give_up_unknown", _IN_FLIGHT)
    return commit(connection, before, finished(before, OrderStatus.UNKNOWN, "outcome_unknown", reason, now), now=now)


def requeue_unsent(connection: sqlite3.Connection, client_order_id: str, *, now: datetime) -> Order:
    """submitting -> queued, as if it had never been claimed: it is proven that its request never left this machine."""
    before = get(connection, client_order_id)
    require(before, "mark_unsent", {OrderStatus.SUBMITTING})
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
    """Back to the queue, in its old place: it is proven that the exchange did not take it, and it may be sent again then."""
    before = get(connection, client_order_id)
    if before.status in _KNOWN_THERE:
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


def apply_report(
    connection: sqlite3.Connection,
    client_order_id: str,
    report: OrderStatusReport,
    *,
    now: datetime,
    known: Order | UnsavedTransition | None = None,
) -> Order:
    """Record what the exchange reports about an order; reports may repeat, come late or out of order.

    A final order stays final and executed quantity never shrinks; figures of a report that knows of less are left out. More
    executed than known is always recorded, also for an order believed dead: the exchange is right. `known` is the order as this
    transaction has it already. Raises IllegalTransition for an order that was never sent.
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
            "accepted_at": before.accepted_at or (now if status in _KNOWN_THERE else None),
            "finished_at": (before.finished_at or now) if status.is_final else None,
            "next_attempt_at": None,
            "code": None,
            "error": None,
        }
    after = replace(before, **changes)
    if isinstance(known, UnsavedTransition):
        return commit_with(connection, known, after, now=now)
    return before if after == before else commit(connection, before, after, now=now)


# ------------------------------------------------------------------------------------------------------------------- inside


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
    """The status that follows from a report, given what is known already; `executed` is how much traded by now."""
    if before.status.is_final:
        traded_after_all = executed > before.executed_quantity and reported is OrderStatus.FILLED
        return OrderStatus.FILLED if traded_after_all else before.status
    if reported.is_final:
        return reported
    if executed and _PROGRESS[reported] < _PROGRESS[OrderStatus.PARTIALLY_FILLED]:
        reported = OrderStatus.PARTIALLY_FILLED  # some venues call an order accepted as long as any of it is open
    return reported if _PROGRESS[reported] >= _PROGRESS[before.status] else before.status


def is_sweep_due(connection: sqlite3.Connection, *, now: datetime) -> bool:
    """True when `sweep` would find something to do. Reads only: it is asked twice a second, however many orders wait."""
    if not order_queue.is_any_waiting(connection):
        return False
    return bool(overdue(connection, now=now, limit=1)) or any(
        _forbidden(connection, *kind, now=now) for kind in order_queue.waiting_kinds(connection)
    )


def expire_unsendable(connection: sqlite3.Connection, *, now: datetime) -> tuple[Order, ...]:
    """Expire what is too old and deny what the trading state forbids, each in the order of admission; returns what was finished."""
    finished = [mark_expired(connection, order.client_order_id, now=now) for order in overdue(connection, now=now)]
    denied: list[tuple[Order, str, str]] = []
    for kind in order_queue.waiting_kinds(connection):
        why = _forbidden(connection, *kind, now=now)
        if why is not None:
            denied += ((order, *why) for order in order_queue.waiting_of(connection, *kind))
    for order, code, error in sorted(denied, key=lambda each: each[0].sequence):
        finished.append(mark_denied(connection, order.client_order_id, code=code, error=error, now=now))
    return tuple(finished)


def _forbidden(
    connection: sqlite3.Connection, webhook_id: str, purpose: Purpose, *, now: datetime
) -> tuple[str, str] | None:
    """Code and reason when the trading state of the account or the webhook forbids to send such an order now, else None.

    What a limit closed by itself does not count: the order had its room when it was admitted, and the limits judge it again at its claim.
    Orders that protect a position always pass: a halt leaves positions and their stops as they are, it does not strip them.
    """
    if purpose is Purpose.PROTECT:
        return None
    state = settings.effective_state(connection, now=now, webhook_id=webhook_id, without_trips=True)
    if state is TradingState.HALTED:
        return "trading_halted", "trading was halted before the order was sent"
    if state is TradingState.EXITS_ONLY and purpose is Purpose.ENTRY:
        return "exits_only", "entries were stopped before the order was sent"
    return None
