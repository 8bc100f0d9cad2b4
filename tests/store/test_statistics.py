"""Facts for the statistics, and the daily summary."""

from __future__ import annotations

import sqlite3
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from kekbridge.exchange.base import FundingPayment
from kekbridge.execution.book import Book
from kekbridge.model import AccountSnapshot, Flow, OrderStatus, WebhookSettings
from kekbridge.model.admission import Decision
from kekbridge.model.notifications import render_notification
from kekbridge.model.statistics import build_report
from kekbridge.risk.drawdown import follow_peak
from kekbridge.store import codec, equity, facts, journal, projector, statistics, webhooks
from kekbridge.store.database import Database
from tests.store.factories import NOW
from tests.stored import accept, record_fill, store_alert, store_order

NOON = datetime(2026, 3, 10, 12, 30, tzinfo=UTC)
_INSERT = (
    "INSERT INTO alerts (id, webhook_id, fingerprint, received_at, payload, status, code, stages, updated_at)"
    " VALUES (?, 'w', 'f', ?, ?, ?, ?, '{\"stored\": 2.5}', ?)"
)


def add(connection: sqlite3.Connection, number: int, at: datetime, status: str, code: str | None = None) -> str:
    name, text = f"{number:026d}", codec.time_text(at)
    connection.execute(_INSERT, (name, text, '{"action": "buy"}', status, code, text))
    return name


def test_tallies_follow_every_change(connection: sqlite3.Connection) -> None:
    """An alert is counted under its current status, duplicates by the history, and nothing twice."""
    first = add(connection, 1, NOON - timedelta(hours=2), "queued")
    add(connection, 2, NOON - timedelta(hours=2), "refused", "rate_limited")
    connection.execute("UPDATE alerts SET status = 'filled' WHERE id = ?", (first,))
    for kind in ("alert_duplicate", "something_else"):
        entry = facts.plain_entry(kind, at=NOON, alert_id=first, data={"webhook_id": "w"})
        projector.record(connection, entry)
    counts = build_report(statistics.gather_facts(connection, since=None, now=NOON)).counts
    assert (counts.received, counts.done, counts.refused, counts.duplicate, counts.waiting) == (3, 1, 1, 1, 0)


def test_period_may_begin_within_an_hour(connection: sqlite3.Connection) -> None:
    """Alerts of the first hour before `since` are not counted, one at `since` is."""
    since = NOON - timedelta(hours=3)
    for number, minutes in enumerate((-31, -30, -1, 0, 1, 60)):
        add(connection, number, since + timedelta(minutes=minutes), "filled")
    assert build_report(statistics.gather_facts(connection, since=since, now=NOON)).counts.done == 3


def test_latencies_are_those_measured(connection: sqlite3.Connection) -> None:
    """A stage is known for the alerts that reached it."""
    add(connection, 1, NOON, "filled")
    found = build_report(statistics.gather_facts(connection, since=None, now=NOON)).latency_ms
    assert {stage: one.mean for stage, one in found.items()} == {"stored": 2.5}


def test_a_long_history_costs_little(database: Database) -> None:
    """Twenty times the alerts take less than twice the steps in SQLite; seconds would depend on the machine's load."""

    def insert_alerts(first: int, count: int) -> None:
        with database.transaction() as connection:
            for number in range(first, first + count):
                add(connection, number, NOON - timedelta(seconds=number * 20), "filled")

    def steps() -> int:
        count = 0

        def step() -> None:
            nonlocal count
            count += 1

        with database.snapshot() as connection:
            connection.set_progress_handler(step, 10)
            statistics.gather_facts(connection, since=None, now=NOON)
            connection.set_progress_handler(None, 0)
        return count

    insert_alerts(0, 2000)
    short = steps()
    insert_alerts(2000, 38_000)
    assert steps() < 2 * short


def test_period_may_end_within_an_hour(connection: sqlite3.Connection) -> None:
    """Two periods that meet within an hour count every alert once; an alert at the border belongs to the later one."""
    border = NOON - timedelta(hours=1, minutes=30)
    for number, minutes in enumerate((-120, -1, 0, 1, 31)):
        add(connection, number, border + timedelta(minutes=minutes), "filled")
    early = build_report(statistics.gather_facts(connection, since=None, until=border, now=NOON))
    late = build_report(statistics.gather_facts(connection, since=border, now=NOON))
    assert (early.counts.done, late.counts.done) == (2, 3)
    assert (early.latency_ms["stored"].count, late.latency_ms["stored"].count) == (2, 3)
    assert statistics.count_by_day(connection, codec.Span.of(None, border)) == {NOON.date(): 2}
    assert statistics.count_by_day(connection, codec.Span.of(border)) == {NOON.date(): 3}


