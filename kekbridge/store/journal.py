"""The journal: an append-only table in which each row's hash covers the previous row, so that any change is detected.

It is the history (`kekbridge history`) and the first thing written: the tables of alerts, orders and fills are projected from it
(projector.py). Rows are never updated or deleted, except that retention may remove the texts outside the hash (`message`, `request`), whose
digests are in the hashed data. Contains no secrets. `kekbridge history verify` checks the chain.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from kekbridge.store import codec
from kekbridge.store.codec import from_json, row_to_json, storable, to_json
from kekbridge.store.transaction import Connection

GENESIS: Final = "0" * 64


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the journal, as it is read."""

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


class Entry(msgspec.Struct, kw_only=True, eq=False):
    """One row of the journal before it is appended."""

    kind: str
    at: datetime
    #: The alert (our id) and the order that it is about, if any.
    alert_id: str | None = None
    client_order_id: str | None = None
    #: Whose alert it is, and what makes a second one a duplicate; only in rows of alerts that claim their identity.
    webhook_id: str | None = None
    identity: str | None = None
    #: Canonical JSON.
    data: str = "{}"
    #: Texts outside the hash: the redacted message of an alert, the request of a claimed order.
    message: str | None = None
    request: str | None = None
    #: The change of the tables that follows from it (facts.py); None: it is history only.
    fact: Any = None


# ------------------------------------------------------------------------------------------------------------- appending


def append(
    connection: sqlite3.Connection,
    kind: str,
    *,
    now: datetime,
    alert_id: str | None = None,
    client_order_id: str | None = None,
    data: Mapping[str, object] | None = None,
) -> None:
    """Append a row that no table follows from. Call it in the transaction of the change that it records."""
    text = to_json(data or {})
    insert(connection, Entry(kind=kind, at=now, alert_id=alert_id, client_order_id=client_order_id, data=text))


def insert(connection: sqlite3.Connection, entry: Entry) -> int | None:
    """Append a row and return its sequence; None if its webhook has a row with that identity already, and nothing was appended."""
    last, previous = _known_head(connection)
    sequence, at = last + 1, codec.time_text(entry.at)
    key = (
        sequence,
        at,
        entry.kind,
        entry.alert_id,
        entry.client_order_id,
        entry.webhook_id,
        entry.identity,
        entry.data,
    )
    digest = _digest(previous, *key)
    done = connection.execute(
        "INSERT INTO journal (sequence, at, kind, alert_id, client_order_id, webhook_id, identity, data, previous_hash, hash, message,"
        " request) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (webhook_id, identity) WHERE identity IS NOT NULL DO NOTHING",
        (*key, previous, digest, entry.message, entry.request),
    ).rowcount
    if not done:
        return None
    if isinstance(connection, Connection) and connection.head is not None:
        connection.head = (sequence, digest)
    return sequence


def _known_head(connection: sqlite3.Connection) -> tuple[int, str]:
    """The head; the writer's connection remembers it, since nothing else appends while a transaction of it is open."""
    if isinstance(connection, Connection) and connection.head is not None:
        return connection.head
    return head(connection)


