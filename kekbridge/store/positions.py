"""The positions as the exchange last showed them, kept for the command line; decisions are made from the live snapshot, not here."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from kekbridge.model import AccountSnapshot, MarginMode, Position
from kekbridge.store import times
from kekbridge.store.codec import decimal_text, optional_decimal, optional_decimal_text


def replace_all(connection: sqlite3.Connection, snapshot: AccountSnapshot, *, now: datetime) -> None:
    """Make the table equal to the account's open positions, cross and isolated; what is not open any more goes."""
    cross = (
        replace(position, mark_price=position.mark_price or snapshot.mark_price(position.symbol))
        for position in snapshot.positions.values()
    )
    connection.execute("DELETE FROM positions")
    _write(connection, (position for position in (*cross, *snapshot.other_positions) if position.quantity), now)


def upsert(connection: sqlite3.Connection, position: Position, *, now: datetime) -> None:
    """Write one position; a flat one is removed."""
    if position.quantity:
        _write(connection, (position,), now)
    else:
        connection.execute(
            "DELETE FROM positions WHERE symbol = ? AND margin_mode = ?", (position.symbol, position.margin_mode.value)
        )


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
            updated_at=times.from_text(row["updated_at"]),
        )
        for row in rows
    )


def _write(connection: sqlite3.Connection, positions: Iterable[Position], now: datetime) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO positions (symbol, margin_mode, quantity, average_open_price, mark_price, cost_position,"
        " unsettled_pnl, leverage, liquidation_price, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                position.symbol,
                position.margin_mode.value,
                decimal_text(position.quantity),
                decimal_text(position.average_open_price),
                optional_decimal_text(position.mark_price),
                decimal_text(position.cost_position),
                decimal_text(position.unsettled_pnl),
                optional_decimal_text(position.leverage),
                optional_decimal_text(position.liquidation_price),
                times.to_text(position.updated_at or now),
            )
            for position in positions
        ],
    )