def test_profit_and_loss_by_day_webhook_and_market(connection: sqlite3.Connection, book: Book) -> None:
    """Exact, with fees and the funding of each webhook; each division adds up to the same total, best first, and no name is nobody's."""
    webhooks.create(connection, webhook_id="hook", name="trend", settings=WebhookSettings(), now=NOW)
    tomorrow = NOW + timedelta(days=1)
    own = accept(book, store_order(book, status=OrderStatus.SUBMITTING), order_id="7")
    record_fill(book, own, order_id="7", realized_pnl=Decimal("12.000000000000000000000000000001"), fee=Decimal("0.5"))
    gone = store_order(book, status=OrderStatus.SUBMITTING, webhook_id="old", webhook_name="eth")
    gone = accept(book, gone, order_id="8")
    record_fill(
        book, gone, order_id="8", symbol="PERP_ETH_USDC", realized_pnl=Decimal(-3), fee=Decimal(1), executed_at=tomorrow
    )
    record_fill(book, order_id="9", symbol="PERP_SOL_USDC", realized_pnl=Decimal(5), fee=Decimal(0))
    for at in (NOW, tomorrow):
        book.record_funding(FundingPayment("PERP_BTC_USDC", Decimal("0.25"), None, None, "Settled", at), at)
    facts = statistics.gather_facts(connection, since=None, now=tomorrow)
    found = statistics.divide_pnl(connection, facts.lines)
    total = build_report(facts).net_pnl
    assert total == Decimal("12.000000000000000000000000000001")
    net = {part.name: part.net_pnl for part in found.by_day}
    assert net == {"2026-01-15": Decimal("16.250000000000000000000000000001"), "2026-01-16": Decimal("-4.25")}
    assert [part.name for part in found.by_market] == ["PERP_BTC_USDC", "PERP_SOL_USDC", "PERP_ETH_USDC"]
    assert [part.name for part in found.by_webhook] == ["trend", "", "eth (deleted)"]
    assert [part.win_rate for part in found.by_webhook] == [Decimal(1), Decimal(1), Decimal(0)]
    for division in (found.by_day, found.by_webhook, found.by_market):
        assert codec.exact_total(part.net_pnl for part in division) == total
    (only,) = statistics.pnl_by_webhook(connection, since=tomorrow)
    assert (only.name, only.funding, only.net_pnl) == ("eth (deleted)", Decimal("0.25"), Decimal("-4.25"))
    of_trend = statistics.gather_facts(connection, since=None, now=tomorrow, webhook="trend").lines
    assert [part.name for part in statistics.divide_pnl(connection, of_trend).by_market] == ["PERP_BTC_USDC"]
    assert statistics.pnl_by_webhook(connection, since=None, until=NOW) == ()


DAY = date(2026, 1, 15)


def mark(connection: sqlite3.Connection, at: datetime, value: str, *flows: tuple[str, Flow]) -> None:
    snapshot = AccountSnapshot(
        taken_at=at,
        instruments={},
        marks={},
        positions={},
        account_value=Decimal(value),
        free_collateral=Decimal(value),
    )
    for name, flow in flows:
        data = {"id": name, "booked_at": flow.at, "amount": flow.amount, "what": "deposit"}
        projector.record(connection, facts.plain_entry("transfer", at=at, data=data))
    equity.record(connection, snapshot, follow_peak, now=at)


def test_daily_summary_covers_exactly_its_day(connection: sqlite3.Connection, book: Book) -> None:
    """Alerts, orders, fills and funding from midnight to midnight; a deposit is no gain."""
    for _ in range(3):
        store_alert(book)
    no = Decision(status="denied", code="max_order_size")
    store_alert(book, decide=lambda usage: no)
    midnight = datetime(2026, 1, 15, tzinfo=UTC)
    for at, pnl in ((midnight - timedelta(seconds=1), "500"), (midnight, "12.5"), (NOW, "-2.25")):
        record_fill(book, realized_pnl=Decimal(pnl), fee=Decimal("0.5"), executed_at=at)
    for at, fee in ((NOW, "0.25"), (midnight + timedelta(days=1), "9")):
        payment = FundingPayment("PERP_BTC_USDC", Decimal(fee), None, None, "Settled", at)
        book.record_funding(payment, at)
    mark(connection, midnight - timedelta(minutes=1), "1000")
    mark(connection, NOW, "1509", ("deposit", Flow(NOW - timedelta(minutes=1), Decimal(500))))
    mark(connection, midnight + timedelta(days=1), "1600")
    assert statistics.daily_summary(connection, DAY) == {
        "day": "2026-01-15",
        "alerts": 4,
        "refused": 1,
        "orders": 3,
        "filled": 0,
        "realized_pnl": "10.25",
        "fees": "1.00",
        "funding": "0.25",
        "net_pnl": "+9.00",
        "by_webhook": "by hand +9.00 USDC",
        "equity": "1509.00 USDC",
        "change": "+9.00",
    }


def test_daily_summary_is_recorded_once(connection: sqlite3.Connection) -> None:
    """A job that runs twice, or late, repeats no day; a day without activity is recorded, too: it shows that the daemon runs."""
    assert statistics.record_daily_summary(connection, DAY, now=NOW)
    assert not statistics.record_daily_summary(connection, DAY, now=NOW)
    assert not statistics.record_daily_summary(connection, DAY - timedelta(days=1), now=NOW)
    (event,) = journal.list_events(connection)
    assert render_notification(event.kind, event.data) == (
        "info",
        "2026-01-15: P&L +0.00 USDC: no trades; after 0.00 fees and 0.00 funding; 0 alerts (0 refused), 0 orders (0 filled),"
        " equity not known",
    )
