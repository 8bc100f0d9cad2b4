"""Rows of the orders table: find them, and write them for the projector. Allowed transitions are in execution/transitions.py."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

import msgspec

from kekbridge.errors import NotFound
from kekbridge.model import Order, OrderStatus, Verdict
from kekbridge.store import codec
from kekbridge.store.codec import (
    decimal_text,
    intent_from_json,
    intent_to_json,
    optional_decimal,
    optional_decimal_text,
    verdicts_from_json,
    verdicts_to_json,
)

COLUMNS: Final = (
    "o.client_order_id, o.alert_id, o.webhook_id, o.leg, o.sequence, o.intent, o.status, o.created_at, o.expires_at, o.order_id,"
    " o.executed_quantity, o.average_price, o.fee, o.realized_pnl, o.code, o.error, o.attempt, o.next_attempt_at, o.submitted_at,"
    " o.accepted_at, o.finished_at, o.cancel_requested_at"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderDetails:
    """What `explain` shows besides the order."""

    #: The exact body last sent.
    request: str | None
    #: Of the recheck before sending.
    verdicts: tuple[Verdict, ...]
    #: When the request was signed and sent.
    signed_at: datetime | None = None


def find(connection: sqlite3.Connection, client_order_id: str) -> Order | None:
    """The order with this client order id; None if it is not one of ours."""
    row = connection.execute(
        f"SELECT {COLUMNS} FROM orders o WHERE o.client_order_id = ?", (client_order_id,)
    ).fetchone()
    return None if row is None else order_from(row)


def get(connection: sqlite3.Connection, client_order_id: str) -> Order:
    """The order with this client order id. Raises NotFound."""
    order = find(connection, client_order_id)
    if order is None:
        raise NotFound("not_found", f"there is no order {client_order_id[:40]}; `kekbridge orders` lists them")
    return order


def of_alert(connection: sqlite3.Connection, alert_id: str) -> tuple[Order, ...]:
    """The orders of an alert (our id), in the order of its legs."""
    rows = connection.execute(f"SELECT {COLUMNS} FROM orders o WHERE o.alert_id = ? ORDER BY o.leg", (alert_id,))
    return tuple(order_from(row) for row in rows)


def list_orders(
    connection: sqlite3.Connection,
    *,
    webhook: str | None = None,
    status: str | None = None,
    symbol: str | None = None,
    since: datetime | None = None,
    open_only: bool = False,
    before: int | None = None,
    limit: int = 100,
) -> tuple[Order, ...]:
    """The last `limit` orders that match every filter given, newest last; `webhook` is a name or id, `before` a sequence."""
    conditions: list[tuple[str, str | int | None]] = [
        ("o.sequence < ?", before),
        ("o.created_at >= ?", codec.optional_time_text(since)),
        ("o.status = ?", status),
        ("o.symbol = ?", symbol),
        ("? IN (o.webhook_id, (SELECT a.webhook_name FROM alerts a WHERE a.id = o.alert_id))", webhook),
    ]
    given = [(condition, value) for condition, value in conditions if value is not None]
    where = ["o.finished_at IS NULL" if open_only else "TRUE", *(condition for condition, _ in given)]
    index = "INDEXED BY orders_open" if open_only else ""  # as in `unfinished`
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM orders o {index} WHERE {' AND '.join(where)} ORDER BY o.sequence DESC LIMIT ?",
        (*(value for _, value in given), limit),
    ).fetchall()
    return tuple(order_from(row) for row in reversed(rows))


def details(connection: sqlite3.Connection, client_order_id: str) -> OrderDetails:
    """Request, verdicts and signing time of an order. Raises NotFound."""
    row = connection.execute(
        "SELECT request, verdicts, signed_at FROM orders WHERE client_order_id = ?", (client_order_id,)
    ).fetchone()
    if row is None:
        raise NotFound("not_found", f"there is no order {client_order_id[:40]}; `kekbridge orders` lists them")
    return OrderDetails(
        request=row["request"],
        verdicts=verdicts_from_json(row["verdicts"]),
        signed_at=codec.optional_time(row["signed_at"]),
    )


class StoredOrder(msgspec.Struct, frozen=True):
    """An order as it is written, with what is kept beside it."""

    order: Order
    #: When it changed last.
    updated_at: datetime
    #: The exact body sent last; None keeps the stored one.
    request: str | None = None
    #: Of the recheck before sending; empty keeps the stored ones.
    verdicts: tuple[Verdict, ...] = ()
    #: When the request was signed and sent; None keeps the stored time.
    signed_at: datetime | None = None


def insert_all(connection: sqlite3.Connection, stored: Iterable[StoredOrder]) -> None:
    """Insert new orders. Only for projector.py."""
    connection.executemany(
        "INSERT INTO orders (alert_id, webhook_id, leg, after_leg, symbol, order_type, purpose, created_at, sequence,"
        " side, quantity, limit_price, trigger_price, stop_loss, reduce_only, intent, status, order_id, executed_quantity,"
        " average_price, fee, realized_pnl, code, error, attempt, next_attempt_at,"
        " submitted_at, accepted_at, finished_at, expires_at, updated_at, request,"
        " verdicts, signed_at, client_order_id)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,"
        " coalesce(?, '[]'), ?, ?)",
        [
            (
                each.order.alert_id,
                each.order.webhook_id,
                each.order.leg,
                each.order.intent.after_leg,
                each.order.intent.symbol,
                each.order.intent.order_type,
                each.order.intent.purpose,
                codec.time_text(each.order.created_at),
                each.order.sequence,
                *_changing_columns(each),
            )
            for each in stored
        ],
    )


def update_all(connection: sqlite3.Connection, stored: Iterable[StoredOrder]) -> None:
    """Write the state of orders that were inserted before. Only for projector.py; transitions.py decides which changes are allowed."""
    connection.executemany(
        "UPDATE orders SET side = ?, quantity = ?, limit_price = ?, trigger_price = ?, stop_loss = ?, reduce_only = ?, intent = ?,"
        " status = ?, order_id = ?, executed_quantity = ?, average_price = ?, fee = ?, realized_pnl = ?, code = ?, error = ?, attempt = ?,"
        " next_attempt_at = ?, submitted_at = ?, accepted_at = ?, finished_at = ?, expires_at = ?, updated_at = ?,"
        " request = coalesce(?, request),"
        " verdicts = coalesce(?, verdicts), signed_at = coalesce(?, signed_at) WHERE client_order_id = ?",
        [_changing_columns(each) for each in stored],
    )


def set_cancel_requested(connection: sqlite3.Connection, client_order_id: str, *, now: datetime) -> None:
    """Write since when an order is to be cancelled. Only for projector.py."""
    connection.execute(
        "UPDATE orders SET cancel_requested_at = ? WHERE client_order_id = ?", (codec.time_text(now), client_order_id)
    )


def unfinished(connection: sqlite3.Connection) -> tuple[Order, ...]:
    """Every unfinished order, from queued to partially filled, in order of admission."""
    # INDEXED BY, because SQLite would scan all orders ever stored in order of admission rather than sort the few open ones.
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM orders o INDEXED BY orders_open WHERE o.finished_at IS NULL ORDER BY o.sequence"
    )
    return tuple(order_from(row) for row in rows)


def ended_unknown(connection: sqlite3.Connection, *, since: datetime) -> tuple[Order, ...]:
    """The orders made since a time that ended without a known outcome, in order of admission."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM orders o WHERE o.created_at >= ? AND o.status = 'unknown' AND o.finished_at IS NOT NULL"
        " ORDER BY o.sequence",
        (codec.time_text(since),),
    )
    return tuple(order_from(row) for row in rows)


