"""Protection of executed entries: their stop loss, trailing stop and take-profits, and the exits reported by the exchange.

Written by projector.py: that an entry needs its stop follows from its first fill, so that no restart loses it. A trailing stop has a row of
its own from its first try on, under its own client order id.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from kekbridge.model import Order, Purpose
from kekbridge.model.orders import ExitStatus
from kekbridge.store import codec, journal, orders
from kekbridge.store.codec import exit_from_json, from_json, to_json
from kekbridge.store.facts import plain_entry
from kekbridge.store.journal import Entry

# How long a notification of a state is not repeated.
_QUIET_FOR = timedelta(hours=1)


class ProtectionState(StrEnum):
    """State of an entry's stop loss or of its trailing stop. The values are stored."""

    WANTED = "wanted"  # executed, the stop is not known to be live
    LIVE = "live"  # the stop that the alert asked for is live at the exchange
    REPLACED = "replaced"  # kekbridge placed a stop because the own one was missing or too small
    FLATTENED = "flattened"  # no stop could be placed: the position was closed
    OVER = "over"  # the position is closed


@dataclass(frozen=True, slots=True)
class Protection:
    """An entry and the state of its stop loss, or a trailing stop and its state."""

    #: The entry, or the trailing stop.
    order: Order
    state: ProtectionState
    #: Since when no stop of sufficient size is known to be live; None while one is.
    naked_since: datetime | None
    #: What the state means in figures; empty for a stop that is wanted and was not looked for yet.
    detail: str


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
        "SELECT client_order_id, state, naked_since, detail FROM protections WHERE state <> 'over' ORDER BY client_order_id"
    ).fetchall()
    return tuple(
        Protection(
            order=orders.get(connection, client_order_id),
            state=ProtectionState(state),
            naked_since=codec.optional_time(naked_since),
            detail=detail,
        )
        for client_order_id, state, naked_since, detail in rows
    )


def state_entry(
    connection: sqlite3.Connection, order: Order, state: ProtectionState, *, detail: str = "", now: datetime
) -> Entry | None:
    """The journal's row of a new state of a stop; None if it is unchanged.

    A stop that is wanted is published when it is first known to be missing, which `detail` says. A state that was published within the
    last hour is marked `quiet`, also if its figures have changed: it is stored, and no notification is sent.
    """
    row = connection.execute(
        "SELECT state, detail FROM protections WHERE client_order_id = ?", (order.client_order_id,)
    ).fetchone()
    if row is None:
        return None
    is_news = state is ProtectionState.WANTED and detail not in ("", row[1])
    if row[0] == state.value and not is_news:
        return None
    kind = f"protection_{state.value}"
    was_published = any(
        event.kind == kind
        and event.client_order_id == order.client_order_id
        and not event.data.get("quiet")
        and now - event.at < _QUIET_FOR
        for event in journal.of_alert(connection, order.alert_id)
    )
    data = {"detail": detail, "quiet": True} if was_published else {"detail": detail}
    return plain_entry(kind, at=now, alert_id=order.alert_id, client_order_id=order.client_order_id, data=data)


def store_state(connection: sqlite3.Connection, client_order_id: str, kind: str, detail: str, *, now: datetime) -> None:
    """Write the state that a row of kind `protection_…` says. Only for projector.py."""
    state = ProtectionState(kind.removeprefix("protection_"))
    since = codec.time_text(now) if state is ProtectionState.WANTED else None
    connection.execute(
        "UPDATE protections SET detail = ?2, updated_at = ?3, state = ?1,"
        " naked_since = CASE WHEN ?1 = 'wanted' AND state = 'wanted' THEN naked_since ELSE ?4 END WHERE client_order_id = ?5",
        (state.value, detail, codec.time_text(now), since, client_order_id),
    )


@dataclass(frozen=True, slots=True)
class ProtectedEntry:
    """An entry with exits that kekbridge has to place, keep or take away."""

    #: The entry.
    entry: Order
    #: Its protective orders, oldest first, the trailing stop of its alert included.
    orders: tuple[Order, ...]
    #: It has executed with a stop loss and is not known to be over.
    wants_stop: bool
    #: Its trailing stop was tried and its position is not known to be gone.
    wants_trailing: bool
    #: It may lack take-profits: those that its own request could not carry, or its only exits.
    wants_take_profits: bool

    @property
    def trailing(self) -> Order | None:
        """The trailing stop that its alert asked for; None: none."""
        return next((order for order in self.orders if order.is_trailing_leg), None)


def protected_entries(connection: sqlite3.Connection, alert_ids: Iterable[str] = ()) -> tuple[ProtectedEntry, ...]:
    """Entries whose protection is not over, and those of these alerts (our ids) that have protective orders; oldest first."""
    guarded = _client_order_ids(connection, "SELECT client_order_id FROM protections WHERE state <> 'over'")
    laddered = _client_order_ids(connection, "SELECT client_order_id FROM ladders WHERE state <> 'over'")
    wanted = {orders.get(connection, name).alert_id for name in (*guarded, *laddered)}
    found: list[ProtectedEntry] = []
    for alert_id in {*wanted, *alert_ids}:
        legs = orders.of_alert(connection, alert_id)
        entries = [order for order in legs if order.is_entry]
        protective = [order for order in legs if order.intent.purpose is Purpose.PROTECT]
        for entry in entries:
            own = tuple(order for order in protective if _entry_of(order, entries) is entry)
            name = entry.client_order_id
            if not own and name not in guarded and name not in laddered:
                continue
            found.append(
                ProtectedEntry(
                    entry,
                    own,
                    wants_stop=name in guarded,
                    wants_trailing=any(order.client_order_id in guarded for order in own if order.is_trailing_leg),
                    wants_take_profits=name in laddered,
                )
            )
    return tuple(sorted(found, key=lambda each: each.entry.sequence))


def _client_order_ids(connection: sqlite3.Connection, query: str) -> frozenset[str]:
    return frozenset(str(row[0]) for row in connection.execute(query))


def _entry_of(order: Order, entries: Sequence[Order]) -> Order | None:
    """The entry of its alert that a protective order belongs to; orders of earlier versions name none."""
    legs = [entry for entry in entries if entry.leg == order.intent.after_leg]
    same = [
        entry
        for entry in entries
        if entry.intent.symbol == order.intent.symbol and entry.intent.side is not order.intent.side
    ]
    return next(iter((*legs, *same)), None)


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
    """Record that this executed entry has take-profits to be placed or watched. Calling it again changes nothing."""
    connection.execute(
        "INSERT INTO ladders (client_order_id, state, updated_at) VALUES (?, 'wanted', ?) ON CONFLICT (client_order_id) DO NOTHING",
        (order.client_order_id, codec.time_text(now)),
    )


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
