"""Fills are recorded once, and their P&L goes to the right day and webhook."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kekbridge.execution.book import Book
from kekbridge.model import Fill, Order, OrderStatus, Side
from kekbridge.model.statistics import total_of
from kekbridge.store import codec, fills, journal
from kekbridge.store.facts import OwnedFill
from kekbridge.store.usage import read_usage
from tests.histories import memory_store
from tests.store.factories import NOW, fill
from tests.stored import accept, store_order

ALL: Final = codec.Span.of(None)


def sent(book: Book, order_id: str, webhook_id: str = "hook") -> Order:
    """An accepted entry with this order id."""
    return accept(book, store_order(book, status=OrderStatus.SUBMITTING, webhook_id=webhook_id), order_id=order_id)


def record(book: Book, *reported: Fill, order: Order | None = None) -> int:
    """Record fills as a tracker does, which finds their orders by the exchange's ids; the number of new ones."""
    return sum(book.record_fill(each, order=order or book.order_of(each.order_id)) for each in reported)


def realized(connection: sqlite3.Connection, webhook_id: str = "hook", days: int = 0) -> tuple[Decimal, Decimal]:
    """(webhook, account) realized today."""
    usage = read_usage(connection, webhook_id, now=NOW + timedelta(days=days))
    return usage.realized_today, usage.account_realized_today


