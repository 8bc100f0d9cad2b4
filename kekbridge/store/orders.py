"""Rows of the orders table: find, insert and update them. Allowed transitions are in order_lifecycle.py, the queue in order_queue.py."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from msgspec.structs import replace

from kekbridge.errors import NotFound
from kekbridge.model import Order, OrderIntent, OrderStatus, Verdict
from kekbridge.store import cache, codec
from kekbridge.store.codec import (
    decimal_text,
    intent_from_json,
    optional_decimal,
    optional_decimal_text,
    to_json,
    verdicts_from_json,
    verdicts_to_json,
)

_TABLE: Final = "orders"
_QUEUED: Final = "queued"
_TIMES: Final = ("created_at", "expires_at", "next_attempt_at", "submitted_at", "accepted_at", "finished_at")
COLUMNS: Final = (
    "o.client_order_id, o.alert_id, o.webhook_id, o.leg, o.sequence, o.intent, o.status, o.created_at, o.expires_at, o.order_id,"
    " o.executed_quantity, o.average_price, o.fee, o.realized_pnl, o.code, o.error, o.attempt, o.next_attempt_at, o.submitted_at,"
    " o.accepted_at, o.finished_at"
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


@dataclass(frozen=True, slots=True)
class ImmediateClaim:
    """A claim made in the same transaction that stores the order."""

    #: Time of the claim.
    at: datetime
    #: The body that will be sent.
    request: str | None


def find(connection: sqlite3.Connection, client_order_id: str) -> Order | None:
    """The order with this client order id; None if it is not one of ours."""
    cached: Order | None = cache.get(connection, _TABLE, client_order_id)
    if cached is not None:
        return cached
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


def count_queued(connection: sqlite3.Connection) -> int:
    """Number of queued orders."""
    return cache.get_or_load(connection, _TABLE, _QUEUED, _count_queued)


def _count_queued(connection: sqlite3.Connection) -> int:
    query = "SELECT count(*) FROM orders INDEXED BY orders_open WHERE finished_at IS NULL AND status = 'queued'"
    return int(connection.execute(query).fetchone()[0])


def list_orders(
    connection: sqlite3.Connection,
    *,
    webhook: str | None = None,
    status: str | None = None,
    symbol: str | None = None,
    since: datetime | None = None,
    open_only: bool = False,
    limit: int = 100,
) -> tuple[Order, ...]:
    """The last `limit` orders that match every filter given, newest last; `webhook` is a name or id."""
    conditions: list[tuple[str, str | None]] = [
        ("o.created_at >= ?", codec.optional_time_text(since)),
        ("o.status = ?", status),
        ("o.symbol = ?", symbol),
        ("? IN (o.webhook_id, (SELECT a.webhook_name FROM alerts a WHERE a.id = o.alert_id))", webhook),
    ]
    given = [(condition, value) for condition, value in conditions if value is not None]
    where = ["o.finished_at IS NULL" if open_only else "TRUE", *(condition for condition, _ in given)]
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM orders o WHERE {' AND '.join(where)} ORDER BY o.sequence DESC LIMIT ?",
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


def insert(connection: sqlite3.Connection, order: Order, immediate_claim: ImmediateClaim | None = None) -> Order:
    """Insert an order and return it with its sequence. With an immediate claim it is stored as `submitting`."""
    intent = order.intent
    status, attempt, sent_at = order.status, order.attempt, order.submitted_at
    if immediate_claim is not None:
        status, attempt, sent_at = OrderStatus.SUBMITTING, 1, immediate_claim.at
    cursor = connection.execute(
        "INSERT INTO orders (client_order_id, alert_id, webhook_id, leg, after_leg, symbol, side, order_type, purpose, quantity,"
        " limit_price, trigger_price, stop_loss, reduce_only, intent, status, attempt, submitted_at, request, created_at, expires_at,"
        " updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            order.client_order_id,
            order.alert_id,
            order.webhook_id,
            order.leg,
            intent.after_leg,
            intent.symbol,
            intent.side.value,
            intent.order_type.value,
            intent.purpose.value,
            *_intent_columns(intent),
            status.value,
            attempt,
            codec.optional_time_text(sent_at),
            None if immediate_claim is None else immediate_claim.request,
            codec.time_text(order.created_at),
            codec.time_text(order.expires_at),
            codec.time_text(order.created_at),
        ),
    )
    sequence = cursor.lastrowid or 0
    stored = _with_ms_times(order, sequence=sequence, status=status, attempt=attempt, submitted_at=sent_at)
    if status is OrderStatus.QUEUED:
        cache.invalidate(connection, _TABLE, _QUEUED)
    cache.put(connection, _TABLE, order.client_order_id, stored)
    return stored


def update(
    connection: sqlite3.Connection,
    before: Order,
    order: Order,
    *,
    now: datetime,
    request: str | None = None,
    verdicts: tuple[Verdict, ...] = (),
    signed_at: datetime | None = None,
) -> None:
    """Write the state of an order that was `before`. Only for order_journal.py: order_lifecycle.py decides which changes are allowed.

    `request`, `verdicts` and `signed_at` keep their stored values if not given.
    """
    connection.execute(
        "UPDATE orders SET status = ?, order_id = ?, executed_quantity = ?, average_price = ?, fee = ?, realized_pnl = ?,"
        " code = ?, error = ?, attempt = ?, next_attempt_at = ?, submitted_at = ?, accepted_at = ?, finished_at = ?,"
        " updated_at = ?, request = coalesce(?, request), verdicts = coalesce(?, verdicts),"
        " signed_at = coalesce(?, signed_at) WHERE client_order_id = ?",
        (
            order.status.value,
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
            codec.time_text(now),
            request,
            verdicts_to_json(verdicts) if verdicts else None,
            codec.optional_time_text(signed_at),
            order.client_order_id,
        ),
    )
    if OrderStatus.QUEUED in (before.status, order.status):
        cache.invalidate(connection, _TABLE, _QUEUED)
    if order.finished_at is None:
        cache.put(connection, _TABLE, order.client_order_id, _with_ms_times(order))
    else:
        cache.invalidate(connection, _TABLE, order.client_order_id)


def set_signed_at(connection: sqlite3.Connection, client_order_id: str, at: datetime) -> None:
    """Record when the request was signed and sent: a measurement that no decision uses."""
    connection.execute(
        "UPDATE orders SET signed_at = ? WHERE client_order_id = ?", (codec.time_text(at), client_order_id)
    )


def replace_intent(connection: sqlite3.Connection, client_order_id: str, intent: OrderIntent) -> None:
    """Write size, prices and stop of an intent that the recheck changed."""
    cache.invalidate(connection, _TABLE, client_order_id)
    connection.execute(
        "UPDATE orders SET quantity = ?, limit_price = ?, trigger_price = ?, stop_loss = ?, reduce_only = ?, intent = ?"
        " WHERE client_order_id = ?",
        (*_intent_columns(intent), client_order_id),
    )


def _with_ms_times(order: Order, **changes: Any) -> Order:
    """The order with these changes as it would be read back: its times in whole milliseconds."""
    for name in _TIMES:
        moment = changes.get(name) or getattr(order, name)
        if moment is not None:
            changes[name] = codec.truncate_to_ms(moment)
    return replace(order, **changes)


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
    )


def _intent_columns(intent: OrderIntent) -> tuple[str | int | None, ...]:
    """The intent's columns: some for people with an SQLite tool, and the whole intent as JSON, which is the one read back."""
    return (
        decimal_text(intent.quantity),
        optional_decimal_text(intent.limit_price),
        optional_decimal_text(intent.trigger_price),
        optional_decimal_text(intent.stop_loss),
        int(intent.reduce_only),
        to_json(intent),
    )
