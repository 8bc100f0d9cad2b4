"""What messages say of events: whose, in which size, with which result, and why; as it was known then."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC
from decimal import Decimal
from pathlib import Path

import pytest

from kekbridge.execution import transitions
from kekbridge.execution.book import Book
from kekbridge.model import LimitBreach, OrderStatus, Side, TradingState, Verdict
from kekbridge.model.admission import Decision
from kekbridge.model.notifications import render_notification
from kekbridge.reports.event_facts import event_facts, lacks_fills, order_facts
from kekbridge.store import journal
from kekbridge.store.settings import ACCOUNT
from tests.fresh_database import open_database
from tests.store.factories import NOW, exit_intent, fill, intent, new_alert, status_report
from tests.stored import book_on, bring, claim, record_fill, store_alert, store_order


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    database = open_database(tmp_path / "data")
    with database.transaction() as connection:
        yield connection
    database.close_now()


@pytest.fixture
def book(connection: sqlite3.Connection) -> Book:
    return book_on(connection)


def texts(connection: sqlite3.Connection) -> list[str]:
    """The message of every event that has one."""
    found = (
        render_notification(event.kind, event_facts(connection, event, UTC))
        for event in journal.list_events(connection)
    )
    return [each[1] for each in found if each is not None]


def denied(rule: str, found: str, limit: str, message: str = "too much; fix it") -> Decision:
    small = Verdict(rule="order_too_small", scope="webhook", passed=True, found="0.05", limit="at least 0.001")
    verdict = Verdict(rule=rule, scope="webhook", passed=False, found=found, limit=limit, message=message)
    return Decision(
        status="denied", code=rule, error=message, verdicts=(small, verdict), action="buy", symbol="PERP_BTC_USDC"
    )


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (
            denied("daily_limit", "20,650.00 USDC", "at most 20,000.00 USDC"),
            "btc-trend: denied buy 0.05 BTC: daily limit 20,000 used up until 00:00",
        ),
        (
            denied("daily_orders", "51", "at most 50"),
            "btc-trend: denied buy 0.05 BTC: limit of 50 orders a day used up until 00:00",
        ),
        (
            denied("daily_loss", "512.10 USDC", "under 500.00 USDC"),
            "btc-trend: denied buy 0.05 BTC: daily loss of 512.10, limit 500, until 00:00",
        ),
        (
            denied("drawdown", "12 %", "under 10 %"),
            "btc-trend: denied buy 0.05 BTC: drawdown 12 %, limit 10 %, until `kekbridge resume --reset-peak`",
        ),
        (
            denied("exits_only", "exits_only", "running", "only exits are allowed (storm); kekbridge resume"),
            "btc-trend: denied buy 0.05 BTC: only exits are allowed (storm)",
        ),
        (
            denied(
                "order_too_large", "0.05", "at most 0.01", "the order of 0.05 BTC is over the webhook's limit of 0.01"
            ),
            "btc-trend: denied buy 0.05 BTC: the order of 0.05 BTC is over the webhook's limit of 0.01",
        ),
    ],
)
def test_a_denied_alert_says_what_and_why(
    connection: sqlite3.Connection, book: Book, decision: Decision, expected: str
) -> None:
    """The webhook by name, the size that was wanted, and a limit in few words with the time of its reset."""
    store_alert(book, new_alert(webhook_name="btc-trend"), lambda usage: decision)
    assert texts(connection) == [expected]


def test_a_fill_says_what_it_earned_and_what_is_open(connection: sqlite3.Connection, book: Book) -> None:
    """P&L only of what closed something; the position is the one right after the fill, however late the message is."""
    for wanted, executed, realized, fee, position in (
        (intent(), "0.01", None, "0.29", "0.01"),
        (exit_intent(), "0.01", "12.3", "0.3", "0"),
    ):
        order = claim(book, store_order(book, wanted, webhook_name="btc-trend"))
        pnl = None if realized is None else Decimal(realized)
        filled = status_report(
            order.client_order_id, OrderStatus.FILLED, Decimal(executed), realized_pnl=pnl, fee=Decimal(fee)
        )
        found = transitions.reported(order, filled, now=NOW)
        book.change(order, found, now=NOW, position=Decimal(position))
    assert texts(connection) == [
        "btc-trend: filled buy 0.01 BTC at 65,000: fee 0.29 USDC, position 0.01 BTC long",
        "btc-trend: filled sell 0.01 BTC at 65,000: P&L +12.30 USDC, fee 0.3 USDC, no position left",
    ]


def test_the_result_of_a_fill_is_that_of_its_trades(connection: sqlite3.Connection, book: Book) -> None:
    """A report on the stream says no P&L; until the trades are recorded the result is known to be missing."""
    order = bring(book, store_order(book, exit_intent()), OrderStatus.FILLED)
    (event,) = [event for event in journal.list_events(connection) if event.kind == "order_filled"]
    assert lacks_fills(connection, event)
    assert texts(connection) == ["default: filled sell 0.01 BTC at 65,000"]
    record_fill(book, order, side=Side.SELL, realized_pnl=Decimal("-3.456"), fee=Decimal("0.29"))
    assert not lacks_fills(connection, event)
    assert texts(connection) == ["default: filled sell 0.01 BTC at 65,000: P&L -3.46 USDC, fee 0.29 USDC"]


def test_a_stop_that_travelled_with_its_entry_says_its_own_result(connection: sqlite3.Connection, book: Book) -> None:
    """Size, price and P&L are those of the stop, not of the entry that it closed."""
    entry = bring(book, store_order(book, intent(stop_loss=Decimal(64000))), OrderStatus.FILLED)
    book.record_exit(fill(side=Side.SELL, realized_pnl=Decimal("-10.5")), entry=entry)
    data = {
        "side": "sell",
        "quantity": Decimal("0.01"),
        "average_price": Decimal(63990),
        "trigger_price": Decimal(64000),
        "position": Decimal("-0.02"),
    }
    book.note("stop_fired", entry, now=NOW, data=data)
    assert texts(connection)[-1] == (
        "default: stop fired: sell 0.01 BTC at 63,990: P&L -10.50 USDC, fee 0.29 USDC, position 0.02 BTC short"
    )


def test_an_event_says_what_was_known_then(connection: sqlite3.Connection, book: Book) -> None:
    """A fill that came later shows in no event before it, and a message sent late says what happened then."""
    order = store_order(book, status=OrderStatus.FILLED)
    events = {
        event.kind: order_facts(connection, event)
        for event in journal.list_events(connection)
        if event.client_order_id == order.client_order_id
    }
    executed = {kind: facts["executed_quantity"] for kind, facts in events.items()}
    assert executed == {"order_submitting": None, "order_accepted": None, "order_filled": "0.01"}
    assert {facts["quantity"] for facts in events.values()} == {"0.01"}


def test_a_state_names_the_webhook_it_is_about(connection: sqlite3.Connection, book: Book) -> None:
    """A webhook that was deleted since is named by its id, the account not at all."""
    breach = LimitBreach(
        scope="webhook", rule="daily_limit", reason="daily limit of 20,000.00 USDC used up", until=NOW.replace(hour=23)
    )
    book.close_for_breach(breach, webhook_id="hook-1", now=NOW)
    book.set_state(ACCOUNT, TradingState.HALTED, reason="storm", by="web page", now=NOW)
    assert texts(connection) == [
        "hook-1: exits only until 23:30: daily limit of 20,000.00 USDC used up",
        "trading halted: storm, by web page",
    ]
