"""`kekbridge jobs`: table and JSON of the scheduled jobs; one of them run now in the running bridge."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kekbridge.cli.main import run_command
from kekbridge.store import job_runs
from kekbridge.store.database import Database
from kekbridge.store.lock import DaemonLock
from tests.bridge import running_bridge
from tests.cli.test_lockouts import command


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


async def test_a_job_runs_now_in_the_bridge_that_is_named(tmp_path: Path) -> None:
    """Its record is printed, a failed run is exit code 1, an unknown job 3; a data directory given before `run` counts, too."""
    (tmp_path / "blocked").touch()
    async with running_bridge(tmp_path, admin__enabled=False, backup__dir=str(tmp_path / "blocked" / "x")) as bridge:

        def run(*arguments: str) -> Any:
            return asyncio.to_thread(command, *arguments, data_dir=bridge.data_dir)

        done = await run("jobs", "run", "disk", "--json")
        assert (done.returncode, json.loads(done.stdout)["name"]) == (0, "disk")
        assert (await run("jobs", "run", "disk")).stdout.startswith("disk took ")
        failed = await run("jobs", "run", "backup")
        assert (failed.returncode, failed.stdout.startswith("backup failed: ")) == (1, True)
        unknown = await run("jobs", "run", "disc")
        assert (unknown.returncode, "did you mean disk?" in unknown.stderr) == (3, True)
        named = ["jobs", "--data-dir", str(bridge.data_dir), "run", "disk"]
        assert await asyncio.to_thread(run_command, named) == 0
    stopped = await run("jobs", "run", "disk")
    assert (stopped.returncode, "start it with `kekbridge serve`" in stopped.stderr) == (2, True)
