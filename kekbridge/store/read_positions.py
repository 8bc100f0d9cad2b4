"""Read positions: up to which time each kind of the account's records was read completely.

Moved only by a complete read of all pages, never by what the stream or a query of one order has brought: what is missing is read again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from kekbridge.store import codec


class RecordKind(StrEnum):
    """Lists of the exchange that are read by time."""

    TRADES = "trades"
    LIQUIDATIONS = "liquidations"
    #: The history of positions, which names auto-deleveraging.
    POSITIONS = "positions"
    FUNDING = "funding"
    TRANSFERS = "transfers"


def read(connection: sqlite3.Connection, kind: RecordKind) -> datetime | None:
    """The time up to which a kind was read completely, by the exchange's clock; None before the first complete read."""
    row = connection.execute("SELECT complete_until FROM read_positions WHERE kind = ?", (kind.value,)).fetchone()
    return None if row is None else codec.parse_time(row[0])


def read_all(connection: sqlite3.Connection) -> Mapping[RecordKind, datetime]:
    """The read position of every kind that was ever read completely."""
    return {
        RecordKind(kind): codec.parse_time(until)
        for kind, until in connection.execute("SELECT kind, complete_until FROM read_positions ORDER BY kind")
    }


def move(connection: sqlite3.Connection, kind: RecordKind, until: datetime) -> None:
    """Note that everything before `until` (the exchange's clock) was read and stored."""
    connection.execute(
        "INSERT OR REPLACE INTO read_positions (kind, complete_until) VALUES (?, ?)",
        (kind.value, codec.time_text(until)),
    )
