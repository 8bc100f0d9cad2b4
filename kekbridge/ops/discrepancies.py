"""Tells what a reconciliation found that nobody had told: orders whose end the stream left out, positions that no trade explains.

It compares and tells; what is true is written down by the reconciliation itself.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from kekbridge.exchange.base import Exchange
from kekbridge.formatting import amount
from kekbridge.model import ZERO, OrderStatus
from kekbridge.model.orders import OrderStatusReport
from kekbridge.store import events, order_queue, positions
from kekbridge.store import orders as order_rows
from kekbridge.store.database import Database

_REMEMBERED: Final = 2000
# A report may be on its way while the answer to our question overtakes it.
_LATE_REPORT_S: Final = 2.0
_LOOK_EVERY_S: Final = 0.1

OrderState = tuple[OrderStatus, Decimal]


@dataclass(frozen=True, slots=True)
class _Books:
    """Net positions by market, and how many trades had been recorded then."""

    positions: Mapping[str, Decimal]
    trades: int


class Discrepancies:
    """Wraps a reconciliation. One per daemon."""

    def __init__(self, database: Database, exchange: Exchange, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._exchange = exchange
        self._clock = clock
        self._told: OrderedDict[str, OrderState] = OrderedDict()
        self._books: _Books | None = None
        self._suspects: Mapping[str, Decimal] = {}
        exchange.listen_reports(self._on_report)

    async def around(self, reconcile: Callable[[], Awaitable[None]]) -> None:
        """Reconcile, and tell what that changed although the stream was there to tell it. Raises what `reconcile` does."""
        was_live = self._exchange.health.stream_is_live
        before = await self._database.read(_open_at_exchange)
        await reconcile()
        if was_live and self._exchange.health.stream_is_live:
            await self._compare_orders(before)
        await self._compare_positions()

    def _on_report(self, report: OrderStatusReport) -> None:
        if report.client_order_id is not None:
            self._told[report.client_order_id] = (report.status, report.executed_quantity)
            self._told.move_to_end(report.client_order_id)
            if len(self._told) > _REMEMBERED:
                self._told.popitem(last=False)

    async def _compare_orders(self, before: Mapping[str, OrderState]) -> None:
        after = await self._database.read(_states, tuple(before))
        changed = {name: state for name, state in after.items() if state != before[name]}
        deadline = asyncio.get_running_loop().time() + _LATE_REPORT_S
        while changed and asyncio.get_running_loop().time() < deadline:
            changed = {name: state for name, state in changed.items() if self._told.get(name) != state}
            await asyncio.sleep(_LOOK_EVERY_S)
        for name, (status, executed) in changed.items():
            detail = f"order {name} is {status.value.replace('_', ' ')}, {amount(executed)} executed; the stream had not told it"
            await self._database.write(_tell, detail, name, now=self._clock())

    async def _compare_positions(self) -> None:
        """A position must have moved by exactly the trades recorded since. What two looks in a row find is told."""
        now = await self._database.read(_books)
        if self._books is None:
            self._books = now
            return
        moved = await self._database.read(_traded_since, self._books.trades)
        unexplained: dict[str, Decimal] = {}
        for symbol in sorted({*self._books.positions, *now.positions, *moved}):
            expected = self._books.positions.get(symbol, ZERO) + moved.get(symbol, ZERO)
            found = now.positions.get(symbol, ZERO)
            if found != expected:
                unexplained[symbol] = found - expected
        baseline = dict(self._books.positions)
        for symbol in [symbol for symbol, gap in unexplained.items() if self._suspects.get(symbol) == gap]:
            gap, found = unexplained.pop(symbol), now.positions.get(symbol, ZERO)
            detail = f"{symbol} is {amount(found)}, by its trades it should be {amount(found - gap)}"
            await self._database.write(_tell, detail, None, now=self._clock(), symbol=symbol)
            baseline[symbol] = baseline.get(symbol, ZERO) + gap
        self._books = _Books(baseline, self._books.trades) if unexplained else now
        self._suspects = unexplained


def _open_at_exchange(connection: sqlite3.Connection) -> dict[str, OrderState]:
    """Orders that the exchange has accepted and that had not ended."""
    return {
        order.client_order_id: (order.status, order.executed_quantity)
        for order in order_queue.unfinished(connection)
        if order.order_id is not None
    }


def _states(connection: sqlite3.Connection, names: tuple[str, ...]) -> dict[str, OrderState]:
    found = (order_rows.get(connection, name) for name in names)
    return {order.client_order_id: (order.status, order.executed_quantity) for order in found}


def _books(connection: sqlite3.Connection) -> _Books:
    net: dict[str, Decimal] = {}
    for position in positions.list_all(connection):
        net[position.symbol] = net.get(position.symbol, ZERO) + position.quantity
    return _Books(net, connection.execute("SELECT coalesce(max(rowid), 0) FROM fills").fetchone()[0])


def _traded_since(connection: sqlite3.Connection, trades: int) -> dict[str, Decimal]:
    """Signed quantities by market of the trades recorded after the first `trades`."""
    moved: dict[str, Decimal] = {}
    for symbol, side, quantity in connection.execute(
        "SELECT symbol, side, quantity FROM fills WHERE rowid > ?", (trades,)
    ):
        moved[symbol] = moved.get(symbol, ZERO) + (Decimal(quantity) if side.lower() == "buy" else -Decimal(quantity))
    return moved


def _tell(
    connection: sqlite3.Connection, detail: str, name: str | None, *, now: datetime, symbol: str | None = None
) -> None:
    data = {"detail": detail, "symbol": symbol}
    events.append(connection, "reconciliation_difference", now=now, client_order_id=name, data=data)
