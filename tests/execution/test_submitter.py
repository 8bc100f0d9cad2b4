"""The submitter: what is checked, prepared and recorded around the one request that places an order."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from kekbridge.exchange.base import request_text
from kekbridge.execution.submitter import CircuitBreaker, backoff_s
from kekbridge.model import OrderStatus, TradingState
from kekbridge.store import journal, webhooks
from kekbridge.store import orders as order_rows
from tests.bridge import BTC, ETH, Bridge
from tests.waiting import until

D = Decimal


async def test_the_exact_request_is_stored(bridge: Bridge) -> None:
    """`explain` shows exactly the body that was sent, for an order claimed at once and for one from the queue."""
    _, first = await bridge.send(stopLoss="2%")
    await bridge.fault("rate_limit", path="/v1/order", method="POST", count=1)
    _, second = await bridge.send(symbol="ETHUSDT.P", quantity="0.1")
    await bridge.until_stored(second, "filled")
    for answer in (first, second):
        details = await bridge.daemon.database.read(order_rows.details, answer["clientOrderId"])
        assert details.request == request_text(bridge.daemon.exchange, await bridge.order(answer))


async def test_the_leverage_is_set_before_the_entry(bridge: Bridge) -> None:
    """An alert's leverage is the symbol's leverage at the exchange before the order is accepted; once set, it is not set again."""
    for number in range(2):
        status, answer = await bridge.send(leverage="7", alertId=f"levered-{number}")
        assert (status, answer["status"]) == (200, "filled")
    changes = [
        row["event"] for row in await bridge.control("journal") if row["event"] in ("leverage_set", "order_accepted")
    ]
    assert changes == ["leverage_set", "order_accepted", "order_accepted"]
    (change,) = await bridge.journal("leverage_set")
    assert (change["symbol"], int(change["leverage"])) == (BTC, 7)


async def test_an_entry_without_its_leverage_is_not_sent(bridge: Bridge) -> None:
    """The exchange rejects the leverage: the order is rejected with the exchange's code, and nothing is placed."""
    await bridge.fault("server_error", path="/v1/client/leverages", method="POST", status=400, code=-1005)
    status, answer = await bridge.send(leverage="7")
    assert (status, answer["code"]) == (422, "orderly:-1005")
    assert "leverage 7" in answer["error"]
    assert await bridge.journal("order_accepted") == []


async def test_a_leverage_of_unknown_outcome_is_set_again(bridge: Bridge) -> None:
    """Setting a leverage twice does no harm: a lost response defers the order instead of losing it."""
    await bridge.fault("lose_answer", path="/v1/client/leverages", method="POST", count=1)
    _, answer = await bridge.send(leverage="7")
    await bridge.until_stored(answer, "filled")
    assert len(await bridge.journal("order_accepted")) == 1


async def test_an_entry_that_waits_for_its_leverage_is_queued(bridge: Bridge) -> None:
    """Nothing has been sent: after a kill it would be sent, not looked up. A halt denies it, and it is never sent."""
    await bridge.fault("delay", path="/v1/client/leverages", method="POST", delay_ms=1500, count=1)
    answered = asyncio.create_task(bridge.send(leverage="7"))

    async def is_in_flight() -> bool:
        return bridge.daemon.trading.dispatcher.in_flight_count == 1

    await until(is_in_flight)
    (order,) = await bridge.orders()
    assert (order.status, order.attempt, order.submitted_at) == (OrderStatus.QUEUED, 0, None)
    await bridge.set_state(TradingState.HALTED)
    _, answer = await answered
    assert (await bridge.until_stored(answer, "denied")).code == "trading_halted"
    await until(lambda: bridge.daemon.trading.dispatcher.in_flight_count == 0)
    assert await bridge.journal("order_accepted") == []


async def test_an_order_that_may_not_be_sent_changes_no_leverage(bridge: Bridge) -> None:
    """The webhook's limits became too tight while the order was held back: the symbol keeps its leverage."""
    for _ in range(5):
        bridge.daemon.trading.submitter.breaker.record(was_unknown=True)
    _, answer = await bridge.send(leverage="7")
    order = await bridge.order(answer)
    database = bridge.daemon.database
    webhook = await database.read(webhooks.get, order.webhook_id)
    tighter = replace(webhook.settings, limits=replace(webhook.settings.limits, max_order_size=D("0.005")))
    await database.write(webhooks.change_settings, webhook.id, tighter, now=bridge.clock())
    bridge.daemon.trading.submitter.breaker.close()
    assert (await bridge.until_stored(answer, "denied")).code == "order_too_large"
    assert await bridge.journal("leverage_set") == []


