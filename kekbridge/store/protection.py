"""Which executed entries must have a live stop loss at the exchange, and what is known of it.

A row is made in the transaction that records the entry's first fill, so that no restart forgets a position that needs its stop.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from kekbridge.model import FIRST_PROTECTIVE_LEG, ZERO, Order, OrderIntent, OrderStatus, client_order_id_of
from kekbridge.model.orders import ExitKind, ExitStatus
from kekbridge.store import codec, events, order_lifecycle
from kekbridge.store import orders as order_rows
from kekbridge.store.codec import from_json, to_json


class ProtectionState(StrEnum):
    WANTED = "wanted"  # executed, the stop has not been seen yet
    LIVE = "live"  # the stop of the entry itself waits at the exchange
    REPLACED = "replaced"  # a stop of ours stands in for one that was missing or too small
    FLATTENED = "flattened"  # no stop could be placed: the position was closed
    OVER = "over"  # the position is gone


@dataclass(frozen=True, slots=True)
class Protection:
    """An entry and the state of its stop; `naked_since` while no stop of its size is known to be live."""

    order: Order
    state: ProtectionState
    naked_since: datetime | None


def want(connection: sqlite3.Connection, order: Order, *, now: datetime) -> None:
    """Remember that this executed entry needs a stop; nothing changes when it is remembered already."""
    connection.execute(
        "INSERT INTO protections (client_order_id, state, naked_since, updated_at) VALUES (?, 'wanted', ?, ?)"
        " ON CONFLICT (client_order_id) DO NOTHING",
        (order.client_order_id, codec.to_text(now), codec.to_text(now)),
    )


def open_protections(connection: sqlite3.Connection) -> tuple[Protection, ...]:
    """Everything that still needs looking after, oldest first."""
    rows = connection.execute(
        "SELECT client_order_id, state, naked_since FROM protections WHERE state <> 'over' ORDER BY client_order_id"
    ).fetchall()
    return tuple(
        Protection(
            order=order_rows.get(connection, name),
            state=ProtectionState(state),
            naked_since=None if naked_since is None else codec.from_text(naked_since),
        )
        for name, state, naked_since in rows
    )


def mark(
    connection: sqlite3.Connection, order: Order, state: ProtectionState, *, detail: str = "", now: datetime
) -> None:
    """Record a change of state, in the history too; nothing is written when nothing changed."""
    row = connection.execute(
        "SELECT state, detail FROM protections WHERE client_order_id = ?", (order.client_order_id,)
    ).fetchone()
    if row is not None and (row[0], row[1]) == (state.value, detail):
        return
    naked_since = codec.to_text(now) if state is ProtectionState.WANTED else None
    connection.execute(
        "UPDATE protections SET state = ?, detail = ?, naked_since = ?, updated_at = ? WHERE client_order_id = ?",
        (state.value, detail, naked_since, codec.to_text(now), order.client_order_id),
    )
    events.append(
        connection,
        f"protection_{state.value}",
        now=now,
        alert_id=order.alert_id,
        client_order_id=order.client_order_id,
        data={"detail": detail},
    )


def orders_for(connection: sqlite3.Connection, entry: Order) -> tuple[Order, ...]:
    """The orders that were made for an entry after it executed: stand-in stops, take-profits, closes; oldest first."""
    return tuple(
        order
        for order in order_rows.of_alert(connection, entry.alert_id)
        if order.is_protective
        and order.intent.symbol == entry.intent.symbol
        and order.intent.side is not entry.intent.side
    )


def add_order(
    connection: sqlite3.Connection,
    entry: Order,
    intent: OrderIntent,
    *,
    now: datetime,
    expires_at: datetime,
    request_text: Callable[[Order], str | None],
) -> Order:
    """A protective order for an entry, stored and claimed in one step: it does not wait in the symbol's queue.

    `request_text` gives the body that will be sent, for the record.
    """
    legs = [order.leg for order in order_rows.of_alert(connection, entry.alert_id)]
    leg = max(FIRST_PROTECTIVE_LEG, max(legs) + 1)
    planned = replace(
        entry,
        client_order_id=client_order_id_of(entry.alert_id, leg),
        leg=leg,
        intent=intent,
        status=OrderStatus.QUEUED,
        created_at=now,
        expires_at=expires_at,
        order_id=None,
        executed_quantity=ZERO,
        average_price=None,
        fee=ZERO,
        realized_pnl=ZERO,
        code=None,
        error=None,
        attempt=0,
        next_attempt_at=None,
        submitted_at=None,
        accepted_at=None,
        finished_at=None,
    )
    (stored,) = order_lifecycle.queue(connection, [planned])
    return order_lifecycle.claim(connection, stored.client_order_id, now=now, request=request_text(stored))


def note(connection: sqlite3.Connection, entry: Order, legs: Sequence[ExitStatus], *, now: datetime) -> None:
    """Remember what became of an entry's exits; nothing is written when nothing changed."""
    if not legs or _text(legs) == _stored(connection, entry.client_order_id):
        return
    is_over = all(leg.status.is_final for leg in legs)
    connection.execute(
        "INSERT INTO exits (client_order_id, legs, is_over, updated_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (client_order_id) DO UPDATE SET legs = excluded.legs, is_over = excluded.is_over, updated_at = excluded.updated_at",
        (entry.client_order_id, _text(legs), is_over, codec.to_text(now)),
    )
    events.append(
        connection,
        "exits",
        now=now,
        alert_id=entry.alert_id,
        client_order_id=entry.client_order_id,
        data={"legs": tuple(legs)},
    )


