"""The exits that travel with an entry (stop loss and take-profit of a bracket): what became of each, as the exchange last told.

One row per executed bracket, changed with the reports, each change also in the history. `explain` shows it; the follower asks again for
those that are open.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from kekbridge.model import Order, OrderStatus
from kekbridge.store import events, times
from kekbridge.store import order_lifecycle as orders
from kekbridge.store.codec import from_json, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One exit of a bracket: `kind` STOP_LOSS or TAKE_PROFIT, `status` as of an order; quantities in base units."""

    kind: str
    trigger_price: Decimal | None
    status: OrderStatus
    executed_quantity: Decimal
    average_price: Decimal | None = None


def note(connection: sqlite3.Connection, entry: Order, legs: Sequence[Leg], *, now: datetime) -> None:
    """Remember what became of an entry's exits; nothing is written when nothing changed."""
    if not legs or _text(legs) == _stored(connection, entry.client_order_id):
        return
    is_over = all(leg.status.is_final for leg in legs)
    connection.execute(
        "INSERT INTO exits (client_order_id, legs, is_over, updated_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (client_order_id) DO UPDATE SET legs = excluded.legs, is_over = excluded.is_over, updated_at = excluded.updated_at",
        (entry.client_order_id, _text(legs), is_over, times.to_text(now)),
    )
    events.append(
        connection,
        "exits",
        now=now,
        alert_id=entry.alert_id,
        client_order_id=entry.client_order_id,
        data={"legs": tuple(legs)},
    )


def of_order(connection: sqlite3.Connection, client_order_id: str) -> tuple[Leg, ...]:
    """The exits of an entry as last told; empty when it has none or has not executed."""
    text = _stored(connection, client_order_id)
    return () if text is None else tuple(_leg(row) for row in from_json(text))


def open_entries(connection: sqlite3.Connection) -> tuple[Order, ...]:
    """The executed entries with an exit that is not finished, oldest first."""
    names = connection.execute(
        "SELECT client_order_id FROM exits WHERE is_over = 0 ORDER BY client_order_id"
    ).fetchall()
    return tuple(orders.get(connection, name) for (name,) in names)


def _stored(connection: sqlite3.Connection, client_order_id: str) -> str | None:
    row = connection.execute("SELECT legs FROM exits WHERE client_order_id = ?", (client_order_id,)).fetchone()
    return None if row is None else str(row[0])


def _text(legs: Sequence[Leg]) -> str:
    return to_json(tuple(legs))


def _leg(row: dict[str, str | None]) -> Leg:
    trigger, average = row["trigger_price"], row["average_price"]
    return Leg(
        kind=str(row["kind"]),
        trigger_price=None if trigger is None else Decimal(trigger),
        status=OrderStatus(str(row["status"])),
        executed_quantity=Decimal(str(row["executed_quantity"])),
        average_price=None if average is None else Decimal(average),
    )