def text_digest(text: str) -> str:
    """What the hashed data keeps of a text that retention may remove: its SHA-256 in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------------- identities


def find_identity(connection: sqlite3.Connection, webhook_id: str, identity: str) -> str | None:
    """Our id of the alert of this webhook that claimed the identity; None if it is free. Also finds alerts from before the journal."""
    text = storable(identity)
    row = connection.execute(
        "SELECT alert_id FROM journal WHERE webhook_id = ?1 AND identity = ?2"
        " UNION ALL SELECT id FROM alerts WHERE webhook_id = ?1 AND identity = ?2 LIMIT 1",
        (webhook_id, text),
    ).fetchone()
    return None if row is None else str(row[0])


# ------------------------------------------------------------------------------------------------------------- reading


def verify(connection: sqlite3.Connection) -> int | None:
    """Sequence of the first row that was changed, moved or removed; None if the chain is intact.

    Rows removed at the end cannot be detected from the file alone: keep the last hash (`head`) elsewhere for that. A text outside the
    hash that is still there must match its digest.
    """
    expected, previous = 1, GENESIS
    rows = connection.execute(
        "SELECT sequence, at, kind, alert_id, client_order_id, webhook_id, identity, data, previous_hash, hash, message, request"
        " FROM journal ORDER BY sequence"
    )
    for *key, stored_previous, stored, message, request in rows:
        if key[0] != expected:
            return expected
        digest = _digest(previous, *key)
        if stored_previous != previous or stored != digest or not _texts_match(key[-1], message, request):
            return expected
        expected, previous = expected + 1, digest
    return None


def _texts_match(data: str, message: str | None, request: str | None) -> bool:
    digests = from_json(data) if message is not None or request is not None else {}
    return (message is None or digests.get("message") == text_digest(message)) and (
        request is None or digests.get("request") == text_digest(request)
    )


def head(connection: sqlite3.Connection) -> tuple[int, str]:
    """Sequence and hash of the last row; 0 and zeros for an empty journal."""
    row = connection.execute("SELECT sequence, hash FROM journal ORDER BY sequence DESC LIMIT 1").fetchone()
    return (row[0], row[1]) if row else (0, GENESIS)


def hash_at(connection: sqlite3.Connection, sequence: int) -> str | None:
    """The hash of a row; None if there is none with that sequence. 0 is the empty journal."""
    if sequence == 0:
        return GENESIS
    row = connection.execute("SELECT hash FROM journal WHERE sequence = ?", (sequence,)).fetchone()
    return None if row is None else str(row[0])


def of_alert(connection: sqlite3.Connection, alert_id: str) -> tuple[Event, ...]:
    """All events of an alert (our id) and its orders, oldest first."""
    return _select(connection, "WHERE alert_id = ? ORDER BY sequence", (alert_id,))


def order_figures(connection: sqlite3.Connection, event: Event) -> dict[str, Any] | None:
    """Figures of the order of an event as they were right after it; None if the journal does not have its beginning."""
    figures: dict[str, Any] | None = None
    rows = connection.execute(
        "SELECT kind, client_order_id, data FROM journal WHERE alert_id = ? AND sequence <= ? ORDER BY sequence",
        (event.alert_id, event.sequence),
    )
    for kind, client_order_id, text in rows:
        data = from_json(text)
        if figures is None:
            orders = [*data.get("orders", ()), *([data["order"]] if "order" in data else [])]
            figures = next((each for each in orders if each.get("client_order_id") == event.client_order_id), None)
        elif client_order_id == event.client_order_id and kind.startswith("order_"):
            figures = figures | data
    return figures


def list_events(
    connection: sqlite3.Connection,
    *,
    after: int = 0,
    until: int | None = None,
    kinds: Iterable[str] = (),
    limit: int = 1000,
) -> tuple[Event, ...]:
    """The first `limit` events after a sequence number, of these kinds only if any are given, oldest first. `until`: the last sequence."""
    wanted = tuple(kinds)
    where = f" AND kind IN ({', '.join('?' * len(wanted))})" if wanted else ""
    values: tuple[object, ...] = (after, *wanted)
    if until is not None:
        where, values = f"{where} AND sequence <= ?", (*values, until)
    return _select(connection, f"WHERE sequence > ?{where} ORDER BY sequence LIMIT ?", (*values, limit))


def latest(
    connection: sqlite3.Connection,
    *,
    kinds: Iterable[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
    of_alerts: bool = True,
    limit: int = 50,
) -> tuple[Event, ...]:
    """The newest `limit` events that match every filter given, oldest first. No `kinds`: all kinds. `until` is exclusive.

    `before`: only rows with a smaller sequence number. `of_alerts` False excludes events of alerts; an index finds the others in a history
    of any length.
    """
    wanted = tuple(kinds)
    conditions: list[tuple[str, str | int | None]] = [
        ("at >= ?", codec.optional_time_text(since)),
        ("at < ?", codec.optional_time_text(until)),
        ("sequence < ?", before),
    ]
    given = [(condition, value) for condition, value in conditions if value is not None]
    where = [] if of_alerts else ["alert_id IS NULL"]
    where += [condition for condition, _ in given] + ([f"kind IN ({', '.join('?' * len(wanted))})"] if wanted else [])
    values = [*(value for _, value in given), *wanted, limit]
    rest = f"WHERE {' AND '.join(where)}" if where else ""
    return _select(connection, f"{rest} ORDER BY sequence DESC LIMIT ?", values)[::-1]


def has_kind(connection: sqlite3.Connection, kind: str) -> bool:
    """True if an event of this kind was ever written. Reads the whole history to find none."""
    return connection.execute("SELECT 1 FROM journal WHERE kind = ? LIMIT 1", (kind,)).fetchone() is not None


def _select(connection: sqlite3.Connection, rest: str, values: Sequence[object]) -> tuple[Event, ...]:
    rows = connection.execute(
        f"SELECT sequence, at, kind, alert_id, client_order_id, data FROM journal {rest}",
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
    previous: str,
    sequence: int,
    at: str,
    kind: str,
    alert_id: str | None,
    client_order_id: str | None,
    webhook_id: str | None,
    identity: str | None,
    data: str,
) -> str:
    """SHA-256 of the previous hash and the row as a JSON list, which gives no two rows the same text."""
    claim = () if webhook_id is None and identity is None else (webhook_id, identity)
    text = row_to_json(sequence, at, kind, alert_id, client_order_id, data, *claim)
    return hashlib.sha256((previous + text).encode()).hexdigest()
