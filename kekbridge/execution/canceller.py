"""Execute the cancel steps of alerts: deny queued orders, cancel open ones at the exchange.

Only orders that kekbridge placed. The stop and take-profit of a filled entry stay: they protect a position that a cancel does not close.
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
    """Executes stored cancel steps; one per daemon."""

    def __init__(
        self,
        *,
        database: Database,
        exchange: Exchange,
        tracker: OrderTracker,
        updates: OrderUpdates,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._exchange = exchange
        self._tracker = tracker
        self._updates = updates
        self._clock = clock
        self._wake_event = asyncio.Event()

    def wake(self) -> None:
        """A cancel step was stored."""
        self._wake_event.set()

    async def run(self) -> None:
        """Until cancelled: execute stored cancel steps, oldest first."""
        while True:
            try:
                for cancel in await self._database.read(cancels.list_queued):
                    await self._execute(cancel)
            except KekbridgeError as error:
                log.error("cancels_not_done", code=error.code, error=error.message)
                await asyncio.sleep(_PAUSE_S)
                continue
            await self._wake_event.wait()
            self._wake_event.clear()

    async def _execute(self, cancel: StoredCancel) -> None:
        client_order_ids = await self._database.read(
            cancels.find_orders_to_cancel, cancel.request, before=cancel.created_at
        )
        for (
            client_order_id
        ) in client_order_ids:  # first: no queued order may be sent while open ones are being cancelled
            self._updates.publish(await self._database.write(cancel_if_queued, client_order_id, now=self._clock()))
        errors: list[str] = []
        done = 0
        for client_order_id in client_order_ids:
            error = await self.cancel(client_order_id)
            done += error is None
            if error:
                errors.append(f"{client_order_id}: {error}")
        await self._database.write(
            cancels.finish_cancel, cancel, canceled=done, error="; ".join(errors) or None, now=self._clock()
        )
        log.info("cancel", alert_id=cancel.alert_id, canceled=done, failed=len(errors))

    async def cancel(self, client_order_id: str) -> str | None:
        """Deny or cancel one order; None once it is finished, else why it could not be cancelled."""
        error = "it is still being sent"
        for _ in range(_ATTEMPTS):
            order = await self._database.read(order_rows.get, client_order_id)
            if order.status.is_final:
                return None
            if order.status is OrderStatus.QUEUED:
                denied = await self._database.write(cancel_if_queued, client_order_id, now=self._clock())
                self._updates.publish(denied)
                continue
            if order.order_id is not None:
                failure = await self._cancel_at_exchange(order)
                if failure is None:
                    return None
                error = failure
            await asyncio.sleep(_PAUSE_S)
        return error

    async def _cancel_at_exchange(self, order: Order) -> str | None:
        report = await self._exchange.find(order)
        if report is None:
            return "the exchange does not have it"
        if not report.status.is_final:
            result = await self._exchange.cancel(report)
            if not isinstance(result, Accepted):
                return str(result)
        deadline = asyncio.get_running_loop().time() + _SETTLE_S
        while asyncio.get_running_loop().time() < deadline:
            order = await self._tracker.poll(order)
            if order.status.is_final:
                return None
            await asyncio.sleep(_PAUSE_S / 5)
        return "the exchange accepted the cancel, but the order is still open"


def cancel_if_queued(connection: sqlite3.Connection, client_order_id: str, *, now: datetime) -> Order:
    """Deny an order that is still queued because a later alert cancelled it; any other is returned as it is."""
    order = order_rows.get(connection, client_order_id)
    if order.status is not OrderStatus.QUEUED:
        return order
    return order_lifecycle.mark_denied(
        connection, client_order_id, code="canceled_by_alert", error="a later alert cancelled it", now=now
    )
