"""Sums up the day before, once each day; the message is told by the notifier like every other event."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Final, Protocol

from kekbridge.log import get_logger
from kekbridge.store.alerts import remove_payloads
from kekbridge.store.database import Database


class _DayReader(Protocol):
    def __call__(self, connection: sqlite3.Connection, day: date, /, *, now: datetime) -> bool: ...


class DailySummary:
    """`run` once a day."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    async def run(self) -> None:
        """Raises StoreUnavailable."""
        tell = await asyncio.to_thread(_load)
        now = self._clock()
        await self._database.write(tell, now.date() - timedelta(days=1), now=now)


def _load() -> _DayReader:
    # Late: what is needed once a day need not be kept in memory until then.
    from kekbridge.store import statistics

    return statistics.record_daily_summary


log = get_logger("kekbridge.ops.retention")

# Between two steps the writer is free for alerts.
_PAUSE_S: Final = 0.05


class PayloadRetention:
    """`run` once a day; `keep_days` 0 keeps everything."""

    def __init__(self, database: Database, clock: Callable[[], datetime], *, keep_days: int) -> None:
        self._database = database
        self._clock = clock
        self._keep_days = keep_days

    async def run(self) -> None:
        """Raises StoreUnavailable; what was done until then stays done."""
        if not self._keep_days:
            return
        now, total = self._clock(), 0
        before = now - timedelta(days=self._keep_days)
        while removed := await self._database.write(remove_payloads, before=before, now=now):
            total += removed
            await asyncio.sleep(_PAUSE_S)
        log.info("payloads_removed", alerts=total, older_than_days=self._keep_days)
