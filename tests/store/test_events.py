"""The history is a hash chain: any row changed, moved, removed or inserted is detected, and the first such row is named."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from decimal import Decimal

import pytest

from kekbridge.store import events
from tests.store.factories import NOW


def write(connection: sqlite3.Connection, number: int = 6) -> None:
    for index in range(number):
        events.append(
            connection,
            "order_filled",
            now=NOW + timedelta(seconds=index),
            alert_id=f"A{index % 2}",
            client_order_id=None if index % 3 else f"kb-{index}",
            data={"executed_quantity": Decimal("0.10"), "index": index},
        )


def test_unchanged_history_verifies(connection: sqlite3.Connection) -> None:
    """No false alarm, also for an empty history."""
    assert events.verify(connection) is None
    assert events.head(connection) == (0, events.GENESIS)
    write(connection)
    assert events.verify(connection) is None
    assert events.head(connection)[0] == 6


@pytest.mark.parametrize("sequence", [1, 3, 6])
@pytest.mark.parametrize(
    "change",
    [
        "at = '2026-01-15T10:30:06.001Z'",
        "kind = 'order_canceled'",
        "alert_id = 'B'",
        "alert_id = NULL",
        "client_order_id = 'kb-9'",
        'data = \'{"executed_quantity":"0.11","index":0}\'',
        "previous_hash = hash",
        "hash = previous_hash",
    ],
)
def test_every_changed_column_of_any_row_is_found(connection: sqlite3.Connection, sequence: int, change: str) -> None:
    """A change of any column is detected at that very row."""
    write(connection)
    connection.execute(f"UPDATE events SET {change} WHERE sequence = ?", (sequence,))
    assert events.verify(connection) == sequence


def test_rehashed_row_breaks_the_next_one(connection: sqlite3.Connection) -> None:
    """Making one row consistent again does not help: the next row covers the old hash."""
    write(connection)
    connection.execute("DELETE FROM events WHERE sequence > 2")
    events.append(connection, "forged", now=NOW)
    forged = connection.execute("SELECT hash FROM events WHERE sequence = 3").fetchone()[0]
    connection.execute("DELETE FROM events")
    write(connection)
    connection.execute("UPDATE events SET kind = 'forged', data = '{}', hash = ? WHERE sequence = 3", (forged,))
    assert events.verify(connection) == 3


@pytest.mark.parametrize(
    "statement", ["DELETE FROM events WHERE sequence = 3", "DELETE FROM events WHERE sequence < 4"]
)
def test_missing_row_is_found(connection: sqlite3.Connection, statement: str) -> None:
    """A gap is named by the first missing sequence."""
    write(connection)
    connection.execute(statement)
    assert events.verify(connection) in (1, 3)


def test_swapped_rows_are_found(connection: sqlite3.Connection) -> None:
    """The order of events is part of the record."""
    write(connection)
    connection.execute("UPDATE events SET sequence = -sequence WHERE sequence IN (2, 5)")
    connection.execute("UPDATE events SET sequence = 7 + sequence WHERE sequence < 0")
    assert events.verify(connection) == 2


def test_events_are_read_back_in_order(connection: sqlite3.Connection) -> None:
    """explain reads an alert's events, a follower those after the last it has seen."""
    write(connection)
    assert [event.sequence for event in events.of_alert(connection, "A1")] == [2, 4, 6]
    later = events.list_events(connection, after=4)
    assert [event.sequence for event in later] == [5, 6]
    assert (later[0].at, later[0].kind) == (NOW + timedelta(seconds=4), "order_filled")
    assert later[0].data == {"executed_quantity": "0.10", "index": 4}
