"""Collect what unauthenticated senders and webhook keys do, and write it a moment later as counts, never one row per request.

A flood must cost the store nothing that grows with it; a trader must still see in `kekbridge logs` why an alert was refused.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import ClassVar, Final

from kekbridge.errors import StoreUnavailable
from kekbridge.ingress.listener import ListenerRejection
from kekbridge.ingress.lockout import LockedOut
from kekbridge.log import get_logger
from kekbridge.store import journal, rejected_requests, webhooks
from kekbridge.store.database import Database

log = get_logger("kekbridge.ingress.audit")

LOCKOUT_EVENT: Final = "authentication_attack"

_COLLECT_S: Final = 0.5
_PAUSE_S: Final = 5.0  # a flood must cost the disk little
_COLLECT_KEY_USAGE_S: Final = 3.0
_LOCKOUT_PAUSE_S: Final = 300.0
_MOST_KINDS: Final = 1000  # pairs of address and code kept between two writes; those beyond are only logged


class BufferedLog(ABC):
    """Collects records in memory and writes them together; what cannot be written is kept for the next flush."""

    #: Name of the log event for a flush that failed.
    failure_event: ClassVar[str]

    def __init__(self, database: Database, *, collect_s: float, pause_s: float = 0.0) -> None:
        """`run` writes `collect_s` seconds after the first record, and then writes nothing for `pause_s` seconds."""
        self._database = database
        self._collect_s = collect_s
        self._pause_s = pause_s
        self._has_records = asyncio.Event()
        self._flushing = asyncio.Lock()  # the last flush, at shutdown, must not write again what is being written

    async def run(self) -> None:
        """Until cancelled: write what was collected."""
        while True:
            await self._has_records.wait()
            await asyncio.sleep(self._collect_s)
            await self.flush()
            await asyncio.sleep(self._pause_s)

    async def flush(self) -> None:
        """Write what was collected; kept for the next time if the store is not available."""
        async with self._flushing:
            self._has_records.clear()
            try:
                await self._write()
            except StoreUnavailable as error:
                log.warning(self.failure_event, error=error.message)

    @abstractmethod
    async def _write(self) -> None:
        """Write the records, if there are any, and forget those that were written. Raises StoreUnavailable."""


class RejectedRequestLog(BufferedLog):
    """Counts refused requests by sender's address and code in the rejected_requests table."""

    failure_event = "refusals_not_stored"

    def __init__(self, database: Database) -> None:
        super().__init__(database, collect_s=_COLLECT_S, pause_s=_PAUSE_S)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._last: dict[tuple[str, str], tuple[datetime, str]] = {}

    def record(self, rejection: ListenerRejection) -> None:
        """Called by the listener once per refused request, which it has logged already."""
        key = (rejection.remote, rejection.code)
        if key in self._counts or len(self._counts) < _MOST_KINDS:
            self._counts[key] += 1
            self._last[key] = (rejection.received_at, rejection.reason)
            self._has_records.set()

    async def _write(self) -> None:
        counts = [
            rejected_requests.RejectionCount(
                remote=remote, code=code, error=reason, count=self._counts[remote, code], last_at=last_at
            )
            for (remote, code), (last_at, reason) in self._last.items()
        ]
        if not counts:
            return
        await self._database.write(rejected_requests.record_all, counts)
        for written in counts:
            key = (written.remote, written.code)
            self._counts[key] -= written.count
            if self._counts[key] <= 0:
                del self._counts[key], self._last[key]


class LockoutLog(BufferedLog):
    """Writes lockouts to the history: one event per burst, with the number of addresses and failures in it."""

    failure_event = "attack_not_recorded"

    def __init__(self, database: Database, *, clock: Callable[[], datetime], pause_s: float = _LOCKOUT_PAUSE_S) -> None:
        """The next event comes at least `pause_s` seconds after the last one and covers everything in between."""
        super().__init__(database, collect_s=_COLLECT_S, pause_s=pause_s)
        self._clock = clock
        self._first: LockedOut | None = None
        self._addresses = 0
        self._failures = 0

    def record(self, locked: LockedOut) -> None:
        """Called by the lockout once per address that it locks out."""
        self._first = self._first or locked
        self._addresses += 1
        self._failures += locked.count
        self._has_records.set()

    async def _write(self) -> None:
        if self._first is None:
            return
        first, addresses, failures = self._first, self._addresses, self._failures
        self._first, self._addresses, self._failures = None, 0, 0
        data = {"address": first.address, "count": failures, "addresses": addresses, "until": first.until}
        try:
            await self._database.write(journal.append, LOCKOUT_EVENT, now=self._clock(), data=data)
        except StoreUnavailable:
            self._first, self._addresses = first, self._addresses + addresses
            self._failures += failures
            self._has_records.set()
            raise


class KeyUsageLog(BufferedLog):
    """Keeps the `last_used_at` of webhook keys."""

    failure_event = "key_use_not_stored"

    def __init__(self, database: Database, *, collect_s: float = _COLLECT_KEY_USAGE_S) -> None:
        super().__init__(database, collect_s=collect_s)
        self._used: dict[str, datetime] = {}  # by key id

    def record(self, key_id: str, at: datetime) -> None:
        """Called once per authenticated request; costs one dictionary entry per key."""
        self._used[key_id] = at
        self._has_records.set()

    async def _write(self) -> None:
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._database.write(webhooks.touch_keys, used)
        except StoreUnavailable:
            self._used = used | self._used
            raise
