"""Conditions: told when they begin and when they end, never in between, also over a restart."""

from __future__ import annotations

import sqlite3

from kekbridge.store import conditions, events
from tests.store.made import NOW


def kinds(connection: sqlite3.Connection) -> list[str]:
    return [event.kind for event in events.list_events(connection)]


def test_a_condition_is_told_once_until_it_is_over(connection: sqlite3.Connection) -> None:
    """Looking every minute tells once; after the end it is armed again."""
    for _ in range(3):
        conditions.begin(connection, "stream", "stream_down", now=NOW, data={"lasting": "1 min"})
    known = conditions.Condition(kind="stream_down", since=NOW, data={"lasting": "1 min"})
    assert conditions.holding(connection) == {"stream": known}
    assert conditions.end(connection, "stream", "stream_back", now=NOW)
    assert not conditions.end(connection, "stream", "stream_back", now=NOW)
    assert conditions.begin(connection, "stream", "stream_down", now=NOW)
    assert kinds(connection) == ["stream_down", "stream_back", "stream_down"]


def test_a_condition_that_gets_worse_is_told_again(connection: sqlite3.Connection) -> None:
    """Expiring and then expired are two messages of one condition with one end; conditions of other names are their own."""
    for kind in ("key_expiring", "key_expiring", "key_expired", "key_expired"):
        conditions.begin(connection, "key", kind, now=NOW)
    conditions.begin(connection, "certificate", "certificate_expired", now=NOW)
    conditions.end(connection, "key", None, now=NOW)
    assert kinds(connection) == ["key_expiring", "key_expired", "certificate_expired"]
    assert list(conditions.holding(connection)) == ["certificate"]
