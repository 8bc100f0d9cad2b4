"""Runs of jobs: the last one counts, and a job that keeps failing is told of once."""

from __future__ import annotations

import sqlite3

from kekbridge.store import events, jobruns
from tests.store.made import NOW


def test_the_third_failure_in_a_row_is_told_once(connection: sqlite3.Connection) -> None:
    """Two blips are silent, the third goes into the history, the fourth does not again; a success starts anew."""
    for _ in range(4):
        jobruns.record(connection, "equity", every_s=60, error="no answer", now=NOW)
    assert [event.kind for event in events.list_events(connection)] == ["job_failed"]
    (run,) = jobruns.list_runs(connection)
    assert (run.failures, run.error, run.every_s) == (4, "no answer", 60)
    jobruns.record(connection, "equity", every_s=60, error=None, now=NOW)
    (run,) = jobruns.list_runs(connection)
    assert (run.failures, run.error) == (0, None)
