"""The queue: which stored orders may be sent next. First in, first out within a symbol; exits before entries across symbols.

Reads only: `order_lifecycle.claim` takes an order out of the queue and checks again. INDEXED BY where SQLite would scan all orders ever
stored in order of admission rather than sort the few open ones.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from kekbridge.model import Order, OrderStatus, Purpose
from kekbridge.store import codec
from kekbridge.store.alerts import NOTHING_TO_CLOSE
from kekbridge.store.orders import COLUMNS, order_from

EARLIER_LEG_FAILED: Final = "earlier_leg_failed"
ALERT_EXPIRED: Final = "alert_expired"
# Codes of orders that `claimable` returns to be finished instead of sent.
NOT_TO_BE_SENT: Final = frozenset({EARLIER_LEG_FAILED, ALERT_EXPIRED})

# An order that is queued, being sent or unknown holds back later orders of its symbol. One that rests at the exchange does not, nor one
# behind which the dispatcher allows others (the parameter, a JSON array of client order ids).
_BLOCKS_LATER: Final = (
    "finished_at IS NULL AND (status IN ('queued', 'unknown')"
    " OR status = 'submitting' AND client_order_id NOT IN (SELECT value FROM json_each(?)))"
)


def claimable(
    connection: sqlite3.Connection,
    *,
    now: datetime,
    overlappable_ids: Collection[str] = (),
    entries_allowed: bool = True,
) -> tuple[Order, ...]:
    """The next orders to be sent, at most one per symbol, exits first. `overlappable_ids`: orders being sent that others may follow.

    An order that must not be sent any more has a code, for the caller to finish it: `alert_expired` (mark_expired) or
    `earlier_leg_failed` (mark_denied). With `entries_allowed` False queued entries are neither returned nor hold back exits.
    """
    skip_entries = "" if entries_allowed else " AND NOT (status = 'queued' AND purpose = 'entry')"
    rows = connection.execute(
        f"SELECT {COLUMNS}, e.status AS leg_status, e.code AS leg_code, e.finished_at AS leg_finished_at FROM orders o"
        " LEFT JOIN orders e ON e.alert_id = o.alert_id AND e.leg = o.after_leg"
        f" WHERE o.sequence IN (SELECT min(sequence) FROM orders WHERE {_BLOCKS_LATER}{skip_entries} GROUP BY symbol)"
        " AND o.status = 'queued' ORDER BY o.purpose = 'entry', o.sequence",
        (_to_json_array(overlappable_ids),),
    )
    ready = (_when_ready(order_from(row), row, now) for row in rows)
    return tuple(order for order in ready if order is not None)


def is_symbol_free(connection: sqlite3.Connection, symbol: str, *, overlappable_ids: Collection[str] = ()) -> bool:
    """True if no stored order would hold back a new order of the symbol."""
    earlier = connection.execute(
        f"SELECT 1 FROM orders WHERE {_BLOCKS_LATER} AND symbol = ? LIMIT 1", (_to_json_array(overlappable_ids), symbol)
    ).fetchone()
    return earlier is None


def _to_json_array(overlappable_ids: Collection[str]) -> str:
    return json.dumps(sorted(overlappable_ids))


def overdue(connection: sqlite3.Connection, *, now: datetime, limit: int = 100) -> tuple[Order, ...]:
    """Queued orders past their `expires_at`, at any place in the queue, oldest first: to be finished with mark_expired."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM orders o INDEXED BY orders_open WHERE o.finished_at IS NULL AND o.status = 'queued' AND o.expires_at <= ?"
        " ORDER BY o.sequence LIMIT ?",
        (codec.time_text(now), limit),
    )
    return tuple(order_from(row) for row in rows)


def unfinished(connection: sqlite3.Connection) -> tuple[Order, ...]:
    """Every unfinished order, from queued to partially filled, in order of admission."""
    return _unfinished(connection, "TRUE")


def interrupted(connection: sqlite3.Connection) -> tuple[Order, ...]:
    """Orders that may have reached the exchange (submitting, unknown), to be queried at start before trading begins."""
    return _unfinished(connection, "o.status IN ('submitting', 'unknown')")


def open_stops(connection: sqlite3.Connection) -> tuple[Order, ...]:
    """Protective stops placed by kekbridge that rest at the exchange, oldest first."""
    return _unfinished(
        connection,
        "o.status = 'accepted' AND o.purpose = 'protect' AND o.order_type = 'stop' AND o.order_id IS NOT NULL",
    )


def is_any_waiting(connection: sqlite3.Connection) -> bool:
    """True if an order is queued."""
    row = connection.execute(
        "SELECT 1 FROM orders INDEXED BY orders_open WHERE finished_at IS NULL AND status = 'queued' LIMIT 1"
    ).fetchone()
    return row is not None


def waiting_kinds(connection: sqlite3.Connection) -> tuple[tuple[str, Purpose], ...]:
    """Webhook id and purpose of the queued orders, each pair once."""
    rows = connection.execute(
        "SELECT DISTINCT webhook_id, purpose FROM orders INDEXED BY orders_open WHERE finished_at IS NULL AND status = 'queued'"
    )
    return tuple((webhook_id, Purpose(purpose)) for webhook_id, purpose in rows)


def waiting_of(connection: sqlite3.Connection, webhook_id: str, purpose: Purpose) -> tuple[Order, ...]:
    """The queued orders of one webhook and purpose, in order of admission."""
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
    """The order if it is to be sent now, or (with a code) finished; None while it has to wait."""
    if now >= order.expires_at:
        return replace(order, code=ALERT_EXPIRED)
    if order.intent.after_leg is not None:
        leg_status = None if row["leg_status"] is None else OrderStatus(row["leg_status"])
        if leg_status is not None and row["leg_finished_at"] is None:
            return None
        # A close that found nothing open has done what the next leg waits for; so has one that was canceled.
        has_succeeded = row["leg_code"] == NOTHING_TO_CLOSE or leg_status in (OrderStatus.FILLED, OrderStatus.CANCELED)
        if not has_succeeded:
            return replace(order, code=EARLIER_LEG_FAILED)
    if order.next_attempt_at is not None and order.next_attempt_at > now:
        return None
    return order
