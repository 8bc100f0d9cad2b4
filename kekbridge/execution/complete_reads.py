"""Complete reads: each kind of the account's records is read from its stored position, which moves only once everything is recorded.

What the stream or the query of one order has brought moves nothing: what it left out is read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from kekbridge.exchange.base import Exchange
from kekbridge.store import read_positions
from kekbridge.store.database import Database
from kekbridge.store.read_positions import RecordKind

#: How far before its position a kind is read again: the exchange may list a record so late.
OVERLAP: Final = {
    RecordKind.TRADES: timedelta(seconds=20),
    RecordKind.LIQUIDATIONS: timedelta(minutes=10),
    RecordKind.POSITIONS: timedelta(minutes=10),
    RecordKind.FUNDING: timedelta(hours=1),
    RecordKind.TRANSFERS: timedelta(days=1),
}


class CompleteReads:
    """The read positions of one account, one read of a kind at a time."""

    def __init__(self, database: Database, exchange: Exchange) -> None:
        self._database = database
        self._exchange = exchange
        self._locks: dict[RecordKind, asyncio.Lock] = {}

    async def read(
        self, kind: RecordKind, record_since: Callable[[datetime], Awaitable[bool]], *, first: datetime
    ) -> None:
        """Call `record_since` with the time from which on records are wanted, and move the position if it returns True.

        True: every record up to the present was read and is handed to the store. `first`: the time for the first read of all. Raises what
        `record_since` raises, and StoreUnavailable; the position stays then.
        """
        seconds = asyncio.get_running_loop().time
        async with self._locks.setdefault(kind, asyncio.Lock()):
            known = await self._database.read(read_positions.read, kind)
            # A position in the future was stored while our clock was wrong: from it nothing would be read.
            since = first if known is None else min(known, self._exchange.now()) - OVERLAP[kind]
            began = seconds()
            if await record_since(since):
                # By the exchange's clock as its last reply showed it: ours may have been set meanwhile.
                until = self._exchange.now() - timedelta(seconds=seconds() - began)
                # In order behind the records: they are on disk when the position is.
                await self._database.write_soon(read_positions.move, kind, until)