async def test_a_halt_denies_queued_entries_and_holds_exits(bridge: Bridge) -> None:
    """Queued entries are denied within a second of `halt`; an exit is not sent before the trader resumes, and is sent then."""
    await bridge.send(quantity="0.02")
    await bridge.fault("rate_limit", path="/v1/order", method="POST")
    _, entry = await bridge.send(symbol="ETHUSDT.P", quantity="0.1")
    _, leaving = await bridge.send(action="close", quantity=None)
    await bridge.set_state(TradingState.HALTED)
    assert (await bridge.until_stored(entry, "denied")).code == "trading_halted"
    await bridge.clear_faults()
    await asyncio.sleep(1)
    assert await bridge.positions() == {BTC: D("0.02")}
    await bridge.set_state(TradingState.RUNNING)
    await bridge.until_stored(leaving, "filled")
    assert await bridge.positions() == {}


async def test_exits_only_denies_queued_entries_and_passes_exits(bridge: Bridge) -> None:
    """`exits-only` denies queued entries; an exit is still sent."""
    await bridge.send(quantity="0.02")
    await bridge.fault("rate_limit", path="/v1/order", method="POST")
    _, entry = await bridge.send(symbol="ETHUSDT.P", quantity="0.1")
    _, leaving = await bridge.send(action="close", quantity=None)
    await bridge.set_state(TradingState.EXITS_ONLY)
    order = await bridge.until_stored(entry, "denied")
    assert order.code == "exits_only"
    await bridge.clear_faults()
    await bridge.until_stored(leaving, "filled")
    assert await bridge.positions() == {}


async def test_a_halt_denies_orders_that_wait_for_a_permit(limited_bridge: Bridge) -> None:
    """One algo order per second: an order dispatched before the halt that gets its permit after it is not sent."""
    bridge = limited_bridge
    sending = [
        asyncio.create_task(bridge.send(symbol=symbol, quantity=quantity, stopLoss="2%"))
        for symbol, quantity in (("BTCUSDT.P", "0.01"), ("ETHUSDT.P", "0.1"), ("SOLUSDT.P", "1"), ("XRPUSDT.P", "50"))
    ]

    async def has_begun() -> bool:
        return bool(await bridge.journal("order_accepted"))

    await until(has_begun)
    await bridge.set_state(TradingState.HALTED)
    placed_at_halt = len(await bridge.journal("order_accepted"))
    await asyncio.gather(*sending)

    async def all_ended() -> bool:
        return all(order.status.is_final for order in await bridge.orders())

    await until(all_ended)
    denied = [order for order in await bridge.orders() if order.status is OrderStatus.DENIED]
    assert denied
    assert {order.code for order in denied} == {"trading_halted"}
    # One request may have been on the wire at that moment.
    assert len(await bridge.journal("order_accepted")) <= placed_at_halt + 1


@pytest.mark.parametrize("minutes", [10, -10])
async def test_a_jumping_clock_does_not_stop_trading(bridge: Bridge, minutes: int) -> None:
    """The machine's clock moves by ten minutes: the offset to the exchange's clock is measured again, and the next alert is traded."""
    await bridge.send()
    bridge.clock.offset = timedelta(minutes=minutes)

    async def trades() -> bool:
        _, answer = await bridge.send(symbol="ETHUSDT.P", quantity="0.1")
        return answer.get("status") == "filled"

    await until(trades)
    assert (await bridge.positions())[ETH] > 0
    accepted = [row["client_order_id"] for row in await bridge.journal("order_accepted")]
    assert len(accepted) == len(set(accepted))


async def test_an_entry_is_rejected_after_its_last_attempt(hasty_bridge: Bridge) -> None:
    """Rate-limited each time, the entry ends as rejected with the exchange's error, and nothing was placed."""
    bridge = hasty_bridge
    await bridge.fault("rate_limit", path="/v1/order", method="POST")
    _, answer = await bridge.send()
    order = await bridge.until_stored(answer, "rejected")
    assert (order.code, order.attempt) == ("exchange_busy", 3)
    assert "orderly:-1003" in (order.error or "")


async def test_a_deferred_order_expires_with_its_alert(bridge: Bridge) -> None:
    """A deferred order whose alert became too old meanwhile is expired and never sent."""
    await bridge.fault("rate_limit", path="/v1/order", method="POST")
    _, answer = await bridge.send()
    bridge.clock.offset = timedelta(seconds=61)
    order = await bridge.until_stored(answer, "expired", "rejected")
    await bridge.clear_faults()
    assert order.code in ("alert_expired", "exchange_busy")
    assert await bridge.journal("order_accepted") == []


async def kinds(bridge: Bridge) -> list[str]:
    """Kinds of all events of the history."""
    return [event.kind for event in await bridge.daemon.database.read(journal.list_events, limit=1000)]


