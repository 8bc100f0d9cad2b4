"""Orders that the exchange has from this bridge and the store does not: the sign of an older backup or of lost files.

Found at a start (execution/history_check.py). Entries stay refused until `kekbridge doctor` has shown the orders and the trader resumed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from msgspec import Struct

from kekbridge.errors import ConfigError
from kekbridge.store import codec, journal, settings

#: How many of them are kept to be shown.
SHOWN_AT_MOST: Final = 50
_KEY: Final = "lost_orders"
_CHECKED: Final = "history_checked_at"
_ACCEPTED: Final = "lost_orders_until"


class LostOrder(Struct, frozen=True, kw_only=True):
    """One order as the exchange has it."""

    client_order_id: str
    symbol: str
    #: `buy` or `sell`.
    side: str
    #: Base units.
    quantity: str
    executed_quantity: str
    #: As reported: `accepted`, `filled`…
    status: str
    #: When the exchange accepted it, as UTC text; empty if it does not say.
    created_at: str

    def __str__(self) -> str:
        state = self.status.replace("_", " ")
        return f"{self.client_order_id}: {self.side} {self.quantity} {self.symbol}, {state}, {self.executed_quantity} executed"


class LostOrders(Struct, frozen=True, kw_only=True):
    """What a start found."""

    #: How many there are.
    count: int
    #: The newest of them, at most SHOWN_AT_MOST, newest first.
    orders: tuple[LostOrder, ...]
    #: When they were found, as UTC text.
    found_at: str
    #: True once `kekbridge doctor` has listed them.
    is_shown: bool = False


def sent_between(connection: sqlite3.Connection) -> tuple[datetime, datetime] | None:
    """When the oldest and the newest order were made that the exchange accepted; None if the store keeps none."""
    found = [
        connection.execute(
            f"SELECT created_at FROM orders WHERE order_id IS NOT NULL ORDER BY created_at {direction} LIMIT 1"
        ).fetchone()
        for direction in ("ASC", "DESC")
    ]
    return None if found[0] is None else (codec.parse_time(found[0][0]), codec.parse_time(found[1][0]))


def not_stored(connection: sqlite3.Connection, client_order_ids: Iterable[str]) -> set[str]:
    """Those of the ids that are no order of the store."""
    found = set(client_order_ids)
    return {
        name
        for name in found
        if connection.execute("SELECT 1 FROM orders WHERE client_order_id = ?", (name,)).fetchone() is None
    }


def first_check(connection: sqlite3.Connection, *, now: datetime) -> bool:
    """True if no start on this directory has compared its history with the exchange before; from now on one has."""
    is_first = settings.get_value(connection, _CHECKED) is None
    settings.set_value(connection, _CHECKED, now, now=now)
    return is_first


def pending(connection: sqlite3.Connection) -> LostOrders | None:
    """The orders that the trader has not dealt with yet; None without any."""
    stored: Any = settings.get_value(connection, _KEY)
    if stored is None:
        return None
    orders = tuple(LostOrder(**order) for order in stored["orders"])
    return LostOrders(
        count=int(stored["count"]), orders=orders, found_at=stored["found_at"], is_shown=bool(stored["is_shown"])
    )


def record(connection: sqlite3.Connection, orders: Iterable[LostOrder], *, now: datetime) -> None:
    """Keep what was found, for `kekbridge doctor`, and append the event `history_incomplete`."""
    newest = sorted(orders, key=lambda order: order.created_at, reverse=True)
    found = LostOrders(count=len(newest), orders=tuple(newest[:SHOWN_AT_MOST]), found_at=codec.time_text(now))
    settings.set_value(connection, _KEY, _plain(found), now=now)
    journal.append(connection, "history_incomplete", now=now, data={"count": found.count, "newest": str(newest[0])})


def mark_shown(connection: sqlite3.Connection, *, now: datetime) -> bool:
    """`kekbridge doctor` has listed the orders; False if there are none."""
    found = pending(connection)
    if found is None:
        return False
    settings.set_value(connection, _KEY, _plain(found) | {"is_shown": True}, now=now)
    return True


def accepted_until(connection: sqlite3.Connection) -> datetime | None:
    """Orders made before this time are no news: the trader has seen those that were lost. None if none ever were."""
    stored = settings.get_value(connection, _ACCEPTED)
    return None if stored is None else codec.parse_time(stored)


def accept(connection: sqlite3.Connection, *, now: datetime) -> None:
    """The trader resumes: forget the orders. Raises ConfigError if `kekbridge doctor` has not shown them."""
    found = pending(connection)
    if found is None:
        return
    if not found.is_shown:
        raise ConfigError(
            f"the exchange has {found.count} orders of this bridge that its database does not know (an older backup, or lost files);"
            " run `kekbridge doctor` to see them, then `kekbridge resume` again"
        )
    settings.set_value(connection, _ACCEPTED, found.found_at, now=now)
    settings.remove(connection, _KEY)


def _plain(found: LostOrders) -> dict[str, object]:
    return {
        "count": found.count,
        "orders": [{name: getattr(order, name) for name in order.__struct_fields__} for order in found.orders],
        "found_at": found.found_at,
        "is_shown": found.is_shown,
    }
