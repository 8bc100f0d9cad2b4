"""submit(): what is checked, prepared and recorded around the one request that places an order."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from kekbridge.exchange.orderly.requests import request_text as body_of
from kekbridge.execution.recorder import backoff_s
from kekbridge.model import OrderStatus, TradingState
from kekbridge.store import events, webhooks
from kekbridge.store import orders as order_rows
from tests.bridge import BTC, ETH, Bridge
from tests.waiting import until

D = Decimal


async def test_the_exact_request_is_stored(bridge: Bridge) -> None:
    """What `explain` shows is the very body that was sent, for an order claimed at once and for one from the queue."""
    _, first = await bridge.send(stopLoss="2%")
    await bridge.fault("rate_limit", path="/v1/order", method="POST", count=1)
    _, second = await bridge.send(symbol="ETHUSDT.P", quantity="0.1")
    await bridge.until_stored(second, "filled")
    for answer in (first, second):
        details = await bridge.daemon.database.read(order_rows.details, answer["clientOrderId"])
        assert details.request == body_of(await bridge.order(answer))


async def test_the_wanted_leverage_is_set_before_the_entry(bridge: Bridge) -> None:
    """An alert's leverage is the symbol's leverage at the exchange before its order is accepted there; once set, it is not set again."""
    for number in range(2):
        status, answer = await bridge.send(leverage="7", alertId=f"levered-{number}")
        assert (status, answer["status"]) == (200, "filled")
    told = [
        row["event"] for row in await bridge.control("journal") if row["event"] in ("leverage_set", "order_accepted")
    ]
    assert told == ["leverage_set", "order_accepted", "order_accepted"]
    (change,) = await bridge.journal("leverage_set")
    assert (change["symbol"], int(change["leverage"])) == (BTC, 7)


async def test_an_entry_without_its_leverage_is_not_sent(bridge: Bridge) -> None:
    """The exchange refuses the leverage: the order is refused with the exchange's code, and nothing is placed."""
    await bridge.fault("server_error", path="/v1/client/leverages", method="POST", status=400, code=-1005)
    status, answer = await bridge.send(leverage="7")
    assert (status, answer["code"]) == (422, "orderly:-1005")
    assert "leverage 7" in answer["error"]
    assert await bridge.journal("order_accepted") == []


async def test_a_leverage_of_unknown_outcome_is_asked_for_again(bridge: Bridge) -> None:
    """Setting a leverage twice does no harm: a lost answer defers the order instead of losing it."""
    await bridge.fault("lose_answer", path="/v1/client/leverages", method="POST", count=1)
    _, answer = await bridge.send(leverage="7")
    await bridge.until_stored(answer, "filled")
    assert len(await bridge.journal("order_accepted")) == 1


async def test_an_entry_that_waits_for_its_leverage_is_queued(bridge: Bridge) -> None:
    """Nothing of it has left: killed now it would be sent later, not be looked for; a halt ends it, and it is not sent after all."""
    await bridge.fault("delay", path="/v1/client/leverages", method="POST", delay_ms=1500, count=1)
    answered = asyncio.create_task(bridge.send(leverage="7"))

    async def is_asked_for() -> bool:
        return bridge.daemon.trading.dispatcher.in_flight_count == 1

    await until(is_asked_for)
    (order,) = await bridge.orders()
    assert (order.status, order.attempt, order.submitted_at) == (OrderStatus.QUEUED, 0, None)
    await bridge.set_state(TradingState.HALTED)
    _, answer = await answered
    assert (await bridge.until_stored(answer, "denied")).code == "trading_halted"
    await until(lambda: bridge.daemon.trading.dispatcher.in_flight_count == 0)
    assert await bridge.journal("order_accepted") == []


async def test_what_may_not_be_sent_changes_no_leverage(bridge: Bridge) -> None:
    """Its limits became too tight while it was held back: the symbol keeps the leverage that it has."""
    for _ in range(5):
        bridge.daemon.trading.submitter.breaker.record(was_unknown=True)
    _, answer = await bridge.send(leverage="7")
    order = await bridge.order(answer)
    with bridge.daemon.database.transaction() as connection:
        webhook = webhooks.get(connection, order.webhook_id)
        tighter = replace(webhook.settings, limits=replace(webhook.settings.limits, max_order_size=D("0.005")))
        webhooks.change_settings(connection, webhook.id, tighter, now=bridge.clock())
    bridge.daemon.trading.submitter.breaker.close()
    assert (await bridge.until_stored(answer, "denied")).code == "order_too_large"
    assert await bridge.journal("leverage_set") == []


async def test_a_halt_denies_what_waits_in_the_queue(bridge: Bridge) -> None:
    """Queued entries and exits are denied within a second of `halt`, although the lane of their symbol is busy."""
    await bridge.send(quantity="0.02")
    await bridge.fault("rate_limit", path="/v1/order", method="POST")
    _, entry = await bridge.send(quantity="0.03")
    _, leaving = await bridge.send(action="close", quantity=None)
    await bridge.set_state(TradingState.HALTED)
    for answer in (entry, leaving):
        order = await bridge.until_stored(answer, "denied")
        assert order.code == "trading_halted"
    await bridge.clear_faults()
    assert await bridge.positions() == {BTC: D("0.02")}


