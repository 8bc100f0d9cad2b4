"""The history: an append-only table in which each row's hash covers the row before it, so that a change anywhere shows.

Every other module of the store appends here, inside its own transaction; nothing ever updates or deletes. No secret and no payload
goes in. Whoever holds the file can check it: `kekbridge history verify`.
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
    """One thing that happened: `kind` says what (`alert_admitted`, `order_submitting`…), `data` the figures."""

    sequence: int
    at: datetime
    kind: str
    alert_id: str | None
    client_order_id: str | None
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
    """Add an event after the last one; call it in the transaction of the change that it tells of."""
    last, previous = cache.get_or_load(connection, _TABLE, _HEAD, head)
    sequence, at, text = last + 1, codec.to_text(now), to_json(data or {})
    digest = _digest(previous, sequence, at, kind, alert_id, client_order_id, text)
    connection.execute(
        "INSERT INTO events (sequence, at, kind, alert_id, client_order_id, data, previous_hash, hash)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (sequence, at, kind, alert_id, client_order_id, text, previous, digest),
    )
    cache.put(connection, _TABLE, _HEAD, (sequence, digest))


def verify(connection: sqlite3.Connection) -> int | None:
    """Sequence of the first event that was changed, moved or is missing; None when the chain is whole.

    What was cut off at the end cannot be seen in the file alone: keep the last hash (`head`) elsewhere to notice that.
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
    """Sequence and hash of the last event; (0, zeros) for an empty history."""
    row = connection.execute("SELECT sequence, hash FROM events ORDER BY sequence DESC LIMIT 1").fetchone()
    return (row[0], row[1]) if row else (0, GENESIS)


def hash_at(connection: sqlite3.Connection, sequence: int) -> str | None:
    """The hash of an event; None when there is none of that number. 0 is the empty history."""
    if sequence == 0:
        return GENESIS
    row = connection.execute("SELECT hash FROM events WHERE sequence = ?", (sequence,)).fetchone()
    return None if row is None else str(row[0])


def of_alert(connection: sqlite3.Connection, alert_id: str) -> tuple[Event, ...]:
    """Everything that happened to an alert (our id) and its orders, oldest first."""
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
    """The newest events that fit every filter given, oldest of them first; no kinds: all. `until` is exclusive.

    `of_alerts` False leaves out what belongs to an alert: an index finds the rest, however long the history is.
    """
    wanted = tuple(kinds)
    conditions = [("at >= ?", codec.optional_text(since)), ("at < ?", codec.optional_text(until))]
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
            at=codec.from_text(at),
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
    """SHA-256 over the hash before and the canonical JSON of the row: a list, so that no two rows have the same text."""
    text = event_to_json(sequence, at, kind, alert_id, client_order_id, data)
    return hashlib.sha256((previous + text).encode()).hexdigest()
