"""Protection of executed entries: that it is needed follows from the fill, its state from its rows, once each."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from decimal import Decimal

import pytest

from kekbridge.execution.book import Book
from kekbridge.model import Order, OrderStatus, Purpose
from kekbridge.model.orders import ExitKind, ExitStatus
from kekbridge.store import protection
from kekbridge.store.protection import ProtectionState
from tests.store.factories import NOW, admitting, exit_intent, intent
from tests.stored import add_protective, bring, claim, report, store_alert, store_order

S = OrderStatus
LATER = NOW + timedelta(seconds=5)


def entered(book: Book, **changes: object) -> Order:
    """An accepted entry with a stop loss."""
    return store_order(book, intent(stop_loss=Decimal(60_000), **changes), S.ACCEPTED)


def leg(kind: ExitKind = ExitKind.STOP_LOSS, status: OrderStatus = S.ACCEPTED) -> ExitStatus:
    return ExitStatus(kind=kind, trigger_price=Decimal(60_000), status=status, executed_quantity=Decimal(0))


def set_state(
    connection: sqlite3.Connection, book: Book, entry: Order, state: ProtectionState, detail: str = ""
) -> bool:
    """Append the row of a state, as the protection controller does; False if there is nothing new."""
    row = protection.state_entry(connection, entry, state, detail=detail, now=LATER)
    if row is not None:
        book.append(row)
    return row is not None


def test_entry_needs_its_stop_from_its_first_fill(connection: sqlite3.Connection, book: Book) -> None:
    """Not before it executes, not again with each part, and never for orders without a stop."""
    entry = entered(book)
    store_order(book, intent(), S.FILLED)
    store_order(book, exit_intent(stop_loss=Decimal(1)), S.FILLED)
    assert protection.open_protections(connection) == ()
    part = report(book, entry, S.PARTIALLY_FILLED, Decimal("0.004"), now=LATER)
    (found,) = protection.open_protections(connection)
    assert (found.order, found.state, found.naked_since) == (part, ProtectionState.WANTED, LATER)
    done = report(book, part, S.FILLED, Decimal("0.01"), now=LATER + timedelta(seconds=1))
    (found,) = protection.open_protections(connection)
    assert (found.order, found.naked_since) == (done, LATER)


@pytest.mark.parametrize("state", [ProtectionState.LIVE, ProtectionState.REPLACED, ProtectionState.FLATTENED])
def test_state_changes_once_with_its_reason(connection: sqlite3.Connection, book: Book, state: ProtectionState) -> None:
    """The position is no longer naked; the same state again is no row; wanted again begins a new naked time; over ends it."""
    entry = report(book, entered(book), S.FILLED, Decimal("0.01"))
    assert set_state(connection, book, entry, state, "because")
    assert not set_state(connection, book, entry, state, "because")
    (found,) = protection.open_protections(connection)
    assert (found.state, found.naked_since) == (state, None)
    assert set_state(connection, book, entry, ProtectionState.WANTED)
    assert protection.open_protections(connection)[0].naked_since == LATER
    assert set_state(connection, book, entry, ProtectionState.OVER)
    assert protection.open_protections(connection) == ()


def test_exits_are_kept_as_last_reported(connection: sqlite3.Connection, book: Book) -> None:
    """While one is open the entry is asked for again; once all have ended it is not."""
    entry = report(book, entered(book), S.FILLED, Decimal("0.01"))
    assert protection.exits_of(connection, entry.client_order_id) == ()
    legs = (leg(), leg(ExitKind.TAKE_PROFIT))
    book.record_exits(entry, legs, now=NOW)
    assert protection.exits_of(connection, entry.client_order_id) == legs
    assert protection.entries_with_open_exits(connection) == (entry,)
    ended = (leg(status=S.FILLED), leg(ExitKind.TAKE_PROFIT, S.CANCELED))
    book.record_exits(entry, ended, now=LATER)
    assert protection.exits_of(connection, entry.client_order_id) == ended
    assert protection.entries_with_open_exits(connection) == ()


def test_take_profits_are_missing_until_they_are_placed(connection: sqlite3.Connection, book: Book) -> None:
    """Those that the entry's own request could not carry, from the first fill to the row that says nothing more is to be placed."""
    entry = report(book, entered(book), S.PARTIALLY_FILLED, Decimal("0.004"), has_later_exits=True)
    entry = report(book, entry, S.FILLED, Decimal("0.01"), has_later_exits=True)
    (found,) = protection.protected_entries(connection)
    assert (found.entry, found.wants_stop, found.wants_take_profits) == (entry, True, True)
    book.append(protection.take_profits_entry(entry, detail="placed", now=LATER))
    (found,) = protection.protected_entries(connection)
    assert not found.wants_take_profits


