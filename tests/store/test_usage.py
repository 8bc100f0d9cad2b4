"""Use of the limits as the tables say equals what the book decides by, apart from what only decisions need."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from decimal import Decimal

from hypothesis import given, settings
from msgspec.structs import replace

from kekbridge.execution.book import Book
from kekbridge.model import OrderStatus, OrderType, SideTotals, TradingState
from kekbridge.store import settings as store_settings
from kekbridge.store.settings import ACCOUNT
from kekbridge.store.usage import read_usage
from tests.examples import examples
from tests.histories import HISTORY, HOOKS, Account, Step
from tests.store.factories import NOW, exit_intent, intent, new_alert
from tests.stored import record_fill, report, store_alert, store_order


@settings(max_examples=examples(40), deadline=None)
@given(HISTORY)
def test_use_in_the_tables_is_that_of_the_book(steps: list[Step]) -> None:
    """For any history: what `kekbridge limits` shows is what the next alert is judged by."""
    account = Account()
    for step in steps:
        account.play(step)
    for webhook_id in HOOKS:
        shown = read_usage(account.connection, webhook_id, now=account.now)
        known = account.book.usage(webhook_id, now=account.now, cooldown_s=0)
        assert shown == replace(known, strategy_histories={})
    account.close()


def test_use_is_read_by_webhook_and_account(connection: sqlite3.Connection, book: Book) -> None:
    """Each has its own day; open orders, states and the peak are those of the account."""
    store_order(book)
    other = store_order(
        book, intent(order_type=OrderType.LIMIT, limit_price=Decimal(65000)), OrderStatus.ACCEPTED, webhook_id="other"
    )
    report(book, other, OrderStatus.PARTIALLY_FILLED, Decimal("0.004"), average_price=Decimal(64000))
    record_fill(book, other, realized_pnl=Decimal("-1.5"))
    store_order(book, exit_intent(), webhook_id="other")
    book.set_state(ACCOUNT, TradingState.EXITS_ONLY, reason="news", by="cli", now=NOW)
    store_settings.set_value(connection, store_settings.EQUITY_PEAK, Decimal("1000.5"), now=NOW)
    usage = read_usage(connection, "other", now=NOW)
    assert (usage.traded_today, usage.account_traded_today) == (Decimal(256 + 390), Decimal(256 + 390 + 650))
    assert (usage.orders_today, usage.account_orders_today, usage.waiting_orders) == (1, 2, 2)
    assert (usage.realized_today, usage.account_realized_today) == (Decimal("-1.5"), Decimal("-1.5"))
    assert usage.commitments["PERP_BTC_USDC"].open == SideTotals(
        entry_buys=Decimal("0.016"), exit_sells=Decimal("0.01")
    )
    assert (usage.trading_state, usage.trading_reason, usage.trading_scope) == (
        TradingState.EXITS_ONLY,
        "news",
        "account",
    )
    assert usage.equity_peak == Decimal("1000.5")
    assert read_usage(connection, ACCOUNT, now=NOW).traded_today == usage.account_traded_today


def test_days_are_utc(connection: sqlite3.Connection, book: Book) -> None:
    """At 00:00 UTC the daily use is zero again; open orders stay."""
    store_alert(book, new_alert())
    tomorrow = read_usage(connection, "hook", now=NOW + timedelta(days=1))
    assert (tomorrow.traded_today, tomorrow.orders_today, len(tomorrow.commitments)) == (Decimal(0), 0, 1)
