"""Claims: in the admitting transaction only if nothing waits before, and only orders that the recheck allows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from kekbridge.model import Order, OrderStatus, TradingState, Usage, Webhook, WebhookSettings
from kekbridge.model.admission import NewAlert, Recheck
from kekbridge.store import order_lifecycle, order_queue, orders, settings, webhooks
from kekbridge.store.admissions import Admission, admit
from kekbridge.store.claims import ClaimedOrders, admit_and_claim, claim_heads, claim_if_allowed, would_claim
from kekbridge.store.database import Database
from tests.store.factories import EXPIRES, NO_RATES, NOW, admitting, exit_intent, intent, new_alert

WAITED = timedelta(milliseconds=7)


def take(
    connection: sqlite3.Connection,
    alert: NewAlert | None = None,
    *,
    can_be_sent: bool = True,
    expires_at: datetime = EXPIRES,
    legs: int = 1,
) -> Admission:
    intents = [intent(after_leg=leg - 1 if leg else None) for leg in range(legs)]
    return admit_and_claim(
        connection,
        alert or new_alert(),
        admitting(*intents),
        rates=NO_RATES,
        account_rates=NO_RATES,
        now=NOW,
        expires_at=expires_at,
        cooldown_s=0,
        clock=lambda: NOW + WAITED,
        overlappable_ids=frozenset,
        try_claim=lambda order: can_be_sent,
        request_text=body_of,
    )


def body_of(order: Order) -> str:
    return f"{order.intent.quantity} of {order.client_order_id}"


def statuses(admission: Admission) -> list[OrderStatus]:
    return [order.status for order in admission.orders]


def test_order_with_nothing_before_it_is_claimed_at_admission(connection: sqlite3.Connection) -> None:
    """One flush before the order is sent: `submitting`, its attempt and the body are in the same transaction."""
    admission = take(connection, legs=2)
    assert statuses(admission) == [OrderStatus.SUBMITTING, OrderStatus.QUEUED]
    assert admission.orders == orders.of_alert(connection, admission.alert.id)
    name = admission.orders[0].client_order_id
    assert admission.orders[0].submitted_at == NOW + WAITED  # claimed when the writer ran, not when it was received
    assert orders.details(connection, name).request == body_of(admission.orders[0])


async def test_admission_and_claim_are_one_commit(database: Database) -> None:
    """Exactly one flush between an alert and its order."""
    statements: list[str] = []
    await database.write(lambda connection: connection.set_trace_callback(statements.append))
    statements.clear()
    admission = await database.write(take)
    assert statuses(admission) == [OrderStatus.SUBMITTING]
    assert statements.count("COMMIT") == 1


def test_no_order_is_overtaken(connection: sqlite3.Connection) -> None:
    """A second order of the symbol, a busy symbol, and a resend leave the queue as it is."""
    first = new_alert()
    take(connection, first)
    assert statuses(take(connection)) == [OrderStatus.QUEUED]
    again = take(connection, new_alert(identity=first.identity, fingerprint=first.fingerprint))
    assert (again.kind, again.orders[0].attempt) == ("duplicate", 1)
    assert statuses(take(connection, new_alert(), can_be_sent=False)) == [OrderStatus.QUEUED]


def test_alert_at_its_age_limit_is_stored_and_expires(connection: sqlite3.Connection) -> None:
    """Too old to claim must not mean too old to store: that would be a 503, and the alert would be sent again and again."""
    assert statuses(take(connection, expires_at=NOW)) == [OrderStatus.QUEUED]
    assert len(order_queue.overdue(connection, now=NOW)) == 1


@pytest.fixture
def queued(connection: sqlite3.Connection) -> Order:
    webhook_settings = WebhookSettings()
    webhooks.create(connection, webhook_id="hook", name="main", settings=webhook_settings, now=NOW)
    return take(connection, can_be_sent=False).orders[0]


@pytest.mark.parametrize("status", [OrderStatus.DENIED, OrderStatus.EXPIRED])
def test_recheck_finishes_an_order_with_its_reason(
    connection: sqlite3.Connection, queued: Order, status: OrderStatus
) -> None:
    """If the recheck says no, the order ends at once, and its room is free again."""
    verdict = Recheck(status=status, code="why", error="because")
    ended = claim_if_allowed(connection, queued, lambda usage, webhook: verdict, request_text=body_of, now=NOW)
    assert (ended.status, ended.code, ended.error) == (status, "why", "because")
    assert order_queue.unfinished(connection) == ()


def test_recheck_sees_the_current_state(connection: sqlite3.Connection, queued: Order) -> None:
    """A halt since the admission, the webhook's current settings, and the usage without the order itself."""
    settings.set_trading_state(connection, TradingState.HALTED, reason="", by="cli", now=NOW)
    seen: list[tuple[Usage, Webhook | None]] = []

    def recheck(usage: Usage, webhook: Webhook | None) -> Recheck:
        seen.append((usage, webhook))
        smaller = exit_intent(quantity=Decimal("0.005"))
        return Recheck(status=OrderStatus.SUBMITTING, intent=smaller)

    claimed = claim_if_allowed(connection, queued, recheck, request_text=body_of, now=NOW)
    usage, webhook = seen[0]
    assert (usage.trading_state, usage.commitments, usage.traded_today) == (TradingState.HALTED, {}, Decimal(0))
    assert webhook is not None
    assert webhook.name == "main"
    assert (claimed.status, claimed.intent.quantity) == (OrderStatus.SUBMITTING, Decimal("0.005"))
    assert orders.details(connection, claimed.client_order_id).request == "0.005 of " + claimed.client_order_id


