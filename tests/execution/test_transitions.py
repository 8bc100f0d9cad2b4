"""Order transitions: which are allowed, what they change, and what late or repeated reports may change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kekbridge.execution import transitions
from kekbridge.execution.transitions import IllegalTransition
from kekbridge.model import Order, OrderIntent, OrderStatus
from tests.store.factories import EXPIRES, NOW, exit_intent, intent, status_report

LATER = NOW + timedelta(seconds=1)
S = OrderStatus


def queued(wanted: OrderIntent | None = None) -> Order:
    return Order(
        client_order_id="kb-1",
        alert_id="A1",
        webhook_id="hook",
        leg=0,
        sequence=1,
        intent=wanted or intent(),
        status=S.QUEUED,
        created_at=NOW,
        expires_at=EXPIRES,
    )


def reported(order: Order, status: OrderStatus, executed: str | Decimal = "0", **changes: Any) -> Order:
    quantity = Decimal(executed)
    values = {"average_price": Decimal(65100) if quantity else None, "fee": Decimal("0.3")} | changes
    now = values.pop("now", LATER)
    return transitions.reported(order, status_report("kb-1", status, quantity, **values), now=now)


def order_in(status: OrderStatus, wanted: OrderIntent | None = None) -> Order:
    """An order brought to a status by the transitions that lead there."""
    order = queued(wanted)
    match status:
        case S.QUEUED:
            return order
        case S.DENIED:
            return transitions.denied(order, code="daily_limit", error="no", now=LATER)
        case S.EXPIRED:
            return transitions.expired(order, now=LATER)
    order = transitions.claimed(order, now=LATER)
    match status:
        case S.SUBMITTING:
            return order
        case S.REJECTED:
            return transitions.rejected(order, code="orderly:-1102", error="no", now=LATER)
        case S.UNKNOWN:
            return transitions.unknown(order, reason="time-out")
    order = transitions.accepted(order, order_id="9001", now=LATER)
    if status is S.ACCEPTED:
        return order
    return reported(order, status, order.intent.quantity if status is S.FILLED else order.intent.quantity / 2)


# --------------------------------------------------------------------------------------------------- allowed transitions

VERBS: dict[str, Callable[[Order], Order]] = {
    "claim": lambda order: transitions.claimed(order, now=LATER),
    "requeue_unsent": transitions.requeued_unsent,
    "accept": lambda order: transitions.accepted(order, order_id="77", now=LATER),
    "reject": lambda order: transitions.rejected(order, code="x", error="x", now=LATER),
    "deny": lambda order: transitions.denied(order, code="x", error="x", now=LATER),
    "mark_unknown": lambda order: transitions.unknown(order, reason="x"),
    "mark_unknown_after_restore": lambda order: transitions.unknown_after_restore(order, reason="x", now=LATER),
    "close_unknown": lambda order: transitions.closed_unknown(order, reason="x", now=LATER),
    "close_missing": lambda order: transitions.closed_missing(order, reason="x", now=LATER),
    "requeue_missing": lambda order: transitions.requeued_missing(order, reason="x", now=LATER),
    "defer": lambda order: transitions.deferred(order, next_attempt_at=LATER),
    "expire": lambda order: transitions.expired(order, now=LATER),
}
LATE_NEWS = dict.fromkeys((S.ACCEPTED, S.PARTIALLY_FILLED, S.FILLED, S.CANCELED), "same")
# Status after a transition; "same" is late news that changes nothing; everything not listed is illegal.
TABLE: dict[str, dict[OrderStatus, Any]] = {
    "claim": {S.QUEUED: S.SUBMITTING},
    "requeue_unsent": {S.SUBMITTING: S.QUEUED},
    "accept": {S.SUBMITTING: S.ACCEPTED, S.UNKNOWN: S.ACCEPTED, **LATE_NEWS},
    "reject": {S.SUBMITTING: S.REJECTED, S.UNKNOWN: S.REJECTED},
    "deny": {S.QUEUED: S.DENIED, S.SUBMITTING: S.DENIED},
    "mark_unknown": {S.SUBMITTING: S.UNKNOWN, S.UNKNOWN: S.UNKNOWN, **LATE_NEWS},
    "mark_unknown_after_restore": {S.QUEUED: S.UNKNOWN},
    "close_unknown": {S.SUBMITTING: S.UNKNOWN, S.UNKNOWN: S.UNKNOWN},
    "defer": {S.SUBMITTING: S.QUEUED, S.UNKNOWN: S.QUEUED, **LATE_NEWS},
    "close_missing": {S.ACCEPTED: S.UNKNOWN, S.PARTIALLY_FILLED: S.UNKNOWN},
    "requeue_missing": {S.ACCEPTED: S.QUEUED},
    "expire": {S.QUEUED: S.EXPIRED, S.SUBMITTING: S.EXPIRED, S.UNKNOWN: S.EXPIRED},
}
FINISHED = {S.REJECTED, S.DENIED, S.EXPIRED}


@pytest.mark.parametrize("status", list(OrderStatus))
@pytest.mark.parametrize("verb", list(VERBS))
def test_each_transition_is_allowed_from_its_states_only(verb: str, status: OrderStatus) -> None:
    """The whole table: each transition leads to its state, or raises and names what was found and expected."""
    before = order_in(status)
    wanted = TABLE[verb].get(status)
    if wanted is None:
        with pytest.raises(IllegalTransition, match=f"{verb} of order kb-1 .*{status.value}"):
            VERBS[verb](before)
        return
    after = VERBS[verb](before)
    if wanted == "same":
        assert after == before
        return
    assert after.status is wanted
    is_finished = wanted in FINISHED or verb in ("close_unknown", "close_missing")
    assert after.finished_at == (LATER if is_finished else None)
    assert after.intent == before.intent
    assert (after.sequence, after.created_at, after.expires_at) == (
        before.sequence,
        before.created_at,
        before.expires_at,
    )


@pytest.mark.parametrize(
    "verb", ["reject", "deny", "mark_unknown", "close_unknown", "defer", "expire", "requeue_unsent"]
)
def test_closed_unknown_order_can_only_turn_up(verb: str) -> None:
    """It is over for us: only that the exchange has it after all continues it."""
    closed = transitions.closed_unknown(order_in(S.UNKNOWN), reason="not found", now=LATER)
    with pytest.raises(IllegalTransition, match="finished"):
        VERBS[verb](closed)
    assert transitions.accepted(closed, order_id="77", now=LATER).finished_at is None
    assert reported(closed, S.ACCEPTED).finished_at is None


def test_an_order_that_does_not_exist_is_sent_under_a_new_id() -> None:
    """Back in the queue nothing of its acceptance is left; what has executed is never sent again."""
    requeued = transitions.requeued_missing(order_in(S.ACCEPTED), reason="gone", now=LATER)
    assert (requeued.order_id, requeued.accepted_at, requeued.next_attempt_at) == (None, None, LATER)
    assert transitions.accepted(transitions.claimed(requeued, now=LATER), order_id="78", now=LATER).order_id == "78"


def test_an_order_that_vanished_keeps_what_it_has_executed() -> None:
    """It ends as unknown; a later report continues it."""
    closed = transitions.closed_missing(order_in(S.PARTIALLY_FILLED), reason="gone", now=LATER)
    assert (closed.status, closed.executed_quantity, closed.order_id) == (S.UNKNOWN, closed.intent.quantity / 2, "9001")
    assert reported(closed, S.FILLED, closed.intent.quantity).status is S.FILLED


def test_expired_order_cannot_be_claimed() -> None:
    """Promise 8, at the last check: no order is sent at or after its expiry."""
    with pytest.raises(IllegalTransition, match="expired"):
        transitions.claimed(queued(), now=EXPIRES)
    assert transitions.claimed(queued(), now=EXPIRES - timedelta(milliseconds=1)).attempt == 1


# ------------------------------------------------------------------------------------------------------------ what changes


def test_claim_sends_what_the_recheck_found() -> None:
    """A close resized before sending is sent and reserved with the new size."""
    smaller = exit_intent(quantity=Decimal("0.5"))
    order = transitions.claimed(queued(exit_intent(quantity=Decimal(2))), now=LATER, intent=smaller)
    assert (order.status, order.intent, order.attempt, order.submitted_at) == (S.SUBMITTING, smaller, 1, LATER)


def test_deferred_order_keeps_its_place_and_schedule() -> None:
    """Attempt and time are kept, and the next claim clears why it was deferred."""
    at = LATER + timedelta(seconds=4)
    order = transitions.deferred(order_in(S.SUBMITTING), next_attempt_at=at, code="exchange_busy", error="429 \ud800")
    assert (order.status, order.attempt, order.next_attempt_at) == (S.QUEUED, 1, at)
    assert (order.code, order.error) == ("exchange_busy", "429 \\ud800")
    again = transitions.claimed(order, now=at)
    assert (again.attempt, again.next_attempt_at, again.code, again.error) == (2, None, None, None)


def test_order_that_was_not_sent_is_as_never_claimed() -> None:
    """The claim was on disk, the request was not: neither attempt nor time stays."""
    assert transitions.requeued_unsent(order_in(S.SUBMITTING)) == queued()


def test_acceptance_window_counts_from_sending() -> None:
    """An order sent long after its claim may be accepted long after: the time of sending is kept, if known."""
    sent_at = LATER + timedelta(seconds=40)
    assert transitions.unknown(order_in(S.SUBMITTING), reason="x", sent_at=sent_at).submitted_at == sent_at
    assert transitions.unknown(order_in(S.SUBMITTING), reason="x").submitted_at == LATER


@pytest.mark.parametrize(("now", "wanted"), [(LATER, LATER), (EXPIRES + timedelta(days=1), EXPIRES)])
def test_restored_order_may_have_been_sent_until_it_expired(now: datetime, wanted: datetime) -> None:
    """A backup may be older than what was sent since: the window counts from the latest possible time."""
    order = transitions.unknown_after_restore(queued(), reason="x", now=now)
    assert (order.status, order.submitted_at, order.attempt, order.code) == (S.UNKNOWN, wanted, 1, "outcome_unknown")


def test_timestamps_are_kept() -> None:
    """explain shows when an order was created, sent, accepted and finished."""
    order = transitions.claimed(queued(), now=NOW + timedelta(seconds=1))
    order = transitions.accepted(order, order_id="9", now=NOW + timedelta(seconds=2))
    done = reported(order, S.FILLED, "0.01", now=NOW + timedelta(seconds=3))
    done = reported(done, S.FILLED, "0.01", now=NOW + timedelta(seconds=9))
    times = (done.created_at, done.submitted_at, done.accepted_at, done.finished_at)
    assert times == tuple(NOW + timedelta(seconds=second) for second in range(4))


# ---------------------------------------------------------------------------------------------------------------- reports


def test_reports_in_any_order_give_the_same_result() -> None:
    """A stream repeats and reorders: the executed quantity never decreases and a final order stays final."""
    order = order_in(S.ACCEPTED)
    for status, executed, wanted in (
        (S.ACCEPTED, "0", S.ACCEPTED),
        (S.PARTIALLY_FILLED, "0.004", S.PARTIALLY_FILLED),
        (S.ACCEPTED, "0", S.PARTIALLY_FILLED),
        (S.PARTIALLY_FILLED, "0.002", S.PARTIALLY_FILLED),
        (S.ACCEPTED, "0.006", S.PARTIALLY_FILLED),  # some exchanges report `accepted` while any of it is open
        (S.FILLED, "0.01", S.FILLED),
        (S.PARTIALLY_FILLED, "0.004", S.FILLED),
        (S.CANCELED, "0.01", S.FILLED),
        (S.FILLED, "0.01", S.FILLED),
    ):
        order = reported(order, status, executed)
        assert order.status is wanted
    assert (order.executed_quantity, order.average_price) == (Decimal("0.01"), Decimal(65100))


REPORTS = st.lists(
    st.tuples(
        st.sampled_from([S.ACCEPTED, S.PARTIALLY_FILLED, S.FILLED, S.CANCELED, S.REJECTED]),
        st.sampled_from(["0", "0.002", "0.004", "0.01"]),
    ),
    min_size=1,
    max_size=8,
)


@given(REPORTS, st.sampled_from([S.SUBMITTING, S.UNKNOWN, S.ACCEPTED, S.QUEUED]))
def test_no_report_moves_an_order_back(reports: list[tuple[OrderStatus, str]], start: OrderStatus) -> None:
    """Whatever arrives, in any order and repeated: quantities grow, a final state stays except for a fill, a repetition changes nothing."""
    order = order_in(start)
    if start is S.QUEUED:
        order = transitions.deferred(order_in(S.SUBMITTING), next_attempt_at=LATER)
    for status, executed in reports:
        after = reported(order, status, executed)
        assert after.executed_quantity == max(order.executed_quantity, Decimal(executed))
        if order.status.is_final:
            assert after.status is order.status or (
                after.status is S.FILLED and Decimal(executed) > order.executed_quantity
            )
        assert (after.finished_at is not None) == after.status.is_final
        assert reported(after, status, executed) == after
        order = after
    assert order.order_id == "9001"


def test_figures_that_a_report_lacks_are_kept() -> None:
    """A stream's report may lack the price or the P&L that a query had."""
    order = reported(order_in(S.ACCEPTED), S.PARTIALLY_FILLED, "0.004", realized_pnl=Decimal(7))
    after = reported(order, S.PARTIALLY_FILLED, "0.006", average_price=None, realized_pnl=None, fee=Decimal("0.5"))
    assert (after.average_price, after.realized_pnl, after.fee) == (Decimal(65100), Decimal(7), Decimal("0.5"))


