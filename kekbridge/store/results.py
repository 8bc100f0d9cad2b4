"""What fills cost and won, summed by hour and webhook as they are recorded, so that no question has to add up a long history.

One rule (`shares_of`) says what the fills of one order amount to; the table is its sum over all orders and can be rebuilt from the fills.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Any, Final

from kekbridge.store.cache import forget, recall, remember
from kekbridge.store.codec import EXACT, decimal_text, optional_decimal

_TABLE: Final = "results"
_ZERO: Final = Decimal(0)
# Hour of execution and webhook; '' for nobody's.
Place = tuple[str, str]
_FILLS: Final = "SELECT order_id, coalesce(webhook_id, ''), fee, realized_pnl, substr(executed_at, 1, 13) FROM fills"


@dataclass(frozen=True, slots=True)
class Result:
    """USDC paid and won or lost (fees not included), orders that closed something, and those of them that gained."""

    fees: Decimal = _ZERO
    realized: Decimal = _ZERO
    closings: int = 0
    wins: int = 0

    def plus(self, other: Result, sign: int = 1) -> Result:
        """The sum; with `sign` -1 the difference. Exact."""
        return Result(
            EXACT.add(self.fees, EXACT.multiply(other.fees, sign)),
            EXACT.add(self.realized, EXACT.multiply(other.realized, sign)),
            self.closings + other.closings * sign,
            self.wins + other.wins * sign,
        )


@contextmanager
def follow(connection: sqlite3.Connection, order_id: str) -> Iterator[None]:
    """Move the sums with whatever is done inside to the fills of one order (the exchange's id)."""
    before = _of_order(connection, order_id)
    yield
    after = _of_order(connection, order_id)
    for place in before.keys() | after.keys():
        change = after.get(place, Result()).plus(before.get(place, Result()), -1)
        if change != Result():
            _add(connection, place, change)


def rebuild(connection: sqlite3.Connection) -> None:
    """Sum all fills anew."""
    sums: dict[Place, Result] = {}
    rows = connection.execute(f"{_FILLS} ORDER BY order_id, executed_at, trade_id")
    for _, fills in groupby(rows, key=lambda row: row[0]):
        for place, share in shares_of(fills).items():
            sums[place] = sums.get(place, Result()).plus(share)
    forget(connection, _TABLE)
    connection.execute("DELETE FROM results")
    for place, one in sums.items():
        _add(connection, place, one)


def shares_of(fills: Iterable[Any]) -> Mapping[Place, Result]:
    """What the fills of one order, oldest first, add to which hours; the order itself counts at its first closing fill."""
    found: dict[Place, Result] = {}
    first: Place | None = None
    total = _ZERO
    for _, webhook_id, fee, realized, hour in fills:
        amount = optional_decimal(realized) or _ZERO
        found[hour, webhook_id] = found.get((hour, webhook_id), Result()).plus(Result(Decimal(fee), amount))
        if amount:
            first = first or (hour, webhook_id)
            total = EXACT.add(total, amount)
    if first is not None:
        found[first] = found[first].plus(Result(closings=1, wins=int(total > 0)))
    return found


def total(connection: sqlite3.Connection, *, since: str, webhook_id: str | None) -> Result:
    """The sum from a time on (as stored) of everybody or one webhook; a closing order of the first hour counts if it is in that hour."""
    rows = connection.execute(
        "SELECT fees, realized_pnl, closings, wins FROM results WHERE hour >= ?1 AND (?2 IS NULL OR webhook_id = ?2)",
        (since[:13], webhook_id),
    )
    found = Result()
    for fees, realized, closings, wins in rows:
        found = found.plus(Result(Decimal(fees), Decimal(realized), closings, wins))
    if len(since) > 13:
        early = connection.execute(
            "SELECT fee, realized_pnl FROM fills"
            " WHERE executed_at >= ?1 AND executed_at < ?2 AND (?3 IS NULL OR webhook_id = ?3)",
            (since[:13], since, webhook_id),
        )
        for fee, realized in early:
            found = found.plus(Result(Decimal(fee), optional_decimal(realized) or _ZERO), -1)
    return found


def _of_order(connection: sqlite3.Connection, order_id: str) -> Mapping[Place, Result]:
    return shares_of(connection.execute(f"{_FILLS} WHERE order_id = ? ORDER BY executed_at, trade_id", (order_id,)))


def _add(connection: sqlite3.Connection, place: Place, change: Result) -> None:
    after = recall(connection, _TABLE, place, _read, place).plus(change)
    connection.execute(
        "INSERT OR REPLACE INTO results (hour, webhook_id, fees, realized_pnl, closings, wins) VALUES (?, ?, ?, ?, ?, ?)",
        (*place, decimal_text(after.fees), decimal_text(after.realized), after.closings, after.wins),
    )
    remember(connection, _TABLE, place, after)


def _read(connection: sqlite3.Connection, place: Place) -> Result:
    row = connection.execute(
        "SELECT fees, realized_pnl, closings, wins FROM results WHERE hour = ? AND webhook_id = ?", place
    ).fetchone()
    return Result() if row is None else Result(Decimal(row[0]), Decimal(row[1]), row[2], row[3])
