"""Protection of executed entries: that it is needed follows from the fill, its state from its rows, once each."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from decimal import Decimal

import pytest

from kekbridge.execution.book import Book
from kekbridge.model import Order, OrderStatus
from kekbridge.model.orders import ExitKind, ExitStatus
from kekbridge.store import protection
from kekbridge.store.protection import ProtectionState
from tests.store.factories import NOW, exit_intent, intent
from tests.stored import add_protective, report, store_order

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
    """Append the row of a state, as the stop guard does; False if there is nothing new."""
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
    assert protection.entries_missing_take_profits(connection) == (entry,)
    book.append(protection.take_profits_entry(entry, detail="placed", now=LATER))
    assert protection.entries_missing_take_profits(connection) == ()


def test_orders_added_for_an_entry(connection: sqlite3.Connection, book: Book) -> None:
    """Replacement stops, take-profits and closes, not the alert's own legs."""
    entry = report(book, entered(book), S.FILLED, Decimal("0.01"))
    added = [add_protective(book, entry, exit_intent(quantity=Decimal(number))) for number in (1, 2)]
    assert protection.orders_for(connection, entry) == tuple(added)
