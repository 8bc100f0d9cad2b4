"""`kekbridge jobs`: table and JSON of the scheduled jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kekbridge.store import job_runs
from kekbridge.store.database import Database
from kekbridge.store.lock import DaemonLock


def test_jobs_show_when_and_how_they_ran(run: Any, data_dir: Path) -> None:
    """Last and next run, duration, failures with their reason; no next run without a daemon."""
    run("webhook", "create", "w")
    assert "jobs run while `kekbridge serve` does" in run("jobs").err
    now = datetime.now(UTC)
    with Database.open(data_dir).transaction() as connection:
        later = now + timedelta(hours=1)
        job_runs.save_schedule(connection, {"backup": later, "equity": None}, now=now)
        for error in (None, "no answer", "no answer"):
            job_runs.record_run(connection, "equity", error=error, took_ms=1500, next_at=later, now=now)
    backup, equity = run("jobs", "--json").data
    assert (backup["name"], backup["lastAt"], backup["nextAt"], backup["runs"]) == ("backup", None, None, 0)
    assert (equity["tookMs"], equity["runs"], equity["failed"], equity["failures"]) == (1500, 3, 2, 2)
    with DaemonLock(data_dir):
        assert run("jobs", "--json").data[0]["nextAt"] is not None
        shown = run("jobs").out.splitlines()
    assert shown[0].split() == ["JOB", "LAST", "TOOK", "NEXT", "RUNS", "FAILED", "ERROR"]
    assert "1.5 s" in shown[2]
    assert "2, 2 in a row" in shown[2]
    assert shown[2].endswith("no answer")
