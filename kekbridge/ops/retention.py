"""Lets go of the text of old messages, once a day, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from kekbridge.log import get_logger
from kekbridge.store.database import Database
from kekbridge.store.retention import remove_payloads

log = get_logger("kekbridge.ops.retention")

# Between two steps the writer is free for alerts.
_PAUSE_S: Final = 0.05


class Retention:
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
