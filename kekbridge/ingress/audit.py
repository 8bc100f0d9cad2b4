"""Keeps account of requests nobody vouched for: collected for a moment, then written as counts, never one row each.

A flood must cost the store nothing that grows with it; a trader must still see in `kekbridge logs` why an alert was turned away.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import datetime

from kekbridge.errors import StoreUnavailable
from kekbridge.ingress.listener import ListenerRejection
from kekbridge.ingress.lockout import LockedOut
from kekbridge.log import get_logger
from kekbridge.store import events, rejected_requests, webhooks
from kekbridge.store.database import Database

log = get_logger("kekbridge.ingress.audit")

_COLLECT_S = 0.5
_MOST_KINDS = 1000  # (address, code) kept between two writes; what is over is only logged


class RejectedRequestLog:
    """Between the listener and the refusals table."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._counts: Counter[tuple[str, str]] = Counter()
        self._last: dict[tuple[str, str], tuple[datetime, str]] = {}
        self._waiting = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()  # the last flush, at the stop, must not count what is being written twice

    def record(self, refusal: ListenerRejection) -> None:
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
            rejected_requests.RejectionCount(
                remote=remote, code=code, error=reason, count=self._counts[remote, code], last_at=last_at
            )
            for (remote, code), (last_at, reason) in self._last.items()
        ]
        if not found:
            return
        try:
            await self._database.write(rejected_requests.record_all, found)
        except StoreUnavailable as error:
            log.warning("refusals_not_stored", error=error.message)
            return
        for one in found:
            self._counts[one.remote, one.code] -= one.count
            if self._counts[one.remote, one.code] <= 0:
                del self._counts[one.remote, one.code], self._last[one.remote, one.code]


EVENT = "authentication_attack"
_QUIET_S = 300.0


class LockoutLog:
    """Between the lock-outs and the history."""

    def __init__(self, database: Database, *, clock: Callable[[], datetime], quiet_s: float = _QUIET_S) -> None:
        """After an event the next one waits for quiet_s seconds and then tells all that happened meanwhile."""
        self._database = database
        self._clock = clock
        self._quiet_s = quiet_s
        self._first: LockedOut | None = None
        self._addresses = 0
        self._failures = 0
        self._waiting = asyncio.Event()

    def record(self, locked: LockedOut) -> None:
        """From the lock-out, once per address that it shuts out."""
        self._first = self._first or locked
        self._addresses += 1
        self._failures += locked.count
        self._waiting.set()

    async def run(self) -> None:
        """Write what was collected, for ever."""
        while True:
            await self._waiting.wait()
            await asyncio.sleep(_COLLECT_S)
            await self.flush()
            await asyncio.sleep(self._quiet_s)

    async def flush(self) -> None:
        """Write what was collected; kept for the next time when the store is not available."""
        self._waiting.clear()
        if self._first is None:
            return
        first, addresses, failures = self._first, self._addresses, self._failures
        self._first, self._addresses, self._failures = None, 0, 0
        data = {"address": first.address, "count": failures, "addresses": addresses, "until": first.until}
        try:
            await self._database.write(events.append, EVENT, now=self._clock(), data=data)
        except StoreUnavailable as error:
            log.warning("attack_not_recorded", error=error.message)
            self._first, self._addresses = first, self._addresses + addresses
            self._failures += failures
            self._waiting.set()


_KEY_USE_COLLECT_S = 3.0


class KeyUsageLog:
    """Between the door and the keys' `last_used_at`."""

    def __init__(self, database: Database, *, collect_s: float = _KEY_USE_COLLECT_S) -> None:
        self._database = database
        self._collect_s = collect_s
        self._used: dict[str, datetime] = {}
        self._waiting = asyncio.Event()

    def record(self, key_id: str, at: datetime) -> None:
        """From the door, once per proven request. Costs a dictionary entry per key."""
        self._used[key_id] = at
        self._waiting.set()

    async def run(self) -> None:
        """Write what was collected, for ever."""
        while True:
            await self._waiting.wait()
            await asyncio.sleep(self._collect_s)
            await self.flush()

    async def flush(self) -> None:
        """Write what was collected; kept for the next time when the store is not available."""
        self._waiting.clear()
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._database.write(webhooks.touch_keys, used)
        except StoreUnavailable as error:
            log.warning("key_use_not_stored", error=error.message)
            self._used = used | self._used
