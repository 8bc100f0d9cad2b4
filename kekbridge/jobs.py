"""What happens by the clock: keep the account fresh, compare with the exchange, keep the positions table true.

APScheduler runs these; a failing job is counted and logged and never stops the others. No order is sent from here: a job may be
cut anywhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import structlog
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MISSED, JobExecutionEvent
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from kekbridge.config import Settings
from kekbridge.equity import MARK_EVERY_S, EquityWatch
from kekbridge.errors import ExchangeUnavailable, StoreUnavailable
from kekbridge.exchange.protocol import Exchange
from kekbridge.following import Follower
from kekbridge.protect import Guard
from kekbridge.recovery import Recovery
from kekbridge.store import jobruns
from kekbridge.store.database import Database

log = structlog.get_logger("kekbridge.jobs")


class Jobs:
    """The daemon's timetable."""

    def __init__(
        self,
        *,
        settings: Settings,
        exchange: Exchange,
        follower: Follower,
        recovery: Recovery,
        guard: Guard,
        equity: EquityWatch,
        database: Database | None = None,
    ) -> None:
        """`database`: where the runs are noted, for `kekbridge jobs`; None: nowhere."""
        self._database = database
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            # The default grace of one second silently drops the ticks of a busy loop (APScheduler 3.11).
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._scheduler.add_listener(self._on_trouble, EVENT_JOB_ERROR | EVENT_JOB_MISSED)
        self._exchange = exchange
        self._follower = follower
        self._recovery = recovery
        self._guard = guard
        self._add("reconcile", self._reconcile, settings.queue.reconcile_every_s)
        self._add("equity", equity.look, MARK_EVERY_S, at_once=True)
        self._add("positions", self._save_positions, settings.exchange.refresh_s)

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        """Cut whatever runs: every job is safe to cut anywhere."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    async def _reconcile(self) -> None:
        await self._recovery.reconcile()
        self._guard.wake()

    async def _save_positions(self) -> None:
        snapshot = self._exchange.snapshot
        if snapshot is not None:
            await self._follower.save_positions(snapshot)

    def _add(self, name: str, job: Callable[[], Awaitable[None]], every_s: float, *, at_once: bool = False) -> None:
        async def run() -> None:
            error: str | None = None
            try:
                await job()
            except (ExchangeUnavailable, StoreUnavailable) as trouble:
                error = trouble.message
                log.warning("job_postponed", job=name, code=trouble.code, error=error)
            except Exception as trouble:
                error = f"{type(trouble).__name__}: {trouble}"
                await self._note(name, every_s, error)
                raise
            await self._note(name, every_s, error)

        first = {"next_run_time": datetime.now(UTC)} if at_once else {}  # else the first run is one interval away
        self._scheduler.add_job(run, "interval", seconds=every_s, id=name, name=name, **first)

    async def _note(self, name: str, every_s: float, error: str | None) -> None:
        if self._database is None:
            return
        try:
            await self._database.write(jobruns.record, name, every_s=every_s, error=error, now=datetime.now(UTC))
        except StoreUnavailable as trouble:
            log.warning("job_run_not_noted", job=name, error=trouble.message)

    @staticmethod
    def _on_trouble(event: JobExecutionEvent) -> None:
        trouble: Any = getattr(event, "exception", None)
        log.error(
            "job_failed",
            job=event.job_id,
            error=str(trouble) if trouble else "missed",
            at=datetime.now(UTC).isoformat(),
        )
