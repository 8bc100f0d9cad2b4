"""The tables are a function of the journal: however and whenever its rows are projected, they are the same, row for row."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kekbridge.model.notifications import MESSAGES
from kekbridge.store import journal, projector
from kekbridge.store.journal import Entry
from kekbridge.store.transaction import Connection
from tests.equality import assert_same, table_rows
from tests.examples import examples
from tests.histories import HISTORY, Account, Step, memory_store
from tests.store.factories import NOW

# Events that tables follow from.
PROJECTED = {
    *("alert_denied", "cancel_failed", "trading_state", "transfer"),
    *("order_filled", "order_rejected", "order_denied", "order_expired", "order_unknown"),
    *("protection_live", "protection_wanted", "protection_replaced", "protection_flattened"),
}
SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=6)


def played(steps: list[Step]) -> Account:
    account = Account()
    for step in steps:
        account.play(step)
    return account


def pieces(account: Account, sizes: list[int]) -> Iterator[slice]:
    """The rows in pieces of these sizes, repeated."""
    start = number = 0
    while start < len(account.entries):
        size = sizes[number % len(sizes)]
        yield slice(start, start + size)
        start, number = start + size, number + 1


def appended(account: Account) -> Connection:
    """A store with the same journal and empty tables."""
    store = memory_store()
    for entry in account.entries:
        assert journal.insert(store, entry) is not None
    return store


@settings(max_examples=examples(30), deadline=None)
@given(HISTORY, SIZES)
def test_batches_of_any_size_give_the_same_tables(steps: list[Step], sizes: list[int]) -> None:
    """A batch is folded first: an alert stored, filled and answered in one batch is inserted in its last state, as if step by step."""
    account, store = played(steps), memory_store()
    for piece in pieces(account, sizes):
        entries = account.entries[piece]
        for entry in entries:
            assert journal.insert(store, entry) is not None
        projector.project(store, entries, last=journal.head(store)[0])
    assert_same(table_rows(store), table_rows(account.connection))
    assert journal.head(store) == journal.head(account.connection)
    assert journal.verify(store) is None


@settings(max_examples=examples(30), deadline=None)
@given(HISTORY, SIZES)
def test_rows_read_back_give_the_same_tables(steps: list[Step], sizes: list[int]) -> None:
    """After a crash the rows are read from the journal, at whatever row the projection stopped: everything needed is in their JSON."""
    account, store = played(steps), memory_store()
    for number, piece in enumerate(pieces(account, sizes)):
        entries = account.entries[piece]
        for entry in entries:
            journal.insert(store, entry)
        if number % 2:
            projector.project(store, entries, last=journal.head(store)[0])
        else:
            assert projector.catch_up(store) == len(entries)
        assert not projector.is_behind(store)
    assert_same(table_rows(store), table_rows(account.connection))


@settings(max_examples=examples(30), deadline=None)
@given(HISTORY)
def test_a_rebuild_gives_the_same_tables(steps: list[Step]) -> None:
    """From an empty projection, and again: `rebuild` changes nothing in tables that are right, and repairs those that are not."""
    account = played(steps)
    wanted = table_rows(account.connection)
    projector.rebuild(account.connection)
    assert_same(table_rows(account.connection), wanted)
    account.connection.execute("UPDATE orders SET status = 'queued', fee = '9'")
    account.connection.execute("UPDATE alerts SET status = 'x', answer = NULL")
    account.connection.execute("DELETE FROM fills")
    projector.rebuild(account.connection)
    assert_same(table_rows(account.connection), wanted)


@pytest.mark.parametrize("kind", sorted(MESSAGES.keys() - PROJECTED))
def test_a_row_that_no_table_follows_from_is_read_back(kind: str) -> None:
    """Whatever its kind begins with: a bridge that was killed right after a close had failed must start again."""
    store = memory_store()
    assert journal.insert(store, Entry(kind=kind, at=NOW, client_order_id="kb-1", data="{}")) is not None
    before = table_rows(store)
    projector.catch_up(store)
    assert not projector.is_behind(store)
    assert table_rows(store) == before
