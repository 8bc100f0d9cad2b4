"""Cancel orphan stops: stop orders that kekbridge placed (trailing stops, replacements of lost stops) and whose position is gone.

The exchange removes a bracket's take-profits and stop losses with the position, but keeps a plain stop order. Being reduce-only it opens
nothing, yet it would close a later position at a price that was meant for another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from kekbridge.errors import KekbridgeError
from kekbridge.exchange.base import Exchange
from kekbridge.execution.book import Book
from kekbridge.log import get_logger
from kekbridge.model import AccountSnapshot, Order, OrderStatus, OrderType, Purpose
from kekbridge.risk.exposure import went_flat
from kekbridge.store import fills
from kekbridge.store.database import Database

log = get_logger("kekbridge.execution.orphan_stops")

_POLL_EVERY_S = 1.0
_READ_LAG_S = 4.0  # a position may be visible this much later than its fill: "gone" is trusted only after it
_MAX_SNAPSHOT_AGE = timedelta(seconds=30)


class OrphanStopCanceller:
    """Cancels the orphan stops of one daemon's account."""

    def __init__(
        self,
        *,
        book: Book,
        database: Database,
        exchange: Exchange,
        cancel: Callable[[str], Awaitable[str | None]],
        clock: Callable[[], datetime],
        read_lag_s: float = _READ_LAG_S,
    ) -> None:
        """`cancel` cancels an order by its client order id; it returns None, or why that failed."""
        self._book = book
        self._database = database
        self._exchange = exchange
        self._cancel = cancel
        self._clock = clock
        self._read_lag_s = read_lag_s
        self._orphaned_since: dict[str, float] = {}  # loop time, by client order id

    async def run(self) -> None:
        """Until cancelled: poll every second. Sends nothing to the exchange unless there is an orphan."""
        while True:
            try:
                await self.poll()
            except KekbridgeError as error:
                log.error("leftovers_not_canceled", code=error.code, error=error.message)
            await asyncio.sleep(_POLL_EVERY_S)

    async def poll(self) -> None:
        """Cancel every stop whose position has been gone for longer than a read may lag behind a fill."""
        snapshot = self._exchange.snapshot
        if snapshot is None or self._clock() - snapshot.taken_at > _MAX_SNAPSHOT_AGE:
            return
        stops = [order for order in self._book.orders.values() if _is_own_stop(order)]
        now = asyncio.get_running_loop().time()
        orphaned_since: dict[str, float] = {}
        for order in stops:
            if not await self._is_orphan(order, snapshot):
                continue
            since = self._orphaned_since.get(order.client_order_id, now)
            orphaned_since[order.client_order_id] = since
            if now - since > self._read_lag_s:
                await self._cancel_orphan(order)
        self._orphaned_since = orphaned_since

    async def _is_orphan(self, order: Order, snapshot: AccountSnapshot) -> bool:
        """True if the position the stop was placed for is gone: flat, reversed, or closed and opened again."""
        side = order.intent.side.opposite
        held = snapshot.position_quantity(order.intent.symbol) * side.sign
        if held <= 0:
            return True
        since = order.accepted_at or order.created_at
        later = await self._database.read(fills.list_fills, symbol=order.intent.symbol, since=since)
        return went_flat(side, held, later)

    async def _cancel_orphan(self, order: Order) -> None:
        error = await self._cancel(order.client_order_id)
        if error is not None:
            log.warning("leftover_not_canceled", client_order_id=order.client_order_id, error=error)
            return
        data = {"symbol": order.intent.symbol, "detail": "the position it protected is gone"}
        self._book.note("leftover_canceled", order, now=self._clock(), data=data)
        log.info("leftover_canceled", alert_id=order.alert_id, client_order_id=order.client_order_id)


def _is_own_stop(order: Order) -> bool:
    """True for a protective stop placed by kekbridge that rests at the exchange; stops that the trader's alerts placed are none."""
    intent = order.intent
    is_resting = order.status is OrderStatus.ACCEPTED and order.order_id is not None
    return is_resting and intent.purpose is Purpose.PROTECT and intent.order_type is OrderType.STOP