def test_order_of_a_deleted_webhook_is_still_rechecked(connection: sqlite3.Connection, queued: Order) -> None:
    """Deleting a webhook must not leave its queued orders stuck."""
    webhooks.delete(connection, "hook", now=NOW)
    given: list[Webhook | None] = []

    def recheck(usage: Usage, webhook: Webhook | None) -> Recheck:
        given.append(webhook)
        return Recheck(status=OrderStatus.SUBMITTING)

    later = NOW + timedelta(seconds=1)
    assert claim_if_allowed(connection, queued, recheck, request_text=body_of, now=later).attempt == 1
    assert given == [None]


BTC, ETH, SOL = "PERP_BTC_USDC", "PERP_ETH_USDC", "PERP_SOL_USDC"


def put(connection: sqlite3.Connection, symbol: str) -> Order:
    """A queued order."""
    return admit(
        connection, new_alert(), admitting(intent(symbol=symbol)), rates=NO_RATES, now=NOW, expires_at=EXPIRES
    ).orders[0]


def claim(connection: sqlite3.Connection, /, **changes: Any) -> ClaimedOrders:
    def may(usage: Usage, webhook: Webhook | None, *, order: Order) -> Recheck:
        return Recheck(status=OrderStatus.SUBMITTING, intent=order.intent)

    arguments = {
        "overlappable_ids": frozenset,
        "entries_allowed": True,
        "try_claim": lambda order: True,
        "request_text": body_of,
        "now": NOW + WAITED,
    }
    return claim_heads(connection, changes.pop("recheck", may), **{**arguments, **changes})


def fixed_recheck(verdict: Recheck, usage: Usage, webhook: Webhook | None) -> Recheck:
    """A recheck that returns this decision."""
    return verdict


def names(found: Iterable[Order]) -> list[str]:
    return [order.client_order_id for order in found]


