"""Execute the cancel steps of alerts: deny queued orders, cancel open ones at the exchange.

Only orders that kekbridge placed. The stop and take-profit of a filled entry stay: they protect a position that a cancel does not close.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime

from kekbridge.errors import KekbridgeError
from kekbridge.exchange.base import Accepted, Exchange
from kekbridge.execution import transitions
from kekbridge.execution.book import Book
from kekbridge.execution.tracker import OrderTracker
from kekbridge.log import get_logger
from kekbridge.model import Order
from kekbridge.store import cancels, projector
from kekbridge.store.cancels import StoredCancel
from kekbridge.store.database import Database

log = get_logger("kekbridge.execution.canceller")

_ATTEMPTS = 5
_PAUSE_S = 0.5
_SETTLE_S = 5.0
_POLL_EVERY_S = 2.0


class OrderCanceller:
    """Executes stored cancel steps; one per daemon."""

    def __init__(
        self,
        *,
        database: Database,
        exchange: Exchange,
        book: Book,
        tracker: OrderTracker,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._exchange = exchange
        self._book = book
        self._tracker = tracker
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
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_EVERY_S):
                    await self._wake_event.wait()
            self._wake_event.clear()

    async def _execute(self, cancel: StoredCancel) -> None:
        client_order_ids = await self._database.read(
            cancels.find_orders_to_cancel, cancel.request, before=cancel.created_at
        )
        for client_order_id in client_order_ids:  # first: none may be sent while open ones are being cancelled
            self._deny_if_queued(client_order_id)
        errors: list[str] = []
        done = 0
        for client_order_id in client_order_ids:
            error = await self.cancel(client_order_id)
            done += error is None
            if error:
                errors.append(f"{client_order_id}: {error}")
        ended = cancels.end_entry(cancel, canceled=done, error="; ".join(errors) or None, now=self._clock())
        await self._database.write(projector.record, ended)
        log.info("cancel", alert_id=cancel.alert_id, canceled=done, failed=len(errors))

    async def cancel(self, client_order_id: str) -> str | None:
        """Deny or cancel one order; None once it is finished, else why it could not be cancelled."""
        error = "it is still being sent"
        for _ in range(_ATTEMPTS):
            order = self._book.orders.get(client_order_id)
            if order is None or order.status.is_final or self._deny_if_queued(client_order_id):
                return None
            if order.order_id is not None:
                failure = await self._cancel_at_exchange(order)
                if failure is None:
                    return None
                error = failure
            await asyncio.sleep(_PAUSE_S)
        return error

    def _deny_if_queued(self, client_order_id: str) -> bool:
        """Deny an order that is still queued because a later alert cancelled it; False for any other."""
        order = self._book.queued.get(client_order_id)
        if order is None:
            return False
        now = self._clock()
        denied = transitions.denied(order, code="canceled_by_alert", error="a later alert cancelled it", now=now)
        self._book.change(order, denied, now=now)
        return True

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
