"""A book loaded from the store equals the live one, for any history; a start reads what decisions look back at, and no more."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings

from kekbridge.execution.book import Book
from kekbridge.execution.load_book import load_book, load_webhook
from kekbridge.model import Limits, OrderStatus, RateLimits, Side, WebhookSettings
from kekbridge.risk.holdings import NOBODY
from kekbridge.store import codec, positions, webhooks
from kekbridge.store.transaction import Connection
from tests.bridge import BTC, Bridge
from tests.equality import assert_rebuilt_equal, assert_same, book_contents, loaded_contents
from tests.examples import examples
from tests.histories import ACCOUNT_RATES, HISTORY, Account, Step, memory_store
from tests.store.factories import NO_RATES, NOW, admitting, exit_intent, fill, intent, new_alert
from tests.stored import book_on, bring, record_fill, store_alert, store_order
from tests.trading import snapshot


@pytest.fixture
def connection() -> Iterator[Connection]:
    opened = memory_store()
    yield opened
    opened.close()


@settings(max_examples=examples(60), deadline=None)
@given(HISTORY)
def test_a_loaded_book_equals_the_live_one(steps: list[Step]) -> None:
    """Open orders, room, days, rates, cool-downs, histories and states are the same, at the present and at any later time."""
    account = Account()
    for step in steps:
        account.play(step)
    live = book_contents(account.connection, account.book, account_rates=ACCOUNT_RATES, now=account.now)
    assert_same(loaded_contents(account.connection, account_rates=ACCOUNT_RATES, now=account.now), live)
    account.close()


@settings(max_examples=examples(20), deadline=None)
@given(HISTORY, HISTORY)
def test_a_restart_in_between_changes_nothing(before: list[Step], after: list[Step]) -> None:
    """A daemon that was restarted decides as one that was not: the same history goes on from a loaded book."""
    account, restarted = Account(), Account()
    for step in before:
        account.play(step)
        restarted.play(step)
    restarted.restart()
    for step in after:
        account.play(step)
        restarted.play(step)
    one, other = (
        book_contents(each.connection, each.book, account_rates=ACCOUNT_RATES, now=each.now)
        for each in (account, restarted)
    )
    assert_same(without_ids(other), without_ids(one))


def without_ids(contents: dict[str, object]) -> dict[str, object]:
    """Without what names alerts, whose ids differ from account to account."""
    return {name: value for name, value in contents.items() if name not in ("orders", "queued", "legs", "incomplete")}


def test_finished_legs_of_open_alerts_are_loaded(connection: sqlite3.Connection) -> None:
    """A queued leg waits for one that may have ended before the restart."""
    book = book_on(connection)
    close, entry = store_alert(book, decide=admitting(exit_intent(), intent(after_leg=0))).orders
    close = bring(book, close, OrderStatus.FILLED)
    loaded = book_on(connection)
    assert loaded.orders == {entry.client_order_id: entry}
    assert loaded.legs == {entry.alert_id: {0: close, 1: entry}}


def test_sequence_goes_on(connection: sqlite3.Connection) -> None:
    """Also behind orders that have ended: the order of admission is never used twice."""
    book = book_on(connection)
    for _ in range(3):
        last = store_order(book, status=OrderStatus.FILLED)
    assert book_on(connection).next_sequence() == last.sequence + 1


def test_stored_fills_are_not_recorded_again(connection: sqlite3.Connection) -> None:
    """The trades of the last days come again with the first query of a start: none counts twice, older ones are looked up."""
    book = book_on(connection)
    order = store_order(book, status=OrderStatus.ACCEPTED)
    times = [NOW - timedelta(hours=hours) for hours in (70, 30, 1)]
    for number, at in enumerate(times):
        record_fill(book, order, trade_id=f"t{number}", realized_pnl=Decimal(1), executed_at=at)
    loaded = book_on(connection)
    again = [fill(trade_id=f"t{number}", executed_at=at, realized_pnl=Decimal(1)) for number, at in enumerate(times)]
    assert loaded.unknown_trades(again) == ("t0",)
    assert [loaded.record_fill(each, order=order) for each in again[1:]] == [False, False]
    assert loaded.comparable() == book.comparable()
    assert loaded.unknown_trades([fill(trade_id="new", executed_at=NOW)]) == ()


def test_holdings_of_webhooks_are_loaded(connection: sqlite3.Connection) -> None:
    """Since the position was last flat; nothing where the stored fills do not add up to the stored position."""
    book = book_on(connection)
    for webhook_id, side, quantity in (
        ("hook", Side.BUY, "0.5"),
        ("hook", Side.SELL, "0.5"),
        ("hook", Side.BUY, "0.01"),
        ("other", Side.BUY, "0.02"),
    ):
        wanted = intent(side=side, quantity=Decimal(quantity))
        order = store_order(book, wanted, OrderStatus.ACCEPTED, webhook_id=webhook_id)
        record_fill(book, order, side=side, quantity=Decimal(quantity))
    live = book.holdings.comparable()
    assert live == {BTC: {"hook": Decimal("0.01"), "other": Decimal("0.02")}}
    for held, wanted_holdings in (("0.03", live), ("0.04", {})):
        positions.replace_all(connection, snapshot({BTC: held}), now=NOW)
        assert book_on(connection).holdings.comparable() == wanted_holdings


def test_what_was_opened_by_hand_is_loaded_as_nobodys(connection: sqlite3.Connection) -> None:
    """Its P&L is that of the webhook which entered last, what it opened is not; so are the fills of a store that was written before."""
    book = book_on(connection)
    order = store_order(book, intent(quantity=Decimal("0.04")), OrderStatus.ACCEPTED)
    record_fill(book, order, quantity=Decimal("0.04"))
    record_fill(book, order_id="front end", quantity=Decimal("0.1"))
    record_fill(book, order_id="front end", side=Side.SELL, quantity=Decimal("0.03"), realized_pnl=Decimal(5))
    live = book.holdings.comparable()
    assert live == {BTC: {NOBODY: Decimal("0.07"), "hook": Decimal("0.04")}}
    assert book.day("hook", codec.day_of(NOW)).realized_pnl == 5
    positions.replace_all(connection, snapshot({BTC: "0.11"}), now=NOW)
    assert book_on(connection).holdings.comparable() == live


def test_owner_of_a_position_is_known(connection: sqlite3.Connection) -> None:
    """A triggered stop is the result of the webhook that entered last, also after a restart."""
    book = book_on(connection)
    store_order(book, status=OrderStatus.ACCEPTED, webhook_id="one")
    assert book_on(connection).entrant("PERP_BTC_USDC") == "one"
    assert book_on(connection).entrant("PERP_ETH_USDC") is None


def test_webhook_that_looks_back_further_is_loaded_again(connection: sqlite3.Connection) -> None:
    """A cool-down or rate limit that is raised while the daemon runs counts what happened before."""
    quiet = WebhookSettings(rates=RateLimits(per_minute=1, per_hour=0, per_day=0))
    webhooks.create(connection, webhook_id="hook", name="hook", settings=quiet, now=NOW)
    live = book_on(connection)
    for seconds in (0, 1, 2):
        alert = new_alert(received_at=NOW + timedelta(seconds=seconds))
        order = store_alert(live, alert).orders[0]
        bring(live, order, OrderStatus.FILLED)
    book = book_on(connection)
    later = NOW + timedelta(seconds=3)
    rates = RateLimits(per_minute=3, per_hour=0, per_day=0)

    def wait_s(of: Book) -> int | None:
        found = of.rates.find_excess("hook", rates=rates, account_rates=NO_RATES, now=later)
        return None if found is None else found.retry_after_s

    assert (wait_s(live), wait_s(book)) == (57, None)  # only the newest was needed
    assert book.usage("hook", now=later, cooldown_s=600).last_entry_at == {}
    wanted = WebhookSettings(rates=rates, limits=Limits(cooldown_s=600))
    webhook = webhooks.change_settings(connection, "hook", wanted, now=later)
    load_webhook(connection, book, webhook, now=later)
    assert wait_s(book) == 57
    usage = book.usage("hook", now=later, cooldown_s=600)
    assert usage.last_entry_at == {"PERP_BTC_USDC": NOW + timedelta(seconds=2)}


def test_days_before_yesterday_are_not_loaded(connection: sqlite3.Connection) -> None:
    """A year of days is not kept in memory; a late report of an old order changes nothing that decisions look at."""
    book = book_on(connection)
    for days in (0, 1, 2, 3):
        at = NOW - timedelta(days=days)
        alert = new_alert(received_at=at)
        store_alert(book, alert, expires_at=at + timedelta(seconds=60))
    loaded = Book()
    load_book(connection, loaded, account_rates=NO_RATES, now=NOW)
    days_of_hook = {day for scope, day in loaded._days if scope == "hook"}
    assert days_of_hook == {"2026-01-14", "2026-01-15"}
    assert len(loaded.orders) == 4


# ------------------------------------------------------------------------------------------------------------ a whole daemon

ORDERS: list[dict[str, Any]] = [
    {"quantity": "0.03"},
    {"stopLoss": "2%", "takeProfit": "3%"},
    {"orderType": "limit", "limitPrice": "64000"},
    {"action": "sell", "quantity": "0.01", "reduceOnly": True},
    {"symbol": "ETHUSDT.P", "quantity": "0.5"},
    {"quantity": "100000"},
    {"action": "cancel"},
    {"action": "close", "quantity": "50%"},
    {"action": "flip", "symbol": "ETHUSDT.P", "quantity": "0.2"},
    {"orderType": "limit", "limitPrice": "63000", "symbol": "BTCUSDT.P"},
    {"action": "close", "quantity": None},
]


@pytest.mark.parametrize("trouble", ["none", "lost answers", "withheld reports", "slow answers"])
async def test_a_daemon_that_traded_loads_the_same_book(bridge: Bridge, trouble: str) -> None:
    """Whatever the exchange did, and while every order is also polled: what was counted while it happened is what the store says."""
    book, database, clock = bridge.daemon.trading.book, bridge.daemon.database, bridge.clock

    async def keep_polling() -> None:
        while True:
            await bridge.daemon.operator_services.jobs.run_now("reconcile")

    faults = {
        "lost answers": ("lose_answer", {"path": "/v1/order", "method": "POST", "count": 4}),
        "withheld reports": ("withhold_reports", {}),
        "slow answers": ("delay", {"path": "/v1/order", "method": "POST", "delay_ms": 150}),
    }
    polling = asyncio.create_task(keep_polling())
    for number in range(2):
        if trouble in faults:
            kind, fields = faults[trouble]
            await bridge.fault(kind, **fields)
        sending = [asyncio.create_task(bridge.send(**order)) for order in ORDERS]
        await asyncio.gather(*sending)
        await bridge.control("prices", {BTC: str(65000 + number * 1500)})
        await bridge.clear_faults()
    await bridge.until_settled()
    polling.cancel()
    await asyncio.gather(polling, return_exceptions=True)
    await bridge.daemon.operator_services.jobs.run_now("reconcile")
    await database.flush()

    def compare(connection: sqlite3.Connection) -> None:
        now = clock()
        live = book_contents(connection, book, account_rates=NO_RATES, now=now)
        assert_same(loaded_contents(connection, account_rates=NO_RATES, now=now), live)

    database.read_now(compare)
    await database.close()
    assert_rebuilt_equal(bridge.data_dir)
