"""Who waits for what became of an alert: the worker publishes each change of an order, the listener waits a moment for the end.

Memory only. What is true stands in the store; a waiter that gives up, or a restart, loses nothing.
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

# Writes a report within the transaction of the acceptance, and knows the order from there.
Report = Callable[[sqlite3.Connection, Order | order_journal.UnsavedTransition], Order]


class PendingAcceptance:
    """That the exchange took an order at `now`, signed and sent at `signed_at`. `write` is the writer thread's, all else the loop's."""

    def __init__(self, client_order_id: str, *, order_id: str, now: datetime, signed_at: datetime | None) -> None:
        self.client_order_id = client_order_id
        self.order_id = order_id
        self.now = now
        self.signed_at = signed_at
        self._joining = threading.Lock()
        self._is_closed = False  # it is being written, or something was decided that must not see the report
        self._report: Report | None = None
        self._reported: asyncio.Future[Order] | None = None

    def join(self, report: Report) -> asyncio.Future[Order] | None:
        """Let a report be written with it; the future has the order as it then stands. None when it is too late: write it alone."""
        with self._joining:
            if self._is_closed or self._report is not None:
                return None
            self._report = report
        self._reported = asyncio.get_running_loop().create_future()
        return self._reported

    def close(self) -> None:
        """Let no report join any more."""
        self._is_closed = True

    def write(self, connection: sqlite3.Connection) -> tuple[Order, Order | None]:
        """One transaction: the order as accepted, and as the report that joined left it."""
        with self._joining:
            self._is_closed = True
            report = self._report
        if report is None:
            return self.write_alone(connection), None
        unwritten = order_lifecycle.begin_acceptance(
            connection, self.client_order_id, order_id=self.order_id, now=self.now, signed_at=self.signed_at
        )
        if unwritten is not None:
            return unwritten.order, report(connection, unwritten)
        accepted = self.write_alone(connection)
        return accepted, report(connection, accepted)

    def write_alone(self, connection: sqlite3.Connection) -> Order:
        """The acceptance without any report."""
        return order_lifecycle.mark_accepted(
            connection, self.client_order_id, order_id=self.order_id, now=self.now, signed_at=self.signed_at
        )

    def report(self, reported: Order) -> None:
        """Hand the order on to whoever joined, after the flush and after the acceptance was told."""
        if self._reported is not None and not self._reported.done():
            self._reported.set_result(reported)

    def fail(self, error: BaseException) -> None:
        """What joined was not written."""
        if self._reported is not None and not self._reported.done():
            self._reported.set_exception(error)


# Booking takes a few turns of the loop; where it takes an answer of the exchange, an alert must not wait for that.
LONGEST_WAIT_S: Final = 0.2


class UnrecordedFills:
    """By client order id, of all orders whose report of an execution is not on its way into the store. The loop's thread only."""

    def __init__(self) -> None:
        self._orders: set[str] = set()
        self._waiting: set[TimedEvent] = set()

    def add(self, client_order_id: str) -> None:
        """The account shows an execution of this order since now."""
        self._orders.add(client_order_id)

    def discard(self, client_order_id: str) -> None:
        """What is known of the order stands in the writer's queue, in front of whatever is decided next."""
        self._orders.discard(client_order_id)
        if not self._orders:
            for bell in self._waiting:
                bell.set()

    async def wait(self) -> None:
        """Return when nothing is unbooked, at the latest after LONGEST_S; at once, without a turn of the loop, when nothing is."""
        if not self._orders:
            return
        now = asyncio.get_running_loop().time
        deadline = now() + LONGEST_WAIT_S
        while self._orders and (left := deadline - now()) > 0:
            bell = TimedEvent()
            self._waiting.add(bell)
            try:
                await bell.wait(left)
            finally:
                self._waiting.discard(bell)


class TimedEvent:
    """Rung at any time, also before anybody listens; it stays rung until `clear`. One task at a time may wait."""

    __slots__ = ("_waiter", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake whoever waits, or spare the next one the wait."""
        self.is_set = True
        if self._waiter is not None:
            _end(self._waiter)

    def clear(self) -> None:
        """Forget that it has rung."""
        self.is_set = False

    async def wait(self, longest_s: float) -> bool:
        """True once it has rung, at once if it has already; False after so many seconds."""
        if self.is_set:
            return True
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = loop.call_later(longest_s, _end, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
        return self.is_set


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class OrderWaiter:
    """The latest known orders of one alert, and a bell for the moment when nothing more will happen soon.

    Orders that protect a position afterwards are left out: they may wait for days, and the sender did not ask for them.
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
        """The orders once all are settled, or as they are when the timeout (seconds) is over."""
        if timeout > 0:
            await self._settled.wait(timeout)  # 202 when it is over: the work goes on without the sender
        return self.orders

    def stop(self) -> None:
        """End the wait with the orders as they are."""
        self._settled.set()

    def _check(self) -> None:
        if all(order.is_settled for order in self._orders.values()):
            self._settled.set()


class OrderUpdates:
    """All watches by alert id."""

    def __init__(self) -> None:
        self.latency = LatencyTracker()
        self.acceptances: dict[str, PendingAcceptance] = {}  # by client order id, of those being written down
        self._open_acceptances: list[
            PendingAcceptance
        ] = []  # those that a report may still join, as far as is known here
        self.unrecorded_fills = UnrecordedFills()
        self._waiters: dict[str, list[OrderWaiter]] = {}
        self._is_stopping = False

    def release_waiters(self) -> None:
        """The daemon stops: whoever waits is told what is known now, at once. Their alerts are stored, and others wait at the door."""
        self._is_stopping = True
        for watches in self._waiters.values():
            for watch in watches:
                watch.stop()

    @contextmanager
    def wait_for(self, alert_id: str, orders: Iterable[Order]) -> Iterator[OrderWaiter]:
        """Follow the orders of an alert while inside the block."""
        watch = OrderWaiter(orders)
        if self._is_stopping:
            watch.stop()
        watches = self._waiters.setdefault(alert_id, [])
        watches.append(watch)
        try:
            yield watch
        finally:
            watches.remove(watch)
            if not watches:
                del self._waiters[alert_id]

    def is_awaited(self, alert_id: str) -> bool:
        """True while somebody waits for the orders of this alert."""
        return alert_id in self._waiters

    def add_acceptance(self, acceptance: PendingAcceptance) -> None:
        """It is being written down: a report may join it, until something is decided. Whoever wrote it takes it out of `acceptances`."""
        self.acceptances[acceptance.client_order_id] = acceptance
        self._open_acceptances.append(acceptance)

    def close_acceptances(self) -> None:
        """Something is decided by the account as it is seen now: a later report must not be stored before that decision.

        Else the room that the order held would be free again for a decision that does not see the position it became.
        """
        for acceptance in self._open_acceptances:
            acceptance.close()
        self._open_acceptances.clear()  # closed for good: there may be fifty of them at each of fifty decisions

    def publish(self, order: Order) -> None:
        """Tell everybody who waits for this order's alert, and whoever measures."""
        self.latency.on_order_update(order)
        for watch in self._waiters.get(order.alert_id, ()):
            watch.update(order)
