"""Fills: each execution stored once, and results (fees, P&L, wins) summed by hour and day, webhook and market.

Running totals are exact: they equal their recomputation to the last digit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from kekbridge.model import ZERO, Fill, MarginMode, Side
from kekbridge.store import codec
from kekbridge.store.codec import EXACT, Span, decimal_text, exact_total, optional_decimal, optional_decimal_text
from kekbridge.store.facts import FillFact, OwnedFill

if TYPE_CHECKING:
    from kekbridge.model.statistics import ResultLine

_COLUMNS: Final = (
    "trade_id, order_id, client_order_id, symbol, side, price, quantity, fee, realized_pnl, is_maker, executed_at,"
    " margin_mode"
)
_FILLS: Final = (
    "SELECT order_id, substr(executed_at, 1, 13), coalesce(webhook_id, ''), symbol, fee, realized_pnl FROM fills"
)
# Hour of execution (`2026-01-15T10`), webhook id (empty if it belongs to none) and market.
_Bucket = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class ResultShare:
    """Results of a group of fills."""

    #: Fees paid, in USDC.
    fees: Decimal = ZERO
    #: Realized P&L without fees, in USDC.
    realized: Decimal = ZERO
    #: Orders that closed all or part of a position, and those of them with a gain.
    closings: int = 0
    wins: int = 0

    def plus(self, other: ResultShare, sign: int = 1) -> ResultShare:
        """The exact sum; with `sign` -1 the difference."""
        return ResultShare(
            EXACT.add(self.fees, EXACT.multiply(other.fees, sign)),
            EXACT.add(self.realized, EXACT.multiply(other.realized, sign)),
            self.closings + other.closings * sign,
            self.wins + other.wins * sign,
        )


# --------------------------------------------------------------------------------------------------------------- fills


def store_all(connection: sqlite3.Connection, facts: Sequence[FillFact]) -> None:
    """Insert new fills and complete known ones, each once by its trade id, and update the results. Only for projector.py."""
    for order_id, of_order in groupby(facts, key=lambda fact: fact.after.fill.order_id):
        with _updating_results(connection, order_id):
            connection.executemany(
                "INSERT INTO fills (trade_id, client_order_id, webhook_id, exit_of, order_id, symbol, side, price, quantity, fee,"
                " realized_pnl, is_maker, executed_at, margin_mode) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (trade_id) DO UPDATE"
                " SET client_order_id = excluded.client_order_id, webhook_id = excluded.webhook_id, exit_of = excluded.exit_of,"
                " realized_pnl = excluded.realized_pnl",
                [_columns_of(fact.after) for fact in of_order],
            )


def find(connection: sqlite3.Connection, trade_id: str) -> OwnedFill | None:
    """The fill of a trade with its owner; None if it is not known."""
    row = connection.execute(
        f"SELECT {_COLUMNS}, webhook_id, exit_of FROM fills WHERE trade_id = ?", (trade_id,)
    ).fetchone()
    return None if row is None else _owned(row)


def since_flat(
    connection: sqlite3.Connection, symbol: str, position: Decimal, *, limit: int
) -> tuple[tuple[str, Decimal, str | None], ...]:
    """The fills of an open cross position since it was flat, oldest first: webhook id (empty: nobody's), signed quantity, and the trade id
    of one that is neither of an order of ours nor of its exits.

    Empty if the newest `limit` fills of the market do not add up to it.
    """
    rows = connection.execute(
        "SELECT side, quantity, coalesce(webhook_id, ''),"
        " CASE WHEN client_order_id IS NULL AND exit_of IS NULL THEN trade_id END"
        " FROM fills WHERE symbol = ? AND margin_mode = 'CROSS'"
        " ORDER BY executed_at DESC, trade_id DESC LIMIT ?",
        (symbol, limit),
    )
    found: list[tuple[str, Decimal, str | None]] = []
    left = position
    for side, text, webhook_id, foreign_id in rows:
        signed = Decimal(text) * Side(side).sign
        found.append((webhook_id, signed, foreign_id))
        left -= signed
        if left == 0:
            return tuple(reversed(found))
    return ()


def recent(connection: sqlite3.Connection, *, since: datetime, limit: int) -> tuple[OwnedFill, ...]:
    """The newest `limit` fills since a time with their owners, oldest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS}, webhook_id, exit_of FROM fills WHERE executed_at >= ? ORDER BY executed_at DESC, trade_id DESC LIMIT ?",
        (codec.time_text(since), limit),
    ).fetchall()
    return tuple(_owned(row) for row in reversed(rows))


