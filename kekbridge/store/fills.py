"""Fills: each execution recorded once, its realized P&L added to its day, and results (fees, P&L, wins) summed by hour.

Running totals are exact: they equal their recomputation to the last digit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import Any, Final

from msgspec.structs import replace

from kekbridge.model import ZERO, Fill, Order, Side
from kekbridge.store import cache, codec, events, reservations, settings
from kekbridge.store.codec import EXACT, decimal_text, optional_decimal, optional_decimal_text

_COLUMNS: Final = (
    "trade_id, order_id, client_order_id, symbol, side, price, quantity, fee, realized_pnl, is_maker, executed_at"
)
_TABLE: Final = "results"
_FILLS: Final = "SELECT order_id, coalesce(webhook_id, ''), fee, realized_pnl, substr(executed_at, 1, 13) FROM fills"
_Bucket = tuple[str, str]  # hour of execution (`2026-01-15T10`) and webhook id, empty if it belongs to none


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


def record(connection: sqlite3.Connection, fills: Iterable[Fill], *, order: Order | None = None) -> int:
    """Record fills by trade id and return how many were new. `order`: our order, if all are known to belong to it.

    A fill reported again can add what was missing (its order, its realized P&L), never a second row. Realized P&L counts on the UTC day
    of execution for the account and for the webhook whose order, or whose last entry in the symbol, it belongs to: an exit executed by
    the exchange itself (a triggered stop) is the result of the webhook that entered.
    """
    new = 0
    for order_id, fills_of_order in groupby(fills, key=lambda fill: fill.order_id):
        with _updating_results(connection, order_id):
            new += sum(_record_one(connection, fill, order) for fill in fills_of_order)
    return new


def record_exits(connection: sqlite3.Connection, fills: Iterable[Fill], *, entry: Order) -> int:
    """Record executions of an entry's own stop loss or take-profit and return how many were new.

    They belong to no order row, but their P&L counts for the entry's webhook and their events belong to its alert.
    """
    new = 0
    for fill in fills:
        with _updating_results(connection, fill.order_id):
            new += _record_exit(connection, fill, entry)
    return new


def of_order(connection: sqlite3.Connection, client_order_id: str) -> tuple[Fill, ...]:
    """The fills of an order, oldest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM fills WHERE client_order_id = ? ORDER BY executed_at, trade_id",
        (client_order_id,),
    )
    return tuple(_fill(row) for row in rows)


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


def _record_one(connection: sqlite3.Connection, fill: Fill, order: Order | None) -> bool:
    """True if the fill is new."""
    ours, webhook_id, alert_id = _owner(connection, fill, order)
    is_new = connection.execute(
        "INSERT INTO fills (trade_id, client_order_id, webhook_id, order_id, symbol, side, price, quantity, fee, realized_pnl,"
        " is_maker, executed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (trade_id) DO NOTHING",
        (
            fill.trade_id,
            ours,
            webhook_id,
            fill.order_id,
            fill.symbol,
            fill.side.value,
            decimal_text(fill.price),
            decimal_text(fill.quantity),
            decimal_text(fill.fee),
            optional_decimal_text(fill.realized_pnl),
            fill.is_maker,
            codec.time_text(fill.executed_at),
        ),
    ).rowcount
    if is_new:
        day = codec.day_of(fill.executed_at)
        reservations.add_realized(connection, _scopes(webhook_id), day, fill.realized_pnl or ZERO)
        data = {"trade_id": fill.trade_id, "symbol": fill.symbol, "side": fill.side, "price": fill.price}
        figures = {"quantity": fill.quantity, "fee": fill.fee, "realized_pnl": fill.realized_pnl}
        events.append(
            connection, "fill", now=fill.executed_at, alert_id=alert_id, client_order_id=ours, data=data | figures
        )
        return True
    known = connection.execute(
        "SELECT client_order_id, webhook_id, realized_pnl, executed_at FROM fills WHERE trade_id = ?", (fill.trade_id,)
    ).fetchone()
    if known["client_order_id"] is None or optional_decimal(known["realized_pnl"]) != fill.realized_pnl:
        _complete(connection, fill, order, known)
    return False


def _record_exit(connection: sqlite3.Connection, fill: Fill, entry: Order) -> bool:
    """True if the fill is new."""
    known = connection.execute("SELECT exit_of FROM fills WHERE trade_id = ?", (fill.trade_id,)).fetchone()
    if known is not None and known[0] is not None:
        return False
    is_new = _record_one(connection, replace(fill, client_order_id=None), None)
    row = connection.execute(
        "SELECT webhook_id, realized_pnl, executed_at FROM fills WHERE trade_id = ?", (fill.trade_id,)
    ).fetchone()
    connection.execute(
        "UPDATE fills SET exit_of = ?, webhook_id = ? WHERE trade_id = ?",
        (entry.client_order_id, entry.webhook_id, fill.trade_id),
    )
    if row["webhook_id"] != entry.webhook_id:
        day, realized = row["executed_at"][:10], optional_decimal(row["realized_pnl"]) or ZERO
        reservations.add_realized(connection, _scopes(row["webhook_id"]), day, -realized)
        reservations.add_realized(connection, _scopes(entry.webhook_id), day, realized)
    events.append(
        connection,
        "exit_fill",
        now=fill.executed_at,
        alert_id=entry.alert_id,
        client_order_id=entry.client_order_id,
        data={"trade_id": fill.trade_id, "side": fill.side, "price": fill.price, "quantity": fill.quantity},
    )
    return is_new


