"""Daily jobs: a summary of the previous day, and removal of old message texts."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Final, Protocol

from kekbridge.log import get_logger
from kekbridge.store.alerts import remove_payloads
from kekbridge.store.database import Database

log = get_logger("kekbridge.ops.retention")

# Pause between two batches, so that the writer thread is free for alerts.
_PAUSE_S: Final = 0.05


class _SummaryWriter(Protocol):
    def __call__(self, connection: sqlite3.Connection, day: date, /, *, now: datetime) -> bool: ...


class DailySummary:
    """Job, once a day: store the previous UTC day's summary as a history event, which the notifier sends like any other."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    async def run(self) -> None:
        """Raises StoreUnavailable."""
        write_summary = await asyncio.to_thread(_load)
        now = self._clock()
        await self._database.write(write_summary, now.date() - timedelta(days=1), now=now)


def _load() -> _SummaryWriter:
    # Imported late: it is needed once a day.
    from kekbridge.store import statistics

    return statistics.record_daily_summary


class PayloadRetention:
    """Job, once a day: remove message texts older than `keep_days`; 0 keeps everything."""

    def __init__(self, database: Database, clock: Callable[[], datetime], *, keep_days: int) -> None:
        self._database = database
        self._clock = clock
        self._keep_days = keep_days

    async def run(self) -> None:
        """Raises StoreUnavailable; batches removed before stay removed."""
        if not self._keep_days:
            return
        now, total = self._clock(), 0
        before = now - timedelta(days=self._keep_days)
        while removed := await self._database.write(remove_payloads, before=before, now=now):
            total += removed
            await asyncio.sleep(_PAUSE_S)
        log.info("payloads_removed", alerts=total, older_than_days=self._keep_days)
