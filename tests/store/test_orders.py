"""Rows of orders: found, listed and shown as they were stored; lookups that stay quick in a long history."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from decimal import Decimal

import pytest

from kekbridge.errors import NotFound
from kekbridge.execution import transitions
from kekbridge.execution.book import Book
from kekbridge.model import OrderStatus, Side, Verdict
from kekbridge.store import journal, orders
from tests.store.factories import NOW, admitting, exit_intent, intent, new_alert
from tests.stored import REQUEST, accept, add_protective, bring, claim, report, store_alert, store_order

S = OrderStatus
ETH = "PERP_ETH_USDC"


@pytest.mark.parametrize("status", list(OrderStatus))
def test_order_reads_back_equal_in_every_state(connection: sqlite3.Connection, book: Book, status: OrderStatus) -> None:
    """What the book holds is what the table says, field by field; every change has an event of its alert."""
    order = store_order(book, intent(stop_loss=Decimal(60000)), status)
    assert orders.get(connection, order.client_order_id) == order
    assert orders.find(connection, order.client_order_id) == order
    assert orders.of_alert(connection, order.alert_id) == (order,)
    kinds = [event.kind for event in journal.of_alert(connection, order.alert_id)]
    assert kinds[0] == "alert_admitted"
    assert status is S.QUEUED or kinds[-1] == f"order_{status.value}"
    assert journal.verify(connection) is None


def test_unknown_id_is_named_in_the_error(connection: sqlite3.Connection) -> None:
    """Looking up a foreign order finds nothing; asking for one says which."""
    assert orders.find(connection, "kb-missing") is None
    for ask in (orders.get, orders.details):
        with pytest.raises(NotFound, match="kb-missing"):
            ask(connection, "kb-missing")


def test_orders_are_listed_by_filters(connection: sqlite3.Connection, book: Book) -> None:
    """Filters of `kekbridge orders`: newest last, open only, by symbol, status and webhook, deleted webhooks included."""
    first = store_order(book, status=S.FILLED)
    second = store_order(book, intent(symbol=ETH), S.ACCEPTED)
    third = store_order(book, webhook_id="other", webhook_name="second")
    assert orders.list_orders(connection) == (first, second, third)
    assert orders.list_orders(connection, limit=1) == (third,)
    assert orders.list_orders(connection, before=third.sequence, limit=1) == (second,)
    assert orders.list_orders(connection, open_only=True) == (second, third)
    assert orders.list_orders(connection, symbol=ETH) == (second,)
    assert orders.list_orders(connection, status="filled") == (first,)
    assert orders.list_orders(connection, webhook="second") == (third,)
    assert orders.list_orders(connection, webhook="hook") == (first, second)
    assert orders.list_orders(connection, since=NOW + timedelta(seconds=1)) == ()


def test_a_close_that_turned_keeps_one_side(connection: sqlite3.Connection, book: Book) -> None:
    """A close that was queued against a long and claimed against a short is a BUY everywhere, also in the column that export reads."""
    order = store_order(book, exit_intent(side=Side.SELL))
    turned = transitions.claimed(order, now=NOW, intent=exit_intent(side=Side.BUY))
    book.change(order, turned, now=NOW)
    assert orders.get(connection, order.client_order_id).intent.side is Side.BUY
    (side,) = connection.execute("SELECT side FROM orders").fetchone()
    assert side == "BUY"


def test_details_are_those_of_the_last_claim(connection: sqlite3.Connection, book: Book) -> None:
    """explain shows the exact body, what the recheck found, and when it was signed; later changes keep them."""
    order = store_order(book, exit_intent(quantity=Decimal(2)))
    assert orders.details(connection, order.client_order_id).request is None
    verdict = Verdict(rule="exit", scope="webhook", passed=True, found="", limit="")
    smaller = exit_intent(quantity=Decimal("0.5"))
    claimed = transitions.claimed(order, now=NOW, intent=smaller)
    order = book.change(order, claimed, now=NOW, request='{"a":1}', verdicts=(verdict,))
    signed_at = NOW + timedelta(milliseconds=4)
    book.note_signed(order.client_order_id, signed_at)
    order = report(book, accept(book, order), S.FILLED, Decimal("0.5"))
    shown = orders.details(connection, order.client_order_id)
    assert (shown.request, shown.verdicts, shown.signed_at) == ('{"a":1}', (verdict,), signed_at)
    assert orders.get(connection, order.client_order_id).intent == smaller


def test_order_claimed_with_its_alert_has_its_request(connection: sqlite3.Connection, book: Book) -> None:
    """The first leg only: the others are claimed later."""
    decide = admitting(intent(), exit_intent(after_leg=0))
    first, second = store_alert(book, new_alert(), decide, is_claimed=True).orders
    assert orders.get(connection, first.client_order_id) == first
    assert orders.details(connection, first.client_order_id).request == REQUEST
    assert orders.details(connection, second.client_order_id).request is None


def test_unfinished_orders_are_in_order_of_admission(connection: sqlite3.Connection, book: Book) -> None:
    """From queued to partially filled; one that stays unknown is over."""
    made = {status: store_order(book, intent(symbol=f"PERP_{status}_USDC"), status) for status in OrderStatus}
    closed = store_order(book, status=S.UNKNOWN)
    book.change(closed, transitions.closed_unknown(closed, reason="x", now=NOW), now=NOW)
    wanted = [made[status] for status in OrderStatus if not status.is_final]
    assert list(orders.unfinished(connection)) == wanted
    assert orders.last_sequence(connection) == closed.sequence


def test_last_entries_are_those_that_reached_the_exchange(connection: sqlite3.Connection, book: Book) -> None:
    """For cool-downs after a start: the newest finished entry of each symbol, of one webhook, since a time."""
    old = store_order(book, status=S.FILLED, received_at=NOW - timedelta(seconds=50))
    new = store_order(book, status=S.FILLED, received_at=NOW - timedelta(seconds=20))
    store_order(book, status=S.DENIED)
    store_order(book, exit_intent(symbol=ETH), S.FILLED)
    store_order(book, intent(symbol=ETH), S.ACCEPTED)
    store_order(book, intent(symbol=ETH), S.FILLED, webhook_id="other")
    since = NOW - timedelta(seconds=60)
    found = orders.last_entries(connection, "hook", since=since)
    assert found == (("PERP_BTC_USDC", new.created_at, new.client_order_id),)
    assert orders.last_entries(connection, "hook", since=new.created_at) == ()
    assert old.created_at > since


def test_last_entrant_is_of_an_accepted_entry(connection: sqlite3.Connection, book: Book) -> None:
    """Whose result a triggered stop is."""
    assert orders.last_entrant(connection, "PERP_BTC_USDC") is None
    store_order(book, status=S.FILLED, webhook_id="one")
    store_order(book, status=S.REJECTED, webhook_id="two")
    store_order(book, exit_intent(), S.FILLED, webhook_id="three")
    store_order(book, intent(symbol=ETH), S.FILLED, webhook_id="four")
    assert orders.last_entrant(connection, "PERP_BTC_USDC") == "one"


def test_owner_is_found_by_either_id(connection: sqlite3.Connection, book: Book) -> None:
    """The trade list has the exchange's id, the stream ours."""
    order = accept(book, claim(book, store_order(book)), order_id="77")
    assert orders.owner_of(connection, order.client_order_id, "?") == order
    assert orders.owner_of(connection, None, "77") == order
    assert orders.owner_of(connection, "foreign", "78") is None


def test_added_order_joins_its_alert(connection: sqlite3.Connection, book: Book) -> None:
    """A protective order is stored with its request and counts in no headline."""
    entry = bring(book, store_order(book), S.FILLED)
    added = add_protective(book, entry, exit_intent())
    assert orders.of_alert(connection, entry.alert_id) == (entry, added)
    assert orders.details(connection, added.client_order_id).request == REQUEST
    assert added.leg >= 50


def test_start_reads_open_orders_only(connection: sqlite3.Connection, book: Book) -> None:
    """As quick after a million orders as after ten: no plan scans the orders table."""
    store_order(book)
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    orders.unfinished(connection)
    orders.last_sequence(connection)
    orders.last_entries(connection, "hook", since=NOW)
    orders.last_entrant(connection, "PERP_BTC_USDC")
    orders.owner_of(connection, "kb", "x")
    connection.set_trace_callback(None)
    reads = [statement for statement in statements if statement.startswith("SELECT") and "orders" in statement]
    assert len(reads) == 5
    for statement in reads:
        for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}"):
            is_scan = step["detail"].startswith("SCAN") and "orders_open" not in step["detail"]
            assert not is_scan, (statement, step["detail"])