async def test_all_claimable_orders_are_claimed_in_one_commit(database: Database) -> None:
    """The heads of all symbols share a flush; behind each the next order of its symbol waits for its end."""
    queued = [await database.write(put, symbol) for symbol in (BTC, ETH, BTC)]
    statements: list[str] = []
    await database.write(lambda connection: connection.set_trace_callback(statements.append))
    statements.clear()
    claimed = await database.write(claim)
    assert statements.count("COMMIT") == 1
    assert (names(claimed.to_send_now), claimed.to_send_in_turn, claimed.finished) == (names(queued[:2]), (), ())
    assert claimed.has_more
    assert {(order.status, order.attempt) for order in claimed.to_send_now} == {(OrderStatus.SUBMITTING, 1)}
    for order in claimed.to_send_now:
        assert (await database.read(orders.details, order.client_order_id)).request == body_of(order)

    again = await database.write(claim, overlappable_ids=lambda: names(queued[:1]))
    assert (names(again.to_send_now), again.has_more) == (names(queued[2:]), False)


async def test_overlapping_orders_of_one_symbol_are_claimed_together(database: Database) -> None:
    """Orders that may follow one claimed just before share its flush, in order of admission, until one may not."""
    queued = [await database.write(put, symbol) for symbol in (BTC, BTC, ETH, BTC, BTC)]
    in_flight: list[str] = []

    def try_claim(order: Order) -> bool:
        may = len(in_flight) < 4
        in_flight.extend([order.client_order_id] if may else [])
        return may

    claimed = await database.write(claim, overlappable_ids=lambda: in_flight, try_claim=try_claim)
    in_line = [queued[0], queued[2], queued[1], queued[3]]
    assert names(claimed.to_send_now) == names(in_line)
    assert (names(claimed.to_send_in_turn), claimed.has_more) == (names(queued[4:]), True)


def test_only_orders_that_can_be_sent_now_are_claimed(connection: sqlite3.Connection) -> None:
    """Without a free symbol queue or permit the order stays queued, and nothing behind it is considered."""
    first, other = put(connection, BTC), put(connection, ETH)
    put(connection, BTC)
    claimed = claim(connection, try_claim=lambda order: order.intent.symbol == ETH)
    assert (names(claimed.to_send_now), names(claimed.to_send_in_turn)) == (names((other,)), names((first,)))
    assert orders.get(connection, first.client_order_id).status is OrderStatus.QUEUED


def test_recheck_denies_one_order_among_others(connection: sqlite3.Connection) -> None:
    """A denied order does not affect the others of the same commit."""
    denied, other = put(connection, BTC), put(connection, ETH)

    def recheck(usage: Usage, webhook: Webhook | None, *, order: Order) -> Recheck:
        if order.intent.symbol == ETH:
            return Recheck(status=OrderStatus.SUBMITTING)
        return Recheck(status=OrderStatus.DENIED, code="why", error="because")

    claimed = claim(connection, recheck=recheck)
    assert (names(claimed.to_send_now), names(claimed.finished)) == (names((other,)), names((denied,)))
    assert (claimed.finished[0].status, claimed.finished[0].code) == (OrderStatus.DENIED, "why")
    assert not claimed.has_more


def test_expired_order_takes_no_place(connection: sqlite3.Connection) -> None:
    """It is returned with its code to be finished, and takes no place from an order that may be sent."""
    old = put(connection, BTC)
    claimed = claim(connection, now=EXPIRES, try_claim=lambda order: pytest.fail("asked"))
    assert [(order.client_order_id, order.code) for order in claimed.to_send_in_turn] == [
        (old.client_order_id, "alert_expired")
    ]


def test_would_claim_changes_nothing(connection: sqlite3.Connection) -> None:
    """Called before an entry changes its leverage: True only for an order that would be claimed."""
    order = put(connection, SOL)
    before = list(connection.iterdump())
    for status, expected in ((OrderStatus.SUBMITTING, True), (OrderStatus.DENIED, False)):
        assert would_claim(connection, order, partial(fixed_recheck, Recheck(status=status)), now=NOW) is expected
    assert list(connection.iterdump()) == before
    order_lifecycle.mark_denied(connection, order.client_order_id, code="x", error="x", now=NOW)
    assert not would_claim(connection, order, partial(fixed_recheck, Recheck(status=OrderStatus.SUBMITTING)), now=NOW)
