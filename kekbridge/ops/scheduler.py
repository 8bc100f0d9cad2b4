"""Job runner: run each job on schedule, one run at a time, and record every run. A failing or hanging job stops no other.

APScheduler keeps the time; daily jobs missed while no daemon ran are run at the next start. Knows no job by name.

APScheduler compares wall-clock times, so a clock that is set back by an hour would stop every job for an hour: `_follow_clock` compares
the wall clock with the loop's monotonic one and moves the next runs along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MISSED, JobExecutionEvent
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from kekbridge.errors import KekbridgeError, NotFound, StoreUnavailable
from kekbridge.formatting import did_you_mean
from kekbridge.log import get_logger
from kekbridge.store import job_runs
from kekbridge.store.database import Database
from kekbridge.store.job_runs import JobRun

log = get_logger("kekbridge.ops.jobs")

_DAY: Final = timedelta(days=1)
_RETRY_DAILY: Final = timedelta(hours=1)
_RARE_S: Final = 3600.0
_CATCH_UP: Final = "catch up"
# How often the wall clock is compared with the loop's, and from which difference on it was set (less is slewing).
_FOLLOW_EVERY_S: Final = 5.0
_CLOCK_SET_S: Final = 1.0


def _wall_time() -> datetime:
    """The machine's time, by which APScheduler runs."""
    return datetime.now(UTC)