def _complete(connection: sqlite3.Connection, fill: Fill, order: Order | None, known: sqlite3.Row) -> None:
    """Add what was unknown when the fill was first reported, and move its realized P&L to where it belongs."""
    ours, webhook_id = known["client_order_id"], known["webhook_id"]
    if ours is None:
        ours, owner, _ = _owner(connection, fill, order)
        webhook_id = owner if ours is not None else webhook_id
    before = optional_decimal(known["realized_pnl"])
    realized = before if fill.realized_pnl is None else fill.realized_pnl
    if (ours, webhook_id, realized) == (known["client_order_id"], known["webhook_id"], before):
        return
    connection.execute(
        "UPDATE fills SET client_order_id = ?, webhook_id = ?, realized_pnl = ? WHERE trade_id = ?",
        (ours, webhook_id, optional_decimal_text(realized), fill.trade_id),
    )
    day = known["executed_at"][:10]
    reservations.add_realized(connection, _scopes(known["webhook_id"]), day, -(before or ZERO))
    reservations.add_realized(connection, _scopes(webhook_id), day, realized or ZERO)


def _owner(
    connection: sqlite3.Connection, fill: Fill, order: Order | None
) -> tuple[str | None, str | None, str | None]:
    """Client order id, webhook and alert of a fill; for a fill of none of our orders only the webhook that last entered the symbol."""
    if order is not None:
        return order.client_order_id, order.webhook_id, order.alert_id
    row = connection.execute(
        "SELECT client_order_id, webhook_id, alert_id FROM orders WHERE client_order_id = ? OR order_id = ? LIMIT 1",
        (fill.client_order_id, fill.order_id),
    ).fetchone()
    if row is not None:
        return row[0], row[1], row[2]
    entered = connection.execute(
        "SELECT webhook_id FROM orders WHERE symbol = ? AND purpose = 'entry' AND order_id IS NOT NULL"
        " ORDER BY sequence DESC LIMIT 1",
        (fill.symbol,),
    ).fetchone()
    return None, None if entered is None else entered[0], None


def _scopes(webhook_id: str | None) -> tuple[str, ...]:
    return (settings.ACCOUNT,) if webhook_id is None else (settings.ACCOUNT, webhook_id)


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
    )


# ----------------------------------------------------------------------------------------------------- results by hour


def sum_results(connection: sqlite3.Connection, *, since: str, webhook_id: str | None) -> ResultShare:
    """Results since a time (as stored), of all webhooks or one. Closing orders count by whole hours, fees and P&L exactly."""
    rows = connection.execute(
        "SELECT fees, realized_pnl, closings, wins FROM results WHERE hour >= ?1 AND (?2 IS NULL OR webhook_id = ?2)",
        (since[:13], webhook_id),
    )
    found = ResultShare()
    for fees, realized, closings, wins in rows:
        found = found.plus(ResultShare(Decimal(fees), Decimal(realized), closings, wins))
    if len(since) > 13:
        early = connection.execute(
            "SELECT fee, realized_pnl FROM fills"
            " WHERE executed_at >= ?1 AND executed_at < ?2 AND (?3 IS NULL OR webhook_id = ?3)",
            (since[:13], since, webhook_id),
        )
        for fee, realized in early:
            found = found.plus(ResultShare(Decimal(fee), optional_decimal(realized) or ZERO), -1)
    return found


def rebuild_results(connection: sqlite3.Connection) -> None:
    """Recompute all results from the fills. Used by migration 0003."""
    sums: dict[_Bucket, ResultShare] = {}
    rows = connection.execute(f"{_FILLS} ORDER BY order_id, executed_at, trade_id")
    for _, fills in groupby(rows, key=lambda row: row[0]):
        for bucket, share in _shares_by_bucket(fills).items():
            sums[bucket] = sums.get(bucket, ResultShare()).plus(share)
    cache.invalidate(connection, _TABLE)
    connection.execute("DELETE FROM results")
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
    for _, webhook_id, fee, realized, hour in fills:
        amount = optional_decimal(realized) or ZERO
        found[hour, webhook_id] = found.get((hour, webhook_id), ResultShare()).plus(ResultShare(Decimal(fee), amount))
        if amount:
            first = first or (hour, webhook_id)
            total = EXACT.add(total, amount)
    if first is not None:
        found[first] = found[first].plus(ResultShare(closings=1, wins=int(total > 0)))
    return found


def _order_shares(connection: sqlite3.Connection, order_id: str) -> Mapping[_Bucket, ResultShare]:
    return _shares_by_bucket(
        connection.execute(f"{_FILLS} WHERE order_id = ? ORDER BY executed_at, trade_id", (order_id,))
    )


def _add_share(connection: sqlite3.Connection, bucket: _Bucket, change: ResultShare) -> None:
    after = cache.get_or_load(connection, _TABLE, bucket, _read_share, bucket).plus(change)
    connection.execute(
        "INSERT OR REPLACE INTO results (hour, webhook_id, fees, realized_pnl, closings, wins) VALUES (?, ?, ?, ?, ?, ?)",
        (*bucket, decimal_text(after.fees), decimal_text(after.realized), after.closings, after.wins),
    )
    cache.put(connection, _TABLE, bucket, after)


def _read_share(connection: sqlite3.Connection, bucket: _Bucket) -> ResultShare:
    row = connection.execute(
        "SELECT fees, realized_pnl, closings, wins FROM results WHERE hour = ? AND webhook_id = ?", bucket
    ).fetchone()
    return ResultShare() if row is None else ResultShare(Decimal(row[0]), Decimal(row[1]), row[2], row[3])