def last_sequence(connection: sqlite3.Connection) -> int:
    """The highest sequence of any order; 0 if there is none."""
    return int(connection.execute("SELECT coalesce(max(sequence), 0) FROM orders").fetchone()[0])


def last_entries(
    connection: sqlite3.Connection, webhook_id: str, *, since: datetime
) -> tuple[tuple[str, datetime, str], ...]:
    """Symbol, time and client order id of the last finished entry of a webhook in each symbol since a time.

    Entries that never reached the exchange start no cool-down and are left out.
    """
    rows = connection.execute(
        "SELECT symbol, max(created_at), client_order_id FROM orders WHERE webhook_id = ? AND purpose = 'entry' AND created_at > ?"
        " AND finished_at IS NOT NULL AND NOT (status IN ('denied', 'expired', 'rejected') AND order_id IS NULL) GROUP BY symbol",
        (webhook_id, codec.time_text(since)),
    )
    return tuple((symbol, codec.parse_time(at), name) for symbol, at, name in rows)


def last_entrant(connection: sqlite3.Connection, symbol: str) -> str | None:
    """Id of the webhook whose entry in the symbol the exchange accepted last; None if there is none."""
    row = connection.execute(
        "SELECT webhook_id FROM orders WHERE symbol = ? AND purpose = 'entry' AND order_id IS NOT NULL ORDER BY sequence DESC LIMIT 1",
        (symbol,),
    ).fetchone()
    return None if row is None else str(row[0])


