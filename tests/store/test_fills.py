"""Fills are recorded once, and their P&L goes to the right day and webhook."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from decimal import Decimal

from msgspec.structs import replace

from kekbridge.model import Order, Side
from kekbridge.store import codec, events, fills, order_lifecycle
from kekbridge.store.admissions import admit
from kekbridge.store.reservations import read_usage
from tests.store.factories import EXPIRES, NO_RATES, NOW, admitting, fill, intent, new_alert


def sent(connection: sqlite3.Connection, order_id: str, webhook_id: str = "hook") -> Order:
    """An accepted entry with this order id."""
    admission = admit(
        connection, new_alert(webhook_id=webhook_id), admitting(intent()), rates=NO_RATES, now=NOW, expires_at=EXPIRES
    )
    name = admission.orders[0].client_order_id
    order_lifecycle.claim(connection, name, now=NOW)
    return order_lifecycle.mark_accepted(connection, name, order_id=order_id, now=NOW)


def realized(connection: sqlite3.Connection, webhook_id: str = "hook", days: int = 0) -> tuple[Decimal, Decimal]:
    """(webhook, account) realized today."""
    usage = read_usage(connection, webhook_id, now=NOW + timedelta(days=days))
    return usage.realized_today, usage.account_realized_today


def sums(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
    rows = connection.execute("SELECT * FROM results ORDER BY hour, webhook_id")
    return [(hour, owner, Decimal(fees), Decimal(won), *counts) for hour, owner, fees, won, *counts in rows]


def test_fill_is_recorded_once(connection: sqlite3.Connection) -> None:
    """Stream, query and reconciliation all report the same trade: one row, one profit, one event."""
    order = sent(connection, "7")
    reported = fill(order_id="7", realized_pnl=Decimal("-12.5"))
    assert fills.record(connection, [reported, reported]) == 1
    assert fills.record(connection, [reported], order=order) == 0
    assert fills.of_order(connection, order.client_order_id) == (
        replace(reported, client_order_id=order.client_order_id),
    )
    assert realized(connection) == (Decimal("-12.5"), Decimal("-12.5"))
    kinds = [event.kind for event in events.of_alert(connection, order.alert_id)]
    assert kinds.count("fill") == 1


def test_all_digits_are_kept(connection: sqlite3.Connection) -> None:
    """Price, size and fee are what the exchange reported, to the last digit."""
    reported = fill(
        price=Decimal("65000.123456789012345678901234"), quantity=Decimal("1E-8"), fee=Decimal("-0.000000001")
    )
    fills.record(connection, [reported])
    assert fills.list_fills(connection) == (reported,)
    stored = connection.execute("SELECT price, quantity FROM fills").fetchone()
    assert tuple(stored) == ("65000.123456789012345678901234", "0.00000001")


def test_day_is_that_of_the_execution(connection: sqlite3.Connection) -> None:
    """A loss after midnight UTC belongs to the new day."""
    sent(connection, "7")
    midnight = NOW.replace(hour=0, minute=0, second=0) + timedelta(days=1)
    before = fill(order_id="7", realized_pnl=Decimal(-1), executed_at=midnight - timedelta(milliseconds=1))
    after = fill(order_id="7", realized_pnl=Decimal(-2), executed_at=midnight)
    fills.record(connection, [before, after])
    assert realized(connection) == (Decimal(-1), Decimal(-1))
    assert realized(connection, days=1) == (Decimal(-2), Decimal(-2))
    assert fills.last_executed_at(connection) == midnight


def test_triggered_stop_is_a_loss_of_the_webhook_that_entered(connection: sqlite3.Connection) -> None:
    """Child orders of a bracket carry no id of ours; otherwise a webhook's daily-loss limit would never see its stops."""
    sent(connection, "1", webhook_id="first")
    sent(connection, "2", webhook_id="second")
    fills.record(connection, [fill(order_id="child", side=Side.SELL, realized_pnl=Decimal(-40))])
    assert realized(connection, "second") == (Decimal(-40), Decimal(-40))
    assert realized(connection, "first")[0] == 0
    fills.record(connection, [fill(order_id="x", symbol="PERP_SOL_USDC", realized_pnl=Decimal(-5))])
    assert realized(connection, "second") == (Decimal(-40), Decimal(-45))


