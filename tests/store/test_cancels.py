"""Cancel steps: stored with their alert, ended once, and limited to what they may cancel."""

from __future__ import annotations

import sqlite3
from datetime import timedelta

import pytest

from kekbridge.execution.book import Book
from kekbridge.model import CancelRequest, OrderStatus, OrderType, Purpose
from kekbridge.model.admission import Decision
from kekbridge.store import alerts, cancels, orders
from kekbridge.store.cancels import StoredCancel
from tests.store.factories import NOW, admitting, exit_intent, intent, new_alert
from tests.stored import add_protective, bring, store_alert, store_order

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


def _step(alert_id: str = "later", **request: str | None) -> StoredCancel:
    asked = CancelRequest(symbol=request.get("symbol"), comment=request.get("comment"))
    return StoredCancel(alert_id=alert_id, step=0, request=asked, created_at=NOW)


def test_only_older_open_orders_of_the_request_are_covered(connection: sqlite3.Connection, book: Book) -> None:
    """By symbol and comment; never protective orders, without which a position has no stop, and never those of its own alert."""
    plain = store_order(book, status=S.ACCEPTED)
    other = store_order(book, intent(symbol=ETH), payload={"comment": "grid"})
    entry = store_order(book, status=S.FILLED)
    add_protective(book, entry, exit_intent(purpose=Purpose.PROTECT))
    store_order(book, status=S.CANCELED)
    store_order(book, received_at=NOW + timedelta(seconds=1))

    def covered(alert_id: str = "later", **request: str | None) -> tuple[str, ...]:
        return cancels.open_orders(connection, _step(alert_id, **request))

    assert covered() == (plain.client_order_id, other.client_order_id)
    assert covered(symbol=ETH) == covered(comment="grid") == (other.client_order_id,)
    assert covered(symbol=ETH, comment="x") == ()
    assert covered(plain.alert_id) == (other.client_order_id,)


@pytest.mark.parametrize(
    ("purpose", "order_type", "is_covered"),
    [
        (Purpose.ENTRY, OrderType.MARKET, True),
        (Purpose.ENTRY, OrderType.LIMIT, True),
        (Purpose.ENTRY, OrderType.STOP, True),
        (Purpose.EXIT, OrderType.LIMIT, True),
        (Purpose.EXIT, OrderType.STOP, True),
        (Purpose.EXIT, OrderType.POST_ONLY, True),
        (Purpose.EXIT, OrderType.MARKET, False),
        (Purpose.EXIT, OrderType.IOC, False),
        (Purpose.EXIT, OrderType.FOK, False),
        (Purpose.PROTECT, OrderType.STOP, False),
    ],
)
def test_a_cancel_covers_entries_and_what_rests(
    book: Book, purpose: Purpose, order_type: OrderType, is_covered: bool
) -> None:
    """Never an exit that trades at once, nor what protects a position."""
    wanted = (intent if purpose is Purpose.ENTRY else exit_intent)(purpose=purpose, order_type=order_type)
    assert store_order(book, wanted).ends_by_cancel is is_covered


def test_orders_that_a_step_ended_are_found_after_a_restart(connection: sqlite3.Connection, book: Book) -> None:
    """Those that were to be cancelled for it and have an end, with that end; not the ones that ended before, or are still open."""
    gone, filled, still_open = (book.request_cancel(store_order(book), now=NOW) for _ in range(3))
    store_order(book, status=S.CANCELED)
    bring(book, gone, S.CANCELED)
    bring(book, filled, S.FILLED)
    found = cancels.ended_orders(connection, _step())
    assert [(each.client_order_id, each.status) for each in found] == [
        (gone.client_order_id, S.CANCELED),
        (filled.client_order_id, S.FILLED),
    ]
    assert orders.get(connection, still_open.client_order_id).cancel_requested_at == NOW
