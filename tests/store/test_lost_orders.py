"""Orders that the exchange has and the store does not: kept until they were shown and the trader resumed."""

from __future__ import annotations

import sqlite3
from datetime import timedelta

import pytest

from kekbridge.errors import ConfigError
from kekbridge.execution.book import Book
from kekbridge.store import codec, journal, lost_orders
from kekbridge.store.lost_orders import SHOWN_AT_MOST, LostOrder
from tests.store.factories import NOW
from tests.stored import accept, claim, store_order


def lost(number: int) -> LostOrder:
    return LostOrder(
        client_order_id=f"kb-{number:03}",
        symbol="PERP_BTC_USDC",
        side="buy",
        quantity="0.01",
        executed_quantity="0",
        status="accepted",
        created_at=codec.time_text(NOW + timedelta(seconds=number)),
    )


def test_they_are_kept_until_shown_and_accepted(connection: sqlite3.Connection) -> None:
    """Resuming without having seen them is refused with what to do; after it they are forgotten, and resuming again is harmless."""
    lost_orders.record(connection, [lost(number) for number in range(SHOWN_AT_MOST + 5)], now=NOW)
    found = lost_orders.pending(connection)
    assert found is not None
    assert (found.count, len(found.orders), found.orders[0]) == (
        SHOWN_AT_MOST + 5,
        SHOWN_AT_MOST,
        lost(SHOWN_AT_MOST + 4),
    )
    with pytest.raises(ConfigError, match="run `kekbridge doctor`"):
        lost_orders.accept(connection, now=NOW)
    assert lost_orders.mark_shown(connection, now=NOW)
    lost_orders.accept(connection, now=NOW)
    assert lost_orders.pending(connection) is None
    assert lost_orders.accepted_until(connection) == NOW
    assert not lost_orders.mark_shown(connection, now=NOW)
    lost_orders.accept(connection, now=NOW)
    assert [event.kind for event in journal.list_events(connection)] == ["history_incomplete"]


def test_only_orders_that_reached_the_exchange_bound_the_search(connection: sqlite3.Connection, book: Book) -> None:
    """An order that waits says nothing about what the exchange has: the search begins at the newest accepted one."""
    assert lost_orders.sent_between(connection) is None
    order = store_order(book)
    assert lost_orders.sent_between(connection) is None
    accept(book, claim(book, order))
    assert lost_orders.sent_between(connection) == (order.created_at, order.created_at)
    assert lost_orders.not_stored(connection, [order.client_order_id, "kb-other"]) == {"kb-other"}


def test_a_directory_is_new_once(connection: sqlite3.Connection) -> None:
    """What the account held before is said at the first start only."""
    assert [lost_orders.first_check(connection, now=NOW) for _ in range(3)] == [True, False, False]
