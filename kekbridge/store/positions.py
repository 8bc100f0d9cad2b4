"""Positions as last reported by the exchange, stored for the command line. Decisions use the live snapshot instead."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final

from kekbridge.model import AccountSnapshot, MarginMode, Position
from kekbridge.store import codec, settings
from kekbridge.store.codec import decimal_text, optional_decimal, optional_decimal_text

# Store setting: when the exchange last reported the positions, changed or not.
_SEEN_AT: Final = "positions_seen_at"
_Row = tuple[str | None, ...]  # the values of _COLUMNS
_COLUMNS: Final = (
    "symbol, margin_mode, quantity, average_open_price, mark_price, cost_position, unsettled_pnl, leverage, liquidation_price,"
    " updated_at"
)
_DELETE: Final = "DELETE FROM positions WHERE symbol = ? AND margin_mode = ?"
_WRITE: Final = f"INSERT OR REPLACE INTO positions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def replace_all(connection: sqlite3.Connection, snapshot: AccountSnapshot, *, now: datetime) -> None:
    """Make the table equal to the account's open positions, cross and isolated."""
    current = [
        _row(position, position.mark_price or snapshot.mark_price(position.symbol), now)
        for position in snapshot.positions.values()
        if position.quantity
    ]
    current += [_row(position, position.mark_price, now) for position in snapshot.other_positions if position.quantity]
    stored = _read(connection)
    rows = {row[:2]: row for row in current}
    for key in stored.keys() - rows.keys():
        connection.execute(_DELETE, key)
    connection.executemany(_WRITE, [row for key, row in rows.items() if row != stored.get(key)])
    settings.set_value(connection, _SEEN_AT, codec.time_text(snapshot.taken_at), now=now)


def seen_at(connection: sqlite3.Connection) -> datetime | None:
    """When the exchange was last asked for these positions; None before the first time."""
    stored = settings.get_value(connection, _SEEN_AT)
    return None if stored is None else codec.parse_time(str(stored))


def _read(connection: sqlite3.Connection) -> Mapping[_Row, _Row]:
    rows = connection.execute(f"SELECT {_COLUMNS} FROM positions").fetchall()
    return {row[:2]: tuple(row) for row in rows}


def list_all(connection: sqlite3.Connection) -> tuple[Position, ...]:
    """Every open position, by symbol."""
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
            updated_at=codec.parse_time(row["updated_at"]),
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
        codec.time_text(position.updated_at or now),
    )