def test_a_protected_entry_has_the_orders_that_were_added_for_it(connection: sqlite3.Connection, book: Book) -> None:
    """Oldest first; also after its protection is over, as long as its alert is named: they may still have to go."""
    entry = report(book, entered(book), S.FILLED, Decimal("0.01"))
    added = [
        add_protective(book, entry, exit_intent(quantity=Decimal(number), purpose=Purpose.PROTECT, after_leg=0))
        for number in (1, 2)
    ]
    (found,) = protection.protected_entries(connection)
    assert (found.entry, found.orders, found.trailing) == (entry, tuple(added), None)
    set_state(connection, book, entry, ProtectionState.OVER)
    assert protection.protected_entries(connection) == ()
    (found,) = protection.protected_entries(connection, [entry.alert_id])
    assert (found.orders, found.wants_stop) == (tuple(added), False)


def test_a_trailing_stop_is_protected_from_its_first_try(connection: sqlite3.Connection, book: Book) -> None:
    """Under its own id: before that it waits for its entry, and its state is not one of the entry."""
    trailing = exit_intent(purpose=Purpose.PROTECT, trailing_callback_rate=Decimal("0.02"), after_leg=0)
    entry, waiting = store_alert(book, decide=admitting(intent(), trailing)).orders
    entry = bring(book, entry, S.FILLED)
    assert protection.open_protections(connection) == ()
    waiting = claim(book, waiting)
    (found,) = protection.open_protections(connection)
    assert (found.order, found.state) == (waiting, ProtectionState.WANTED)
    (protected,) = protection.protected_entries(connection)
    assert (protected.entry, protected.trailing) == (entry, waiting)
    assert (protected.wants_stop, protected.wants_trailing) == (False, True)


def test_a_state_is_published_once_an_hour(connection: sqlite3.Connection, book: Book) -> None:
    """A stop that comes and goes: each change is stored, the same state within the hour is marked quiet."""
    entry = report(book, entered(book), S.FILLED, Decimal("0.01"))
    published: list[tuple[str, bool]] = []
    for minutes, state in ((0, "wanted"), (1, "replaced"), (2, "wanted"), (30, "replaced"), (65, "wanted")):
        now = NOW + timedelta(minutes=minutes)
        row = protection.state_entry(connection, entry, ProtectionState(state), detail="0.01 of 0.01", now=now)
        assert row is not None
        book.append(row)
        published.append((state, "quiet" not in row.data))
    assert published == [
        ("wanted", True),
        ("replaced", True),
        ("wanted", False),
        ("replaced", False),
        ("wanted", True),
    ]


def test_a_missing_stop_is_published_when_it_is_first_looked_for(connection: sqlite3.Connection, book: Book) -> None:
    """Not at the fill, when nobody knows yet; not again within the hour, though what is missing is stored as it changes."""
    entry = report(book, entered(book), S.FILLED, Decimal("0.01"))
    assert not set_state(connection, book, entry, ProtectionState.WANTED)
    assert set_state(connection, book, entry, ProtectionState.WANTED, "0.01 of 0.01 without a stop")
    assert not set_state(connection, book, entry, ProtectionState.WANTED, "0.01 of 0.01 without a stop")
    row = protection.state_entry(connection, entry, ProtectionState.WANTED, detail="0.005 of 0.01", now=LATER)
    assert row is not None
    assert "quiet" in row.data
    assert set_state(connection, book, entry, ProtectionState.WANTED, "0.005 of 0.01 without a stop")
    (found,) = protection.open_protections(connection)
    assert (found.detail, found.naked_since) == ("0.005 of 0.01 without a stop", NOW)
