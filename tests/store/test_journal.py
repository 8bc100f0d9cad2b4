"""The journal is a hash chain: any row changed, moved, removed or inserted is detected, and the first such row is named."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.store import alerts, journal
from kekbridge.store.codec import to_json
from kekbridge.store.journal import Entry
from kekbridge.store.transaction import Connection
from tests.store.factories import NOW, new_alert
from tests.stored import REQUEST, book_on, store_alert

MESSAGE = '{"comment":"a message"}'


def write(connection: sqlite3.Connection, number: int = 6) -> None:
    """Rows without identity, as those from before the journal, and as most are."""
    for index in range(number):
        journal.append(
            connection,
            "order_filled",
            now=NOW + timedelta(seconds=index),
            alert_id=f"A{index % 2}",
            client_order_id=None if index % 3 else f"kb-{index}",
            data={"executed_quantity": Decimal("0.10"), "index": index},
        )


def write_alerts(connection: sqlite3.Connection, number: int = 6) -> None:
    """Rows of alerts: with webhook, identity, message and request."""
    for index in range(number):
        digests = {"message": journal.text_digest(MESSAGE), "request": journal.text_digest(REQUEST)}
        entry = Entry(
            kind="alert_admitted",
            at=NOW + timedelta(seconds=index),
            alert_id=f"A{index}",
            webhook_id="hook",
            identity=f"id:{index}",
            data=to_json({"index": index, **digests}),
            message=MESSAGE,
            request=REQUEST,
        )
        assert journal.insert(connection, entry) == index + 1


def test_unchanged_history_verifies(connection: sqlite3.Connection) -> None:
    """No false alarm, also for an empty history."""
    assert journal.verify(connection) is None
    assert journal.head(connection) == (0, journal.GENESIS)
    write(connection)
    assert journal.verify(connection) is None
    assert journal.head(connection)[0] == 6
    assert journal.hash_at(connection, 6) == journal.head(connection)[1]
    assert (journal.hash_at(connection, 0), journal.hash_at(connection, 7)) == (journal.GENESIS, None)


ANY_ROW = [
    "at = '2026-01-15T10:30:06.001Z'",
    "kind = 'order_canceled'",
    "alert_id = 'B'",
    "alert_id = NULL",
    "client_order_id = 'kb-9'",
    'data = \'{"executed_quantity":"0.11","index":0}\'',
    "data = 'no JSON'",
    "previous_hash = hash",
    "hash = previous_hash",
    "identity = 'id:x'",
    "webhook_id = 'x'",
]


@pytest.mark.parametrize("sequence", [1, 3, 6])
@pytest.mark.parametrize("change", [*ANY_ROW, "message = '{}'", "request = '{}'"])
def test_every_changed_column_of_any_row_is_found(connection: sqlite3.Connection, sequence: int, change: str) -> None:
    """A change of any column is detected at that very row, also in rows from before the journal had identities and texts."""
    write(connection)
    connection.execute(f"UPDATE journal SET {change} WHERE sequence = ?", (sequence,))
    assert journal.verify(connection) == sequence


@pytest.mark.parametrize("sequence", [1, 3, 6])
@pytest.mark.parametrize(
    "change",
    [
        *ANY_ROW,
        "identity = NULL",
        "webhook_id = NULL",
        "webhook_id = NULL, identity = NULL",
        "message = message || ' '",
        "request = message",
        "message = ''",
    ],
)
def test_every_changed_column_of_an_alert_is_found(connection: sqlite3.Connection, sequence: int, change: str) -> None:
    """Whose alert it is, what makes a second one a duplicate, its message and the request sent are protected as well."""
    write_alerts(connection)
    assert journal.verify(connection) is None
    connection.execute(f"UPDATE journal SET {change} WHERE sequence = ?", (sequence,))
    assert journal.verify(connection) == sequence


def test_rehashed_row_breaks_the_next_one(connection: sqlite3.Connection) -> None:
    """Making one row consistent again does not help: the next row covers the old hash."""
    write(connection)
    connection.execute("DELETE FROM journal WHERE sequence > 2")
    journal.append(connection, "forged", now=NOW)
    forged = connection.execute("SELECT hash FROM journal WHERE sequence = 3").fetchone()[0]
    at = connection.execute("SELECT at FROM journal WHERE sequence = 3").fetchone()[0]
    connection.execute("DELETE FROM journal")
    write(connection)
    connection.execute(
        "UPDATE journal SET kind = 'forged', data = '{}', at = ?, alert_id = NULL, client_order_id = NULL, hash = ?"
        " WHERE sequence = 3",
        (at, forged),
    )
    assert journal.verify(connection) == 4


@pytest.mark.parametrize(
    ("statement", "named"),
    [("DELETE FROM journal WHERE sequence = 3", 3), ("DELETE FROM journal WHERE sequence < 4", 1)],
)
def test_missing_row_is_found(connection: sqlite3.Connection, statement: str, named: int) -> None:
    """A gap is named by the first missing sequence."""
    write(connection)
    connection.execute(statement)
    assert journal.verify(connection) == named


def test_swapped_rows_are_found(connection: sqlite3.Connection) -> None:
    """The order of events is part of the record."""
    write(connection)
    connection.execute("UPDATE journal SET sequence = -sequence WHERE sequence IN (2, 5)")
    connection.execute("UPDATE journal SET sequence = 7 + sequence WHERE sequence < 0")
    assert journal.verify(connection) == 2


@given(
    one=st.tuples(st.text(max_size=6), st.none() | st.text(max_size=6), st.none() | st.text(max_size=6)),
    other=st.tuples(st.text(max_size=6), st.none() | st.text(max_size=6), st.none() | st.text(max_size=6)),
)
def test_no_two_claims_have_the_same_hash(
    one: tuple[str, str | None, str | None], other: tuple[str, str | None, str | None]
) -> None:
    """Moving text between data, webhook and identity changes the hash: columns cannot be shifted into one another."""
    first, second = (
        journal._digest("0", 1, "t", "k", None, None, claim[1], claim[2], claim[0]) for claim in (one, other)
    )
    assert (first == second) == (one == other)


# ------------------------------------------------------------------------------------------------------ texts outside the hash


def test_removing_texts_leaves_the_chain_whole(connection: sqlite3.Connection) -> None:
    """Retention takes message and request; their digests stay, so that a text that comes back must be the same."""
    write_alerts(connection)
    connection.execute("UPDATE journal SET message = NULL WHERE sequence < 4")
    connection.execute("UPDATE journal SET request = NULL WHERE sequence < 3")
    assert journal.verify(connection) is None
    connection.execute("UPDATE journal SET message = ? WHERE sequence = 2", (MESSAGE,))
    assert journal.verify(connection) is None
    connection.execute("UPDATE journal SET message = 'another' WHERE sequence = 2")
    assert journal.verify(connection) == 2


def test_retention_keeps_the_chain_of_real_alerts(connection: sqlite3.Connection) -> None:
    """What `keep_payloads_days` does, on rows that the daemon's code has written."""
    book = book_on(connection)
    for days in (100, 95, 1):
        store_alert(book, new_alert(received_at=NOW - timedelta(days=days)), is_claimed=days == 95, expires_at=NOW)
    before = journal.head(connection)
    assert alerts.remove_payloads(connection, before=NOW - timedelta(days=90), now=NOW) == 2
    texts = [tuple(row) for row in connection.execute("SELECT message IS NULL FROM journal ORDER BY sequence")]
    assert texts == [(1,), (1,), (0,)]
    assert journal.verify(connection) is None
    assert journal.head(connection) == before


