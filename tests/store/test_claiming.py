"""Compound writes around the queue: claimed in the admitting flush only when nothing waits before, and only what may still go."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from kekbridge.model import Order, OrderStatus, TradingState, Usage, Webhook, WebhookSettings
from kekbridge.store import orders, settings, webhooks
from kekbridge.store.admission import Admission, AlertDraft
from kekbridge.store.claiming import Recheck, admit_and_claim, claim_if_allowed
from kekbridge.store.database import Database
from tests.store.made import EXPIRES, NO_RATES, NOW, admitting, draft, exit_intent, intent

WAITED = timedelta(milliseconds=7)


def take(
    connection: sqlite3.Connection,
    alert: AlertDraft | None = None,
    *,
    is_lane_free: bool = True,
    expires_at: datetime = EXPIRES,
    legs: int = 1,
) -> Admission:
    intents = [intent(after_leg=leg - 1 if leg else None) for leg in range(legs)]
    return admit_and_claim(
        connection,
        alert or draft(),
        admitting(*intents),
        rates=NO_RATES,
        account_rates=NO_RATES,
        now=NOW,
        expires_at=expires_at,
        cooldown_s=0,
        clock=lambda: NOW + WAITED,
        taken=frozenset,
        may_claim=lambda order: is_lane_free,
        request_text=body_of,
    )


def body_of(order: Order) -> str:
    return f"{order.intent.quantity} of {order.client_order_id}"


def statuses(admission: Admission) -> list[OrderStatus]:
    return [order.status for order in admission.orders]


def test_an_order_that_waits_for_nothing_is_claimed_with_its_admission(connection: sqlite3.Connection) -> None:
    """One flush before the order leaves: "submitting", its attempt and the body to be sent are in the same transaction."""
    admission = take(connection, legs=2)
    assert statuses(admission) == [OrderStatus.SUBMITTING, OrderStatus.QUEUED]
    assert admission.orders == orders.of_alert(connection, admission.alert.id)
    name = admission.orders[0].client_order_id
    assert (
        admission.orders[0].submitted_at == NOW + WAITED
    )  # what waited for the writer did not leave when it was received
    assert orders.details(connection, name).request == body_of(admission.orders[0])


async def test_admission_and_claim_are_one_commit(database: Database) -> None:
    """The figure of the design: exactly one flush between an alert and its order."""
    statements: list[str] = []
    await database.write(lambda connection: connection.set_trace_callback(statements.append))
    statements.clear()
    admission = await database.write(take)
    assert statuses(admission) == [OrderStatus.SUBMITTING]
    assert statements.count("COMMIT") == 1


def test_nothing_is_overtaken(connection: sqlite3.Connection) -> None:
    """A second order of the symbol, a busy lane, and a resend leave the queue as it is."""
    first = draft()
    take(connection, first)
    assert statuses(take(connection)) == [OrderStatus.QUEUED]
    again = take(connection, draft(identity=first.identity, fingerprint=first.fingerprint))
    assert (again.kind, again.orders[0].attempt) == ("duplicate", 1)
    assert statuses(take(connection, draft(), is_lane_free=False)) == [OrderStatus.QUEUED]


def test_an_alert_at_its_age_limit_is_stored_and_left_to_expire(connection: sqlite3.Connection) -> None:
    """Too old to claim must not mean unstorable: that would be a 503, and the alert would come again and again."""
    assert statuses(take(connection, expires_at=NOW)) == [OrderStatus.QUEUED]
    assert len(orders.overdue(connection, now=NOW)) == 1


@pytest.fixture
def queued(connection: sqlite3.Connection) -> Order:
    webhook_settings = WebhookSettings()
    webhooks.create(connection, webhook_id="hook", name="main", settings=webhook_settings, now=NOW)
    return take(connection, is_lane_free=False).orders[0]


@pytest.mark.parametrize("status", [OrderStatus.DENIED, OrderStatus.EXPIRED])
def test_what_may_not_go_is_finished_with_its_reason(
    connection: sqlite3.Connection, queued: Order, status: OrderStatus
) -> None:
    """The second look says no: the order ends there and then, and its room is free again."""
    verdict = Recheck(status=status, code="why", error="because")
    ended = claim_if_allowed(connection, queued, lambda usage, webhook: verdict, request_text=body_of, now=NOW)
    assert (ended.status, ended.code, ended.error) == (status, "why", "because")
    assert orders.unfinished(connection) == ()


def test_the_second_look_sees_what_is_true_now(connection: sqlite3.Connection, queued: Order) -> None:
    """A halt since the admission, the webhook's present settings, and the usage without the order itself."""
    settings.set_trading_state(connection, TradingState.HALTED, reason="", by="cli", now=NOW)
    seen: list[tuple[Usage, Webhook | None]] = []

    def recheck(usage: Usage, webhook: Webhook | None) -> Recheck:
        seen.append((usage, webhook))
        smaller = exit_intent(quantity=Decimal("0.005"))
        return Recheck(status=OrderStatus.SUBMITTING, intent=smaller)

    claimed = claim_if_allowed(connection, queued, recheck, request_text=body_of, now=NOW)
    usage, webhook = seen[0]
    assert (usage.trading_state, usage.reservations, usage.traded_today) == (TradingState.HALTED, (), Decimal(0))
    assert webhook is not None
    assert webhook.name == "main"
    assert (claimed.status, claimed.intent.quantity) == (OrderStatus.SUBMITTING, Decimal("0.005"))
    assert orders.details(connection, claimed.client_order_id).request == "0.005 of " + claimed.client_order_id


def test_an_order_of_a_deleted_webhook_is_still_looked_at(connection: sqlite3.Connection, queued: Order) -> None:
    """Deleting a webhook must not leave its waiting orders stuck."""
    webhooks.delete(connection, "hook", now=NOW)
    given: list[Webhook | None] = []

    def recheck(usage: Usage, webhook: Webhook | None) -> Recheck:
        given.append(webhook)
        return Recheck(status=OrderStatus.SUBMITTING)

    later = NOW + timedelta(seconds=1)
    assert claim_if_allowed(connection, queued, recheck, request_text=body_of, now=later).attempt == 1
    assert given == [None]
