"""An order is listed as long as its stored fills do not add up to what it, or an exit of it, has executed; no longer."""

from __future__ import annotations

import sqlite3
from decimal import Decimal

import pytest

from kekbridge.execution import transitions
from kekbridge.execution.book import Book
from kekbridge.model import Order, OrderStatus, Side
from kekbridge.model.orders import ExitKind, ExitStatus
from kekbridge.store import incomplete_orders
from tests.store.factories import NOW, fill, status_report
from tests.stored import accept, book_on, store_order

D = Decimal


def executed(book: Book, quantity: str, status: OrderStatus = OrderStatus.FILLED) -> Order:
    """An order that has executed this much, of which no fill is known."""
    order = accept(book, store_order(book, status=OrderStatus.SUBMITTING), order_id="9001")
    report = status_report(order.client_order_id, status, D(quantity))
    return book.change(order, transitions.reported(order, report, now=NOW), now=NOW)


def names(connection: sqlite3.Connection, book: Book) -> set[str]:
    """The listed orders; the book and one that is loaded from the store say the same."""
    listed = {order.client_order_id for order in incomplete_orders.list_all(connection)}
    assert book.incomplete.keys() == book_on(connection).incomplete.keys() == listed
    return listed


@pytest.mark.parametrize("status", [OrderStatus.FILLED, OrderStatus.CANCELED, OrderStatus.PARTIALLY_FILLED])
def test_listed_until_the_last_fill(connection: sqlite3.Connection, book: Book, status: OrderStatus) -> None:
    """Open or ended, whatever the number of its fills; a fill that comes twice counts once."""
    order = executed(book, "0.01", status)
    name = order.client_order_id
    assert names(connection, book) == {name}
    first = fill(order_id="9001", quantity=D("0.004"))
    for _ in range(2):
        book.record_fill(first, order=book.order_of("9001"))
        assert names(connection, book) == {name}
    book.record_fill(fill(order_id="9001", quantity=D("0.006")), order=book.order_of("9001"))
    assert names(connection, book) == set()
    assert incomplete_orders.filled_quantity(connection, name) == D("0.01")


def test_a_fill_before_its_report(connection: sqlite3.Connection, book: Book) -> None:
    """The list of trades may be ahead of the order: nothing is missing then."""
    order = accept(book, store_order(book, status=OrderStatus.SUBMITTING), order_id="9001")
    book.record_fill(fill(order_id="9001"), order=order)
    report = status_report(order.client_order_id, OrderStatus.FILLED, D("0.01"))
    book.change(order, transitions.reported(book.current(order), report, now=NOW), now=NOW)
    assert names(connection, book) == set()


def test_an_exit_without_its_fill(connection: sqlite3.Connection, book: Book) -> None:
    """The entry is listed for its stop loss, which is no order of its own here."""
    order = executed(book, "0.01")
    book.record_fill(fill(order_id="9001"), order=book.order_of("9001"))
    leg = ExitStatus(
        kind=ExitKind.STOP_LOSS,
        trigger_price=D(64000),
        status=OrderStatus.FILLED,
        executed_quantity=D("0.01"),
        average_price=D(63990),
    )
    book.record_exits(order, (leg,), now=NOW)
    assert [each.client_order_id for each in incomplete_orders.entries(connection)] == [order.client_order_id]
    assert incomplete_orders.count(connection) == 1
    book.record_exit(fill(order_id="9002", side=Side.SELL), entry=order)
    assert incomplete_orders.entries(connection) == ()
    assert incomplete_orders.count(connection) == 0


def test_the_list_is_found_again(connection: sqlite3.Connection, book: Book) -> None:
    """A database of an earlier version has no list: it follows from orders, exits and fills."""
    order = executed(book, "0.01")
    before = connection.execute("SELECT * FROM incomplete_orders").fetchall()
    connection.execute("DELETE FROM incomplete_orders")
    incomplete_orders.rebuild(connection)
    assert [tuple(row) for row in connection.execute("SELECT * FROM incomplete_orders")] == [
        tuple(row) for row in before
    ]
    assert names(connection, book) == {order.client_order_id}