def sums(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
    rows = [
        row
        for table in ("results", "day_results")
        for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3")
    ]
    return [(*row[:3], Decimal(row[3]), Decimal(row[4]), *row[5:]) for row in map(tuple, rows)]


def test_fill_is_recorded_once(connection: sqlite3.Connection, book: Book) -> None:
    """Stream, query and reconciliation all report the same trade: one row, one profit, one event."""
    order = sent(book, "7")
    reported = fill(order_id="7", realized_pnl=Decimal("-12.5"))
    assert [record(book, reported), record(book, reported), record(book, reported, order=order)] == [1, 0, 0]
    assert fills.of_order(connection, order.client_order_id) == (
        replace(reported, client_order_id=order.client_order_id),
    )
    assert realized(connection) == (Decimal("-12.5"), Decimal("-12.5"))
    kinds = [event.kind for event in journal.of_alert(connection, order.alert_id)]
    assert kinds.count("fill") == 1


def test_all_digits_are_kept(connection: sqlite3.Connection, book: Book) -> None:
    """Price, size and fee are what the exchange reported, to the last digit."""
    reported = fill(
        price=Decimal("65000.123456789012345678901234"), quantity=Decimal("1E-8"), fee=Decimal("-0.000000001")
    )
    record(book, reported)
    assert fills.list_fills(connection) == (reported,)
    stored = connection.execute("SELECT price, quantity FROM fills").fetchone()
    assert tuple(stored) == ("65000.123456789012345678901234", "0.00000001")


def test_day_is_that_of_the_execution(connection: sqlite3.Connection, book: Book) -> None:
    """A loss after midnight UTC belongs to the new day."""
    sent(book, "7")
    midnight = NOW.replace(hour=0, minute=0, second=0) + timedelta(days=1)
    before = fill(order_id="7", realized_pnl=Decimal(-1), executed_at=midnight - timedelta(milliseconds=1))
    after = fill(order_id="7", realized_pnl=Decimal(-2), executed_at=midnight)
    record(book, before, after)
    assert realized(connection) == (Decimal(-1), Decimal(-1))
    assert realized(connection, days=1) == (Decimal(-2), Decimal(-2))
    assert fills.last_executed_at(connection) == midnight


def test_triggered_stop_is_a_loss_of_the_webhook_that_entered(connection: sqlite3.Connection, book: Book) -> None:
    """Child orders of a bracket carry no id of ours; otherwise a webhook's daily-loss limit would never see its stops."""
    sent(book, "1", webhook_id="first")
    sent(book, "2", webhook_id="second")
    record(book, fill(order_id="child", side=Side.SELL, realized_pnl=Decimal(-40)))
    assert realized(connection, "second") == (Decimal(-40), Decimal(-40))
    assert realized(connection, "first")[0] == 0
    record(book, fill(order_id="x", symbol="PERP_SOL_USDC", realized_pnl=Decimal(-5)))
    assert realized(connection, "second") == (Decimal(-40), Decimal(-45))


def test_later_report_completes_a_fill(connection: sqlite3.Connection, book: Book) -> None:
    """A trade first seen without order or P&L is completed when they are known; the last P&L reported counts."""
    order = sent(book, "7", webhook_id="first")
    sent(book, "8", webhook_id="second")
    early = fill(order_id="not known yet", realized_pnl=Decimal(10))
    record(book, early)
    assert realized(connection, "second") == (Decimal(10), Decimal(10))
    record(book, early, order=order)
    assert realized(connection, "second") == (Decimal(0), Decimal(10))
    assert realized(connection, "first") == (Decimal(10), Decimal(10))
    bare = fill(order_id="7", realized_pnl=None)
    record(book, bare)
    record(book, replace(bare, realized_pnl=Decimal(3)))
    assert realized(connection, "first") == (Decimal(13), Decimal(13))
    record(book, replace(bare, realized_pnl=Decimal(-2)))
    record(book, bare)  # a stream report without it removes nothing
    assert realized(connection, "first") == (Decimal(8), Decimal(8))


def test_fill_is_matched_by_order_id(connection: sqlite3.Connection, book: Book) -> None:
    """The trade list has no client order id; a foreign client order id is not taken for ours."""
    order = sent(book, "7")
    record(book, fill(order_id="7"), fill(order_id="9", client_order_id="theirs", symbol="PERP_W_USDC"))
    mine, theirs = fills.list_fills(connection)
    assert (mine.client_order_id, theirs.client_order_id) == (order.client_order_id, None)
    assert fills.list_fills(connection, symbol="PERP_W_USDC", since=NOW) == (theirs,)
    assert fills.list_fills(connection, limit=1) == (theirs,)
    assert fills.list_fills(connection, since=NOW + timedelta(seconds=1)) == ()
    assert fills.last_executed_at(connection) == NOW


def test_hourly_results_equal_the_sum_of_the_fills(connection: sqlite3.Connection, book: Book) -> None:
    """However fills arrive (repeated, late, completed, moved to another webhook), the running sums equal a sum over all fills."""
    entry = sent(book, "7")
    sent(book, "8", webhook_id="other")
    hours = [NOW + timedelta(hours=hour) for hour in range(3)]
    closing = fill(order_id="8", realized_pnl=Decimal("3.00000000000000000000000000001"), executed_at=hours[1])
    unknown = fill(order_id="99", realized_pnl=None, executed_at=hours[2])
    exit_fill = fill(order_id="50", realized_pnl=Decimal("-7.5"), executed_at=hours[2])
    record(book, fill(order_id="7"), closing, unknown, closing)
    record(book, replace(closing, trade_id="more", realized_pnl=Decimal(-4), executed_at=hours[2]))
    record(book, replace(unknown, realized_pnl=Decimal("1.5")), order=entry)
    record(book, exit_fill)
    book.record_exit(exit_fill, entry=entry)
    kept = sums(connection)
    fills.rebuild_results(connection)
    assert sums(connection) == kept
    every = total_of(fills.list_results(connection, ALL))
    assert every.realized_pnl == Decimal("-6.99999999999999999999999999999")
    assert (every.closing_orders, every.wins) == (3, 1)
    own = total_of(fills.list_results(connection, ALL, webhook_id="hook"))
    assert (own.realized_pnl, own.closing_orders) == (Decimal("-6.0"), 2)
    late = total_of(fills.list_results(connection, codec.Span.of(hours[2] + timedelta(seconds=1))))
    assert (late.realized_pnl, late.fees) == (Decimal(0), Decimal(0))


OWNERS = ("hook", "other")
MARKETS = ("PERP_BTC_USDC", "PERP_ETH_USDC")
MOMENTS = st.integers(0, 60 * 3600).map(lambda seconds: NOW.replace(hour=21) + timedelta(seconds=seconds))
AMOUNTS = st.decimals(-(10**6), 10**6, places=9)


@settings(max_examples=40)
@given(
    traded=st.lists(
        st.tuples(st.sampled_from(OWNERS), st.sampled_from(MARKETS), MOMENTS, AMOUNTS, AMOUNTS), max_size=12
    ),
    since=st.none() | MOMENTS,
    until=st.none() | MOMENTS,
)
def test_results_of_a_period_are_the_sums_of_its_fills(
    traded: list[Any], since: datetime | None, until: datetime | None
) -> None:
    """By UTC day, webhook and market, to the last digit, wherever the period begins and ends."""
    connection = memory_store()
    wanted: dict[tuple[str, str, str], list[Decimal]] = {}
    for number, (owner, market, at, fee, won) in enumerate(traded):
        columns = (
            f"t{number}",
            owner,
            f"o{number}",
            market,
            "BUY",
            "1",
            "1",
            str(fee),
            str(won),
            0,
            codec.time_text(at),
        )
        connection.execute(
            "INSERT INTO fills (trade_id, webhook_id, order_id, symbol, side, price, quantity, fee, realized_pnl, is_maker,"
            " executed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            columns,
        )
        if (since is None or at >= since) and (until is None or at < until):
            sums = wanted.setdefault((f"{at:%Y-%m-%d}", owner, market), [Decimal(0), Decimal(0)])
            sums[0] += fee
            sums[1] += won
    fills.rebuild_results(connection)
    found: dict[tuple[str, str, str], list[Decimal]] = {}
    for line in fills.list_results(connection, codec.Span.of(since, until)):
        sums = found.setdefault(line[:3], [Decimal(0), Decimal(0)])
        sums[0] += line.fees
        sums[1] += line.realized
    assert {bucket: sums for bucket, sums in found.items() if any(sums) or bucket in wanted} == wanted
    connection.close()


def test_fill_keeps_its_owner_when_it_is_read_back(connection: sqlite3.Connection, book: Book) -> None:
    """Whose it is and whose exit: a start reads both, with the newest fills first to be kept."""
    entry = sent(book, "7")
    record(book, fill(order_id="7", executed_at=NOW - timedelta(hours=1)))
    closing = fill(order_id="50", realized_pnl=Decimal(-1))
    book.record_exit(closing, entry=entry)
    found = fills.find(connection, closing.trade_id)
    assert found == OwnedFill(fill=closing, webhook_id="hook", exit_of=entry.client_order_id)
    assert fills.find(connection, "none") is None
    assert [each.fill.order_id for each in fills.recent(connection, since=NOW - timedelta(days=1), limit=9)] == [
        "7",
        "50",
    ]
    assert fills.recent(connection, since=NOW - timedelta(days=1), limit=1) == (found,)
    assert fills.exits_of(connection, entry.client_order_id) == (closing,)