def test_stream_may_be_faster_than_the_response() -> None:
    """A fill that arrives before the HTTP response is kept; the response then only adds an id that was missing."""
    filled = reported(order_in(S.SUBMITTING), S.FILLED, "0.01", order_id="5")
    assert (filled.status, filled.order_id) == (S.FILLED, "5")
    assert transitions.accepted(filled, order_id="6", now=LATER) == filled
    nameless = replace(filled, order_id=None)
    assert transitions.accepted(nameless, order_id="6", now=LATER) == replace(filled, order_id="6")
    assert transitions.unknown(filled, reason="late") == filled


def test_report_resolves_an_unknown_order() -> None:
    """Found by its client order id, it is accepted and its error is gone."""
    adopted = reported(order_in(S.UNKNOWN), S.ACCEPTED, order_id="12")
    assert (adopted.status, adopted.order_id, adopted.code, adopted.accepted_at) == (S.ACCEPTED, "12", None, LATER)


@pytest.mark.parametrize("status", [S.REJECTED, S.EXPIRED, S.CANCELED])
def test_execution_of_a_finished_order_counts(status: OrderStatus) -> None:
    """The exchange is right: an order that we had given up and that filled is filled."""
    if status is S.CANCELED:
        order = reported(order_in(S.SUBMITTING), S.CANCELED)
    else:
        order = VERBS["expire" if status is S.EXPIRED else "reject"](order_in(S.SUBMITTING))
    assert order.status is status
    filled = reported(order, S.FILLED, "0.01", now=LATER + timedelta(seconds=5))
    assert (filled.status, filled.executed_quantity, filled.finished_at) == (S.FILLED, Decimal("0.01"), LATER)


def test_report_for_an_order_never_sent_raises() -> None:
    """Two orders were mixed up: nothing is applied."""
    with pytest.raises(IllegalTransition, match="never sent"):
        reported(queued(), S.FILLED, "0.01")


def test_report_for_a_deferred_order_stops_the_second_submission() -> None:
    """The order is at the exchange after all: it leaves the queue before it is sent twice."""
    deferred = transitions.deferred(order_in(S.SUBMITTING), next_attempt_at=LATER)
    found = reported(deferred, S.ACCEPTED, order_id="3")
    assert (found.status, found.next_attempt_at) == (S.ACCEPTED, None)
    with pytest.raises(IllegalTransition):
        transitions.claimed(found, now=LATER)