def owner_of(connection: sqlite3.Connection, client_order_id: str | None, order_id: str) -> Order | None:
    """Our order with this client order id, or with this id of the exchange; None if neither is one of ours."""
    row = connection.execute(
        f"SELECT {COLUMNS} FROM orders o WHERE o.client_order_id = ? OR o.order_id = ? LIMIT 1",
        (client_order_id, order_id),
    ).fetchone()
    return None if row is None else order_from(row)


def order_from(row: sqlite3.Row) -> Order:
    """The order of a row that begins with COLUMNS."""
    return Order(
        client_order_id=row[0],
        alert_id=row[1],
        webhook_id=row[2],
        leg=row[3],
        sequence=row[4],
        intent=intent_from_json(row[5]),
        status=OrderStatus(row[6]),
        created_at=codec.parse_time(row[7]),
        expires_at=codec.parse_time(row[8]),
        order_id=row[9],
        executed_quantity=Decimal(row[10]),
        average_price=optional_decimal(row[11]),
        fee=Decimal(row[12]),
        realized_pnl=Decimal(row[13]),
        code=row[14],
        error=row[15],
        attempt=row[16],
        next_attempt_at=codec.optional_time(row[17]),
        submitted_at=codec.optional_time(row[18]),
        accepted_at=codec.optional_time(row[19]),
        finished_at=codec.optional_time(row[20]),
        cancel_requested_at=codec.optional_time(row[21]),
    )


def _changing_columns(stored: StoredOrder) -> tuple[str | int | None, ...]:
    """What can change of an order, and its id.

    Of the intent some columns are for people with an SQLite tool; the whole intent as JSON is the one read back.
    """
    order = stored.order
    intent = order.intent
    return (
        intent.side,
        decimal_text(intent.quantity),
        optional_decimal_text(intent.limit_price),
        optional_decimal_text(intent.trigger_price),
        optional_decimal_text(intent.stop_loss),
        int(intent.reduce_only),
        intent_to_json(intent),
        order.status,
        order.order_id,
        decimal_text(order.executed_quantity),
        optional_decimal_text(order.average_price),
        decimal_text(order.fee),
        decimal_text(order.realized_pnl),
        order.code,
        order.error,
        order.attempt,
        codec.optional_time_text(order.next_attempt_at),
        codec.optional_time_text(order.submitted_at),
        codec.optional_time_text(order.accepted_at),
        codec.optional_time_text(order.finished_at),
        codec.time_text(order.expires_at),
        codec.time_text(stored.updated_at),
        stored.request,
        verdicts_to_json(stored.verdicts) if stored.verdicts else None,
        codec.optional_time_text(stored.signed_at),
        order.client_order_id,
    )
