"""Requests that nobody vouched for, counted by minute, address and code: a flood of them must not fill the disk.

They are no alerts: no webhook is known for sure, no payload is kept.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from kekbridge.store import codec
from kekbridge.store.codec import storable

OTHERS: Final = "(others)"
# Addresses told apart within one minute; more than that is an attack from many, and the sum of the rest is enough.
_ADDRESSES_A_MINUTE: Final = 64
_ROWS: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedRequest:
    """All requests of one minute, from one address, refused with one code; `error` is the latest reason."""

    minute: datetime
    remote: str
    code: str
    error: str
    count: int
    last_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectionCount:
    """Requests of a moment from one address, refused with one code; `error` is the latest reason."""

    remote: str
    code: str
    error: str
    count: int
    last_at: datetime


def record_all(connection: sqlite3.Connection, found: Sequence[RejectionCount]) -> None:
    """Add all of them in one transaction: a flood of many kinds must not cost a flush for each."""
    for one in found:
        record(connection, remote=one.remote, code=one.code, error=one.error, now=one.last_at, count=one.count)


def record(
    connection: sqlite3.Connection, *, remote: str, code: str, error: str, now: datetime, count: int = 1
) -> None:
    """Add `count` refusals to their minute's row; past 64 addresses a minute they are counted as `(others)`."""
    at = codec.to_text(now)
    minute = at[:16] + ":00.000Z"
    remote, error = storable(remote), storable(error)
    update = (
        "UPDATE refusals SET count = count + ?, error = ?, last_at = ? WHERE minute = ? AND remote = ? AND code = ?"
    )
    if connection.execute(update, (count, error, at, minute, remote, code)).rowcount:
        return
    known = connection.execute("SELECT COUNT(*) FROM refusals WHERE minute = ?", (minute,)).fetchone()[0]
    if known == 0:
        _forget_oldest(connection)
    connection.execute(
        "INSERT INTO refusals (minute, remote, code, error, count, last_at) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (minute, remote, code) DO UPDATE SET count = count + excluded.count, last_at = excluded.last_at",
        (minute, remote if known < _ADDRESSES_A_MINUTE else OTHERS, code, error, count, at),
    )


def _forget_oldest(connection: sqlite3.Connection) -> None:
    """Once a minute at most: keep the newest rows, whole minutes at a time."""
    row = connection.execute("SELECT minute FROM refusals ORDER BY minute DESC LIMIT 1 OFFSET ?", (_ROWS,)).fetchone()
    if row is not None:
        connection.execute("DELETE FROM refusals WHERE minute <= ?", (row[0],))


def list_recent(
    connection: sqlite3.Connection,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    code: str | None = None,
    limit: int = 100,
) -> tuple[RejectedRequest, ...]:
    """Refusals by the time of their last request, newest last."""
    rows = connection.execute(
        "SELECT minute, remote, code, error, count, last_at FROM refusals"
        " WHERE last_at >= ? AND last_at < ? AND code = coalesce(?, code) ORDER BY minute DESC, last_at DESC LIMIT ?",
        (codec.optional_text(since) or "", codec.optional_text(until) or "~", code, limit),
    ).fetchall()
    return tuple(
        RejectedRequest(
            minute=codec.from_text(minute),
            remote=remote,
            code=code,
            error=error,
            count=count,
            last_at=codec.from_text(last_at),
        )
        for minute, remote, code, error, count, last_at in reversed(rows)
    )