async def test_a_rejected_exit_is_sent_once_more(bridge: Bridge) -> None:
    """A rejection is final for that request: the close is sized by the position again and sent a second time."""
    await bridge.send(quantity="0.02")
    await bridge.fault("refuse", code=-1103, count=1)
    _, answer = await bridge.send(action="close", quantity=None)
    order = await bridge.until_stored(answer, "filled")
    assert order.attempt == 2
    assert await bridge.positions() == {}


async def test_an_exit_that_is_rejected_twice_is_reported(bridge: Bridge) -> None:
    """After the second rejection the order is rejected with the exchange's code, and the trader is notified of the open position."""
    await bridge.send(quantity="0.02")
    await bridge.fault("refuse", code=-1103)
    _, answer = await bridge.send(action="close", quantity=None)
    order = await bridge.until_stored(answer, "rejected")
    assert (order.attempt, order.code) == (2, "orderly:-1103")
    assert (await kinds(bridge)).count("exit_refused") == 1
    _, entry = await bridge.send(quantity="0.02")
    assert (await bridge.until_stored(entry, "rejected")).attempt == 2  # the market's rules were read in between
    assert (await kinds(bridge)).count("exit_refused") == 1


async def test_a_rejected_key_closes_the_account_for_entries(bridge: Bridge) -> None:
    """A position opened with it might not be closed: entries are denied until the operator resumes, exits pass."""
    await bridge.send(quantity="0.02")
    await bridge.fault("key_revoked", path="/v1/order", method="POST", count=1)
    _, rejected = await bridge.send(quantity="0.01")
    assert (await bridge.until_stored(rejected, "rejected")).code == "orderly:-1002"
    status, denied = await bridge.send(quantity="0.01")
    assert (status, denied["code"]) == (422, "exits_only")
    assert "orderly:-1002" in denied["error"]
    _, leaving = await bridge.send(action="close", quantity=None)
    await bridge.until_stored(leaving, "filled")
    assert await bridge.positions() == {}


async def test_the_order_of_a_deleted_webhook_is_still_rechecked(bridge: Bridge) -> None:
    """Deleting a webhook must not leave its queued orders stuck: the account's limits decide."""
    submitter = bridge.daemon.trading.submitter
    for _ in range(5):
        submitter.breaker.record(was_unknown=True)
    _, answer = await bridge.send()
    order = await bridge.order(answer)
    assert order.status is OrderStatus.QUEUED
    await bridge.daemon.database.write(webhooks.delete, order.webhook_id, now=bridge.clock())
    submitter.breaker.close()
    await bridge.until_stored(answer, "filled")
    assert len(await bridge.journal("order_accepted")) == 1


async def test_a_claim_that_is_not_on_disk_sends_nothing(bridge: Bridge) -> None:
    """Another program has the database locked: the order stays queued with its room, and is sent once when the disk is free."""
    trading = bridge.daemon.trading
    for _ in range(5):
        trading.submitter.breaker.record(was_unknown=True)
    _, answer = await bridge.send()
    name = answer["clientOrderId"]
    before = trading.book.orders[name]
    held = trading.book.commitments
    with closing(sqlite3.connect(bridge.daemon.database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        trading.submitter.breaker.close()
        trading.dispatcher.wake()
        await until(lambda: trading.submitter.is_handling(name))
        await until(lambda: not trading.submitter.is_handling(name))
        waiting = trading.book.orders[name]
        assert (waiting.status, waiting.attempt, trading.book.commitments) == (before.status, 0, held)
        assert waiting.next_attempt_at is not None
        assert await bridge.journal("order_accepted") == []
        other.execute("ROLLBACK")
    order = await bridge.until_stored(answer, "filled")
    assert order.attempt == 1
    assert len(await bridge.journal("order_accepted")) == 1


def test_backoff_doubles_up_to_a_minute() -> None:
    """2, 4, 8 … 60 seconds; jitter adds a fraction."""
    assert [backoff_s(2, attempt) for attempt in (1, 2, 3, 9)] == [2, 4, 8, 60]
    assert backoff_s(2, 1, 0.25) == 2.5


def test_the_breaker_opens_on_five_in_a_row() -> None:
    """Entries are held back once the exchange stops answering, not for single lost responses; one answered query closes it."""
    breaker = CircuitBreaker()
    states: list[bool] = []
    for was_unknown in (True, True, True, True, False, True, True, True, True, True):
        breaker.record(was_unknown=was_unknown)
        states.append(breaker.is_open)
    assert states == [False] * 9 + [True]
    breaker.close()
    assert not breaker.is_open


def test_the_breaker_opens_on_half_of_twenty() -> None:
    """Every second response lost: never five in a row, but it opens once twenty results are known."""
    breaker = CircuitBreaker()
    for number in range(19):
        breaker.record(was_unknown=number % 2 == 0)
        assert not breaker.is_open
    breaker.record(was_unknown=True)
    assert breaker.is_open
