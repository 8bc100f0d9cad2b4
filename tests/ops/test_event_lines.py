"""What a person sees of each event on the terminal of a running bridge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.execution import transitions
from kekbridge.execution.book import Book
from kekbridge.model import Order, OrderIntent, OrderStatus, OrderType, Purpose, Side, TradingState
from kekbridge.model.admission import Decision
from kekbridge.ops.event_lines import EventLine, EventLines, line_of
from kekbridge.store import journal, rejected_requests
from kekbridge.store.database import Database
from kekbridge.store.settings import ACCOUNT
from tests.fresh_database import open_database
from tests.store.factories import NOW, exit_intent, intent, new_alert, status_report
from tests.stored import accept, book_on, bring, claim, store_alert, store_order
from tests.waiting import until


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path / "data")
    yield opened
    opened.close_now()


def shown(database: Database, happen: Callable[[Book], Any]) -> list[EventLine]:
    """The lines of what happens."""
    with database.transaction() as connection:
        happen(book_on(connection))
        found = (line_of(connection, event) for event in journal.list_events(connection))
        return [line for line in found if line is not None]


def text(line: EventLine) -> str:
    return "  ".join(part for part in (line.webhook, line.subject, line.what, line.took) if part)


def filled(book: Book, wanted: OrderIntent, **figures: Any) -> None:
    """The order is sent and filled 33 ms after its alert was received."""
    order = claim(book, store_order(book, wanted))
    found = status_report(order.client_order_id, OrderStatus.FILLED, wanted.quantity, **figures)
    now = NOW + timedelta(milliseconds=33)
    book.change(order, transitions.reported(order, found, now=now), now=now)


def ended(book: Book, status: OrderStatus, wanted: OrderIntent | None = None) -> Order:
    return bring(book, store_order(book, wanted), status)


def decided(book: Book, status: Any, code: str, error: str | None) -> None:
    decision = Decision(status=status, code=code, error=error, action="buy", symbol="PERP_BTC_USDC")
    store_alert(book, new_alert(), lambda usage: decision)


RESTING = intent(order_type=OrderType.LIMIT, limit_price=Decimal(64000))
STOP = exit_intent(purpose=Purpose.PROTECT, order_type=OrderType.STOP, trigger_price=Decimal(64000))


@pytest.mark.parametrize(
    ("happen", "expected", "tone"),
    [
        (lambda book: filled(book, intent()), "default  buy 0.01 BTC  filled at 65,000  33 ms", "good"),
        (
            lambda book: filled(book, exit_intent(), side=Side.SELL, realized_pnl=Decimal("12.3")),
            "default  sell 0.01 BTC  filled at 65,000, P&L +12.30 USDC  33 ms",
            "good",
        ),
        (
            lambda book: accept(book, claim(book, store_order(book, RESTING))),
            "default  buy 0.01 BTC  accepted, rests at 64,000  0 ms",
            "plain",
        ),
        (lambda book: ended(book, OrderStatus.DENIED), "default  buy 0.01 BTC  denied: too much", "warning"),
        (
            lambda book: ended(book, OrderStatus.REJECTED),
            "default  buy 0.01 BTC  rejected by the exchange: no  0 ms",
            "failure",
        ),
        (
            lambda book: ended(book, OrderStatus.UNKNOWN),
            "default  buy 0.01 BTC  no answer, outcome unknown: it is looked up",
            "failure",
        ),
        (lambda book: ended(book, OrderStatus.CANCELED), "default  buy 0.01 BTC  cancelled", "plain"),
        (lambda book: ended(book, OrderStatus.CANCELED, STOP), "default  sell 0.01 BTC stop  cancelled", "plain"),
        (
            lambda book: decided(book, "refused", "action_unknown", "action: found 'wat'"),
            "default  buy BTC  refused: action: found 'wat'",
            "warning",
        ),
        (
            lambda book: decided(book, "ignored", "nothing_to_close", None),
            "default  buy BTC  nothing to do: there was no position in this symbol to close",
            "dim",
        ),
        (
            lambda book: book.set_state(ACCOUNT, TradingState.HALTED, reason="by hand", by="web page", now=NOW),
            "trading halted: by hand, web page",
            "warning",
        ),
    ],
)
def test_each_event_is_one_line(database: Database, happen: Callable[[Book], Any], expected: str, tone: str) -> None:
    """Whose it is, what it is about, what happened and how soon; what follows at once from another line has none."""
    (line,) = shown(database, happen)
    assert (text(line), line.tone) == (expected, tone)


def test_a_fired_stop_is_one_line_and_a_quiet_state_none(database: Database) -> None:
    """The fill of the order that the stop was is not shown beside it."""

    def happen(book: Book) -> None:
        order = ended(book, OrderStatus.FILLED, STOP)
        data = {"quantity": order.executed_quantity, "average_price": Decimal(63990)}
        book.note("stop_fired", order, now=NOW, data=data)
        book.note("protection_replaced", order, now=NOW, data={"quiet": True})

    assert [text(line) for line in shown(database, happen)] == ["default  stop fired: sell 0.01 BTC at 63,990"]


async def test_lines_begin_with_the_bridge_and_refused_requests_are_counted(database: Database) -> None:
    """Nothing of before; requests without a valid key are shown with their number, and only new ones."""
    with database.transaction() as connection:
        journal.append(connection, "stream_down", now=NOW, data={"lasting": "2 min"})
    lines: list[EventLine] = []
    watching = asyncio.create_task(EventLines(database, lines.extend, clock=lambda: NOW).run())
    await asyncio.sleep(0)

    def refuse(count: int) -> None:
        with database.transaction() as connection:
            later = datetime(2026, 1, 15, 10, 30, 30, tzinfo=UTC)
            rejected_requests.record(
                connection, remote="192.0.2.7", code="api_key_unknown", error="no such key", now=later, count=count
            )

    refuse(1)
    await until(lambda: len(lines) == 1)
    refuse(3)
    with database.transaction() as connection:
        journal.append(connection, "stream_back", now=NOW)
    await until(lambda: len(lines) == 3)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert sorted(text(line) for line in lines) == [
        "3 requests from 192.0.2.7  refused: api_key_unknown: no such key",
        "request from 192.0.2.7  refused: api_key_unknown: no such key",
        "the exchange's stream is back",
    ]
