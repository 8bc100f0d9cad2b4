"""Queries over a long history cost as many SQLite steps as over a short one: counted, so that no clock is involved."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.execution.book import Book
from kekbridge.execution.load_book import load_book, load_recent
from kekbridge.model import OrderStatus, RateLimits, WebhookSettings
from kekbridge.reports import alert_report
from kekbridge.reports import statistics as statistics_report
from kekbridge.store import alerts, journal, orders, statistics, webhooks
from kekbridge.store.connections import FILE_NAME
from kekbridge.store.database import Database
from tests.bench.filling import RARE, fill
from tests.store import factories
from tests.stored import accept, book_on, claim, record_fill, report, store_alert

# A second apart: the short history, too, covers the whole hour in which a period begins, whatever the minute of the test.
FEW, MANY = 6000, 60_000
EACH = 100  # SQLite steps per count


def stored(data_dir: Path, count: int) -> Database:
    """A database with `count` finished alerts of one webhook, copied from one that was executed."""
    database = Database.open(data_dir)
    now = datetime.now(UTC)
    with database.transaction() as connection:
        webhooks.create(connection, webhook_id="hook", name="default", settings=WebhookSettings(), now=now)
        book = book_on(connection, now=now)
        alert = factories.new_alert(received_at=now, symbol="PERP_BTC_USDC")
        (order,) = store_alert(book, alert, expires_at=now + timedelta(minutes=1)).orders
        order = accept(book, claim(book, order, now=now), order_id="7", now=now)
        record_fill(book, order, executed_at=now)
        report(book, order, OrderStatus.FILLED, Decimal("0.01"), now=now)
    fill(data_dir / FILE_NAME, count)
    return database


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, Database]]:
    """A short and a long one."""
    directory = tmp_path_factory.mktemp("histories")
    both = stored(directory / "few", FEW), stored(directory / "many", MANY)
    yield both
    for database in both:
        database.close_now()


def steps(database: Database, ask: Callable[[sqlite3.Connection], Any]) -> int:
    """So many times EACH steps of the database's machine does a question take."""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    with database.snapshot() as connection:
        connection.set_progress_handler(count, EACH)
        ask(connection)
        connection.set_progress_handler(None, 0)
    return taken


NOW = datetime.now(UTC)
QUESTIONS: dict[str, Callable[[sqlite3.Connection], Any]] = {
    "all statistics": lambda c: statistics.gather_facts(c, since=None, now=NOW),
    "statistics of a webhook": lambda c: statistics.gather_facts(c, since=None, now=NOW, webhook="default"),
    "statistics since": lambda c: statistics.gather_facts(c, since=NOW - timedelta(hours=25, minutes=30), now=NOW),
    "the page of statistics": lambda c: statistics_report.read(c, since=NOW - timedelta(days=7), now=NOW),
    "the log": lambda c: alerts.search(c),
    "of a webhook": lambda c: alerts.search(c, webhook="default"),
    "of a deleted webhook": lambda c: alerts.search(c, webhook="never-was"),
    "of a status": lambda c: alerts.search(c, status="denied", limit=20),
    "of a status that none has": lambda c: alerts.search(c, status="unknown"),
    "of a code": lambda c: alerts.search(c, code="daily_limit", limit=20),
    "of a code that none has": lambda c: alerts.search(c, code="cooldown"),
    "of a rare market": lambda c: alerts.search(c, symbol=RARE, limit=3),
    "of a market none had": lambda c: alerts.search(c, symbol="PERP_NONE_USDC", webhook="default"),
    "a text": lambda c: alerts.search(c, text="stands nowhere", look_through=500),
    "an alert": lambda c: alert_report.read(c, "01A00000000000000000000007"),
    "a start": lambda c: load_book(c, Book(), account_rates=RateLimits(), now=NOW),
    "an identity that is free": lambda c: journal.find_identity(c, "hook", "id:none"),
    "the open orders": lambda c: orders.list_orders(c, open_only=True, limit=20),
    "older orders": lambda c: orders.list_orders(c, before=3000, limit=51),
    "the alerts of the last minute": lambda c: load_recent(c, now=NOW),
}


@pytest.mark.parametrize("name", list(QUESTIONS))
def test_ten_times_the_history_is_no_more_work(histories: tuple[Database, Database], name: str) -> None:
    """Ten times the alerts, orders, fills and events: the same work, except for the depth of a tree and an hour's tally."""
    few, many = (steps(database, QUESTIONS[name]) for database in histories)
    assert many <= 1.3 * few + 20


def test_long_history_is_really_counted(histories: tuple[Database, Database]) -> None:
    """The measurement is meaningful: the long history is counted, summed and found."""
    with histories[1].snapshot() as connection:
        facts = statistics.gather_facts(connection, since=None, now=NOW)
        assert sum(one.count for one in facts.alerts) == MANY + 1
        assert facts.closings > MANY / 2
        assert len(alerts.search(connection, symbol=RARE).alerts) == MANY // 1000
