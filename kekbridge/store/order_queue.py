"""Which stored orders may go next: first in, first out within a symbol, exits before entries across symbols.

Reading only; taking an order out of the queue is `orders.claim`, which checks again. INDEXED BY where SQLite would rather walk all
orders ever made in the order of admission than sort the few open ones.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import Final

from kekbridge.model import Order, OrderStatus, Purpose
from kekbridge.store import codec
from kekbridge.store.alerts import NOTHING_TO_CLOSE
from kekbridge.store.orders import COLUMNS, order_from

EARLIER_LEG_FAILED: Final = "earlier_leg_failed"
ALERT_EXPIRED: Final = "alert_expired"
# Codes of orders that `claimable` hands out to be finished, not to be sent.
NOT_TO_BE_SENT: Final = frozenset({EARLIER_LEG_FAILED, ALERT_EXPIRED})

# An order that is queued, being sent or unknown holds back the later ones of its symbol; one that rests at the exchange does not, nor one
# that whoever sends it lets others stand behind (`passable`, a JSON array of names): the exchange took it, or it stands in line itself.
_IN_THE_WAY: Final = (
    "finished_at IS NULL AND (status IN ('queued', 'unknown')"
    " OR status = 'submitting' AND client_order_id NOT IN (SELECT value FROM json_each(?)))"
)


def claimable(
    connection: sqlite3.Connection,
    *,
    now: datetime,
    passable: Collection[str] = (),
    entries_allowed: bool = True,
) -> tuple[Order, ...]:
    """The orders to be sent next, one per symbol, exits first. `passable`: orders being sent that others may stand behind.

    An order that may not be sent any more comes back with a code, for the caller to finish it: `alert_expired` (mark_expired) or
    `earlier_leg_failed` (mark_denied). With `entries_allowed` False queued entries are neither given nor in the way of exits.
    """
    passes = "" if entries_allowed else " AND NOT (status = 'queued' AND purpose = 'entry')"
    rows = connection.execute(
        f"SELECT {COLUMNS}, e.status AS leg_status, e.code AS leg_code, e.finished_at AS leg_finished_at FROM orders o"
        " LEFT JOIN orders e ON e.alert_id = o.alert_id AND e.leg = o.after_leg"
        f" WHERE o.sequence IN (SELECT min(sequence) FROM orders WHERE {_IN_THE_WAY}{passes} GROUP BY symbol)"
        " AND o.status = 'queued' ORDER BY o.purpose = 'entry', o.sequence",
        (_names(passable),),
    )
    ready = (_when_ready(order_from(row), row, now) for row in rows)
    return tuple(order for order in ready if order is not None)


def is_way_free(connection: sqlite3.Connection, symbol: str, *, passable: Collection[str] = ()) -> bool:
    """True when a new order of the symbol would wait for nothing that is stored already."""
    earlier = connection.execute(
        f"SELECT 1 FROM orders WHERE {_IN_THE_WAY} AND symbol = ? LIMIT 1", (_names(passable), symbol)
    ).fetchone()
    return earlier is None


def _names(passable: Collection[str]) -> str:
    return json.dumps(sorted(passable))


def overdue(connection: sqlite3.Connection, *, now: datetime, limit: int = 100) -> tuple[Order, ...]:
    """Queued orders past their age, wherever they stand in the queue, oldest first: to be finished with mark_expired."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM orders o INDEXED BY orders_open WHERE o.finished_at IS NULL AND o.status = 'queued' AND o.expires_at <= ?"
        " ORDER BY o.sequence LIMIT ?",
        (codec.to_text(now), limit),
    )
    return tuple(order_from(row) for row in rows)


def unfinished(connection: sqlite3.Connection) -> tuple[Order, ...]:
    """Every order that is not finished, from queued to partially filled, in the order of admission."""
    return _unfinished(connection, "TRUE")


def interrupted(connection: sqlite3.Connection) -> tuple[Order, ...]:
    """Orders that may or may not have reached the exchange (submitting, unknown): a start asks for each before anything trades."""
    return _unfinished(connection, "o.status IN ('submitting', 'unknown')")


def open_stops(connection: sqlite3.Connection) -> tuple[Order, ...]:
    """Stop orders of our own making that protect a position and rest at the exchange, oldest first."""
    return _unfinished(
        connection,
        "o.status = 'accepted' AND o.purpose = 'protect' AND o.order_type = 'stop' AND o.order_id IS NOT NULL",
    )


def count_waiting(connection: sqlite3.Connection) -> int:
    """How many orders are queued."""
    row = connection.execute("SELECT count(*) FROM orders WHERE finished_at IS NULL AND status = 'queued'").fetchone()
    return int(row[0])


def is_any_waiting(connection: sqlite3.Connection) -> bool:
    """True when an order is queued."""
    row = connection.execute(
        "SELECT 1 FROM orders INDEXED BY orders_open WHERE finished_at IS NULL AND status = 'queued' LIMIT 1"
    ).fetchone()
    return row is not None


def waiting_kinds(connection: sqlite3.Connection) -> tuple[tuple[str, Purpose], ...]:
    """Whose orders are queued, and what for: each webhook id and purpose once."""
    rows = connection.execute(
        "SELECT DISTINCT webhook_id, purpose FROM orders INDEXED BY orders_open WHERE finished_at IS NULL AND status = 'queued'"
    )
    return tuple((webhook_id, Purpose(purpose)) for webhook_id, purpose in rows)


def waiting_of(connection: sqlite3.Connection, webhook_id: str, purpose: Purpose) -> tuple[Order, ...]:
    """The queued orders of one webhook and purpose, in the order of admission."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM orders o INDEXED BY orders_open WHERE o.finished_at IS NULL AND o.status = 'queued'"
        " AND o.webhook_id = ? AND o.purpose = ? ORDER BY o.sequence",
        (webhook_id, purpose.value),
    )
    return tuple(order_from(row) for row in rows)


def _unfinished(connection: sqlite3.Connection, condition: str) -> tuple[Order, ...]:
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM orders o INDEXED BY orders_open WHERE o.finished_at IS NULL AND {condition} ORDER BY o.sequence"
    )
    return tuple(order_from(row) for row in rows)


def _when_ready(order: Order, row: sqlite3.Row, now: datetime) -> Order | None:
    """The order if something is to be done about it now, marked when that is not sending it; None while it has to wait."""
    if now >= order.expires_at:
        return replace(order, code=ALERT_EXPIRED)
    if order.intent.after_leg is not None:
        leg_status = None if row["leg_status"] is None else OrderStatus(row["leg_status"])
        if leg_status is not None and row["leg_finished_at"] is None:
            return None
        # A close that found nothing open has done what the next leg waits for; so has one that was canceled after its part.
        has_made_way = row["leg_code"] == NOTHING_TO_CLOSE or leg_status in (OrderStatus.FILLED, OrderStatus.CANCELED)
        if not has_made_way:
            return replace(order, code=EARLIER_LEG_FAILED)
    if order.next_attempt_at is not None and order.next_attempt_at > now:
        return None
    return order
