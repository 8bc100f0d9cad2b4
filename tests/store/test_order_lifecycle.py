"""Order transitions: which are allowed, what they change, and what late or repeated reports may change."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from kekbridge.errors import NotFound
from kekbridge.model import ZERO, Order, OrderIntent, OrderStatus, OrderType, SideTotals, Verdict
from kekbridge.store import alerts, events, order_lifecycle, order_queue, orders, reservations
from kekbridge.store.admissions import admit
from kekbridge.store.order_journal import IllegalTransition
from kekbridge.store.reservations import read_usage
from tests.store.factories import EXPIRES, NO_RATES, NOW, admitting, exit_intent, intent, new_alert, status_report

LATER = NOW + timedelta(seconds=1)
S = OrderStatus


def admitted(connection: sqlite3.Connection, *intents: OrderIntent, **changes: Any) -> tuple[Order, ...]:
    alert = new_alert(**changes)
    return admit(connection, alert, admitting(*intents), rates=NO_RATES, now=NOW, expires_at=EXPIRES).orders


def order_in(connection: sqlite3.Connection, status: OrderStatus, wanted: OrderIntent | None = None) -> Order:
    """An order brought to a status by the steps that lead there."""
    order = admitted(connection, wanted or intent())[0]
    name = order.client_order_id
    if status is S.QUEUED:
        return order
    if status is S.DENIED:
        return order_lifecycle.mark_denied(connection, name, code="daily_limit", error="no", now=LATER)
    if status is S.EXPIRED:
        return order_lifecycle.mark_expired(connection, name, now=LATER)
    order = order_lifecycle.claim(connection, name, now=LATER)
    if status is S.SUBMITTING:
        return order
    if status is S.REJECTED:
        return order_lifecycle.mark_rejected(connection, name, code="orderly:-1102", error="no", now=LATER)
    if status is S.UNKNOWN:
        return order_lifecycle.mark_unknown(connection, name, reason="time-out", now=LATER)
    order = order_lifecycle.mark_accepted(connection, name, order_id=f"ex-{name}", now=LATER)
    if status is S.ACCEPTED:
        return order
    part = order.intent.quantity if status is S.FILLED else order.intent.quantity / 2
    return report(connection, order, status, part)


def report(
    connection: sqlite3.Connection, order: Order, status: OrderStatus, executed: Decimal, **changes: Any
) -> Order:
    values = {"average_price": Decimal(65100) if executed else None, "fee": Decimal("0.3")} | changes
    now = values.pop("now", LATER)
    reported = status_report(order.client_order_id, status, executed, **values)
    return order_lifecycle.apply_report(connection, order.client_order_id, reported, now=now)


# -------------------------------------------------------------------------------------------------------- allowed steps

VERBS: dict[str, Any] = {
    "claim": lambda c, name: order_lifecycle.claim(c, name, now=LATER),
    "mark_accepted": lambda c, name: order_lifecycle.mark_accepted(c, name, order_id="77", now=LATER),
    "mark_rejected": lambda c, name: order_lifecycle.mark_rejected(c, name, code="x", error="x", now=LATER),
    "mark_denied": lambda c, name: order_lifecycle.mark_denied(c, name, code="x", error="x", now=LATER),
    "mark_unknown": lambda c, name: order_lifecycle.mark_unknown(c, name, reason="x", now=LATER),
    "close_unknown": lambda c, name: order_lifecycle.close_unknown(c, name, reason="x", now=LATER),
    "mark_deferred": lambda c, name: order_lifecycle.mark_deferred(c, name, next_attempt_at=LATER, now=LATER),
    "mark_expired": lambda c, name: order_lifecycle.mark_expired(c, name, now=LATER),
}
# Status after a transition; "same" is late news that changes nothing; everything not listed is illegal.
STEPS: dict[str, dict[OrderStatus, Any]] = {
    "claim": {S.QUEUED: S.SUBMITTING},
    "mark_accepted": {
        S.SUBMITTING: S.ACCEPTED,
        S.UNKNOWN: S.ACCEPTED,
        S.ACCEPTED: "same",
        S.PARTIALLY_FILLED: "same",
        S.FILLED: "same",
        S.CANCELED: "same",
    },
    "mark_rejected": {S.SUBMITTING: S.REJECTED, S.UNKNOWN: S.REJECTED},
    "mark_denied": {S.QUEUED: S.DENIED, S.SUBMITTING: S.DENIED},
    "mark_unknown": {
        S.SUBMITTING: S.UNKNOWN,
        S.UNKNOWN: S.UNKNOWN,
        S.ACCEPTED: "same",
        S.PARTIALLY_FILLED: "same",
        S.FILLED: "same",
        S.CANCELED: "same",
    },
    "close_unknown": {S.SUBMITTING: S.UNKNOWN, S.UNKNOWN: S.UNKNOWN},
    "mark_deferred": {
        S.SUBMITTING: S.QUEUED,
        S.UNKNOWN: S.QUEUED,
        S.ACCEPTED: "same",
        S.PARTIALLY_FILLED: "same",
        S.FILLED: "same",
        S.CANCELED: "same",
    },
    "mark_expired": {S.QUEUED: S.EXPIRED, S.SUBMITTING: S.EXPIRED, S.UNKNOWN: S.EXPIRED},
}


@pytest.mark.parametrize("status", list(OrderStatus))
@pytest.mark.parametrize("verb", list(VERBS))
def test_each_transition_is_allowed_from_its_states_only(
    connection: sqlite3.Connection, verb: str, status: OrderStatus
) -> None:
    """The whole table: each transition leads to its state, or raises and leaves row and history as they were."""
    before = order_in(connection, status)
    wanted = STEPS[verb].get(status)
    history = len(events.list_events(connection))
    if wanted is None:
        with pytest.raises(IllegalTransition, match=verb):
            VERBS[verb](connection, before.client_order_id)
    else:
        after = VERBS[verb](connection, before.client_order_id)
        assert after == orders.get(connection, before.client_order_id)
        if wanted != "same":
            assert after.status is wanted
            assert alerts.get(connection, before.alert_id).status == wanted.value
            return
    assert orders.get(connection, before.client_order_id) == before
    assert len(events.list_events(connection)) == history


def test_expired_order_cannot_be_claimed(connection: sqlite3.Connection) -> None:
    """Promise 8, at the last check: no order is sent at or after its expiry."""
    order = admitted(connection)[0]
    with pytest.raises(IllegalTransition, match="expired"):
        order_lifecycle.claim(connection, order.client_order_id, now=EXPIRES)
    assert (
        order_lifecycle.claim(connection, order.client_order_id, now=EXPIRES - timedelta(milliseconds=1)).attempt == 1
    )


def test_unknown_id_is_named_in_the_error(connection: sqlite3.Connection) -> None:
    """A transition of an order that does not exist names it; looking up a foreign order finds nothing."""
    with pytest.raises(NotFound, match="kb-missing"):
        order_lifecycle.claim(connection, "kb-missing", now=NOW)
    assert orders.find(connection, "kb-missing") is None


# ------------------------------------------------------------------------------------------------------ what is recorded


def test_claim_records_what_will_be_sent(connection: sqlite3.Connection) -> None:
    """A close resized before sending is stored, reserved and sent with the new size."""
    order = admitted(connection, exit_intent(quantity=Decimal(2)))[0]
    verdict = Verdict(rule="exit", scope="webhook", passed=True, found="", limit="")
    smaller = exit_intent(quantity=Decimal("0.5"))
    claimed = order_lifecycle.claim(
        connection, order.client_order_id, now=LATER, intent=smaller, request='{"a":1}', verdicts=(verdict,)
    )
    assert (claimed.status, claimed.intent, claimed.attempt, claimed.submitted_at) == (S.SUBMITTING, smaller, 1, LATER)
    assert orders.get(connection, order.client_order_id) == claimed
    shown = orders.details(connection, order.client_order_id)
    assert (shown.request, shown.verdicts) == ('{"a":1}', (verdict,))
    assert reservations.open_reservations(connection)[0].quantity == Decimal("-0.5")


def test_deferred_order_keeps_its_place_and_schedule(connection: sqlite3.Connection) -> None:
    """Attempt and time are columns: they survive a restart, and the order is still the first of its symbol."""
    order = order_in(connection, S.SUBMITTING)
    at = LATER + timedelta(seconds=4)
    deferred = order_lifecycle.mark_deferred(
        connection, order.client_order_id, next_attempt_at=at, now=LATER, code="exchange_busy", error="429"
    )
    assert (deferred.status, deferred.attempt, deferred.next_attempt_at, deferred.code) == (
        S.QUEUED,
        1,
        at,
        "exchange_busy",
    )
    again = order_lifecycle.claim(connection, order.client_order_id, now=at)
    assert (again.attempt, again.next_attempt_at, again.code, again.sequence) == (2, None, None, order.sequence)


def test_timestamps_are_stored(connection: sqlite3.Connection) -> None:
    """explain shows when an order was created, sent, accepted and finished."""
    order = admitted(connection)[0]
    name = order.client_order_id
    order_lifecycle.claim(connection, name, now=NOW + timedelta(seconds=1))
    order_lifecycle.mark_accepted(connection, name, order_id="9", now=NOW + timedelta(seconds=2))
    done = report(connection, order, S.FILLED, Decimal("0.01"), now=NOW + timedelta(seconds=3))
    assert done.created_at == NOW
    times = (done.submitted_at, done.accepted_at, done.finished_at)
    assert times == tuple(NOW + timedelta(seconds=second) for second in (1, 2, 3))
    assert orders.get(connection, done.client_order_id) == done


def test_every_transition_has_an_event(connection: sqlite3.Connection) -> None:
    """The course of an order can be reconstructed from the events alone."""
    order = order_in(connection, S.FILLED)
    appended = events.of_alert(connection, order.alert_id)
    assert [event.kind for event in appended] == [
        "alert_admitted",
        "order_submitting",
        "order_accepted",
        "order_filled",
    ]
    assert appended[-1].data["executed_quantity"] == "0.01"
    assert events.verify(connection) is None


def test_orders_are_listed_by_filters(connection: sqlite3.Connection) -> None:
    """Filters of `kekbridge orders`: newest last, open only, by symbol, status and webhook, deleted webhooks included."""
    first = order_in(connection, S.FILLED)
    second = order_in(connection, S.ACCEPTED, intent(symbol="PERP_ETH_USDC"))
    third = admitted(connection, webhook_id="other", webhook_name="second")[0]
    assert orders.list_orders(connection) == (first, second, third)
    assert orders.list_orders(connection, limit=1) == (third,)
    assert orders.list_orders(connection, open_only=True) == (second, third)
    assert orders.list_orders(connection, symbol="PERP_ETH_USDC") == (second,)
    assert orders.list_orders(connection, status="filled") == (first,)
    assert orders.list_orders(connection, webhook="second") == (third,)
    assert orders.list_orders(connection, webhook="hook") == (first, second)
    assert orders.list_orders(connection, since=NOW + timedelta(seconds=1)) == ()


# ---------------------------------------------------------------------------------------------------------------- reports


def test_reports_in_any_order_give_the_same_result(connection: sqlite3.Connection) -> None:
    """A stream repeats and reorders: the executed quantity never decreases and a final order stays final."""
    order = order_in(connection, S.ACCEPTED)
    story = [
        (S.ACCEPTED, "0", S.ACCEPTED),
        (S.PARTIALLY_FILLED, "0.004", S.PARTIALLY_FILLED),
        (S.ACCEPTED, "0", S.PARTIALLY_FILLED),
        (S.PARTIALLY_FILLED, "0.002", S.PARTIALLY_FILLED),
        (S.FILLED, "0.01", S.FILLED),
        (S.PARTIALLY_FILLED, "0.004", S.FILLED),
        (S.CANCELED, "0.01", S.FILLED),
        (S.FILLED, "0.01", S.FILLED),
    ]
    for status, executed, wanted in story:
        order = report(connection, order, status, Decimal(executed))
        assert order.status is wanted
    assert (order.executed_quantity, order.average_price) == (Decimal("0.01"), Decimal(65100))


def test_repeated_report_writes_nothing(connection: sqlite3.Connection) -> None:
    """Polling an order that does not change must not grow the history."""
    order = order_in(connection, S.PARTIALLY_FILLED)
    history = len(events.list_events(connection))
    assert report(connection, order, S.PARTIALLY_FILLED, order.executed_quantity) == order
    assert len(events.list_events(connection)) == history


def test_stream_may_be_faster_than_the_response(connection: sqlite3.Connection) -> None:
    """A fill that arrives before the HTTP response is kept; the response then changes nothing."""
    order = order_in(connection, S.SUBMITTING)
    filled = report(connection, order, S.FILLED, Decimal("0.01"), order_id="5")
    assert (filled.status, filled.order_id) == (S.FILLED, "5")
    named = order_lifecycle.mark_accepted(connection, order.client_order_id, order_id="5", now=LATER)
    assert (named.status, named.order_id) == (S.FILLED, "5")
    assert order_lifecycle.mark_unknown(connection, order.client_order_id, reason="late", now=LATER) == named


def test_report_resolves_an_unknown_order(connection: sqlite3.Connection) -> None:
    """Found by its client order id, it has what it traded and no longer holds back others."""
    order = order_in(connection, S.UNKNOWN)
    adopted = report(connection, order, S.ACCEPTED, Decimal(0), order_id="12")
    assert (adopted.status, adopted.order_id, adopted.code, adopted.accepted_at) == (S.ACCEPTED, "12", None, LATER)


def test_closed_unknown_order_resumes_when_reported(connection: sqlite3.Connection) -> None:
    """A late report of an order that could not be found continues it, with its reservation."""
    order = order_in(connection, S.UNKNOWN)
    closed = order_lifecycle.close_unknown(connection, order.client_order_id, reason="not found", now=LATER)
    assert closed.finished_at == LATER
    assert alerts.get(connection, order.alert_id).status == "unknown"
    assert reservations.open_reservations(connection) == ()
    back = report(connection, order, S.ACCEPTED, Decimal(0), order_id="12")
    assert (back.status, back.finished_at) == (S.ACCEPTED, None)
    assert len(reservations.open_reservations(connection)) == 1


@pytest.mark.parametrize("status", [S.REJECTED, S.EXPIRED, S.CANCELED])
def test_execution_of_a_finished_order_is_recorded(connection: sqlite3.Connection, status: OrderStatus) -> None:
    """The exchange is right: it counts in the order, the totals and the alert's status."""
    order = order_in(connection, S.SUBMITTING)
    if status is S.CANCELED:
        report(connection, order, S.CANCELED, Decimal(0), average_price=None)
    elif status is S.EXPIRED:
        order_lifecycle.mark_expired(connection, order.client_order_id, now=LATER)
    else:
        order_lifecycle.mark_rejected(connection, order.client_order_id, code="x", error="x", now=LATER)
    assert read_usage(connection, "hook", now=NOW).traded_today == 0
    filled = report(connection, order, S.FILLED, Decimal("0.01"), order_id="8")
    assert filled.status is S.FILLED
    assert read_usage(connection, "hook", now=NOW).traded_today == Decimal(651)
    assert alerts.get(connection, order.alert_id).status == "filled"


