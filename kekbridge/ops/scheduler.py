"""Runs jobs by the clock, one run of each at a time: a failing or hanging one is counted, noted and told, and stops no other.

APScheduler keeps the time; what a stopped daemon missed of the daily jobs is caught up at the start. Knows no job by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MISSED, JobExecutionEvent
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from kekbridge.errors import KekbridgeError, StoreUnavailable
from kekbridge.log import get_logger
from kekbridge.store import job_runs
from kekbridge.store.database import Database
from kekbridge.store.job_runs import JobRun

log = get_logger("kekbridge.ops.jobs")

_DAY: Final = timedelta(days=1)
_RETRY_DAILY: Final = timedelta(hours=1)
_RARE_S: Final = 3600.0
_CATCH_UP: Final = "catch up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Something to do every `every_s` seconds, or once a day at `daily_at` (`HH:MM`, UTC). Each run may take `longest_s`.

    `at_once`: the first run is now, not one interval away.
    """

    name: str
    run: Callable[[], Awaitable[None]]
    every_s: float = 0.0
    daily_at: str = ""
    at_once: bool = False
    longest_s: float = 300.0

    def last_due(self, now: datetime) -> datetime:
        """When a daily job should last have run, as of now."""
        hour, minute = self.daily_at.split(":")
        today = now.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
        return today if today <= now else today - _DAY


class JobRunner:
    """The clockwork. Jobs may be added before and after `start`, which needs a running loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._jobs: dict[str, Job] = {}
        self._caught_up: set[str] = set()
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            # The default grace of one second silently drops the ticks of a busy loop (APScheduler 3.11).
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._scheduler.add_listener(_on_trouble, EVENT_JOB_ERROR | EVENT_JOB_MISSED)

    def add(self, job: Job) -> None:
        """Put a job on the timetable."""

        async def run() -> None:
            await self._run(job)

        first = {"next_run_time": datetime.now(UTC)} if job.at_once else {}  # else the first run is one interval away
        if job.daily_at:
            hour, minute = job.daily_at.split(":")
            self._scheduler.add_job(
                run, "cron", hour=int(hour), minute=int(minute), id=job.name, name=job.name, **first
            )
        else:
            self._scheduler.add_job(run, "interval", seconds=job.every_s, id=job.name, name=job.name, **first)
        self._jobs[job.name] = job

    def start(self) -> None:
        self._scheduler.start()
        self.plan()

    def plan(self) -> None:
        """Note the timetable and run what was missed; call it once more when jobs were added after the start."""
        # Another job once there are more: APScheduler skips one that is still running, and they would not be in the timetable.
        name = f"{_CATCH_UP} {len(self._jobs)} jobs"
        self._scheduler.add_job(
            self._catch_up, "date", run_date=datetime.now(UTC), id=name, name=name, replace_existing=True
        )

    async def run_now(self, name: str) -> None:
        """Run a job outside its time and return when it is done; counted like every other run. Raises KeyError."""
        await self._run(self._jobs[name])

    def stop(self) -> None:
        """Cut whatever runs: every job is safe to cut anywhere."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    async def _run(self, job: Job) -> None:
        """One run and its record. This is the job runner's edge: nothing that a job raises goes further."""
        began = asyncio.get_running_loop().time()
        error: str | None = None
        try:
            async with asyncio.timeout(job.longest_s):
                await job.run()
        except KekbridgeError as trouble:
            error = trouble.message
            log.warning("job_postponed", job=job.name, code=trouble.code, error=error)
        except TimeoutError:
            error = f"not finished after {job.longest_s:g} s"
            log.error("job_cut", job=job.name, error=error)
        except Exception as trouble:
            error = f"{type(trouble).__name__}: {trouble}"
            log.exception("job_failed", job=job.name)
        await self._note(job, error, round((asyncio.get_running_loop().time() - began) * 1000))

    async def _note(self, job: Job, error: str | None, took_ms: int) -> None:
        now = datetime.now(UTC)
        if error is not None and job.daily_at:
            self._advance(job, now + _RETRY_DAILY)
        is_rare = bool(job.daily_at) or job.every_s >= _RARE_S
        try:
            await self._database.write(
                job_runs.record_run,
                job.name,
                error=error,
                took_ms=took_ms,
                next_at=self._next_at(job.name),
                now=now,
                report_after=1 if is_rare else 3,
            )
        except StoreUnavailable as trouble:
            log.warning("job_run_not_noted", job=job.name, error=trouble.message)

    async def _catch_up(self) -> None:
        """Daily jobs that were due while no daemon ran, or that failed last time, run now; then the timetable is noted."""
        now = datetime.now(UTC)
        try:
            known = {run.name: run for run in await self._database.read(job_runs.list_runs)}
            for name in self._jobs.keys() - self._caught_up:  # one that is being caught up is not late once more
                self._caught_up.add(name)
                if self._jobs[name].daily_at and _is_overdue(self._jobs[name], known.get(name), now):
                    self._advance(self._jobs[name], now)
            await self._database.write(
                job_runs.save_schedule, {name: self._next_at(name) for name in self._jobs}, now=now
            )
        except StoreUnavailable as trouble:
            log.warning("timetable_not_noted", error=trouble.message)

    def _advance(self, job: Job, moment: datetime) -> None:
        """Let a job run at `moment` if it would run later only."""
        due = self._next_at(job.name)
        if due is not None and due > moment:
            self._scheduler.modify_job(job.name, next_run_time=moment)

    def _next_at(self, name: str) -> datetime | None:
        job: Any = self._scheduler.get_job(name)
        found = getattr(job, "next_run_time", None)
        return found if isinstance(found, datetime) else None


def _is_overdue(job: Job, known: JobRun | None, now: datetime) -> bool:
    """A job that was never known is new, not late."""
    if known is None:
        return False
    return known.failures > 0 or job.last_due(now) > max(known.last_at or known.since, known.since)


def _on_trouble(event: JobExecutionEvent) -> None:
    """What APScheduler itself could not run."""
    trouble: Any = getattr(event, "exception", None)
    log.error("job_not_run", job=event.job_id, error=str(trouble) if trouble else "missed")
