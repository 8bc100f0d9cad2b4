"""Notes when webhook keys were last used: collected in memory, written in bulk, never on the way of an alert.

A key whose last use is known can be retired: after a rotation `webhook show` tells whether anybody still sends with the old one.
"""

from __future__ import annotations

import asyncio
from datetime import datetime

from kekbridge.errors import StoreUnavailable
from kekbridge.log import get_logger
from kekbridge.store import webhooks
from kekbridge.store.database import Database

log = get_logger("kekbridge.ingress.keyuse")

_COLLECT_S = 3.0


class KeyUse:
    """Between the door and the keys' `last_used_at`."""

    def __init__(self, database: Database, *, collect_s: float = _COLLECT_S) -> None:
        self._database = database
        self._collect_s = collect_s
        self._used: dict[str, datetime] = {}
        self._waiting = asyncio.Event()

    def note(self, key_id: str, at: datetime) -> None:
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
