"""An acceptance that waits to be written down, and the report of its end that may join it: what is known together is one write.

Memory only; what the tables and the history hold afterwards is the same whether a report joined or came on its own.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from datetime import datetime

from kekbridge.model import Order
from kekbridge.store import order_lifecycle as orders

# Writes a report within the transaction of the acceptance, and knows the order from there.
Report = Callable[[sqlite3.Connection, Order | orders.Unwritten], Order]


class Acceptance:
    """That the exchange took an order at `now`, signed and sent at `signed_at`. `write` is the writer thread's, all else the loop's."""

    def __init__(self, client_order_id: str, *, order_id: str, now: datetime, signed_at: datetime | None) -> None:
        self.client_order_id = client_order_id
        self.order_id = order_id
        self.now = now
        self.signed_at = signed_at
        self._joining = threading.Lock()
        self._is_closed = False  # it is being written, or something was decided that must not see the report
        self._report: Report | None = None
        self._told: asyncio.Future[Order] | None = None

    def join(self, report: Report) -> asyncio.Future[Order] | None:
        """Let a report be written with it; the future has the order as it then stands. None when it is too late: write it alone."""
        with self._joining:
            if self._is_closed or self._report is not None:
                return None
            self._report = report
        self._told = asyncio.get_running_loop().create_future()
        return self._told

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
        unwritten = orders.begin_accepted(
            connection, self.client_order_id, order_id=self.order_id, now=self.now, signed_at=self.signed_at
        )
        if unwritten is not None:
            return unwritten.order, report(connection, unwritten)
        accepted = self.write_alone(connection)
        return accepted, report(connection, accepted)

    def write_alone(self, connection: sqlite3.Connection) -> Order:
        """The acceptance without any report."""
        return orders.mark_accepted(
            connection, self.client_order_id, order_id=self.order_id, now=self.now, signed_at=self.signed_at
        )

    def tell(self, reported: Order) -> None:
        """Hand the order on to whoever joined, after the flush and after the acceptance was told."""
        if self._told is not None and not self._told.done():
            self._told.set_result(reported)

    def fail(self, error: BaseException) -> None:
        """What joined was not written."""
        if self._told is not None and not self._told.done():
            self._told.set_exception(error)