def of_order(connection: sqlite3.Connection, client_order_id: str) -> tuple[Fill, ...]:
    """The fills of an order, oldest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM fills WHERE client_order_id = ? ORDER BY executed_at, trade_id",
        (client_order_id,),
    )
    return tuple(_fill(row) for row in rows)


def quantity_of(connection: sqlite3.Connection, order_id: str) -> Decimal:
    """The exact sum of the stored fills of an order, by the exchange's id, in base units."""
    rows = connection.execute("SELECT quantity FROM fills WHERE order_id = ?", (order_id,))
    return exact_total(Decimal(text) for (text,) in rows)


def exits_of(connection: sqlite3.Connection, client_order_id: str) -> tuple[Fill, ...]:
    """Executions of an entry's own stop loss and take-profit, oldest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM fills WHERE exit_of = ? ORDER BY executed_at, trade_id", (client_order_id,)
    )
    return tuple(_fill(row) for row in rows)


def last_executed_at(connection: sqlite3.Connection) -> datetime | None:
    """Time of the newest recorded fill; None if there is none."""
    return codec.optional_time(connection.execute("SELECT max(executed_at) FROM fills").fetchone()[0])


def list_fills(
    connection: sqlite3.Connection, *, symbol: str | None = None, since: datetime | None = None, limit: int = 1000
) -> tuple[Fill, ...]:
    """The last `limit` fills, including those of other orders of the account, newest last."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM fills WHERE executed_at >= ? AND (? IS NULL OR symbol = ?)"
        " ORDER BY executed_at DESC, trade_id DESC LIMIT ?",
        (codec.optional_time_text(since) or "", symbol, symbol, limit),
    ).fetchall()
    return tuple(_fill(row) for row in reversed(rows))


def _columns_of(owned: OwnedFill) -> tuple[str | int | None, ...]:
    fill = owned.fill
    return (
        fill.trade_id,
        fill.client_order_id,
        owned.webhook_id,
        owned.exit_of,
        fill.order_id,
        fill.symbol,
        fill.side,
        decimal_text(fill.price),
        decimal_text(fill.quantity),
        decimal_text(fill.fee),
        optional_decimal_text(fill.realized_pnl),
        fill.is_maker,
        codec.time_text(fill.executed_at),
        fill.margin_mode.value,
    )


def _owned(row: sqlite3.Row) -> OwnedFill:
    return OwnedFill(fill=_fill(row), webhook_id=row["webhook_id"], exit_of=row["exit_of"])


def _fill(row: sqlite3.Row) -> Fill:
    return Fill(
        trade_id=row["trade_id"],
        order_id=row["order_id"],
        client_order_id=row["client_order_id"],
        symbol=row["symbol"],
        side=Side(row["side"]),
        price=Decimal(row["price"]),
        quantity=Decimal(row["quantity"]),
        fee=Decimal(row["fee"]),
        realized_pnl=optional_decimal(row["realized_pnl"]),
        is_maker=bool(row["is_maker"]),
        executed_at=codec.parse_time(row["executed_at"]),
        margin_mode=MarginMode(row["margin_mode"]),
    )


# -------------------------------------------------------------------------------------------- results by hour and by day