def test_report_for_an_order_never_sent_raises(connection: sqlite3.Connection) -> None:
    """Two orders were mixed up: nothing is applied."""
    order = admitted(connection)[0]
    with pytest.raises(IllegalTransition, match="never sent"):
        report(connection, order, S.FILLED, Decimal("0.01"))


def test_report_for_a_deferred_order_stops_the_second_submission(connection: sqlite3.Connection) -> None:
    """The order is at the exchange after all: it leaves the queue before it is sent twice."""
    order = order_in(connection, S.SUBMITTING)
    order_lifecycle.mark_deferred(connection, order.client_order_id, next_attempt_at=LATER, now=LATER)
    report(connection, order, S.ACCEPTED, Decimal(0), order_id="3")
    assert order_queue.claimable(connection, now=LATER) == ()
    with pytest.raises(IllegalTransition):
        order_lifecycle.claim(connection, order.client_order_id, now=LATER)


# --------------------------------------------------------------------------------------------------------------- headline


@pytest.mark.parametrize(
    ("steps", "headline"),
    [
        (("filled", "queued"), "queued"),
        (("filled", "denied"), "denied"),
        (("filled", "filled"), "filled"),
        (("unknown", "queued"), "unknown"),
        (("rejected", "denied"), "rejected"),
        (("nothing", "filled"), "filled"),
        (("nothing", "nothing"), "ignored"),
    ],
)
def test_alert_has_the_status_of_the_leg_that_matters_most(
    connection: sqlite3.Connection, steps: tuple[str, str], headline: str
) -> None:
    """Open legs first, then failed ones; a close that had nothing to do is not a failure."""
    legs = admitted(connection, exit_intent(), intent())
    for leg, step in zip(legs, steps, strict=True):
        name = leg.client_order_id
        if step == "nothing":
            order_lifecycle.mark_denied(connection, name, code="nothing_to_close", error="flat", now=LATER)
        elif step == "denied":
            order_lifecycle.mark_denied(connection, name, code="daily_limit", error="no", now=LATER)
        elif step != "queued":
            order_lifecycle.claim(connection, name, now=LATER)
        if step == "unknown":
            order_lifecycle.mark_unknown(connection, name, reason="x", now=LATER)
        elif step == "rejected":
            order_lifecycle.mark_rejected(connection, name, code="orderly:-1101", error="margin", now=LATER)
        elif step == "filled":
            report(connection, leg, S.FILLED, Decimal("0.01"), order_id=name)
    alert = alerts.get(connection, legs[0].alert_id)
    assert alert.status == headline
    if headline == "rejected":
        assert (alert.code, alert.error) == ("orderly:-1101", "margin")


