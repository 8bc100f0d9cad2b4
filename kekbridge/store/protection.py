"""Protection of executed entries: their stop loss, the exits reported by the exchange, and take-profits still to be placed.

Rows are inserted in the transaction that records the entry's first fill, so that no restart loses a position that needs its stop.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from msgspec.structs import replace

from kekbridge.model import FIRST_PROTECTIVE_LEG, ZERO, Order, OrderIntent, OrderStatus, client_order_id_of
from kekbridge.model.orders import ExitKind, ExitStatus
from kekbridge.store import codec, events, order_lifecycle, orders
from kekbridge.store.codec import from_json, to_json


class ProtectionState(StrEnum):
    """State of an entry's stop loss. The values are stored."""

    WANTED = "wanted"  # executed, the stop is not known to be live
    LIVE = "live"  # the entry's own stop is live at the exchange
    REPLACED = "replaced"  # kekbridge placed a stop because the own one was missing or too small
    FLATTENED = "flattened"  # no stop could be placed: the position was closed
    OVER = "over"  # the position is closed


@dataclass(frozen=True, slots=True)
class Protection:
    """An entry and the state of its stop loss."""

    #: The entry.
    order: Order
    state: ProtectionState
    #: Since when no stop of sufficient size is known to be live; None while one is.
    naked_since: datetime | None


# ----------------------------------------------------------------------------------------------------------- stop loss


def require_stop(connection: sqlite3.Connection, order: Order, *, now: datetime) -> None:
    """Record that this executed entry needs a live stop. Calling it again changes nothing."""
    connection.execute(
        "INSERT INTO protections (client_order_id, state, naked_since, updated_at) VALUES (?, 'wanted', ?, ?)"
        " ON CONFLICT (client_order_id) DO NOTHING",
        (order.client_order_id, codec.time_text(now), codec.time_text(now)),
    )


def open_protections(connection: sqlite3.Connection) -> tuple[Protection, ...]:
    """Every protection that is not over, oldest first."""
    rows = connection.execute(
        "SELECT client_order_id, state, naked_since FROM protections WHERE state <> 'over' ORDER BY client_order_id"
    ).fetchall()
    return tuple(
        Protection(
            order=orders.get(connection, client_order_id),
            state=ProtectionState(state),
            naked_since=None if naked_since is None else codec.parse_time(naked_since),
        )
        for client_order_id, state, naked_since in rows
    )


def set_state(
    connection: sqlite3.Connection, order: Order, state: ProtectionState, *, detail: str = "", now: datetime
) -> None:
    """Set the state and append an event; writes nothing if state and detail are unchanged."""
    row = connection.execute(
        "SELECT state, detail FROM protections WHERE client_order_id = ?", (order.client_order_id,)
    ).fetchone()
    if row is not None and (row[0], row[1]) == (state.value, detail):
        return
    naked_since = codec.time_text(now) if state is ProtectionState.WANTED else None
    connection.execute(
        "UPDATE protections SET state = ?, detail = ?, naked_since = ?, updated_at = ? WHERE client_order_id = ?",
        (state.value, detail, naked_since, codec.time_text(now), order.client_order_id),
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
    """Orders that kekbridge added for an executed entry: replacement stops, take-profits, closes; oldest first."""
    return tuple(
        order
        for order in orders.of_alert(connection, entry.alert_id)
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
    """Store and claim a protective order for an entry: it does not wait in the symbol's queue.

    `request_text`: the body that will be sent.
    """
    legs = [order.leg for order in orders.of_alert(connection, entry.alert_id)]
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


# ---------------------------------------------------------------------------------- exits that travelled with an entry


def record_exits(connection: sqlite3.Connection, entry: Order, legs: Sequence[ExitStatus], *, now: datetime) -> None:
    """Record the reported state of an entry's own exits and append an event; writes nothing if nothing changed."""
    if not legs or _text(legs) == _stored(connection, entry.client_order_id):
        return
    is_over = all(leg.status.is_final for leg in legs)
    connection.execute(
        "INSERT INTO exits (client_order_id, legs, is_over, updated_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (client_order_id) DO UPDATE SET legs = excluded.legs, is_over = excluded.is_over, updated_at = excluded.updated_at",
        (entry.client_order_id, _text(legs), is_over, codec.time_text(now)),
    )
    events.append(
        connection,
        "exits",
        now=now,
        alert_id=entry.alert_id,
        client_order_id=entry.client_order_id,
        data={"legs": tuple(legs)},
    )


def exits_of(connection: sqlite3.Connection, client_order_id: str) -> tuple[ExitStatus, ...]:
    """The exits of an entry as last reported; empty if it has none or has not executed."""
    text = _stored(connection, client_order_id)
    return () if text is None else tuple(_leg(row) for row in from_json(text))


def entries_with_open_exits(connection: sqlite3.Connection) -> tuple[Order, ...]:
    """Executed entries with an unfinished exit, oldest first."""
    rows = connection.execute("SELECT client_order_id FROM exits WHERE is_over = 0 ORDER BY client_order_id").fetchall()
    return tuple(orders.get(connection, client_order_id) for (client_order_id,) in rows)


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


# -------------------------------------------------------------------------------------------------------- take-profits


def require_take_profits(connection: sqlite3.Connection, order: Order, *, now: datetime) -> None:
    """Record that this executed entry has take-profits to be placed. Calling it again changes nothing."""
    connection.execute(
        "INSERT INTO ladders (client_order_id, state, updated_at) VALUES (?, 'wanted', ?) ON CONFLICT (client_order_id) DO NOTHING",
        (order.client_order_id, codec.time_text(now)),
    )


def entries_missing_take_profits(connection: sqlite3.Connection) -> tuple[Order, ...]:
    """Entries that may still lack a take-profit, oldest first."""
    rows = connection.execute("SELECT client_order_id FROM ladders WHERE state <> 'over' ORDER BY client_order_id")
    return tuple(orders.get(connection, client_order_id) for (client_order_id,) in rows.fetchall())


def finish_take_profits(connection: sqlite3.Connection, order: Order, *, detail: str, now: datetime) -> None:
    """Record that nothing more is to be placed for this entry, and append an event with the reason in `detail`."""
    connection.execute(
        "UPDATE ladders SET state = 'over', detail = ?, updated_at = ? WHERE client_order_id = ?",
        (detail, codec.time_text(now), order.client_order_id),
    )
    events.append(
        connection,
        "take_profits_placed",
        now=now,
        alert_id=order.alert_id,
        client_order_id=order.client_order_id,
        data={"detail": detail},
    )
