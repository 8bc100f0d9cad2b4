"""The history: an append-only table in which each row's hash covers the previous row, so that any change is detected.

Other store modules append inside their own transactions; rows are never updated or deleted and contain neither secrets nor payloads.
`kekbridge history verify` checks the chain.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from kekbridge.store import cache, codec
from kekbridge.store.codec import event_to_json, from_json, to_json

GENESIS: Final = "0" * 64
_TABLE: Final = "events"
_HEAD: Final = "head"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One row of the history."""

    #: 1, 2, 3… without gaps.
    sequence: int
    at: datetime
    #: Such as `alert_admitted` or `order_submitting`.
    kind: str
    #: The alert (our id) and the order that it is about, if any.
    alert_id: str | None
    client_order_id: str | None
    #: The figures.
    data: Mapping[str, Any]


def append(
    connection: sqlite3.Connection,
    kind: str,
    *,
    now: datetime,
    alert_id: str | None = None,
    client_order_id: str | None = None,
    data: Mapping[str, object] | None = None,
) -> None:
    """Append an event. Call it in the transaction of the change that it records."""
    last, previous = cache.get_or_load(connection, _TABLE, _HEAD, head)
    sequence, at, text = last + 1, codec.time_text(now), to_json(data or {})
    digest = _digest(previous, sequence, at, kind, alert_id, client_order_id, text)
    connection.execute(
        "INSERT INTO events (sequence, at, kind, alert_id, client_order_id, data, previous_hash, hash)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (sequence, at, kind, alert_id, client_order_id, text, previous, digest),
    )
    cache.put(connection, _TABLE, _HEAD, (sequence, digest))


def verify(connection: sqlite3.Connection) -> int | None:
    """Sequence of the first event that was changed, moved or removed; None if the chain is intact.

    Events removed at the end cannot be detected from the file alone: keep the last hash (`head`) elsewhere for that.
    """
    expected, previous = 1, GENESIS
    rows = connection.execute(
        "SELECT sequence, at, kind, alert_id, client_order_id, data, previous_hash, hash FROM events ORDER BY sequence"
    )
    for sequence, at, kind, alert_id, client_order_id, text, stored_previous, stored in rows:
        if sequence != expected:
            return expected
        digest = _digest(previous, sequence, at, kind, alert_id, client_order_id, text)
        if stored_previous != previous or stored != digest:
            return expected
        expected, previous = expected + 1, digest
    return None


def head(connection: sqlite3.Connection) -> tuple[int, str]:
    """Sequence and hash of the last event; 0 and zeros for an empty history."""
    row = connection.execute("SELECT sequence, hash FROM events ORDER BY sequence DESC LIMIT 1").fetchone()
    return (row[0], row[1]) if row else (0, GENESIS)


def hash_at(connection: sqlite3.Connection, sequence: int) -> str | None:
    """The hash of an event; None if there is none with that sequence. 0 is the empty history."""
    if sequence == 0:
        return GENESIS
    row = connection.execute("SELECT hash FROM events WHERE sequence = ?", (sequence,)).fetchone()
    return None if row is None else str(row[0])


def of_alert(connection: sqlite3.Connection, alert_id: str) -> tuple[Event, ...]:
    """All events of an alert (our id) and its orders, oldest first."""
    return _select(connection, "WHERE alert_id = ? ORDER BY sequence", (alert_id,))


def list_events(connection: sqlite3.Connection, *, after: int = 0, limit: int = 1000) -> tuple[Event, ...]:
    """Events after a sequence number, oldest first."""
    return _select(connection, "WHERE sequence > ? ORDER BY sequence LIMIT ?", (after, limit))


def latest(
    connection: sqlite3.Connection,
    *,
    kinds: Iterable[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    of_alerts: bool = True,
    limit: int = 50,
) -> tuple[Event, ...]:
    """The newest `limit` events that match every filter given, oldest first. No `kinds`: all kinds. `until` is exclusive.

    `of_alerts` False excludes events of alerts; an index finds the others in a history of any length.
    """
    wanted = tuple(kinds)
    conditions = [("at >= ?", codec.optional_time_text(since)), ("at < ?", codec.optional_time_text(until))]
    given = [(condition, value) for condition, value in conditions if value is not None]
    where = [] if of_alerts else ["alert_id IS NULL"]
    where += [condition for condition, _ in given] + ([f"kind IN ({', '.join('?' * len(wanted))})"] if wanted else [])
    values = [*(value for _, value in given), *wanted, limit]
    rest = f"WHERE {' AND '.join(where)}" if where else ""
    return _select(connection, f"{rest} ORDER BY sequence DESC LIMIT ?", values)[::-1]


def _select(connection: sqlite3.Connection, rest: str, values: Sequence[object]) -> tuple[Event, ...]:
    rows = connection.execute(
        f"SELECT sequence, at, kind, alert_id, client_order_id, data FROM events {rest}",
        values,
    )
    return tuple(
        Event(
            sequence=sequence,
            at=codec.parse_time(at),
            kind=kind,
            alert_id=alert_id,
            client_order_id=client_order_id,
            data=from_json(text),
        )
        for sequence, at, kind, alert_id, client_order_id, text in rows
    )


def _digest(
    previous: str, sequence: int, at: str, kind: str, alert_id: str | None, client_order_id: str | None, data: str
) -> str:
    """SHA-256 of the previous hash and the row as a JSON list, which gives no two rows the same text."""
    text = event_to_json(sequence, at, kind, alert_id, client_order_id, data)
    return hashlib.sha256((previous + text).encode()).hexdigest()
