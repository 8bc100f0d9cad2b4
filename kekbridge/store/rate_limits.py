"""Use of the alert rate limits as stored: for reports, and for the daemon's start. The daemon counts in memory (risk/rates.py).

As `StoredAlert.counts_as_entry`: what was refused never became an entry, and what the limit itself denied must not prolong it.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from kekbridge.model import RateLimits
from kekbridge.store import codec

_COUNTED: Final = "identity IS NOT NULL AND status <> 'refused'"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateUse:
    """How much of one window is used, for display."""

    #: Length of the window in seconds.
    length_s: int
    #: Alerts allowed in it.
    limit: int
    #: Entries in the window now, and exits, which have no limit.
    used: int
    exits: int = 0


def newest_times(connection: sqlite3.Connection, webhook_id: str, *, since: datetime, limit: int) -> list[datetime]:
    """Times of receipt of the newest `limit` counted entries of a webhook since a time, oldest first."""
    rows = connection.execute(
        f"SELECT received_at FROM alerts WHERE webhook_id = ? AND is_exit = 0 AND {_COUNTED} AND received_at > ?"
        " ORDER BY received_at DESC LIMIT ?",
        (webhook_id, codec.time_text(since), limit),
    ).fetchall()
    return [codec.parse_time(at) for (at,) in reversed(rows)]


def newest_entries(connection: sqlite3.Connection, *, since: datetime, limit: int) -> list[datetime]:
    """Times of receipt of the newest `limit` counted entries of all webhooks since a time, oldest first."""
    rows = connection.execute(
        f"SELECT received_at FROM alerts WHERE received_at > ? AND is_exit = 0 AND {_COUNTED}"
        " ORDER BY received_at DESC LIMIT ?",
        (codec.time_text(since), limit),
    ).fetchall()
    return [codec.parse_time(at) for (at,) in reversed(rows)]


def use_of_webhook(
    connection: sqlite3.Connection, webhook_id: str, rates: RateLimits, now: datetime
) -> tuple[RateUse, ...]:
    """How much of each window of a webhook is used."""
    counted = (
        f"SELECT count(*) FROM alerts WHERE webhook_id = ? AND is_exit = ? AND {_COUNTED} AND received_at > ?"
        " AND action IS NOT 'ping'"
    )

    def used(opened: str, is_exit: int) -> int:
        return int(connection.execute(counted, (webhook_id, is_exit, opened)).fetchone()[0])

    return tuple(
        RateUse(length_s=length, limit=limit, used=used(opened, 0), exits=used(opened, 1))
        for limit, length, opened in _windows(rates, now)
    )


def use_of_account(connection: sqlite3.Connection, rates: RateLimits, now: datetime) -> tuple[RateUse, ...]:
    """How much of each window over all webhooks is used."""
    counted = f"SELECT count(*) FROM alerts WHERE received_at > ? AND is_exit = 0 AND {_COUNTED}"
    return tuple(
        RateUse(length_s=length, limit=limit, used=int(connection.execute(counted, (opened,)).fetchone()[0]))
        for limit, length, opened in _windows(rates, now)
    )


def _windows(rates: RateLimits, now: datetime) -> list[tuple[int, int, str]]:
    """Limit, length in seconds and start of each window that has a limit (0: none)."""
    pairs = ((rates.per_minute, 60), (rates.per_hour, 3600), (rates.per_day, 86_400))
    return [(limit, length, codec.time_text(now - timedelta(seconds=length))) for limit, length in pairs if limit > 0]