# ------------------------------------------------------------------------------------------------------------------ identities


def test_second_claim_of_an_identity_appends_nothing(connection: sqlite3.Connection) -> None:
    """The unique index decides; the head does not move, and the next row continues the chain."""
    write_alerts(connection, 2)
    again = Entry(kind="alert_admitted", at=NOW, alert_id="B", webhook_id="hook", identity="id:1", data="{}")
    assert journal.insert(connection, again) is None
    assert journal.head(connection)[0] == 2
    assert journal.find_identity(connection, "hook", "id:1") == "A1"
    elsewhere = Entry(kind="alert_admitted", at=NOW, alert_id="C", webhook_id="other", identity="id:1", data="{}")
    assert journal.insert(connection, elsewhere) == 3
    assert journal.find_identity(connection, "other", "id:1") == "C"
    assert journal.find_identity(connection, "other", "id:0") is None
    assert journal.verify(connection) is None


# ---------------------------------------------------------------------------------------------------------------------- reading


def test_events_are_read_back_in_order(connection: sqlite3.Connection) -> None:
    """explain reads an alert's events, a follower those after the last it has seen."""
    write(connection)
    assert [event.sequence for event in journal.of_alert(connection, "A1")] == [2, 4, 6]
    later = journal.list_events(connection, after=4)
    assert [event.sequence for event in later] == [5, 6]
    assert (later[0].at, later[0].kind) == (NOW + timedelta(seconds=4), "order_filled")
    assert later[0].data == {"executed_quantity": "0.10", "index": 4}


def test_latest_events_match_every_filter(connection: sqlite3.Connection) -> None:
    """The newest come last; `until` is exclusive; events of the bridge itself are separate from those of alerts."""
    write(connection)
    journal.append(connection, "stream_down", now=NOW + timedelta(seconds=9))
    assert [event.sequence for event in journal.latest(connection, limit=2)] == [6, 7]
    assert [event.sequence for event in journal.latest(connection, of_alerts=False)] == [7]
    assert [event.sequence for event in journal.latest(connection, kinds=("stream_down", "x"))] == [7]
    between = journal.latest(connection, since=NOW + timedelta(seconds=1), until=NOW + timedelta(seconds=3))
    assert [event.sequence for event in between] == [2, 3]


def test_head_is_remembered_within_a_transaction(connection: sqlite3.Connection) -> None:
    """The writer's connection knows the head of its transaction: the rows are those of a connection that reads it each time."""
    assert isinstance(connection, Connection)
    write_alerts(connection, 2)
    connection.head = journal.head(connection)
    again = Entry(kind="alert_admitted", at=NOW, alert_id="B", webhook_id="hook", identity="id:1", data="{}")
    assert journal.insert(connection, again) is None
    write(connection, 3)
    assert connection.head == journal.head(connection)
    assert journal.verify(connection) is None