def of_order(connection: sqlite3.Connection, client_order_id: str) -> tuple[ExitStatus, ...]:
    """The exits of an entry as last told; empty when it has none or has not executed."""
    text = _stored(connection, client_order_id)
    return () if text is None else tuple(_leg(row) for row in from_json(text))


def open_entries(connection: sqlite3.Connection) -> tuple[Order, ...]:
    """The executed entries with an exit that is not finished, oldest first."""
    names = connection.execute(
        "SELECT client_order_id FROM exits WHERE is_over = 0 ORDER BY client_order_id"
    ).fetchall()
    return tuple(order_rows.get(connection, name) for (name,) in names)


def _stored(connection: sqlite3.Connection, client_order_id: str) -> str | None:
    row = connection.execute("SELECT legs FROM exits WHERE client_order_id = ?", (client_order_id,)).fetchone()
    return None if row is None else str(row[0])


def _text(legs: Sequence[ExitStatus]) -> str:
    return to_json(tuple(legs))


def _leg(row: dict[str, str | None]) -> ExitStatus:
    trigger, average = row["trigger_price"], row["average_price"]
    return ExitStatus(
        kind=ExitKind(str(row["kind"])),
        trigger_price=None if trigger is None else Decimal(trigger),
        status=OrderStatus(str(row["status"])),
        executed_quantity=Decimal(str(row["executed_quantity"])),
        average_price=None if average is None else Decimal(average),
    )


def want_take_profits(connection: sqlite3.Connection, order: Order, *, now: datetime) -> None:
    """Remember that this executed entry has take-profits to be placed; nothing changes when it is remembered already."""
    connection.execute(
        "INSERT INTO ladders (client_order_id, state, updated_at) VALUES (?, 'wanted', ?) ON CONFLICT (client_order_id) DO NOTHING",
        (order.client_order_id, codec.to_text(now)),
    )


def entries_wanting_take_profits(connection: sqlite3.Connection) -> tuple[Order, ...]:
    """Every entry that may still lack a take-profit, oldest first."""
    names = connection.execute("SELECT client_order_id FROM ladders WHERE state <> 'over' ORDER BY client_order_id")
    return tuple(order_rows.get(connection, name) for (name,) in names.fetchall())


def finish_take_profits(connection: sqlite3.Connection, order: Order, *, detail: str, now: datetime) -> None:
    """Nothing more is to be placed for this entry; `detail` says why, in the history too."""
    connection.execute(
        "UPDATE ladders SET state = 'over', detail = ?, updated_at = ? WHERE client_order_id = ?",
        (detail, codec.to_text(now), order.client_order_id),
    )
    events.append(
        connection,
        "take_profits_placed",
        now=now,
        alert_id=order.alert_id,
        client_order_id=order.client_order_id,
        data={"detail": detail},
    )