class _Every(BaseTrigger):  # type: ignore[misc]  # APScheduler has no type hints
    """An interval that leaves out runs that were missed: IntervalTrigger would list each, for seconds after a clock set by months."""

    def __init__(self, interval: timedelta) -> None:
        self._interval = interval

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """The first time after `now` that is whole intervals after the previous run."""
        if previous_fire_time is None:
            return now + self._interval
        return previous_fire_time + (max((now - previous_fire_time) // self._interval, 0) + 1) * self._interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One scheduled job: periodic (`every_s`) or daily (`daily_at`)."""

    #: Name shown by `kekbridge jobs`.
    name: str
    #: One run.
    run: Callable[[], Awaitable[None]]
    #: Interval in seconds, if not daily.
    every_s: float = 0.0
    #: Time of day, `HH:MM` UTC, if daily.
    daily_at: str = ""
    #: Run at the start too, not only after the first interval.
    at_once: bool = False
    #: Timeout of one run in seconds.
    timeout_s: float = 300.0

    def last_due(self, now: datetime) -> datetime:
        """The latest scheduled time of a daily job up to now."""
        hour, minute = self.daily_at.split(":")
        today = now.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
        return today if today <= now else today - _DAY


class JobRunner:
    """Runs jobs on schedule. Jobs may be added before and after `start`, which needs a running loop."""

    def __init__(self, database: Database, clock: Callable[[], datetime] = _wall_time) -> None:
        """`clock`: the time that records get."""
        self._database = database
        self._clock = clock
        self._wall_ahead_s = 0.0  # of the loop's clock, when last compared
        self._following: asyncio.TimerHandle | None = None
        self._jobs: dict[str, Job] = {}
        self._running: dict[str, asyncio.Lock] = {}
        self._caught_up: set[str] = set()
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            # The default grace of one second silently drops the ticks of a busy loop (APScheduler 3.11).
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._scheduler.add_listener(_log_not_run, EVENT_JOB_ERROR | EVENT_JOB_MISSED)

    def add(self, job: Job) -> None:
        """Schedule a job."""

        async def run() -> None:
            await self._run(job)

        first = {"next_run_time": _wall_time()} if job.at_once else {}  # else the first run is one interval away
        if job.daily_at:
            hour, minute = job.daily_at.split(":")
            self._scheduler.add_job(
                run, "cron", hour=int(hour), minute=int(minute), id=job.name, name=job.name, **first
            )
        else:
            trigger = _Every(timedelta(seconds=job.every_s))
            self._scheduler.add_job(run, trigger, id=job.name, name=job.name, **first)
        self._jobs[job.name] = job

    def start(self) -> None:
        """Start the schedule and run missed daily jobs."""
        self._wall_ahead_s = _wall_time().timestamp() - asyncio.get_running_loop().time()
        self._follow_later()
        self._scheduler.start()
        self.plan()

    def plan(self) -> None:
        """Store the schedule and run missed daily jobs. Call again after adding jobs to a started runner."""
        # A new name when there are more jobs: APScheduler skips a job that is still running, and their schedule would not be stored.
        name = f"{_CATCH_UP} {len(self._jobs)} jobs"
        self._scheduler.add_job(
            self._catch_up, "date", run_date=_wall_time(), id=name, name=name, replace_existing=True
        )

    async def run_now(self, name: str) -> None:
        """Run a job now and wait for it; recorded like every other run. Raises NotFound for an unknown job."""
        job = self._jobs.get(name)
        if job is None:
            hint = did_you_mean(name, self._jobs, otherwise="`kekbridge jobs` lists them")
            raise NotFound("not_found", f"there is no job named {name[:40]}; {hint}")
        await self._run(job)

    def stop(self) -> None:
        """Cancel running jobs; each is safe to cancel anywhere."""
        if self._following is not None:
            self._following.cancel()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def _follow_later(self) -> None:
        self._following = asyncio.get_running_loop().call_later(_FOLLOW_EVERY_S, self._follow_clock)

    def _follow_clock(self) -> None:
        """Move the next runs along with a wall clock that was set back. One that was set forward only makes jobs due at once."""
        self._follow_later()
        ahead_s = _wall_time().timestamp() - asyncio.get_running_loop().time()
        set_by_s, self._wall_ahead_s = ahead_s - self._wall_ahead_s, ahead_s
        if set_by_s > _CLOCK_SET_S:
            self._scheduler.wakeup()
        if set_by_s > -_CLOCK_SET_S:
            return
        log.warning("clock_set_back", seconds=round(-set_by_s, 1))
        for scheduled in self._scheduler.get_jobs():
            due_at = scheduled.next_run_time
            if due_at is not None:
                scheduled.modify(next_run_time=self._moved(scheduled, due_at, timedelta(seconds=set_by_s)))

    def _moved(self, scheduled: Any, due_at: datetime, set_by: timedelta) -> datetime:
        """The next run after the clock was set: as far away as before, and for a daily job at its time of day if that comes first."""
        job = self._jobs.get(scheduled.id)
        if job is None or not job.daily_at:
            return due_at + set_by
        return min(due_at, job.last_due(_wall_time()) + _DAY)

    async def _run(self, job: Job) -> None:
        """Run a job once and record the run, after a run of it that is under way. No exception of a job goes beyond this."""
        async with self._running.setdefault(job.name, asyncio.Lock()):
            await self._run_alone(job)

    async def _run_alone(self, job: Job) -> None:
        began = asyncio.get_running_loop().time()
        error: str | None = None
        try:
            async with asyncio.timeout(job.timeout_s):
                await job.run()
        except KekbridgeError as exception:
            error = exception.message
            log.warning("job_postponed", job=job.name, code=exception.code, error=error)
        except TimeoutError:
            error = f"not finished after {job.timeout_s:g} s"
            log.error("job_cut", job=job.name, error=error)
        except Exception as exception:
            error = f"{type(exception).__name__}: {exception}"
            log.exception("job_failed", job=job.name)
        await self._record(job, error, round((asyncio.get_running_loop().time() - began) * 1000))

    async def _record(self, job: Job, error: str | None, took_ms: int) -> None:
        now = self._clock()
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
        except StoreUnavailable as exception:
            log.warning("job_run_not_noted", job=job.name, error=exception.message)

    async def _catch_up(self) -> None:
        """Run daily jobs that were due while no daemon ran or whose last run failed, then store the schedule."""
        now = self._clock()
        try:
            known = {run.name: run for run in await self._database.read(job_runs.list_runs)}
            for name in self._jobs.keys() - self._caught_up:  # each is caught up once
                self._caught_up.add(name)
                if self._jobs[name].daily_at and _is_overdue(self._jobs[name], known.get(name), now):
                    self._advance(self._jobs[name], now)
            await self._database.write(
                job_runs.save_schedule, {name: self._next_at(name) for name in self._jobs}, now=now
            )
        except StoreUnavailable as exception:
            log.warning("timetable_not_noted", error=exception.message)

    def _advance(self, job: Job, moment: datetime) -> None:
        """Move a job's next run forward to `moment` if it is later."""
        due = self._next_at(job.name)
        if due is not None and due > moment:
            self._scheduler.modify_job(job.name, next_run_time=moment - (self._clock() - _wall_time()))

    def _next_at(self, name: str) -> datetime | None:
        job: Any = self._scheduler.get_job(name)
        found = getattr(job, "next_run_time", None)
        return found + (self._clock() - _wall_time()) if isinstance(found, datetime) else None


def _is_overdue(job: Job, known: JobRun | None, now: datetime) -> bool:
    """True if a daily job missed a run. A job without a record is new, not overdue."""
    if known is None:
        return False
    return known.failures > 0 or job.last_due(now) > max(known.last_at or known.since, known.since)


def _log_not_run(event: JobExecutionEvent) -> None:
    """Log a run that APScheduler itself missed or failed to start."""
    exception: Any = getattr(event, "exception", None)
    log.error("job_not_run", job=event.job_id, error=str(exception) if exception else "missed")