def list_results(connection: sqlite3.Connection, span: Span, *, webhook_id: str | None = None) -> list[ResultLine]:
    """Results of a period by UTC day, webhook id and market, of all webhooks or of one; several lines of one of them add up.

    Closing orders count by whole hours, fees and P&L exactly: what a divided hour contains beyond the period is a line of its own,
    negative.
    """
    from kekbridge.model.statistics import ResultLine  # late: the alert path needs none of it

    owned = "AND (?3 IS NULL OR webhook_id = ?3)"
    columns = "webhook_id, symbol, realized_pnl, fees, closings, wins"
    rows = connection.execute(
        f"SELECT day, {columns} FROM day_results WHERE day > ?1 AND day < ?2 {owned}",
        (span.start, span.end[:10], webhook_id),
    ).fetchall()
    for low, high in span.hours_beside_days:
        rows += connection.execute(
            f"SELECT substr(hour, 1, 10), {columns} FROM results WHERE hour >= ?1 AND hour < ?2 {owned}",
            (low, high, webhook_id),
        )
    lines = [
        ResultLine(day, owner, symbol, Decimal(realized), Decimal(fees), ZERO, closings, wins)
        for day, owner, symbol, realized, fees, closings, wins in rows
    ]
    for low, high in span.edges:
        beyond = connection.execute(
            "SELECT substr(executed_at, 1, 10), coalesce(webhook_id, ''), symbol, coalesce(realized_pnl, '0'), fee FROM fills"
            f" WHERE executed_at >= ?1 AND executed_at < ?2 {owned}",
            (low, high, webhook_id),
        )
        lines += [
            ResultLine(day, owner, symbol, EXACT.minus(Decimal(realized)), EXACT.minus(Decimal(fee)), ZERO, 0, 0)
            for day, owner, symbol, realized, fee in beyond
        ]
    return lines


def rebuild_results(connection: sqlite3.Connection) -> None:
    """Recompute all results from the fills. Used by migration 0014."""
    sums: dict[_Bucket, ResultShare] = {}
    rows = connection.execute(f"{_FILLS} ORDER BY order_id, executed_at, trade_id")
    for _, fills in groupby(rows, key=lambda row: row[0]):
        for bucket, share in _shares_by_bucket(fills).items():
            sums[bucket] = sums.get(bucket, ResultShare()).plus(share)
    connection.execute("DELETE FROM results")
    connection.execute("DELETE FROM day_results")
    for bucket, one in sums.items():
        _add_share(connection, bucket, one)


@contextmanager
def _updating_results(connection: sqlite3.Connection, order_id: str) -> Iterator[None]:
    """Update the results by what the block changes in the fills of one order (the exchange's id)."""
    before = _order_shares(connection, order_id)
    yield
    after = _order_shares(connection, order_id)
    for bucket in before.keys() | after.keys():
        change = after.get(bucket, ResultShare()).plus(before.get(bucket, ResultShare()), -1)
        if change != ResultShare():
            _add_share(connection, bucket, change)


def _shares_by_bucket(fills: Iterable[Any]) -> Mapping[_Bucket, ResultShare]:
    """Results of the fills of one order, oldest first, by bucket. The order itself counts in the bucket of its first closing fill."""
    found: dict[_Bucket, ResultShare] = {}
    first: _Bucket | None = None
    total = ZERO
    for _, hour, webhook_id, symbol, fee, realized in fills:
        bucket = (hour, webhook_id, symbol)
        amount = optional_decimal(realized) or ZERO
        found[bucket] = found.get(bucket, ResultShare()).plus(ResultShare(Decimal(fee), amount))
        if amount:
            first = first or bucket
            total = EXACT.add(total, amount)
    if first is not None:
        found[first] = found[first].plus(ResultShare(closings=1, wins=int(total > 0)))
    return found


def _order_shares(connection: sqlite3.Connection, order_id: str) -> Mapping[_Bucket, ResultShare]:
    return _shares_by_bucket(
        connection.execute(f"{_FILLS} WHERE order_id = ? ORDER BY executed_at, trade_id", (order_id,))
    )


def _add_share(connection: sqlite3.Connection, bucket: _Bucket, change: ResultShare) -> None:
    """Add to the sums of an hour and to those of its day: a year of days is read for one page, never a year of hours."""
    hour, *rest = bucket
    for table, column, at in (("results", "hour", hour), ("day_results", "day", hour[:10])):
        row = connection.execute(
            f"SELECT fees, realized_pnl, closings, wins FROM {table} WHERE {column} = ? AND webhook_id = ? AND symbol = ?",
            (at, *rest),
        ).fetchone()
        before = ResultShare() if row is None else ResultShare(Decimal(row[0]), Decimal(row[1]), row[2], row[3])
        after = before.plus(change)
        connection.execute(
            f"INSERT OR REPLACE INTO {table} ({column}, webhook_id, symbol, fees, realized_pnl, closings, wins)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (at, *rest, decimal_text(after.fees), decimal_text(after.realized), after.closings, after.wins),
        )