# ------------------------------------------------------------------------------------------------------------ reservations


def test_fill_moves_from_reservation_to_day_total(connection: sqlite3.Connection) -> None:
    """Executed quantity counts at its price, open quantity at the expected price, a canceled rest not at all."""
    limit = intent(order_type=OrderType.LIMIT, limit_price=Decimal(65000), quantity=Decimal(1))
    order = order_in(connection, S.ACCEPTED, limit)
    assert read_usage(connection, "hook", now=NOW).traded_today == Decimal(65000)
    report(connection, order, S.PARTIALLY_FILLED, Decimal("0.25"), average_price=Decimal(64000))
    held = reservations.open_reservations(connection)[0]
    assert (held.quantity, held.notional, held.is_resting) == (Decimal("0.75"), Decimal(48750), True)
    assert read_usage(connection, "hook", now=NOW).traded_today == Decimal(16000) + Decimal(48750)
    report(connection, order, S.CANCELED, Decimal("0.25"), average_price=Decimal(64000))
    assert reservations.open_reservations(connection) == ()
    usage = read_usage(connection, "hook", now=NOW)
    assert (usage.traded_today, usage.orders_today) == (Decimal(16000), 1)


def test_exits_reserve_nothing_but_count_when_executed(connection: sqlite3.Connection) -> None:
    """An exit is never limited, so it takes no room in advance; its traded value still counts for the day."""
    order = order_in(connection, S.ACCEPTED, exit_intent())
    usage = read_usage(connection, "hook", now=NOW)
    assert (usage.traded_today, usage.orders_today) == (ZERO, 0)
    assert usage.commitments[order.intent.symbol].open == SideTotals(exit_sells=Decimal("0.01"))
    report(connection, order, S.FILLED, Decimal("0.01"))
    assert read_usage(connection, "hook", now=NOW).traded_today == Decimal(651)


@pytest.mark.parametrize("status", [S.DENIED, S.EXPIRED, S.REJECTED])
def test_order_that_never_reached_the_exchange_returns_its_room(
    connection: sqlite3.Connection, status: OrderStatus
) -> None:
    """A denied entry must not use up the day."""
    order_in(connection, status)
    usage = read_usage(connection, "hook", now=NOW)
    assert (usage.traded_today, usage.orders_today, usage.commitments) == (ZERO, 0, {})
    assert usage.last_entry_at == {}


def test_acceptance_window_counts_from_sending(connection: sqlite3.Connection) -> None:
    """An order sent long after its claim may be accepted long after: the time of sending is stored, if known."""
    sent_at = LATER + timedelta(seconds=40)
    waited = order_in(connection, S.SUBMITTING)
    unknown = order_lifecycle.mark_unknown(
        connection, waited.client_order_id, reason="x", now=sent_at + timedelta(seconds=1), sent_at=sent_at
    )
    assert unknown.submitted_at == sent_at
    never_told = order_lifecycle.mark_unknown(
        connection, order_in(connection, S.SUBMITTING).client_order_id, reason="x", now=sent_at
    )
    assert never_told.submitted_at == LATER
