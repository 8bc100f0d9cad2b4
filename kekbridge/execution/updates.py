"""Who waits for what became of an alert: the worker publishes each change of an order, the listener waits a moment for the end.

Memory only. What is true stands in the store; a waiter that gives up, or a restart, loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from kekbridge.execution.acceptance import Acceptance
from kekbridge.execution.bell import Bell
from kekbridge.execution.latency import StageWatch
from kekbridge.execution.unbooked import Unbooked
from kekbridge.model import Order


class Watch:
    """The latest known orders of one alert, and a bell for the moment when nothing more will happen soon.

    Orders that protect a position afterwards are left out: they may wait for days, and the sender did not ask for them.
    """

    def __init__(self, orders: Iterable[Order]) -> None:
        self._orders = {order.client_order_id: order for order in orders if not order.is_protective}
        self._settled = Bell()
        self._look()

    @property
    def orders(self) -> tuple[Order, ...]:
        return tuple(sorted(self._orders.values(), key=lambda order: order.leg))

    def update(self, order: Order) -> None:
        if not order.is_protective:
            self._orders[order.client_order_id] = order
            self._look()

    async def wait(self, timeout: float) -> tuple[Order, ...]:
        """The orders once all are settled, or as they are when the timeout (seconds) is over."""
        if timeout > 0:
            await self._settled.wait(timeout)  # 202 when it is over: the work goes on without the sender
        return self.orders

    def give_up(self) -> None:
        """End the wait with the orders as they are."""
        self._settled.ring()

    def _look(self) -> None:
        if all(order.is_settled for order in self._orders.values()):
            self._settled.ring()


class Outcomes:
    """All watches by alert id."""

    def __init__(self) -> None:
        self.stages = StageWatch()
        self.acceptances: dict[str, Acceptance] = {}  # by client order id, of those being written down
        self._open_acceptances: list[Acceptance] = []  # those that a report may still join, as far as is known here
        self.unbooked = Unbooked()
        self._watches: dict[str, list[Watch]] = {}
        self._is_stopping = False

    def stop_waiting(self) -> None:
        """The daemon stops: whoever waits is told what is known now, at once. Their alerts are stored, and others wait at the door."""
        self._is_stopping = True
        for watches in self._watches.values():
            for watch in watches:
                watch.give_up()

    @contextmanager
    def watch(self, alert_id: str, orders: Iterable[Order]) -> Iterator[Watch]:
        """Follow the orders of an alert while inside the block."""
        watch = Watch(orders)
        if self._is_stopping:
            watch.give_up()
        watches = self._watches.setdefault(alert_id, [])
        watches.append(watch)
        try:
            yield watch
        finally:
            watches.remove(watch)
            if not watches:
                del self._watches[alert_id]

    def is_awaited(self, alert_id: str) -> bool:
        """True while somebody waits for the orders of this alert."""
        return alert_id in self._watches

    def accepted(self, acceptance: Acceptance) -> None:
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
        self.stages.moved(order)
        for watch in self._watches.get(order.alert_id, ()):
            watch.update(order)
