"""Job runner: failing, hanging and missed jobs are recorded and published, and affect no other job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from kekbridge.errors import StoreUnavailable
from kekbridge.ops.scheduler import Job, JobRunner
from kekbridge.store import job_runs, journal
from kekbridge.store.database import Database
from kekbridge.store.job_runs import JobRun
from tests.fresh_database import open_database
from tests.waiting import until


class Work:
    """A job that counts its runs, and raises or hangs if set to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.runs = 0
        self.error = error
        self.hangs = False

    async def __call__(self) -> None:
        self.runs += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = open_database(tmp_path / "data")
    yield opened
    await opened.close()


@pytest.fixture
async def runner(database: Database) -> AsyncIterator[JobRunner]:
    made = JobRunner(database)
    yield made
    made.stop()


def runs(database: Database) -> dict[str, JobRun]:
    with database.snapshot() as connection:
        return {run.name: run for run in job_runs.list_runs(connection)}


def kinds(database: Database) -> list[str]:
    with database.snapshot() as connection:
        return [event.kind for event in journal.list_events(connection)]


async def test_a_failing_job_is_recorded_and_stops_no_other(database: Database, runner: JobRunner) -> None:
    """A bug, an expected error and a sound job: all keep running, each failing one is published once."""
    bug, expected, sound = Work(ValueError("bug")), Work(StoreUnavailable("store_unavailable", "locked")), Work()
    for name, work in (("bug", bug), ("expected", expected), ("sound", sound)):
        runner.add(Job(name=name, run=work, every_s=0.05, at_once=True))
    runner.start()
    await until(lambda: min(run.runs for run in runs(database).values()) >= 5 if runs(database) else False)
    found = runs(database)
    assert found["bug"].error == "ValueError: bug"
    assert found["expected"].error == "locked"
    assert found["bug"].failures == found["bug"].failed >= 5
    assert (found["sound"].failures, found["sound"].error) == (0, None)
    assert kinds(database) == ["job_failed", "job_failed"]
    bug.error = expected.error = None
    await until(lambda: kinds(database).count("job_recovered") == 2)


async def test_a_hanging_job_is_cancelled(database: Database, runner: JobRunner) -> None:
    """It is cancelled at its timeout, counts as failed, and runs again."""
    work = Work()
    work.hangs = True
    runner.add(Job(name="stuck", run=work, every_s=0.1, timeout_s=0.05, at_once=True))
    runner.start()
    await until(lambda: work.runs >= 2)
    await until(lambda: (runs(database)["stuck"].error or "").startswith("not finished after"))


async def test_a_missed_daily_job_runs_at_the_start(database: Database) -> None:
    """A job due while no daemon ran runs once, at once; a new one waits for its time; a failed one is retried."""
    now = datetime.now(UTC)
    a_day_ago, an_hour_ago = now - timedelta(days=1, hours=1), now - timedelta(minutes=1)
    far = f"{now + timedelta(hours=12):%H:%M}"
    with database.transaction() as connection:
        for name, error, at in (("missed", None, a_day_ago), ("done", None, an_hour_ago), ("failed", "x", an_hour_ago)):
            job_runs.save_schedule(connection, {"missed": None, "done": None, "failed": None}, now=a_day_ago)
            job_runs.record_run(connection, name, error=error, took_ms=1, next_at=None, now=at)
    work = {name: Work() for name in ("missed", "done", "failed", "new")}
    runner = JobRunner(database)
    for name, one in work.items():
        runner.add(Job(name=name, run=one, daily_at=far))
    runner.start()
    try:
        await until(lambda: work["missed"].runs == work["failed"].runs == 1)
        runner.plan()  # as after adding jobs: nothing runs twice
        await until(lambda: runs(database)["missed"].runs == 2)
        assert work["missed"].runs == 1
        assert work["done"].runs == work["new"].runs == 0
        planned = [run.next_at for run in runs(database).values()]
        assert all(moment is not None and moment > now + timedelta(hours=11) for moment in planned)
    finally:
        runner.stop()


async def test_a_failed_daily_job_is_retried_within_the_hour(database: Database, runner: JobRunner) -> None:
    """It does not wait for the next day."""
    runner.add(
        Job(
            name="backup", run=Work(ValueError("disk full")), daily_at=f"{datetime.now(UTC) - timedelta(hours=2):%H:%M}"
        )
    )
    runner.start()
    await runner.run_now("backup")
    next_at = runs(database)["backup"].next_at
    assert next_at is not None
    assert next_at <= datetime.now(UTC) + timedelta(hours=1)
    assert kinds(database) == ["job_failed"]


async def test_jobs_added_during_the_first_planning_are_planned_too(database: Database, runner: JobRunner) -> None:
    """Trading jobs are added right after the others: the second planning is not skipped while the first runs."""
    runner.add(Job(name="early", run=Work(), every_s=3600))
    runner.start()
    await asyncio.sleep(0.001)  # the first planning has begun and reads the store
    runner.add(Job(name="late", run=Work(), every_s=3600))
    runner.plan()
    await until(lambda: set(runs(database)) == {"early", "late"})


class Wall:
    """The machine's clock, for the runner and for APScheduler, as a test sets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = timedelta(0)
        wall = self

        class Datetime(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime.now(tz) + wall.ahead

        monkeypatch.setattr("apscheduler.schedulers.base.datetime", Datetime)
        monkeypatch.setattr("kekbridge.ops.scheduler._wall_time", lambda: datetime.now(UTC) + wall.ahead)
        monkeypatch.setattr("kekbridge.ops.scheduler._FOLLOW_EVERY_S", 0.02)


async def test_a_clock_that_is_set_delays_no_job(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set back by an hour, no job ran for 55 minutes; set forward by a year, every missed run was listed."""
    wall, runner, work = Wall(monkeypatch), JobRunner(database), Work()
    runner.add(Job(name="steady", run=work, every_s=0.05))
    runner.start()
    try:
        for moved in (timedelta(hours=-1), timedelta(days=365), timedelta(days=-1)):
            await until(lambda: work.runs >= 1)
            wall.ahead += moved
            work.runs = 0
            await until(lambda: work.runs >= 3)
    finally:
        runner.stop()


async def test_a_daily_job_follows_a_clock_that_is_set_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that was days ahead at the start does not put the job off by days, and a run that is due comes at its time of day."""
    wall, runner, work = Wall(monkeypatch), JobRunner(database), Work()
    wall.ahead = timedelta(days=10)
    soon = datetime.now(UTC) + timedelta(hours=2)
    runner.add(Job(name="daily", run=work, daily_at=f"{soon:%H:%M}"))
    runner.start()
    try:
        await until(lambda: set(runs(database)) == {"daily"})
        wall.ahead = timedelta(0)
        await asyncio.sleep(0.1)
        assert work.runs == 0
        wall.ahead = timedelta(hours=2)
        await until(lambda: work.runs == 1)
    finally:
        runner.stop()


async def test_records_have_the_time_of_the_clock_that_was_given(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine's clock is an hour off, which the exchange has proven: `kekbridge jobs` shows true times."""
    wall = Wall(monkeypatch)
    wall.ahead = timedelta(hours=-1)
    runner = JobRunner(database, lambda: datetime.now(UTC))
    runner.add(Job(name="hourly", run=Work(), every_s=3600))
    runner.start()
    try:
        await until(lambda: set(runs(database)) == {"hourly"})
        next_at = runs(database)["hourly"].next_at
        assert next_at is not None
        assert abs(next_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=5)
    finally:
        runner.stop()
