"""Protection of executed entries: their stop loss, the exits reported by the exchange, and take-profits still to be placed.

Written by projector.py: that an entry needs its stop follows from its first fill, so that no restart loses it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kekbridge.model import Order
from kekbridge.model.orders import ExitStatus
from kekbridge.store import codec, orders
from kekbridge.store.codec import exit_from_json, from_json, to_json
from kekbridge.store.facts import plain_entry
from kekbridge.store.journal import Entry


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


def state_entry(
    connection: sqlite3.Connection, order: Order, state: ProtectionState, *, detail: str = "", now: datetime
) -> Entry | None:
    """The journal's row of a new state of an entry's protection; None if state and detail are unchanged."""
    row = connection.execute(
        "SELECT state, detail FROM protections WHERE client_order_id = ?", (order.client_order_id,)
    ).fetchone()
    if row is not None and (row[0], row[1]) == (state.value, detail):
        return None
    return plain_entry(
        f"protection_{state.value}",
        at=now,
        alert_id=order.alert_id,
        client_order_id=order.client_order_id,
        data={"detail": detail},
    )


def store_state(connection: sqlite3.Connection, client_order_id: str, kind: str, detail: str, *, now: datetime) -> None:
    """Write the state that a row of kind `protection_…` says. Only for projector.py."""
    state = ProtectionState(kind.removeprefix("protection_"))
    naked_since = codec.time_text(now) if state is ProtectionState.WANTED else None
    connection.execute(
        "UPDATE protections SET state = ?, detail = ?, naked_since = ?, updated_at = ? WHERE client_order_id = ?",
        (state.value, detail, naked_since, codec.time_text(now), client_order_id),
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


# ---------------------------------------------------------------------------------- exits that travelled with an entry


def store_exits(
    connection: sqlite3.Connection, client_order_id: str, legs: Sequence[ExitStatus], *, now: datetime
) -> None:
    """Write the reported state of an entry's own exits. Only for projector.py."""
    is_over = all(leg.status.is_final for leg in legs)
    connection.execute(
        "INSERT INTO exits (client_order_id, legs, is_over, updated_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (client_order_id) DO UPDATE SET legs = excluded.legs, is_over = excluded.is_over, updated_at = excluded.updated_at",
        (client_order_id, to_json(tuple(legs)), is_over, codec.time_text(now)),
    )


def exits_of(connection: sqlite3.Connection, client_order_id: str) -> tuple[ExitStatus, ...]:
    """The exits of an entry as last reported; empty if it has none or has not executed."""
    row = connection.execute("SELECT legs FROM exits WHERE client_order_id = ?", (client_order_id,)).fetchone()
    return () if row is None else tuple(exit_from_json(leg) for leg in from_json(row[0]))


def entries_with_open_exits(connection: sqlite3.Connection) -> tuple[Order, ...]:
    """Executed entries with an unfinished exit, oldest first."""
    rows = connection.execute("SELECT client_order_id FROM exits WHERE is_over = 0 ORDER BY client_order_id").fetchall()
    return tuple(orders.get(connection, client_order_id) for (client_order_id,) in rows)


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


def take_profits_entry(order: Order, *, detail: str, now: datetime) -> Entry:
    """The journal's row that nothing more is to be placed for this entry, with the reason in `detail`."""
    return plain_entry(
        "take_profits_placed",
        at=now,
        alert_id=order.alert_id,
        client_order_id=order.client_order_id,
        data={"detail": detail},
    )


def store_take_profits_over(
    connection: sqlite3.Connection, client_order_id: str, detail: str, *, now: datetime
) -> None:
    """Write that an entry lacks no take-profit. Only for projector.py."""
    connection.execute(
        "UPDATE ladders SET state = 'over', detail = ?, updated_at = ? WHERE client_order_id = ?",
        (detail, codec.time_text(now), client_order_id),
    )