def test_later_report_completes_a_fill(connection: sqlite3.Connection) -> None:
    """A trade first seen without order or P&L is completed when they are known; the last P&L reported counts."""
    order = sent(connection, "7", webhook_id="first")
    sent(connection, "8", webhook_id="second")
    early = fill(order_id="not known yet", realized_pnl=Decimal(10))
    fills.record(connection, [early])
    assert realized(connection, "second") == (Decimal(10), Decimal(10))
    fills.record(connection, [early], order=order)
    assert realized(connection, "second") == (Decimal(0), Decimal(10))
    assert realized(connection, "first") == (Decimal(10), Decimal(10))
    bare = fill(order_id="7", realized_pnl=None)
    fills.record(connection, [bare])
    fills.record(connection, [replace(bare, realized_pnl=Decimal(3))])
    assert realized(connection, "first") == (Decimal(13), Decimal(13))
    fills.record(connection, [replace(bare, realized_pnl=Decimal(-2))])
    fills.record(connection, [bare])  # a stream report without it removes nothing
    assert realized(connection, "first") == (Decimal(8), Decimal(8))


def test_fill_is_matched_by_order_id(connection: sqlite3.Connection) -> None:
    """The trade list has no client order id; a foreign client order id is not taken for ours."""
    order = sent(connection, "7")
    fills.record(connection, [fill(order_id="7"), fill(order_id="9", client_order_id="theirs", symbol="PERP_W_USDC")])
    mine, theirs = fills.list_fills(connection)
    assert (mine.client_order_id, theirs.client_order_id) == (order.client_order_id, None)
    assert fills.list_fills(connection, symbol="PERP_W_USDC", since=NOW) == (theirs,)
    assert fills.list_fills(connection, limit=1) == (theirs,)
    assert fills.list_fills(connection, since=NOW + timedelta(seconds=1)) == ()
    assert fills.last_executed_at(connection) == NOW


def test_hourly_results_equal_the_sum_of_the_fills(connection: sqlite3.Connection) -> None:
    """However fills arrive (repeated, late, completed, moved to another webhook), the running sums equal a sum over all fills."""
    entry = sent(connection, "7")
    sent(connection, "8", webhook_id="other")
    hours = [NOW + timedelta(hours=hour) for hour in range(3)]
    closing = fill(order_id="8", realized_pnl=Decimal("3.00000000000000000000000000001"), executed_at=hours[1])
    unknown = fill(order_id="99", realized_pnl=None, executed_at=hours[2])
    exit_fill = fill(order_id="50", realized_pnl=Decimal("-7.5"), executed_at=hours[2])
    fills.record(connection, [fill(order_id="7"), closing, unknown, closing])
    fills.record(connection, [replace(closing, trade_id="more", realized_pnl=Decimal(-4), executed_at=hours[2])])
    fills.record(connection, [replace(unknown, realized_pnl=Decimal("1.5"))], order=entry)
    fills.record(connection, [exit_fill])
    fills.record_exits(connection, [exit_fill], entry=entry)
    kept = sums(connection)
    fills.rebuild_results(connection)
    assert sums(connection) == kept
    every = fills.sum_results(connection, since="0000", webhook_id=None)
    assert every.realized == Decimal("-6.99999999999999999999999999999")
    assert (every.closings, every.wins) == (3, 1)
    own = fills.sum_results(connection, since="0000", webhook_id="hook")
    assert (own.realized, own.closings) == (Decimal("-6.0"), 2)
    late = fills.sum_results(connection, since=codec.time_text(hours[2] + timedelta(seconds=1)), webhook_id=None)
    assert (late.realized, late.fees) == (Decimal(0), Decimal(0))
