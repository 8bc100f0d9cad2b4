"""Order updates in memory: who waits for the outcome of an alert. On the event loop's thread.

The store holds the truth: a waiter that gives up, or a restart, loses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from kekbridge.execution.latency import LatencyTracker
from kekbridge.model import Order


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


class OrderWaiter:
    """Waits until the orders of one alert are settled; holds them as last published.

    Protective orders placed afterwards are left out: they may stay open for days, and the sender did not ask for them.
    """

    def __init__(self, orders: Iterable[Order]) -> None:
        self._orders: dict[str, Order] = {}
        self._settled = TimedEvent()
        self.learn(orders)

    @property
    def orders(self) -> tuple[Order, ...]:
        return tuple(sorted(self._orders.values(), key=lambda order: order.leg))

    def learn(self, orders: Iterable[Order]) -> None:
        """Follow these orders, too; what was published of one since is newer."""
        for order in orders:
            if not order.is_protective:
                self._orders.setdefault(order.client_order_id, order)
        self._check()

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
        if self._orders and all(order.is_settled for order in self._orders.values()):
            self._settled.set()


class OrderUpdates:
    """Publishes each change of an order to the waiters of its alert. One per daemon."""

    def __init__(self) -> None:
        self.latency = LatencyTracker()
        self._waiters: dict[str, list[OrderWaiter]] = {}  # by alert id
        self._changes: dict[str, list[TimedEvent]] = {}  # by client order id: of those that wait for its next change
        self._is_stopping = False

    def publish(self, order: Order) -> None:
        self.latency.on_order_update(order)
        for waiter in self._waiters.get(order.alert_id, ()):
            waiter.update(order)
        for change in self._changes.get(order.client_order_id, ()):
            change.set()

    async def wait_for_change(self, client_order_id: str, longest_s: float) -> None:
        """Return when an order has changed, after `longest_s` seconds at the latest."""
        change = TimedEvent()
        waiting = self._changes.setdefault(client_order_id, [])
        waiting.append(change)
        try:
            await change.wait(longest_s)
        finally:
            waiting.remove(change)
            if not waiting:
                self._changes.pop(client_order_id, None)

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

    def release_waiters(self) -> None:
        """Shutdown: release every waiter with the orders as last published. Their alerts are stored, and other senders wait behind them."""
        self._is_stopping = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.release()
