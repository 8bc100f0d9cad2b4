"""Sums up the day before, once each day; the message is told by the notifier like every other event."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Protocol

from kekbridge.store.database import Database


class _Tell(Protocol):
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


def _load() -> _Tell:
    # Late: what is needed once a day need not be kept in memory until then.
    from kekbridge.store import daily

    return daily.tell
