"""Unauthenticated requests are counted, and a flood of them stays small."""

from __future__ import annotations

import sqlite3
from datetime import timedelta

from kekbridge.store import rejected_requests
from tests.store.factories import NOW


def refuse(connection: sqlite3.Connection, remote: str = "192.0.2.1", seconds: float = 0, **changes: object) -> None:
    values: dict[str, object] = {"code": "unauthorized", "error": "no such key"}
    rejected_requests.record(
        connection,
        remote=remote,
        now=NOW + timedelta(seconds=seconds),
        **values | changes,  # type: ignore[arg-type]
    )


def test_equal_requests_within_a_minute_are_one_row(connection: sqlite3.Connection) -> None:
    """Counted by minute, address and code, with the latest reason and time."""
    refuse(connection)
    refuse(connection, seconds=10, error="wrong signature", count=5)
    refuse(connection, seconds=20, code="body_too_large")
    refuse(connection, seconds=60)
    found = rejected_requests.list_recent(connection)
    assert [(one.code, one.count, one.error) for one in found] == [
        ("unauthorized", 6, "wrong signature"),
        ("body_too_large", 1, "no such key"),
        ("unauthorized", 1, "no such key"),
    ]
    assert found[0].minute == NOW.replace(second=0)
    assert found[0].last_at == NOW + timedelta(seconds=10)
    assert rejected_requests.list_recent(connection, limit=1) == found[2:]
    assert rejected_requests.list_recent(connection, since=NOW + timedelta(seconds=60)) == found[2:]
    assert rejected_requests.list_recent(connection, until=NOW + timedelta(seconds=20)) == found[:1]


def test_many_addresses_are_summed(connection: sqlite3.Connection) -> None:
    """A distributed flood creates a bounded number of rows, and every request is counted."""
    for number in range(500):
        refuse(connection, remote=f"198.51.100.{number}")
    found = rejected_requests.list_recent(connection, limit=1000)
    assert len(found) == 65
    assert sum(one.count for one in found) == 500
    assert {one.count for one in found if one.remote == rejected_requests.OTHERS} == {436}


def test_oldest_rows_are_deleted(connection: sqlite3.Connection) -> None:
    """Years of background noise keep the table at its bound: the oldest minutes go first."""
    old = [(f"2020-01-01T{h:02d}:{m:02d}:00.000Z", f"r{n}") for h in range(24) for m in range(60) for n in range(14)]
    connection.executemany("INSERT INTO refusals VALUES (?, ?, 'unauthorized', '', 1, '2020-01-01T00:00:00.000Z')", old)
    refuse(connection)
    rows = connection.execute("SELECT count(*), min(minute) FROM refusals").fetchone()
    assert 19_900 <= rows[0] <= 20_001
    assert rows[1] > "2020-01-01T00:00:00.000Z"
    assert rejected_requests.list_recent(connection, since=NOW)[0].count == 1
