"""Schedule of the daemon's jobs: which run, and how often. Each job's work is in its own module.

A failing job stops no other (scheduler.py). Jobs send no orders, so that each can be cancelled anywhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from kekbridge.config import Settings
from kekbridge.exchange.base import AccountEvent, Exchange, RecordsChanged
from kekbridge.execution.book import Book
from kekbridge.execution.protection_controller import ProtectionController
from kekbridge.execution.reconciler import Reconciler
from kekbridge.execution.tracker import OrderTracker
from kekbridge.log import get_logger
from kekbridge.ops.backup import NightlyBackup, directory_of
from kekbridge.ops.conditions import Conditions
from kekbridge.ops.daily import DailySummary, PayloadRetention
from kekbridge.ops.discrepancies import Discrepancies
from kekbridge.ops.equity import MARK_EVERY_S, EquityWatch
from kekbridge.ops.expiry import ExpiryWatch
from kekbridge.ops.replication import Replication, ReplicaWatch
from kekbridge.ops.scheduler import Job, JobRunner
from kekbridge.ops.watches import (
    AdminPages,
    ConnectionWatch,
    DatabaseWatch,
    DiskWatch,
    ExpectedAlerts,
    NotifyNow,
    RecordsWatch,
    UnprotectedPositions,
)
from kekbridge.store.database import Database
from kekbridge.vault import BackupKey

log = get_logger("kekbridge.ops.jobs")

_CONNECTION_EVERY_S: Final = 10.0
_DATABASE_EVERY_S: Final = 5.0
_CHECK_EVERY_S: Final = 30.0
_DISK_EVERY_S: Final = 60.0
_EXPIRY_EVERY_S: Final = 3600.0
_RETENTION_AT: Final = "02:30"
_DAILY_TIMEOUT_S: Final = 3600.0
# After a hint of the stream the exchange's lists are read soon, and once more when they must show it.
_AFTER_HINT_S: Final = (0.3, 5.0)


class Jobs:
    """All jobs of one daemon. Call `start` with the listener, `start_trading` after the first reconciliation."""

    def __init__(
        self,
        *,
        settings: Settings,
        data_dir: Path,
        certificate_file: str,
        exchange: Exchange,
        tracker: OrderTracker,
        reconciler: Reconciler,
        protection: ProtectionController,
        equity: EquityWatch,
        book: Book,
        database: Database,
        clock: Callable[[], datetime],
        backup_key: BackupKey,
        conditions: Conditions,
        admin_pages: AdminPages | None,
        replication: Replication | None,
        notify_now: NotifyNow,
    ) -> None:
        """`admin_pages`: None if there are no web pages. `certificate_file`: the certificate the listener serves; empty for plain HTTP.

        `notify_now` sends past the journal.
        """
        self._notify_now = notify_now
        self._backup_key = backup_key
        self._settings = settings
        self._exchange = exchange
        self._tracker = tracker
        self._reconciler = reconciler
        self._protection = protection
        self._equity = equity
        self._book = book
        self._database = database
        self._clock = clock
        self._discrepancies = Discrepancies(database, exchange, clock, lambda: tracker.fills_are_known)
        self._is_trading = False
        self._is_hinted = False
        self._reading: asyncio.Task[None] | None = None
        exchange.listen_events(self._on_event)
        self._runner = JobRunner(database, clock)
        self._conditions = conditions
        self._add_watches(data_dir, certificate_file)
        self._add_daily(data_dir)
        if replication is not None:
            watch = ReplicaWatch(conditions, replication.status, warn_after_s=settings.replica.warn_after_s)
            self._runner.add(Job(name="replica", run=watch.run, every_s=_CONNECTION_EVERY_S))
        if admin_pages is not None:
            self._runner.add(Job(name="pages", run=admin_pages.run, every_s=_CHECK_EVERY_S))

    def _add_watches(self, data_dir: Path, certificate_file: str) -> None:
        settings, conditions = self._settings, self._conditions
        connection = ConnectionWatch(
            conditions,
            lambda: self._exchange.health,
            after_s=settings.notify.down_after_s,
            clock_tolerance_s=settings.queue.clock_tolerance_s,
            seconds=time.monotonic,
        )
        database = DatabaseWatch(self._database.file_problem, self._notify_now)
        expected = ExpectedAlerts(self._database, conditions, self._clock)
        places = (data_dir, directory_of(settings.backup, data_dir))
        disk = DiskWatch(conditions, places, least_mb=settings.store.warn_free_mb)
        expiry = ExpiryWatch(
            conditions,
            self._exchange.own_key,
            certificate_file=certificate_file,
            public_url=settings.server.public_url,
            soon=timedelta(days=settings.notify.expiry_days),
            clock=self._clock,
        )
        watch_s = min(_CONNECTION_EVERY_S, settings.notify.down_after_s / 2)
        for job in (
            Job(name="connection", run=connection.run, every_s=watch_s),
            Job(name="heartbeat", run=expected.run, every_s=_CHECK_EVERY_S),
            Job(name="database", run=database.run, every_s=_DATABASE_EVERY_S),
            Job(name="disk", run=disk.run, every_s=_DISK_EVERY_S, at_once=True),
            Job(name="expiry", run=expiry.run, every_s=_EXPIRY_EVERY_S, at_once=True),
            Job(name="limits", run=self._end_expired_limits, every_s=_CHECK_EVERY_S, at_once=True),
        ):
            self._runner.add(job)

    def _add_daily(self, data_dir: Path) -> None:
        settings = self._settings
        summary = DailySummary(self._database, self._clock)
        retention = PayloadRetention(self._database, self._clock, keep_days=settings.store.keep_payloads_days)
        self._runner.add(Job(name="summary", run=summary.run, daily_at=settings.notify.summary_at))
        self._runner.add(Job(name="retention", run=retention.run, daily_at=_RETENTION_AT, timeout_s=_DAILY_TIMEOUT_S))
        if settings.backup.nightly:
            nightly = NightlyBackup(self._database, settings.backup, data_dir, self._clock, self._backup_key)
            self._runner.add(
                Job(name="backup", run=nightly.run, daily_at=settings.backup.at, timeout_s=_DAILY_TIMEOUT_S)
            )

    def start(self) -> None:
        """Start the checks and daily jobs, which also run while the exchange cannot be reached."""
        self._runner.start()

    def start_trading(self) -> None:
        """Add the jobs that keep the account state current."""
        settings = self._settings
        unprotected = UnprotectedPositions(
            self._database,
            self._conditions,
            lambda: self._exchange.snapshot,
            self._exchange.live_stops,
            always=settings.risk.require_stop_loss,
        )
        records = RecordsWatch(
            self._database,
            self._conditions,
            self._exchange.now,
            reconcile_every_s=settings.queue.reconcile_every_s,
            seconds=time.monotonic,
        )
        for job in (
            Job(name="reconcile", run=self._reconcile, every_s=settings.queue.reconcile_every_s),
            Job(name="equity", run=self._equity.run, every_s=MARK_EVERY_S, at_once=True),
            Job(name="positions", run=self._save_positions, every_s=settings.exchange.refresh_s),
            Job(name="protection", run=unprotected.run, every_s=_CHECK_EVERY_S),
            Job(name="records", run=records.run, every_s=_CHECK_EVERY_S),
        ):
            self._runner.add(job)
        self._runner.plan()
        self._is_trading = True

    async def run_now(self, name: str) -> None:
        """Run a job now; its own errors are recorded, not raised. Raises NotFound for an unknown job."""
        await self._runner.run_now(name)

    def stop(self) -> None:
        """Cancel running jobs; each is safe to cancel anywhere."""
        self._is_trading = False
        self._runner.stop()
        if self._reading is not None:
            self._reading.cancel()

    def _on_event(self, event: AccountEvent) -> None:
        """A transfer or a liquidation: the equity job records it now, while the account value around it is known."""
        if isinstance(event, RecordsChanged) and self._is_trading:
            self._is_hinted = True
            if self._reading is None or self._reading.done():
                self._reading = asyncio.get_running_loop().create_task(self._read_records())

    async def _read_records(self) -> None:
        while self._is_hinted:
            self._is_hinted = False
            for pause in _AFTER_HINT_S:
                await asyncio.sleep(pause)
                await self._runner.run_now("equity")

    async def _reconcile(self) -> None:
        await self._discrepancies.around(self._reconciler.reconcile)
        self._protection.wake()

    async def _save_positions(self) -> None:
        snapshot = self._exchange.snapshot
        if snapshot is not None:
            await self._tracker.save_positions(snapshot)

    async def _end_expired_limits(self) -> None:
        """Daily limits reset at midnight by themselves; publish that the entries they had stopped are allowed again."""
        now = self._clock()
        for scope in self._book.resume_elapsed(now=now):
            log.info("limit_over", scope=scope)
