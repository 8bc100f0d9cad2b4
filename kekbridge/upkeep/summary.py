"""Sums up the day before, once each day; the message is told by the notifier like every other event."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from kekbridge.store import daily
from kekbridge.store.database import Database


class DailySummary:
    """`run` once a day."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    async def run(self) -> None:
        """Raises StoreUnavailable."""
        now = self._clock()
        await self._database.write(daily.tell, now.date() - timedelta(days=1), now=now)
