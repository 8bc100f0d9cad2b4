"""Unauthenticated requests, counted by minute, address and code, so that a flood of them cannot fill the disk.

They are not alerts: no webhook is proven, and no payload is kept.
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
# Addresses counted separately within one minute; more than that is a distributed attack, where the sum of the rest is enough.
_MAX_ADDRESSES_PER_MINUTE: Final = 64
_MAX_ROWS: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedRequest:
    """The requests of one minute from one address that were refused with one code."""

    #: Start of the minute.
    minute: datetime
    #: Address, or OTHERS.
    remote: str
    code: str
    #: Of the last request.
    error: str
    count: int
    last_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectionCount:
    """Requests to be recorded: from one address, refused with one code."""

    #: Sender's address, and the code (codes.py) it got.
    remote: str
    code: str
    #: Of the last request.
    error: str
    count: int
    last_at: datetime


def record_all(connection: sqlite3.Connection, counts: Sequence[RejectionCount]) -> None:
    """Add several counts in one transaction, so that a mixed flood does not cost a flush for each."""
    for one in counts:
        record(connection, remote=one.remote, code=one.code, error=one.error, now=one.last_at, count=one.count)


def record(
    connection: sqlite3.Connection, *, remote: str, code: str, error: str, now: datetime, count: int = 1
) -> None:
    """Add `count` requests to their minute's row; beyond 64 addresses in a minute they are counted as `(others)`."""
    at = codec.time_text(now)
    minute = at[:16] + ":00.000Z"
    remote, error = storable(remote), storable(error)
    update = (
        "UPDATE refusals SET count = count + ?, error = ?, last_at = ? WHERE minute = ? AND remote = ? AND code = ?"
    )
    if connection.execute(update, (count, error, at, minute, remote, code)).rowcount:
        return
    known = connection.execute("SELECT COUNT(*) FROM refusals WHERE minute = ?", (minute,)).fetchone()[0]
    if known == 0:
        _delete_oldest(connection)
    connection.execute(
        "INSERT INTO refusals (minute, remote, code, error, count, last_at) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (minute, remote, code) DO UPDATE SET count = count + excluded.count, last_at = excluded.last_at",
        (minute, remote if known < _MAX_ADDRESSES_PER_MINUTE else OTHERS, code, error, count, at),
    )


def _delete_oldest(connection: sqlite3.Connection) -> None:
    """Keep the newest rows, in whole minutes. Runs at most once a minute."""
    row = connection.execute(
        "SELECT minute FROM refusals ORDER BY minute DESC LIMIT 1 OFFSET ?", (_MAX_ROWS,)
    ).fetchone()
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
    """The last `limit` rows that match every filter given, newest last; `until` is exclusive."""
    rows = connection.execute(
        "SELECT minute, remote, code, error, count, last_at FROM refusals"
        " WHERE last_at >= ? AND last_at < ? AND code = coalesce(?, code) ORDER BY minute DESC, last_at DESC LIMIT ?",
        (codec.optional_time_text(since) or "", codec.optional_time_text(until) or "~", code, limit),
    ).fetchall()
    return tuple(
        RejectedRequest(
            minute=codec.parse_time(minute),
            remote=remote,
            code=code,
            error=error,
            count=count,
            last_at=codec.parse_time(last_at),
        )
        for minute, remote, code, error, count, last_at in reversed(rows)
    )
