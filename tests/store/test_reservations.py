"""Reservations and usage: what risk rules decide on."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from kekbridge.model import ZERO, LimitBreach, Order, OrderType, Purpose, SideTotals, TradingState
from kekbridge.store import order_lifecycle, order_queue, orders, reservations, settings
from kekbridge.store.admissions import admit
from kekbridge.store.reservations import read_usage
from tests.store.factories import NO_RATES, NOW, admitting, exit_intent, intent, new_alert


@pytest.mark.parametrize(
    ("kind", "prices", "is_margined"),
    [
        (OrderType.LIMIT, {"limit_price": Decimal(60_000)}, True),
        (OrderType.STOP, {"trigger_price": Decimal(70_000)}, False),
    ],
)
def test_only_orders_in_the_book_are_margined(
    connection: sqlite3.Connection, kind: OrderType, prices: dict[str, Any], *, is_margined: bool
) -> None:
    """Queued and submitted orders are not at the exchange yet; a stop order has no margin before its trigger."""
    order_intent = intent(order_type=kind, **prices)
    admission = admit(
        connection,
        new_alert(),
        admitting(order_intent),
        rates=NO_RATES,
        now=NOW,
        expires_at=NOW + timedelta(seconds=60),
    )
    name = admission.orders[0].client_order_id

    def is_margined_now() -> bool:
        (reservation,) = reservations.open_reservations(connection)
        assert reservation.is_resting
        assert reservation == reservations.reservation_of(orders.get(connection, name))
        return reservation.is_margined

    assert not is_margined_now()
    order_lifecycle.claim(connection, name, now=NOW)
    assert not is_margined_now()
    order_lifecycle.mark_accepted(connection, name, order_id="1", now=NOW)
    assert is_margined_now() is is_margined


ETH = "PERP_ETH_USDC"


def put(connection: sqlite3.Connection, at: datetime = NOW, webhook_id: str = "hook", **changes: object) -> Order:
    decide = admitting(intent(**changes))
    alert = new_alert(webhook_id=webhook_id, received_at=at)
    return admit(connection, alert, decide, rates=NO_RATES, now=at, expires_at=at + timedelta(minutes=1)).orders[0]


def test_webhook_and_account_are_counted_separately(connection: sqlite3.Connection) -> None:
    """The account's day is the sum over all webhooks; commitments are those of the whole account."""
    put(connection)
    put(connection, webhook_id="other", quantity=Decimal("0.02"))
    usage = read_usage(connection, "hook", now=NOW)
    assert (usage.traded_today, usage.account_traded_today) == (Decimal(650), Decimal(1950))
    assert (usage.orders_today, usage.account_orders_today) == (1, 2)
    assert usage.commitments["PERP_BTC_USDC"].open == SideTotals(entry_buys=Decimal("0.03"))


def test_new_day_starts_empty_but_open_orders_stay(connection: sqlite3.Connection) -> None:
    """At 00:00 UTC the daily limits are free again; open orders keep their room in the position limits."""
    put(connection)
    usage = read_usage(connection, "hook", now=NOW + timedelta(days=1))
    assert (usage.traded_today, usage.orders_today, len(usage.commitments)) == (ZERO, 0, 1)


def test_recheck_does_not_count_the_order_itself(connection: sqlite3.Connection) -> None:
    """An order that fills the limit exactly must pass its recheck, on the day of admission and after midnight."""
    put(connection)
    second = put(connection, symbol=ETH)
    usage = read_usage(connection, "hook", now=NOW, excluding=second)
    assert (usage.traded_today, usage.orders_today) == (Decimal(650), 1)
    assert (usage.account_traded_today, usage.account_orders_today) == (Decimal(650), 1)
    assert usage.commitments.keys() == {"PERP_BTC_USDC"}
    assert usage.last_entry_at == {"PERP_BTC_USDC": NOW}
    tomorrow = read_usage(connection, "hook", now=NOW + timedelta(days=1), excluding=second)
    assert (tomorrow.traded_today, tomorrow.orders_today) == (ZERO, 0)


