"""Publish differences found by a reconciliation: order updates the stream did not deliver, positions that no fill explains.

It only compares and publishes; the reconciliation itself stores the exchange's state.
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
from kekbridge.model import ZERO, AccountSnapshot, OrderStatus
from kekbridge.model.orders import OrderStatusReport
from kekbridge.store import journal, positions
from kekbridge.store import orders as order_rows
from kekbridge.store.database import Database

_MAX_REPORTS: Final = 2000
# The reply to our query may overtake the stream's report of the same change.
_LATE_REPORT_S: Final = 2.0
_POLL_EVERY_S: Final = 0.1

OrderState = tuple[OrderStatus, Decimal]


@dataclass(frozen=True, slots=True)
class _Baseline:
    """Net positions, and the fills they are known to include."""

    #: Signed net position in base units, by symbol.
    positions: Mapping[str, Decimal]
    #: Row id of the last fill included.
    last_fill: int


class Discrepancies:
    """Compares state before and after each reconciliation. One per daemon."""

    def __init__(
        self,
        database: Database,
        exchange: Exchange,
        clock: Callable[[], datetime],
        fills_are_known: Callable[[], bool],
    ) -> None:
        """`fills_are_known`: True while every fill that the account shows is recorded."""
        self._database = database
        self._fills_are_known = fills_are_known
        self._exchange = exchange
        self._clock = clock
        self._reported: OrderedDict[str, OrderState] = OrderedDict()
        self._baseline: _Baseline | None = None
        self._unexplained: Mapping[str, Decimal] = {}
        exchange.listen_reports(self._record_report)

    async def around(self, reconcile: Callable[[], Awaitable[None]]) -> None:
        """Reconcile, and publish what changed although the stream was live. Raises what `reconcile` raises."""
        was_live = self._exchange.health.stream_is_live
        before = await self._database.read(_open_at_exchange)
        await reconcile()
        if was_live and self._exchange.health.stream_is_live:
            await self._compare_orders(before)
        await self._compare_positions()

    def _record_report(self, report: OrderStatusReport) -> None:
        if report.client_order_id is not None:
            self._reported[report.client_order_id] = (report.status, report.executed_quantity)
            self._reported.move_to_end(report.client_order_id)
            if len(self._reported) > _MAX_REPORTS:
                self._reported.popitem(last=False)

    async def _compare_orders(self, before: Mapping[str, OrderState]) -> None:
        after = await self._database.read(_states, tuple(before))
        changed = {
            client_order_id: state for client_order_id, state in after.items() if state != before[client_order_id]
        }
        deadline = asyncio.get_running_loop().time() + _LATE_REPORT_S
        while changed and asyncio.get_running_loop().time() < deadline:
            changed = {
                client_order_id: state
                for client_order_id, state in changed.items()
                if self._reported.get(client_order_id) != state
            }
            await asyncio.sleep(_POLL_EVERY_S)
        for client_order_id, (status, executed) in changed.items():
            state = f"{status.value.replace('_', ' ')}, {amount(executed)} executed"
            detail = f"order {client_order_id} is {state}; the stream did not report it"
            await self._database.write(_publish, detail, client_order_id, now=self._clock())

    async def _compare_positions(self) -> None:
        """A position must have changed by exactly the fills stored since. Published if two checks in a row find the same gap."""
        snapshot = self._exchange.snapshot
        if snapshot is None or not self._fills_are_known():
            return
        # One job: it runs after the fills that this snapshot shows, and before those that come later.
        since = None if self._baseline is None else self._baseline.last_fill
        now, moved = await self._database.write(_read_positions, snapshot, since, now=self._clock())
        if self._baseline is None:
            self._baseline = now
            return
        unexplained: dict[str, Decimal] = {}
        for symbol in sorted({*self._baseline.positions, *now.positions, *moved}):
            expected = self._baseline.positions.get(symbol, ZERO) + moved.get(symbol, ZERO)
            found = now.positions.get(symbol, ZERO)
            if found != expected:
                unexplained[symbol] = found - expected
        adjusted = dict(self._baseline.positions)
        for symbol in [symbol for symbol, gap in unexplained.items() if self._unexplained.get(symbol) == gap]:
            gap, found = unexplained.pop(symbol), now.positions.get(symbol, ZERO)
            detail = f"{symbol} is {amount(found)}, by its fills it should be {amount(found - gap)}"
            await self._database.write(_publish, detail, None, now=self._clock(), symbol=symbol)
            adjusted[symbol] = adjusted.get(symbol, ZERO) + gap
        self._baseline = _Baseline(adjusted, self._baseline.last_fill) if unexplained else now
        self._unexplained = unexplained


def _open_at_exchange(connection: sqlite3.Connection) -> dict[str, OrderState]:
    """Unfinished orders that the exchange has accepted."""
    return {
        order.client_order_id: (order.status, order.executed_quantity)
        for order in order_rows.unfinished(connection)
        if order.order_id is not None
    }


def _states(connection: sqlite3.Connection, client_order_ids: tuple[str, ...]) -> dict[str, OrderState]:
    found = (order_rows.get(connection, one) for one in client_order_ids)
    return {order.client_order_id: (order.status, order.executed_quantity) for order in found}


def _read_positions(
    connection: sqlite3.Connection, snapshot: AccountSnapshot, since: int | None, *, now: datetime
) -> tuple[_Baseline, dict[str, Decimal]]:
    """Store a snapshot's positions; they, with the fills they include, and what was traded since the fill of row id `since`."""
    positions.replace_all(connection, snapshot, now=now)
    net: dict[str, Decimal] = {}
    for position in positions.list_all(connection):
        net[position.symbol] = net.get(position.symbol, ZERO) + position.quantity
    last_fill = connection.execute("SELECT coalesce(max(rowid), 0) FROM fills").fetchone()[0]
    return _Baseline(net, last_fill), _traded_since(connection, last_fill if since is None else since)


def _traded_since(connection: sqlite3.Connection, fill: int) -> dict[str, Decimal]:
    """Signed traded quantity by symbol of the fills stored after row id `fill`."""
    moved: dict[str, Decimal] = {}
    for symbol, side, quantity in connection.execute(
        "SELECT symbol, side, quantity FROM fills WHERE rowid > ?", (fill,)
    ):
        moved[symbol] = moved.get(symbol, ZERO) + (Decimal(quantity) if side.lower() == "buy" else -Decimal(quantity))
    return moved


def _publish(
    connection: sqlite3.Connection,
    detail: str,
    client_order_id: str | None,
    *,
    now: datetime,
    symbol: str | None = None,
) -> None:
    data = {"detail": detail, "symbol": symbol}
    journal.append(connection, "reconciliation_difference", now=now, client_order_id=client_order_id, data=data)
