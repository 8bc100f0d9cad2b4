"""Cancel orders: a cancel is a wanted state, kept until the order has an end, whatever the exchange answers meanwhile.

What is to be cancelled is stored with the order (`Order.cancel_requested_at`), so that a restart goes on with it. An order that is still
queued is denied; one at the exchange is cancelled there again and again, with growing pauses; one whose outcome is unknown is cancelled
once it is found. Cancel steps of alerts cover orders that kekbridge placed, as `Order.ends_by_cancel` says: exits that trade at once live
until they are done, and the stop and take-profit of a filled entry protect a position that a cancel does not close.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from kekbridge.errors import KekbridgeError
from kekbridge.exchange.base import Accepted, Exchange, Rejected, Retryable
from kekbridge.execution import transitions
from kekbridge.execution.book import Book
from kekbridge.execution.key_watch import KeyWatch
from kekbridge.execution.submitter import backoff_s
from kekbridge.execution.tracker import OrderTracker
from kekbridge.execution.updates import OrderUpdates, TimedEvent
from kekbridge.log import get_logger
from kekbridge.model import Order, OrderStatus
from kekbridge.store import cancels, projector
from kekbridge.store.cancels import StoredCancel
from kekbridge.store.database import Database

log = get_logger("kekbridge.execution.canceller")

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 4.0
# How long the exchange may take to report a cancel that it accepted, before the order is queried.
_REPORTED_WITHIN_S: Final = 0.5
_POLL_EVERY_S: Final = 2.0
_WAIT_AT_MOST_S: Final = 5.0
# An order that could not be cancelled for this time is notified, and again after an hour.
_STILL_OPEN_AFTER: Final = timedelta(seconds=10)
_STILL_OPEN_EVERY: Final = timedelta(hours=1)
_CANCELED: Final = (OrderStatus.CANCELED, OrderStatus.DENIED)


class OrderCanceller:
    """Cancels the orders of one daemon: those that cancel steps cover, and those that `cancel` names."""

    def __init__(
        self,
        *,
        database: Database,
        exchange: Exchange,
        book: Book,
        tracker: OrderTracker,
        updates: OrderUpdates,
        keys: KeyWatch,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._exchange = exchange
        self._book = book
        self._tracker = tracker
        self._updates = updates
        self._keys = keys
        self._clock = clock
        self._wake_event = TimedEvent()
        self._canceling: dict[str, str] = {}  # by client order id of orders being cancelled: why it has no end yet
        self._executing: set[tuple[str, int]] = set()  # alert id and step of steps being executed

    def wake(self) -> None:
        """A cancel step was stored."""
        self._wake_event.set()

    async def resume(self) -> None:
        """At a start, before anything is sent: find what the cancel steps cover that have no end. Raises StoreUnavailable."""
        for cancel in await self._database.read(cancels.list_queued):
            await self._request(cancel)

    async def run(self) -> None:
        """Until cancelled: execute stored cancel steps, and cancel every open order that is to be cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    await self._begin_steps(group)
                except KekbridgeError as error:
                    log.error("cancels_not_readable", code=error.code, error=error.message)
                for order in list(self._book.orders.values()):
                    name = order.client_order_id
                    if order.cancel_requested_at is not None and name not in self._canceling:
                        self._canceling[name] = "it was not tried yet"
                        group.create_task(self._cancel_until_ended(name))
                await self._wake_event.wait(_POLL_EVERY_S)
                self._wake_event.clear()

    async def cancel(self, client_order_id: str, *, within_s: float = _WAIT_AT_MOST_S) -> str | None:
        """Have an order cancelled; None once it has ended. After `within_s` seconds: why it has not yet, and cancelling it goes on."""
        order = self._book.orders.get(client_order_id)
        if order is None:
            return None
        self._book.request_cancel(order, now=self._clock())
        self.wake()
        deadline = asyncio.get_running_loop().time() + within_s
        while client_order_id in self._book.orders:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return self._canceling.get(client_order_id, "it was not tried yet")
            await self._updates.wait_for_change(client_order_id, left)
        return None

    # --------------------------------------------------------------------------------------------------------------- steps

    async def _begin_steps(self, group: asyncio.TaskGroup) -> None:
        for cancel in await self._database.read(cancels.list_queued):
            key = (cancel.alert_id, cancel.step)
            if key not in self._executing:
                covered = await self._request(cancel)
                self._executing.add(key)
                group.create_task(self._end_step(cancel, covered))

    async def _request(self, cancel: StoredCancel) -> tuple[str, ...]:
        """Have the open orders that a step covers cancelled; return their client order ids."""
        names = await self._database.read(cancels.open_orders, cancel)
        for name in names:
            order = self._book.orders.get(name)
            if order is not None:
                order = self._book.request_cancel(order, now=self._clock())
                self._deny_if_queued(order)  # all of them at once: none may be sent while others are being cancelled
        return names

    async def _end_step(self, cancel: StoredCancel, names: tuple[str, ...]) -> None:
        """Wait until every order that a step covers has an end, and record that of the step."""
        for name in names:
            while name in self._book.orders:
                await self._updates.wait_for_change(name, _POLL_EVERY_S)
        try:
            ended = await self._database.read(cancels.ended_orders, cancel)
            filled = [
                f"{order.client_order_id}: it was filled first" for order in ended if order.status is OrderStatus.FILLED
            ]
            canceled = sum(order.status in _CANCELED for order in ended)
            end = cancels.end_entry(cancel, canceled=canceled, error="; ".join(filled) or None, now=self._clock())
            await self._database.write(projector.record, end)
        except KekbridgeError as error:
            log.error("cancel_not_recorded", alert_id=cancel.alert_id, code=error.code, error=error.message)
            await asyncio.sleep(_FIRST_PAUSE_S)
        except Exception:
            log.exception("cancel_not_recorded", alert_id=cancel.alert_id)
            await asyncio.sleep(_LONGEST_PAUSE_S)
        else:
            log.info("cancel", alert_id=cancel.alert_id, canceled=canceled, filled=len(filled))
        finally:
            self._executing.discard((cancel.alert_id, cancel.step))

    # ----------------------------------------------------------------------------------------------------------- one order

    async def _cancel_until_ended(self, name: str) -> None:
        attempt = 0
        noted_at: datetime | None = None
        try:
            while (order := self._book.orders.get(name)) is not None and not self._deny_if_queued(order):
                attempt += 1
                try:
                    reason = await self._try(order)
                except KekbridgeError as error:
                    reason = f"{error.code} {error.message}"
                except Exception as error:
                    log.exception("cancel_failed", client_order_id=name)
                    reason = f"{type(error).__name__}: {error}"
                order = self._book.orders.get(name)
                if order is None:
                    return
                self._canceling[name] = reason
                noted_at = self._note_waiting(order, reason, noted_at)
                pause = min(backoff_s(_FIRST_PAUSE_S, attempt), _LONGEST_PAUSE_S)
                if order.order_id is None:
                    await self._updates.wait_for_change(name, pause)
                else:
                    await self._wait_for_end(name, pause)
        finally:
            self._canceling.pop(name, None)

    def _deny_if_queued(self, order: Order) -> bool:
        """Deny an order that is queued; False for any other."""
        if order.status is not OrderStatus.QUEUED:
            return False
        now = self._clock()
        self._book.change(order, transitions.canceled_unsent(order, now=now), now=now)
        return True

    async def _try(self, order: Order) -> str:
        """Try once; returns why the order has no end yet, if it has none afterwards. Raises ExchangeUnavailable, StoreUnavailable."""
        if order.order_id is None:
            return "its outcome is not known yet"
        if order.intent.is_bracket:
            # Once it has executed, a cancel would take its stop away.
            report = await self._exchange.find(order)
            if report is None:
                return "the exchange does not show it"
            if report.status.is_final:
                await self._tracker.apply(order, report)
                return "its end is not recorded yet"
        result = await self._exchange.cancel(order)
        if isinstance(result, Accepted):
            if await self._wait_for_end(order.client_order_id, _REPORTED_WITHIN_S):
                return ""
        elif isinstance(result, Rejected | Retryable):
            reason = f"{result.code} {result.message}"
            if isinstance(result, Retryable):
                return reason
            if result.is_key_rejected:
                self._keys.check_soon()
                return reason
        else:
            reason = result.reason
        report = await self._exchange.find(order)
        if report is None:
            return "the exchange does not show it"
        await self._tracker.apply(order, report)
        return (
            "the exchange accepted the cancel, but the order is still open" if isinstance(result, Accepted) else reason
        )

    async def _wait_for_end(self, name: str, longest_s: float) -> bool:
        """True once an order has ended; False after `longest_s` seconds."""
        deadline = asyncio.get_running_loop().time() + longest_s
        while name in self._book.orders:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return False
            await self._updates.wait_for_change(name, left)
        return True

    def _note_waiting(self, order: Order, reason: str, noted_at: datetime | None) -> datetime | None:
        """Say that an order is still open, and why, once it has been for a while; returns when that was said last."""
        now = self._clock()
        if order.cancel_requested_at is None or now - order.cancel_requested_at < _STILL_OPEN_AFTER:
            return noted_at
        if noted_at is not None and now - noted_at < _STILL_OPEN_EVERY:
            return noted_at
        self._book.note("cancel_waiting", order, now=now, data={"waiting_for": reason})
        log.warning("cancel_waiting", client_order_id=order.client_order_id, reason=reason)
        return now