def test_last_entries_are_per_symbol_and_webhook(connection: sqlite3.Connection) -> None:
    """Only this webhook's entries start a cool-down; exits and entries that never reached the exchange start none."""
    put(connection, NOW - timedelta(seconds=100))
    put(connection, NOW - timedelta(seconds=50))
    put(connection, NOW - timedelta(seconds=20), symbol=ETH)
    put(connection, webhook_id="other", symbol="PERP_SOL_USDC")
    denied = put(connection, NOW, symbol=ETH)
    order_lifecycle.mark_denied(connection, denied.client_order_id, code="x", error="x", now=NOW)
    alert = new_alert()
    admit(
        connection,
        alert,
        admitting(exit_intent(symbol="PERP_W_USDC")),
        rates=NO_RATES,
        now=NOW,
        expires_at=NOW + timedelta(minutes=1),
    )
    seen = {"PERP_BTC_USDC": NOW - timedelta(seconds=50), ETH: NOW - timedelta(seconds=20)}
    assert read_usage(connection, "hook", now=NOW).last_entry_at == seen
    del seen["PERP_BTC_USDC"]
    assert read_usage(connection, "hook", now=NOW, cooldown_s=50).last_entry_at == seen
    assert read_usage(connection, "hook", now=NOW, cooldown_s=0).last_entry_at == {}


def test_later_breach_does_not_deny_admitted_orders(connection: sqlite3.Connection) -> None:
    """200 alerts, room for 10: the denied 11th closes the webhook, and the 10 queued orders are sent all the same."""
    order = put(connection)
    breach = LimitBreach(scope="webhook", rule="daily_orders", reason="11 orders", until=NOW + timedelta(hours=1))
    settings.close_for_breach(connection, breach, webhook_id="hook", now=NOW)
    assert read_usage(connection, "hook", now=NOW).trading_state is TradingState.EXITS_ONLY
    again = read_usage(connection, "hook", now=NOW, excluding=order)
    assert again.trading_state is TradingState.RUNNING
    assert order_lifecycle.expire_unsendable(connection, now=NOW) == ()

    settings.set_trading_state(connection, TradingState.EXITS_ONLY, reason="news", by="operator", now=NOW)
    again = read_usage(connection, "hook", now=NOW, excluding=order)
    assert again.trading_state is TradingState.EXITS_ONLY
    assert [each.client_order_id for each in order_lifecycle.expire_unsendable(connection, now=NOW)] == [
        order.client_order_id
    ]


def test_trading_state_denies_queued_orders_by_purpose(connection: sqlite3.Connection) -> None:
    """Exits-only ends entries and keeps exits; a halted webhook loses both, another one's stay; protection always stays."""
    entry, leaving = put(connection), put(connection, purpose=Purpose.EXIT, reduce_only=True)
    protecting = put(connection, purpose=Purpose.PROTECT, reduce_only=True)
    other = put(connection, webhook_id="other")
    assert not order_lifecycle.has_unsendable(connection, now=NOW)
    settings.set_trading_state(connection, TradingState.EXITS_ONLY, reason="", by="operator", now=NOW, scope="hook")
    assert order_lifecycle.has_unsendable(connection, now=NOW)
    assert [(each.client_order_id, each.code) for each in order_lifecycle.expire_unsendable(connection, now=NOW)] == [
        (entry.client_order_id, "exits_only")
    ]
    settings.set_trading_state(connection, TradingState.HALTED, reason="", by="operator", now=NOW)
    ended = [each.client_order_id for each in order_lifecycle.expire_unsendable(connection, now=NOW)]
    assert ended == [leaving.client_order_id, other.client_order_id]
    assert not order_lifecycle.has_unsendable(connection, now=NOW)
    assert [each.client_order_id for each in order_queue.unfinished(connection)] == [protecting.client_order_id]
