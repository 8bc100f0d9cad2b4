"""Job runs: counted, with the next one scheduled; one event for a job that keeps failing."""

from __future__ import annotations

import sqlite3
from datetime import timedelta

from kekbridge.store import job_runs, journal
from tests.store.factories import NOW


def run(connection: sqlite3.Connection, error: str | None, **options: int) -> None:
    job_runs.record_run(
        connection, "equity", error=error, took_ms=12, next_at=NOW + timedelta(minutes=1), now=NOW, **options
    )


def test_third_failure_in_a_row_appends_one_event(connection: sqlite3.Connection) -> None:
    """Two failures are silent, the third appends an event, the fourth does not; recovery appends another."""
    for _ in range(4):
        run(connection, "no answer")
    assert [event.kind for event in journal.list_events(connection)] == ["job_failed"]
    (found,) = job_runs.list_runs(connection)
    assert (found.failures, found.failed, found.runs, found.error) == (4, 4, 4, "no answer")
    run(connection, None)
    run(connection, None)
    (found,) = job_runs.list_runs(connection)
    assert (found.failures, found.failed, found.runs, found.error) == (0, 4, 6, None)
    assert [event.kind for event in journal.list_events(connection)] == ["job_failed", "job_recovered"]


def test_rare_job_is_reported_at_its_first_failure(connection: sqlite3.Connection) -> None:
    """A failed backup must not go unreported for three nights."""
    run(connection, "disk full", report_after=1)
    assert [event.kind for event in journal.list_events(connection)] == ["job_failed"]


def test_schedule_lists_exactly_its_jobs(connection: sqlite3.Connection) -> None:
    """Jobs that have not run yet are listed with their time; removed jobs disappear; runs are kept."""
    run(connection, None)
    job_runs.record_run(connection, "old", error=None, took_ms=1, next_at=None, now=NOW)
    later = NOW + timedelta(hours=1)
    job_runs.save_schedule(connection, {"equity": later, "backup": later}, now=later)
    backup, equity = job_runs.list_runs(connection)
    assert (backup.name, backup.last_at, backup.next_at, backup.runs, backup.since) == ("backup", None, later, 0, later)
    assert (equity.name, equity.last_at, equity.next_at, equity.runs, equity.since) == ("equity", NOW, later, 1, NOW)
