"""What one order holds of the limits and adds to its day."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from kekbridge.execution.book import Book
from kekbridge.model import ZERO, Order, OrderStatus, OrderType, Reservation, SideTotals
from kekbridge.store import reservations
from kekbridge.store.reservations import DailyShare, DayTotals, commitment_of, daily_share, reservation_of
from tests.store.factories import NOW, exit_intent, intent
from tests.stored import report, store_order

S = OrderStatus


@pytest.mark.parametrize(
    ("kind", "prices", "is_margined"),
    [
        (OrderType.LIMIT, {"limit_price": Decimal(60_000)}, True),
        (OrderType.STOP, {"trigger_price": Decimal(70_000)}, False),
    ],
)
def test_only_orders_in_the_book_are_margined(
    book: Book, kind: OrderType, prices: dict[str, Any], *, is_margined: bool
) -> None:
    """Queued and submitted orders are not at the exchange yet; a stop order has no margin before its trigger."""
    found = {}
    for status in (S.QUEUED, S.SUBMITTING, S.ACCEPTED):
        held = reservation_of(store_order(book, intent(order_type=kind, **prices), status))
        assert held is not None
        assert held.is_resting
        found[status] = held.is_margined
    assert found == {S.QUEUED: False, S.SUBMITTING: False, S.ACCEPTED: is_margined}


@pytest.mark.parametrize("status", list(OrderStatus))
def test_only_unfinished_orders_hold_room(book: Book, status: OrderStatus) -> None:
    """What is not executed yet, signed by side; a final order and one that stays unknown hold nothing."""
    order = store_order(book, exit_intent(), status)
    held = reservation_of(order)
    left = order.intent.quantity - order.executed_quantity
    assert held == (
        None
        if order.finished_at is not None
        else Reservation(
            client_order_id=order.client_order_id,
            webhook_id="hook",
            symbol="PERP_BTC_USDC",
            quantity=-left,
            notional=left * 65000,
            is_entry=False,
            is_resting=False,
            is_margined=status in (S.ACCEPTED, S.PARTIALLY_FILLED),
        )
    )
    assert reservation_of(replace(order, finished_at=NOW)) is None


def test_executed_value_replaces_the_reserved_value(book: Book) -> None:
    """A partial fill counts at its own price, the rest at the expected one; a canceled rest not at all."""
    limit = intent(order_type=OrderType.LIMIT, limit_price=Decimal(65000), quantity=Decimal(1))
    order = store_order(book, limit, S.ACCEPTED)
    assert daily_share(order) == DailyShare(Decimal(65000), 1)
    part = report(book, order, S.PARTIALLY_FILLED, Decimal("0.25"), average_price=Decimal(64000))
    assert daily_share(part) == DailyShare(Decimal(16000) + Decimal(48750), 1)
    assert commitment_of([part]).margined == SideTotals(entry_buys=Decimal("0.75"))
    ended = report(book, part, S.CANCELED, average_price=None)
    assert daily_share(ended) == DailyShare(Decimal(16000), 1)


def test_exits_reserve_nothing_of_a_day_but_count_when_executed(book: Book) -> None:
    """An exit is never limited, so it takes no room in advance; its traded value still counts for the day, never as an order."""
    order = store_order(book, exit_intent(), S.ACCEPTED)
    assert daily_share(order) == daily_share(None) == DailyShare(ZERO, 0)
    assert commitment_of([order]).open == SideTotals(exit_sells=Decimal("0.01"))
    done = report(book, order, S.FILLED, Decimal("0.01"), average_price=Decimal(65100))
    assert daily_share(done) == DailyShare(Decimal(651), 0)


@pytest.mark.parametrize("status", [S.DENIED, S.EXPIRED, S.REJECTED])
def test_order_that_never_reached_the_exchange_adds_nothing(book: Book, status: OrderStatus) -> None:
    """A denied entry must not use up the day; one that executed after all counts again: the exchange is right."""
    order = store_order(book, status=status)
    assert daily_share(order) == DailyShare(ZERO, 0)
    traded = replace(order, executed_quantity=Decimal("0.01"), average_price=Decimal(65100), order_id="8")
    assert daily_share(traded) == DailyShare(Decimal(651), 1)


def test_commitment_is_the_sum_by_kind_and_side(book: Book) -> None:
    """Orders of one symbol are added up at their highest price; finished ones are left out."""
    resting = {"order_type": OrderType.LIMIT, "limit_price": Decimal(60_000)}
    held: list[Order] = [
        store_order(book),
        store_order(book, intent(quantity=Decimal("0.02"), reference_price=Decimal(66000))),
        store_order(book, intent(**resting), S.ACCEPTED),
        store_order(book, exit_intent(quantity=Decimal("0.5"))),
        store_order(book, status=S.CANCELED),
    ]
    found = commitment_of(held)
    assert found.open == SideTotals(entry_buys=Decimal("0.04"), exit_sells=Decimal("0.5"))
    assert found.margined == SideTotals(entry_buys=Decimal("0.01"))
    assert (found.sure, found.price) == (Decimal("0.03") - Decimal("0.5"), Decimal(66000))
    assert book.commitments["PERP_BTC_USDC"] == found


def test_days_are_read_back_exactly(connection: sqlite3.Connection) -> None:
    """Running totals keep every digit; days before `since` and days that are not stored are left out."""
    small = Decimal("0.000000000000000000000000000001")
    totals = DayTotals(Decimal(10) ** 12 + small, 3, -small)
    for day in ("2026-01-14", "2026-01-15"):
        reservations.write_day(connection, "hook", day, totals)
    reservations.write_day(connection, "account", "2026-01-15", totals.plus(totals))
    assert reservations.read_day(connection, "hook", "2026-01-15") == totals
    assert reservations.read_day(connection, "hook", "2026-01-16") == DayTotals()
    assert reservations.read_days(connection, since="2026-01-15") == {
        ("hook", "2026-01-15"): totals,
        ("account", "2026-01-15"): DayTotals(2 * (Decimal(10) ** 12) + 2 * small, 6, -2 * small),
    }


def test_a_day_is_that_of_the_admission(book: Book) -> None:
    """An order that fills after midnight UTC counts where it was reserved."""
    order = store_order(book, intent(quantity=Decimal(1)), S.ACCEPTED)
    tomorrow = NOW + timedelta(days=1)
    report(book, order, S.FILLED, Decimal(1), average_price=Decimal(65000), now=tomorrow)
    assert book.day("hook", "2026-01-15") == DayTotals(Decimal(65000), 1)
    assert book.day("hook", "2026-01-16") == DayTotals()
