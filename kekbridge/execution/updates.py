"""Order updates in memory: who waits for the outcome of an alert, and what of an order is not written to the store yet.

The store holds the truth: a waiter that gives up, or a restart, loses nothing. On the event loop's thread unless noted otherwise.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from kekbridge.execution.latency import LatencyTracker
from kekbridge.model import Order
from kekbridge.store import order_journal, order_lifecycle

# How long a decision waits for fills that are not recorded yet. Recording takes a few turns of the event loop; where it takes a reply of
# the exchange, an alert must not wait for that.
LONGEST_WAIT_S: Final = 0.2

# Writes an order status report within the transaction of the acceptance, to the order as that transaction has it.
WriteReport = Callable[[sqlite3.Connection, Order | order_journal.UnsavedTransition], Order]


class TimedEvent:
    """An asyncio.Event for a single waiter, with a built-in timeout. (Event and timeout cost 30 calls per wait, this 10.)"""

    __slots__ = ("_waiter", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        self.is_set = True
        if self._waiter is not None:
            _finish(self._waiter)

    def clear(self) -> None:
        self.is_set = False

    async def wait(self, longest_s: float) -> bool:
        """Return True once it is set, without a turn of the event loop if it is already; False after `longest_s` seconds."""
        if self.is_set:
            return True
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = loop.call_later(longest_s, _finish, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
        return self.is_set


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class UnrecordedFills:
    """Orders with fills that the account snapshot shows but the store does not have yet."""

    def __init__(self) -> None:
        self._client_order_ids: set[str] = set()
        self._waiters: set[TimedEvent] = set()

    def add(self, client_order_id: str) -> None:
        """The account shows a fill of this order from now on."""
        self._client_order_ids.add(client_order_id)

    def discard(self, client_order_id: str) -> None:
        """The order's report is in the writer's queue, ahead of any decision made from now on."""
        self._client_order_ids.discard(client_order_id)
        if not self._client_order_ids:
            for event in self._waiters:
                event.set()

    async def wait(self) -> None:
        """Return when every fill is recorded, at the latest after LONGEST_WAIT_S; without a turn of the event loop if all are already."""
        if not self._client_order_ids:
            return
        now = asyncio.get_running_loop().time
        deadline = now() + LONGEST_WAIT_S
        while self._client_order_ids and (left := deadline - now()) > 0:
            event = TimedEvent()
            self._waiters.add(event)
            try:
                await event.wait(left)
            finally:
                self._waiters.discard(event)


class PendingAcceptance:
    """An order's acceptance that is not flushed to disk yet, so that a report of its final state can join the same write.

    `write` and `write_alone` run on the writer thread, everything else on the event loop's.
    """

    def __init__(self, client_order_id: str, *, order_id: str, now: datetime, signed_at: datetime | None) -> None:
        """The exchange accepted the order as `order_id` at `now`; its request was signed and sent at `signed_at`."""
        self.client_order_id = client_order_id
        self.order_id = order_id
        self.now = now
        self.signed_at = signed_at
        self._lock = threading.Lock()
        self._is_closed = False  # it is being written, or something was decided that must not see the report
        self._write_report: WriteReport | None = None
        self._reported: asyncio.Future[Order] | None = None

    def join(self, write_report: WriteReport) -> asyncio.Future[Order] | None:
        """Write a report together with the acceptance; the future has the order after both. None if it is too late: write it alone."""
        with self._lock:
            if self._is_closed or self._write_report is not None:
                return None
            self._write_report = write_report
        self._reported = asyncio.get_running_loop().create_future()
        return self._reported

    def close(self) -> None:
        """Let no report join any more."""
        self._is_closed = True

    def write(self, connection: sqlite3.Connection) -> tuple[Order, Order | None]:
        """Write both in one transaction; returns the order as accepted, and after the report that joined, if one did."""
        with self._lock:
            self._is_closed = True
            write_report = self._write_report
        if write_report is None:
            return self.write_alone(connection), None
        unsaved = order_lifecycle.begin_acceptance(
            connection, self.client_order_id, order_id=self.order_id, now=self.now, signed_at=self.signed_at
        )
        if unsaved is not None:
            return unsaved.order, write_report(connection, unsaved)
        accepted = self.write_alone(connection)
        return accepted, write_report(connection, accepted)

    def write_alone(self, connection: sqlite3.Connection) -> Order:
        """Write the acceptance without any report."""
        return order_lifecycle.mark_accepted(
            connection, self.client_order_id, order_id=self.order_id, now=self.now, signed_at=self.signed_at
        )

    def resolve(self, reported: Order) -> None:
        """Both are flushed and the acceptance is published: pass the order on to the report that joined."""
        if self._reported is not None and not self._reported.done():
            self._reported.set_result(reported)

    def fail(self, error: BaseException) -> None:
        """The report that joined was not written."""
        if self._reported is not None and not self._reported.done():
            self._reported.set_exception(error)


class OrderWaiter:
    """Waits until the orders of one alert are settled; holds them as last published.

    Protective orders placed afterwards are left out: they may stay open for days, and the sender did not ask for them.
    """

    def __init__(self, orders: Iterable[Order]) -> None:
        self._orders = {order.client_order_id: order for order in orders if not order.is_protective}
        self._settled = TimedEvent()
        self._check()

    @property
    def orders(self) -> tuple[Order, ...]:
        return tuple(sorted(self._orders.values(), key=lambda order: order.leg))

    def update(self, order: Order) -> None:
        if not order.is_protective:
            self._orders[order.client_order_id] = order
            self._check()

    async def wait(self, timeout: float) -> tuple[Order, ...]:
        """Return the orders once all are settled, or as they are after `timeout` seconds."""
        if timeout > 0:
            await self._settled.wait(timeout)  # a timeout is answered 202: the work goes on without the sender
        return self.orders

    def release(self) -> None:
        """End the wait with the orders as they are."""
        self._settled.set()

    def _check(self) -> None:
        if all(order.is_settled for order in self._orders.values()):
            self._settled.set()


class OrderUpdates:
    """Publishes each change of an order to the waiters of its alert. One per daemon."""

    def __init__(self) -> None:
        self.latency = LatencyTracker()
        self.unrecorded_fills = UnrecordedFills()
        #: By client order id, of the acceptances that are being written.
        self.acceptances: dict[str, PendingAcceptance] = {}
        self._open_acceptances: list[PendingAcceptance] = []  # not closed here yet: a report may still join
        self._waiters: dict[str, list[OrderWaiter]] = {}  # by alert id
        self._is_stopping = False

    def publish(self, order: Order) -> None:
        self.latency.on_order_update(order)
        for waiter in self._waiters.get(order.alert_id, ()):
            waiter.update(order)

    @contextmanager
    def wait_for(self, alert_id: str, orders: Iterable[Order]) -> Iterator[OrderWaiter]:
        """Follow the orders of an alert inside the block."""
        waiter = OrderWaiter(orders)
        if self._is_stopping:
            waiter.release()
        waiters = self._waiters.setdefault(alert_id, [])
        waiters.append(waiter)
        try:
            yield waiter
        finally:
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[alert_id]

    def is_awaited(self, alert_id: str) -> bool:
        """True while a request waits for the orders of this alert."""
        return alert_id in self._waiters

    def release_waiters(self) -> None:
        """Shutdown: release every waiter with the orders as last published. Their alerts are stored, and other senders wait behind them."""
        self._is_stopping = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.release()

    def add_acceptance(self, acceptance: PendingAcceptance) -> None:
        """Let a report join this acceptance until something is decided. The writer of the acceptance removes it from `acceptances`."""
        self.acceptances[acceptance.client_order_id] = acceptance
        self._open_acceptances.append(acceptance)

    def close_acceptances(self) -> None:
        """Something is decided by the account as it is now: a later report must not be stored before that decision.

        Otherwise the order's reservation would be free again for a decision that does not see the position it became.
        """
        for acceptance in self._open_acceptances:
            acceptance.close()
        self._open_acceptances.clear()  # closed for good: there may be fifty of them at each of fifty decisions
