"""Carries out the cancel steps of alerts: queued orders are withdrawn here, open ones are cancelled at the exchange.

Only orders that kekbridge made. The stop and take-profit of a filled entry stay: they protect a position that a cancel does not close.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import datetime

from kekbridge.errors import KekbridgeError
from kekbridge.exchange.base import Accepted, Exchange
from kekbridge.execution.tracker import OrderTracker
from kekbridge.execution.updates import OrderUpdates
from kekbridge.log import get_logger
from kekbridge.model import Order, OrderStatus
from kekbridge.store import cancels, order_lifecycle
from kekbridge.store import orders as order_rows
from kekbridge.store.cancels import StoredCancel
from kekbridge.store.database import Database

log = get_logger("kekbridge.execution.canceller")

_ATTEMPTS = 5
_PAUSE_S = 0.5
_SETTLE_S = 5.0


class OrderCanceller:
    """One per daemon."""

    def __init__(
        self,
        *,
        database: Database,
        exchange: Exchange,
        follower: OrderTracker,
        outcomes: OrderUpdates,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._exchange = exchange
        self._tracker = follower
        self._updates = outcomes
        self._clock = clock
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """A cancel step was stored."""
        self._woken.set()

    async def run(self) -> None:
        """For ever: do what waits, oldest first."""
        while True:
            try:
                for cancel in await self._database.read(cancels.list_queued):
                    await self._execute(cancel)
            except KekbridgeError as error:
                log.error("cancels_not_done", code=error.code, error=error.message)
                await asyncio.sleep(_PAUSE_S)
                continue
            await self._woken.wait()
            self._woken.clear()

    async def _execute(self, cancel: StoredCancel) -> None:
        names = await self._database.read(cancels.find_orders_to_cancel, cancel.request, before=cancel.created_at)
        for name in names:  # what waits must not leave while we are busy with what is under way
            self._updates.publish(await self._database.write(cancel_if_queued, name, now=self._clock()))
        troubles: list[str] = []
        done = 0
        for name in names:
            trouble = await self.cancel(name)
            done += trouble is None
            if trouble:
                troubles.append(f"{name}: {trouble}")
        await self._database.write(
            cancels.finish_cancel, cancel, canceled=done, error="; ".join(troubles) or None, now=self._clock()
        )
        log.info("cancel", alert_id=cancel.alert_id, canceled=done, failed=len(troubles))

    async def cancel(self, name: str) -> str | None:
        """Withdraw or cancel one order; None when it is finished, else the trouble in words."""
        trouble = "it is still being sent"
        for _ in range(_ATTEMPTS):
            order = await self._database.read(order_rows.get, name)
            if order.status.is_final:
                return None
            if order.status is OrderStatus.QUEUED:
                withdrawn = await self._database.write(cancel_if_queued, name, now=self._clock())
                self._updates.publish(withdrawn)
                continue
            if order.order_id is not None:
                said = await self._cancel_at_exchange(order)
                if said is None:
                    return None
                trouble = said
            await asyncio.sleep(_PAUSE_S)
        return trouble

    async def _cancel_at_exchange(self, order: Order) -> str | None:
        report = await self._exchange.find(order)
        if report is None:
            return "the exchange does not know it"
        if not report.status.is_final:
            answer = await self._exchange.cancel(report)
            if not isinstance(answer, Accepted):
                return str(answer)
        deadline = asyncio.get_running_loop().time() + _SETTLE_S
        while asyncio.get_running_loop().time() < deadline:
            order = await self._tracker.poll(order)
            if order.status.is_final:
                return None
            await asyncio.sleep(_PAUSE_S / 5)
        return "the exchange took the cancel, but the order is still open"


def cancel_if_queued(connection: sqlite3.Connection, name: str, *, now: datetime) -> Order:
    """Deny a queued order because a later alert cancelled it; one that is being sent by now is left as it is."""
    order = order_rows.get(connection, name)
    if order.status is not OrderStatus.QUEUED:
        return order
    return order_lifecycle.mark_denied(
        connection, name, code="canceled_by_alert", error="a later alert cancelled it", now=now
    )
