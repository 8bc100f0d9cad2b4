"""Executed entries with take-profits that their own request could not carry, until each of those is placed.

A row is made in the transaction that records the entry's first fill, so that no restart forgets a take-profit. What is placed already is
read from the orders themselves.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime

from kekbridge.model import Order
from kekbridge.store import events, times
from kekbridge.store import order_lifecycle as orders


def want(connection: sqlite3.Connection, order: Order, *, now: datetime) -> None:
    """Remember that this executed entry has take-profits to be placed; nothing changes when it is remembered already."""
    connection.execute(
        "INSERT INTO ladders (client_order_id, state, updated_at) VALUES (?, 'wanted', ?) ON CONFLICT (client_order_id) DO NOTHING",
        (order.client_order_id, times.to_text(now)),
    )


def wanted(connection: sqlite3.Connection) -> tuple[Order, ...]:
    """Every entry that may still lack a take-profit, oldest first."""
    names = connection.execute("SELECT client_order_id FROM ladders WHERE state <> 'over' ORDER BY client_order_id")
    return tuple(orders.get(connection, name) for (name,) in names.fetchall())


def finish(connection: sqlite3.Connection, order: Order, *, detail: str, now: datetime) -> None:
    """Nothing more is to be placed for this entry; `detail` says why, in the history too."""
    connection.execute(
        "UPDATE ladders SET state = 'over', detail = ?, updated_at = ? WHERE client_order_id = ?",
        (detail, times.to_text(now), order.client_order_id),
    )
    events.append(
        connection,
        "take_profits_placed",
        now=now,
        alert_id=order.alert_id,
        client_order_id=order.client_order_id,
        data={"detail": detail},
    )
