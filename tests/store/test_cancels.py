"""Cancel steps: stored with their alert, ended once, and limited to what they may cancel."""

from __future__ import annotations

import sqlite3
from datetime import timedelta

import pytest

from kekbridge.execution.book import Book
from kekbridge.model import CancelRequest, OrderStatus, Purpose
from kekbridge.model.admission import Decision
from kekbridge.store import alerts, cancels
from tests.store.factories import NOW, admitting, exit_intent, intent, new_alert
from tests.stored import add_protective, store_alert, store_order

S = OrderStatus
ETH = "PERP_ETH_USDC"
ALL = CancelRequest(symbol=None)


def test_steps_are_queued_with_their_alert(connection: sqlite3.Connection, book: Book) -> None:
    """Oldest first, each step of an alert in its order."""
    steps = (CancelRequest(symbol=ETH), CancelRequest(symbol=None, comment="ü"))
    later = new_alert(received_at=NOW + timedelta(seconds=1))
    store_alert(book, later, lambda usage: Decision(status="admitted", cancels=(ALL,)))
    first = store_alert(book, decide=lambda usage: Decision(status="admitted", cancels=steps)).alert
    found = cancels.list_queued(connection)
    assert [(each.alert_id, each.step, each.request) for each in found] == [
        (first.id, 0, steps[0]),
        (first.id, 1, steps[1]),
        (later.id, 0, ALL),
    ]
    assert found[0].created_at == NOW


@pytest.mark.parametrize(
    ("error", "status", "code"), [(None, "done", None), ("kb-1: no answer", "failed", "cancel_failed")]
)
def test_end_of_a_step_is_the_status_of_an_alert_without_orders(
    connection: sqlite3.Connection, book: Book, error: str | None, status: str, code: str | None
) -> None:
    """It ends once; an alert with orders keeps the status of its orders."""
    alone = store_alert(book, decide=lambda usage: Decision(status="admitted", cancels=(ALL,))).alert
    beside = store_alert(book, decide=admitting(cancels=(ALL,))).alert
    for queued in cancels.list_queued(connection):
        book.append(cancels.end_entry(queued, canceled=2, error=error, now=NOW))
    assert cancels.list_queued(connection) == ()
    found = alerts.get(connection, alone.id)
    assert (found.status, found.code, found.error) == (status, code, error)
    assert alerts.get(connection, beside.id).status == "queued"


def test_only_older_open_orders_of_the_request_are_covered(connection: sqlite3.Connection, book: Book) -> None:
    """By symbol and comment; never protective orders: a cancel must not leave a position without its stop."""
    plain = store_order(book, status=S.ACCEPTED)
    other = store_order(book, intent(symbol=ETH), payload={"comment": "grid"})
    entry = store_order(book, status=S.FILLED)
    add_protective(book, entry, exit_intent(purpose=Purpose.PROTECT))
    store_order(book, status=S.CANCELED)
    store_order(book, received_at=NOW + timedelta(seconds=1))

    def covered(symbol: str | None = None, comment: str | None = None) -> tuple[str, ...]:
        request = CancelRequest(symbol=symbol, comment=comment)
        return cancels.find_orders_to_cancel(connection, request, before=NOW)

    assert covered() == (plain.client_order_id, other.client_order_id)
    assert covered(symbol=ETH) == covered(comment="grid") == (other.client_order_id,)
    assert covered(symbol=ETH, comment="x") == ()