async def test_exits_only_denies_waiting_entries_and_passes_exits(bridge: Bridge) -> None:
    """`exits-only` ends queued entries; the exit behind them still goes."""
    await bridge.send(quantity="0.02")
    await bridge.fault("rate_limit", path="/v1/order", method="POST")
    _, entry = await bridge.send(quantity="0.03")
    _, leaving = await bridge.send(action="close", quantity=None)
    await bridge.set_state(TradingState.EXITS_ONLY)
    order = await bridge.until_stored(entry, "denied")
    assert order.code == "exits_only"
    await bridge.clear_faults()
    await bridge.until_stored(leaving, "filled")
    assert await bridge.positions() == {}


async def test_a_halt_reaches_orders_that_wait_for_the_rate_window(bridge: Bridge) -> None:
    """One algo order a second: what was claimed before the halt, and has its turn after it, is not sent any more."""
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
    # One request may have been on the wire in the very moment.
    assert len(await bridge.journal("order_accepted")) <= placed_at_halt + 1


@pytest.mark.parametrize("minutes", [10, -10])
async def test_a_jumping_clock_does_not_stop_trading(bridge: Bridge, minutes: int) -> None:
    """The machine's clock moves by ten minutes: the exchange's clock is measured anew, and the next alert is traded."""
    await bridge.send()
    bridge.clock.offset = timedelta(minutes=minutes)

    async def trades() -> bool:
        _, answer = await bridge.send(symbol="ETHUSDT.P", quantity="0.1")
        return answer.get("status") == "filled"

    await until(trades)
    assert (await bridge.positions())[ETH] > 0
    accepted = [row["client_order_id"] for row in await bridge.journal("order_accepted")]
    assert len(accepted) == len(set(accepted))


async def test_an_entry_that_cannot_be_sent_gives_up_after_its_attempts(hasty_bridge: Bridge) -> None:
    """Turned away each time: the entry ends as rejected, with the exchange's words, and nothing was placed."""
    bridge = hasty_bridge
    await bridge.fault("rate_limit", path="/v1/order", method="POST")
    _, answer = await bridge.send()
    order = await bridge.until_stored(answer, "rejected")
    assert (order.code, order.attempt) == ("exchange_busy", 3)
    assert "orderly:-1003" in (order.error or "")


async def test_an_order_too_old_for_its_turn_expires(bridge: Bridge) -> None:
    """A deferred order whose alert passed its age meanwhile is expired and never sent."""
    await bridge.fault("rate_limit", path="/v1/order", method="POST")
    _, answer = await bridge.send()
    bridge.clock.offset = timedelta(seconds=61)
    order = await bridge.until_stored(answer, "expired", "rejected")
    await bridge.clear_faults()
    assert order.code in ("alert_expired", "exchange_busy")
    assert await bridge.journal("order_accepted") == []


async def kinds(bridge: Bridge) -> list[str]:
    """The history, oldest first."""
    return [event.kind for event in await bridge.daemon.database.read(events.list_events, limit=1000)]


async def test_an_exit_that_is_refused_is_sent_once_more(bridge: Bridge) -> None:
    """The exchange's no is final for what was asked: the close is made anew from the position, and sent a second time."""
    await bridge.send(quantity="0.02")
    await bridge.fault("refuse", code=-1103, count=1)
    _, answer = await bridge.send(action="close", quantity=None)
    order = await bridge.until_stored(answer, "filled")
    assert order.attempt == 2
    assert await bridge.positions() == {}


async def test_an_exit_that_is_refused_twice_is_told(bridge: Bridge) -> None:
    """The second no is the last: the order is rejected with the exchange's code, and the trader hears that the position is open still."""
    await bridge.send(quantity="0.02")
    await bridge.fault("refuse", code=-1103)
    _, answer = await bridge.send(action="close", quantity=None)
    order = await bridge.until_stored(answer, "rejected")
    assert (order.attempt, order.code) == (2, "orderly:-1103")
    assert (await kinds(bridge)).count("exit_refused") == 1
    _, entry = await bridge.send(quantity="0.02")
    assert (await bridge.order(entry)).attempt == 1
    assert (await kinds(bridge)).count("exit_refused") == 1


async def test_a_refused_key_closes_the_account_for_entries(bridge: Bridge) -> None:
    """Nothing can be opened with it, and what was opened might not be closed: entries stay out until somebody resumes, exits pass."""
    await bridge.send(quantity="0.02")
    await bridge.fault("key_revoked", path="/v1/order", method="POST", count=1)
    _, refused = await bridge.send(quantity="0.01")
    assert (await bridge.until_stored(refused, "rejected")).code == "orderly:-1002"
    status, denied = await bridge.send(quantity="0.01")
    assert (status, denied["code"]) == (422, "exits_only")
    assert "orderly:-1002" in denied["error"]
    _, leaving = await bridge.send(action="close", quantity=None)
    await bridge.until_stored(leaving, "filled")
    assert await bridge.positions() == {}


def test_backoff_doubles_up_to_a_minute() -> None:
    """2, 4, 8 … 60 seconds; jitter is a share on top."""
    assert [backoff_s(2, attempt) for attempt in (1, 2, 3, 9)] == [2, 4, 8, 60]
    assert backoff_s(2, 1, 0.25) == 2.5
