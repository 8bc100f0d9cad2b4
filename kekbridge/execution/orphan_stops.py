"""Cancels stops of ours that outlived their position: a trailing stop, or one that stood in for a lost stop.

The exchange removes take-profits and stop losses of a bracket with the position, a stop order by itself it keeps. Reduce-only as it is, it
opens nothing, but it would close a later position at a price that was meant for another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from kekbridge.errors import KekbridgeError
from kekbridge.exchange.base import Exchange
from kekbridge.log import get_logger
from kekbridge.model import AccountSnapshot, Order
from kekbridge.risk.exposure import went_flat
from kekbridge.store import events, fills, order_queue
from kekbridge.store.database import Database

log = get_logger("kekbridge.execution.orphan_stops")

_LOOK_EVERY_S = 1.0
_READ_LAG_S = 4.0  # a position may be visible this much later than its fill: "gone" is believed only after it
_FRESH = timedelta(seconds=30)


class OrphanStopCanceller:
    """One per daemon. `cancel` ends one order by its name and returns None, or the trouble in words."""

    def __init__(
        self,
        *,
        database: Database,
        exchange: Exchange,
        cancel: Callable[[str], Awaitable[str | None]],
        clock: Callable[[], datetime],
        patience_s: float = _READ_LAG_S,
    ) -> None:
        self._database = database
        self._exchange = exchange
        self._cancel = cancel
        self._clock = clock
        self._patience_s = patience_s
        self._gone_since: dict[str, float] = {}

    async def run(self) -> None:
        """For ever: look every second. Nothing is asked of the exchange while no stop of ours waits without a position."""
        while True:
            try:
                await self.poll()
            except KekbridgeError as error:
                log.error("leftovers_not_canceled", code=error.code, error=error.message)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def poll(self) -> None:
        """Cancel every stop whose position has been gone for longer than a read may lag behind."""
        snapshot = self._exchange.snapshot
        if snapshot is None or self._clock() - snapshot.taken_at > _FRESH:
            return
        waiting = await self._database.read(order_queue.open_stops)  # one that a trader sent is the trader's to cancel
        now = asyncio.get_running_loop().time()
        seen: dict[str, float] = {}
        for order in waiting:
            if not await self._is_gone(order, snapshot):
                continue
            since = self._gone_since.get(order.client_order_id, now)
            seen[order.client_order_id] = since
            if now - since > self._patience_s:
                await self._end(order)
        self._gone_since = seen

    async def _is_gone(self, order: Order, snapshot: AccountSnapshot) -> bool:
        """True when nothing is open that the stop was made for: flat, on the other side, or opened after it had been left."""
        side = order.intent.side.opposite
        held = snapshot.position_quantity(order.intent.symbol) * side.sign
        if held <= 0:
            return True
        since = order.accepted_at or order.created_at
        later = await self._database.read(fills.list_fills, symbol=order.intent.symbol, since=since)
        return went_flat(side, held, later)

    async def _end(self, order: Order) -> None:
        trouble = await self._cancel(order.client_order_id)
        if trouble is not None:
            log.warning("leftover_not_canceled", client_order_id=order.client_order_id, error=trouble)
            return
        await self._database.write(
            events.append,
            "leftover_canceled",
            now=self._clock(),
            alert_id=order.alert_id,
            client_order_id=order.client_order_id,
            data={"symbol": order.intent.symbol, "detail": "the position that it protected is gone"},
        )
        log.info("leftover_canceled", alert_id=order.alert_id, client_order_id=order.client_order_id)
