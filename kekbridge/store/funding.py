"""The funding payments of the account, as the exchange lists them."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from decimal import Decimal

from kekbridge.store import times
from kekbridge.store.codec import decimal_text


def add(connection: sqlite3.Connection, symbol: str, at: datetime, fee: Decimal) -> None:
    """Note one payment of the exchange's list (USDC, received negative); told again it changes nothing."""
    connection.execute(
        "INSERT OR REPLACE INTO funding (symbol, at, fee) VALUES (?, ?, ?)",
        (symbol, times.to_text(at), decimal_text(fee)),
    )


def known_until(connection: sqlite3.Connection) -> datetime | None:
    """When the newest known payment was made."""
    return times.optional_time(connection.execute("SELECT max(at) FROM funding").fetchone()[0])


def total(connection: sqlite3.Connection, *, since: str) -> Decimal:
    """What was paid since then (a stored time), in USDC."""
    rows = connection.execute("SELECT fee FROM funding WHERE at >= ?", (since,))
    return sum((Decimal(fee) for (fee,) in rows), Decimal(0))
