"""Tells the history of addresses that were locked out: the first at once, the others of the next minutes together in one event.

An attack from ten thousand addresses is one story, not ten thousand rows and messages. Between lockout.py, which must not wait, and the
store; what is told becomes a notification (`authentication_attack`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from kekbridge.errors import StoreUnavailable
from kekbridge.ingress.lockout import LockedOut
from kekbridge.log import get_logger
from kekbridge.store import events
from kekbridge.store.database import Database

log = get_logger("kekbridge.ingress.attacks")

EVENT = "authentication_attack"
_COLLECT_S = 0.5
_QUIET_S = 300.0


class AttackLog:
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

    def note(self, locked: LockedOut) -> None:
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
