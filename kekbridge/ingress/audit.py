"""Keeps account of requests nobody vouched for: collected for a moment, then written as counts, never one row each.

A flood must cost the store nothing that grows with it; a trader must still see in `kekbridge logs` why an alert was turned away.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime

from kekbridge.errors import StoreUnavailable
from kekbridge.ingress.listener import Refusal
from kekbridge.log import get_logger
from kekbridge.store import rejected_requests as rows
from kekbridge.store.database import Database

log = get_logger("kekbridge.ingress.audit")

_COLLECT_S = 0.5
_MOST_KINDS = 1000  # (address, code) kept between two writes; what is over is only logged


class RefusalLog:
    """Between the listener and the refusals table."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._counts: Counter[tuple[str, str]] = Counter()
        self._last: dict[tuple[str, str], tuple[datetime, str]] = {}
        self._waiting = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()  # the last flush, at the stop, must not count what is being written twice

    def note(self, refusal: Refusal) -> None:
        """From the listener, once per refused request; it has logged it already."""
        key = (refusal.remote, refusal.code)
        if key in self._counts or len(self._counts) < _MOST_KINDS:
            self._counts[key] += 1
            self._last[key] = (refusal.received_at, refusal.reason)
            self._waiting.set()

    async def run(self) -> None:
        """Write what was collected, for ever."""
        while True:
            await self._waiting.wait()
            await asyncio.sleep(_COLLECT_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what was collected; kept for the next time when the store is not available."""
        async with self._one_at_a_time:
            await self._write_all()

    async def _write_all(self) -> None:
        self._waiting.clear()
        found = [
            rows.Counted(remote=remote, code=code, error=reason, count=self._counts[remote, code], last_at=last_at)
            for (remote, code), (last_at, reason) in self._last.items()
        ]
        if not found:
            return
        try:
            await self._database.write(rows.record_refusals, found)
        except StoreUnavailable as error:
            log.warning("refusals_not_stored", error=error.message)
            return
        for one in found:
            self._counts[one.remote, one.code] -= one.count
            if self._counts[one.remote, one.code] <= 0:
                del self._counts[one.remote, one.code], self._last[one.remote, one.code]
