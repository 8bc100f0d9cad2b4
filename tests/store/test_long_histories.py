"""Queries over a long history cost as many SQLite steps as over a short one: counted, so that no clock is involved."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.model import OrderStatus, WebhookSettings
from kekbridge.reports import alert_report
from kekbridge.store import alerts, fills, order_lifecycle, statistics, webhooks
from kekbridge.store.admissions import admit
from kekbridge.store.connections import FILE_NAME
from kekbridge.store.database import Database
from tests.bench.filling import RARE, fill
from tests.store import factories

# A second apart: the short history, too, covers the whole hour in which a period begins, whatever the minute of the test.
FEW, MANY = 6000, 60_000
EACH = 100  # SQLite steps per count


def stored(data_dir: Path, count: int) -> Database:
    """A database with `count` finished alerts of one webhook, copied from one that was executed."""
    database = Database.open(data_dir)
    now = datetime.now(UTC)
    with database.transaction() as connection:
        webhooks.create(connection, webhook_id="hook", name="default", settings=WebhookSettings(), now=now)
        alert = factories.new_alert(received_at=now, symbol="PERP_BTC_USDC")
        end = now + timedelta(minutes=1)
        admission = admit(
            connection,
            alert,
            factories.admitting(factories.intent()),
            rates=factories.NO_RATES,
            now=now,
            expires_at=end,
        )
        name = admission.orders[0].client_order_id
        order_lifecycle.claim(connection, name, now=now)
        order_lifecycle.mark_accepted(connection, name, order_id="7", now=now)
        fills.record(connection, [factories.fill(order_id="7", executed_at=now)])
        report = factories.status_report(name, OrderStatus.FILLED, Decimal("0.01"))
        order_lifecycle.apply_report(connection, name, report, now=now)
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
