"""The positions as the exchange last showed them, kept for the command line; decisions are made from the live snapshot, not here."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final

from kekbridge.model import AccountSnapshot, MarginMode, Position
from kekbridge.store import cache, codec
from kekbridge.store.codec import decimal_text, optional_decimal, optional_decimal_text

# The values of _COLUMNS.
_Row = tuple[str | None, ...]

_COLUMNS: Final = (
    "symbol, margin_mode, quantity, average_open_price, mark_price, cost_position, unsettled_pnl, leverage, liquidation_price,"
    " updated_at"
)
_DELETE: Final = "DELETE FROM positions WHERE symbol = ? AND margin_mode = ?"
_TABLE: Final = "positions"
_ROWS: Final = "rows"
_SHOWN: Final = "shown"
_WRITE: Final = f"INSERT OR REPLACE INTO positions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def replace_all(connection: sqlite3.Connection, snapshot: AccountSnapshot, *, now: datetime) -> None:
    """Make the table equal to the account's open positions, cross and isolated; what is not open any more goes."""
    shown = (snapshot.positions, snapshot.other_positions, snapshot.marks)
    written: tuple[object, ...] = cache.get(connection, _TABLE, _SHOWN) or ()
    if written and all(one is other for one, other in zip(shown, written, strict=True)):
        return  # the fills of a batch were all told by one picture
    wanted = [
        _row(position, position.mark_price or snapshot.mark_price(position.symbol), now)
        for position in snapshot.positions.values()
        if position.quantity
    ]
    wanted += [_row(position, position.mark_price, now) for position in snapshot.other_positions if position.quantity]
    stored = cache.get_or_load(connection, _TABLE, _ROWS, _read)
    rows = {row[:2]: row for row in wanted}
    if rows != stored:  # a fill is told by several messages
        for key in stored.keys() - rows.keys():
            connection.execute(_DELETE, key)
        connection.executemany(_WRITE, [row for key, row in rows.items() if row != stored.get(key)])
        cache.put(connection, _TABLE, _ROWS, rows)
    if all(position.updated_at for position in (*snapshot.positions.values(), *snapshot.other_positions)):
        cache.put(connection, _TABLE, _SHOWN, shown)  # the rows do not depend on `now`
    else:
        cache.invalidate(connection, _TABLE, _SHOWN)


def _read(connection: sqlite3.Connection) -> Mapping[_Row, _Row]:
    rows = connection.execute(f"SELECT {_COLUMNS} FROM positions").fetchall()
    return {row[:2]: tuple(row) for row in rows}


def upsert(connection: sqlite3.Connection, position: Position, *, now: datetime) -> None:
    """Write one position; a flat one is removed."""
    cache.invalidate(connection, _TABLE)
    if position.quantity:
        connection.execute(_WRITE, _row(position, position.mark_price, now))
    else:
        connection.execute(_DELETE, (position.symbol, position.margin_mode.value))


def list_all(connection: sqlite3.Connection) -> tuple[Position, ...]:
    """Every open position by symbol; `updated_at` says how old the news is."""
    rows = connection.execute("SELECT * FROM positions ORDER BY symbol, margin_mode")
    return tuple(
        Position(
            symbol=row["symbol"],
            quantity=Decimal(row["quantity"]),
            average_open_price=Decimal(row["average_open_price"]),
            margin_mode=MarginMode(row["margin_mode"]),
            mark_price=optional_decimal(row["mark_price"]),
            cost_position=Decimal(row["cost_position"]),
            unsettled_pnl=Decimal(row["unsettled_pnl"]),
            leverage=optional_decimal(row["leverage"]),
            liquidation_price=optional_decimal(row["liquidation_price"]),
            updated_at=codec.from_text(row["updated_at"]),
        )
        for row in rows
    )


def _row(position: Position, mark_price: Decimal | None, now: datetime) -> _Row:
    return (
        position.symbol,
        position.margin_mode.value,
        decimal_text(position.quantity),
        decimal_text(position.average_open_price),
        optional_decimal_text(mark_price),
        decimal_text(position.cost_position),
        decimal_text(position.unsettled_pnl),
        optional_decimal_text(position.leverage),
        optional_decimal_text(position.liquidation_price),
        codec.to_text(position.updated_at or now),
    )
