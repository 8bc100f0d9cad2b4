"""Looks whether every position that must have a stop has one at the exchange, whoever opened it and however it was lost.

The Guard (protect.py) places stops for entries of ours; this is the second pair of eyes, which only tells.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal

from kekbridge.exchange.base import OrderReport
from kekbridge.model import ZERO, AccountSnapshot, Side
from kekbridge.ops.conditions import Conditions
from kekbridge.store import webhooks
from kekbridge.store.database import Database

Stops = Callable[[str, Side], Awaitable[Sequence[OrderReport]]]
"""The live stops of a symbol for one closing side."""


class UnprotectedPositions:
    """`look` every half minute. Told when two looks in a row found it: a stop may be on its way in one."""

    def __init__(
        self,
        database: Database,
        conditions: Conditions,
        snapshot: Callable[[], AccountSnapshot | None],
        stops: Stops,
        *,
        always: bool,
    ) -> None:
        """`always`: the account demands a stop for every position ([risk] require_stop_loss)."""
        self._database = database
        self._conditions = conditions
        self._snapshot = snapshot
        self._stops = stops
        self._always = always
        self._suspects: Mapping[str, Decimal] = {}

    async def look(self) -> None:
        """Raises ExchangeUnavailable, StoreUnavailable."""
        snapshot = self._snapshot()
        if snapshot is None:
            return
        held = _positions(snapshot)
        wanted = set(held) if self._always else set(held) & await self._database.read(must_have_stop)
        naked = {symbol: held[symbol] for symbol in sorted(wanted) if await self._is_naked(symbol, held[symbol])}
        for symbol, quantity in naked.items():
            if symbol in self._suspects:
                data = {"symbol": symbol, "position": quantity}
                await self._conditions.note(f"naked:{symbol}", "position_unprotected", over=None, data=data)
        self._suspects = naked
        for name in await self._conditions.known():
            symbol = name.removeprefix("naked:")
            if name.startswith("naked:") and symbol not in naked:
                await self._conditions.note(name, None, over="position_protected", data={"symbol": symbol})

    async def _is_naked(self, symbol: str, quantity: Decimal) -> bool:
        """Not wholly covered. A stop of quantity zero closes whatever the position is then (orderly-api.md section 7)."""
        stops = await self._stops(symbol, Side.SELL if quantity > 0 else Side.BUY)
        if any(stop.quantity == ZERO for stop in stops):
            return False
        return sum((stop.quantity - stop.executed_quantity for stop in stops), ZERO) < abs(quantity)


def _positions(snapshot: AccountSnapshot) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for position in (*snapshot.positions.values(), *snapshot.other_positions):
        if position.quantity:
            found[position.symbol] = found.get(position.symbol, ZERO) + position.quantity
    return found


def must_have_stop(connection: sqlite3.Connection) -> set[str]:
    """Markets where an entry of ours was given a stop that has not ended, or whose last entry came from a webhook that demands one."""
    found = {
        symbol
        for (symbol,) in connection.execute(
            "SELECT DISTINCT o.symbol FROM protections p JOIN orders o USING (client_order_id) WHERE p.state <> 'over'"
        )
    }
    demanding = {one.id for one in webhooks.list_all(connection) if one.settings.limits.require_stop_loss}
    if demanding:
        rows = connection.execute(
            "SELECT symbol, (SELECT webhook_id FROM orders WHERE purpose = 'entry' AND symbol = p.symbol"
            " AND executed_quantity <> '0' ORDER BY sequence DESC LIMIT 1) FROM positions p"
        )
        found |= {symbol for symbol, webhook_id in rows if webhook_id in demanding}
    return found
