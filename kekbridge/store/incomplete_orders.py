"""Orders whose stored fills do not add up to the quantity that they, or the exits that travelled with them, have executed.

An order that lacks a fill is listed until it has it: execution/tracker.py looks for it, `kekbridge doctor` and a metric count these.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from kekbridge.model import Order
from kekbridge.store.codec import exact_total, from_json
from kekbridge.store.orders import COLUMNS, order_from

_OWN: Final = "own"
_EXITS: Final = "exits"


def update(connection: sqlite3.Connection, client_order_ids: Iterable[str]) -> None:
    """Add or remove these orders by what the tables hold of their own executions. Only for projector.py."""
    for name in client_order_ids:
        row = connection.execute("SELECT executed_quantity FROM orders WHERE client_order_id = ?", (name,)).fetchone()
        if row is not None:
            _set(connection, name, _OWN, is_incomplete=filled_quantity(connection, name) < Decimal(row[0]))


def update_exits(connection: sqlite3.Connection, client_order_ids: Iterable[str]) -> None:
    """Add or remove these entries by what the tables hold of the executions of their own exits. Only for projector.py."""
    for name in client_order_ids:
        row = connection.execute("SELECT legs FROM exits WHERE client_order_id = ?", (name,)).fetchone()
        if row is not None:
            executed = exact_total(Decimal(str(leg["executed_quantity"])) for leg in from_json(row[0]))
            quantities = connection.execute("SELECT quantity FROM fills WHERE exit_of = ?", (name,))
            filled = exact_total(Decimal(text) for (text,) in quantities)
            _set(connection, name, _EXITS, is_incomplete=filled < executed)


def filled_quantity(connection: sqlite3.Connection, client_order_id: str) -> Decimal:
    """The exact sum of an order's stored fills, in base units."""
    rows = connection.execute("SELECT quantity FROM fills WHERE client_order_id = ?", (client_order_id,))
    return exact_total(Decimal(text) for (text,) in rows)


def list_all(connection: sqlite3.Connection) -> tuple[Order, ...]:
    """The orders, open and ended, that lack a fill of their own, in order of admission."""
    return _orders(connection, _OWN)


def entries(connection: sqlite3.Connection) -> tuple[Order, ...]:
    """The entries whose stop loss or take-profit lacks a fill, in order of admission."""
    return _orders(connection, _EXITS)


def count(connection: sqlite3.Connection) -> int:
    """How many orders lack a fill, of their own or of their exits."""
    row = connection.execute("SELECT count(DISTINCT client_order_id) FROM incomplete_orders").fetchone()
    return int(row[0])


def rebuild(connection: sqlite3.Connection) -> None:
    """Find the incomplete orders of the last 30 days of trading. Used by migration 0010."""
    rows = connection.execute(
        "SELECT client_order_id FROM orders WHERE executed_quantity <> '0'"
        " AND created_at >= (SELECT strftime('%Y-%m-%dT%H:%M:%S', max(created_at), '-30 days') FROM orders)"
    ).fetchall()
    names = [name for (name,) in rows]
    update(connection, names)
    update_exits(connection, names)


def _set(connection: sqlite3.Connection, client_order_id: str, part: str, *, is_incomplete: bool) -> None:
    if is_incomplete:
        connection.execute("INSERT OR IGNORE INTO incomplete_orders VALUES (?, ?)", (client_order_id, part))
    else:
        connection.execute(
            "DELETE FROM incomplete_orders WHERE client_order_id = ? AND part = ?", (client_order_id, part)
        )


def _orders(connection: sqlite3.Connection, part: str) -> tuple[Order, ...]:
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM orders o WHERE o.client_order_id IN"
        " (SELECT client_order_id FROM incomplete_orders WHERE part = ?) ORDER BY o.sequence",
        (part,),
    )
    return tuple(order_from(row) for row in rows)
