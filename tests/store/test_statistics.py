"""Facts for the statistics, and that a long history costs no more than a short one."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta

from kekbridge.model.statistics import report
from kekbridge.store import codec, events, statistics
from kekbridge.store.database import Database

NOW = datetime(2026, 3, 10, 12, 30, tzinfo=UTC)
_INSERT = (
    "INSERT INTO alerts (id, webhook_id, fingerprint, received_at, payload, status, code, stages, updated_at)"
    " VALUES (?, 'w', 'f', ?, ?, ?, ?, '{\"stored\": 2.5}', ?)"
)


def add(connection: sqlite3.Connection, number: int, at: datetime, status: str, code: str | None = None) -> str:
    name, text = f"{number:026d}", codec.to_text(at)
    connection.execute(_INSERT, (name, text, '{"action": "buy"}', status, code, text))
    return name


def test_tallies_follow_every_change(connection: sqlite3.Connection) -> None:
    """An alert is counted where it stands now, repeats by the history, and nothing twice."""
    first = add(connection, 1, NOW - timedelta(hours=2), "queued")
    add(connection, 2, NOW - timedelta(hours=2), "refused", "rate_limited")
    connection.execute("UPDATE alerts SET status = 'filled' WHERE id = ?", (first,))
    events.append(connection, "alert_duplicate", now=NOW, alert_id=first)
    events.append(connection, "something_else", now=NOW, alert_id=first)
    counts = report(statistics.gather(connection, since=None, now=NOW)).counts
    assert (counts.received, counts.done, counts.refused, counts.duplicate, counts.waiting) == (3, 1, 1, 1, 0)


def test_a_period_begins_within_an_hour(connection: sqlite3.Connection) -> None:
    """Alerts of the first hour that came before `since` are not counted, those at it are."""
    since = NOW - timedelta(hours=3)
    for number, minutes in enumerate((-31, -30, -1, 0, 1, 60)):
        add(connection, number, since + timedelta(minutes=minutes), "filled")
    assert report(statistics.gather(connection, since=since, now=NOW)).counts.done == 3


def test_latencies_are_those_measured(connection: sqlite3.Connection) -> None:
    """A stage is known for those alerts that came so far."""
    add(connection, 1, NOW, "filled")
    found = report(statistics.gather(connection, since=None, now=NOW)).latency_ms
    assert {stage: one.mean for stage, one in found.items()} == {"stored": 2.5}


def test_a_long_history_costs_little(database: Database) -> None:
    """Twenty times the alerts: less than twice the steps in SQLite, counted because seconds depend on the machine's load."""

    def fill(first: int, count: int) -> None:
        with database.transaction() as connection:
            for number in range(first, first + count):
                add(connection, number, NOW - timedelta(seconds=number * 20), "filled")

    def steps() -> int:
        count = 0

        def step() -> None:
            nonlocal count
            count += 1

        with database.snapshot() as connection:
            connection.set_progress_handler(step, 10)
            statistics.gather(connection, since=None, now=NOW)
            connection.set_progress_handler(None, 0)
        return count

    fill(0, 2000)
    short = steps()
    fill(2000, 38_000)
    assert steps() < 2 * short
