"""submit(): what is checked, prepared and recorded around the one request that places an order."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from kekbridge.exchange.base import request_text
from kekbridge.execution.recorder import backoff_s
from kekbridge.model import OrderStatus, TradingState
from kekbridge.store import events, webhooks
from kekbridge.store import orders as order_rows
from tests.bridge import BTC, ETH, House
from tests.waiting import until

D = Decimal


async def test_the_exact_request_is_stored(house: House) -> None:
    """What `explain` shows is the very body that was sent, for an order claimed at once and for one from the queue."""
    _, first = await house.send(stopLoss="2%")
    await house.fault("rate_limit", path="/v1/order", method="POST", count=1)
    _, second = await house.send(symbol="ETHUSDT.P", quantity="0.1")
    await house.until_stored(second, "filled")
    for answer in (first, second):
        details = await house.daemon.database.read(order_rows.details, answer["clientOrderId"])
        assert details.request == request_text(house.daemon.exchange, await house.order(answer))


async def test_the_wanted_leverage_is_set_before_the_entry(house: House) -> None:
    """An alert's leverage is the symbol's leverage at the exchange before its order is accepted there; once set, it is not set again."""
    for number in range(2):
        status, answer = await house.send(leverage="7", alertId=f"levered-{number}")
        assert (status, answer["status"]) == (200, "filled")
    told = [
        row["event"] for row in await house.control("journal") if row["event"] in ("leverage_set", "order_accepted")
    ]
    assert told == ["leverage_set", "order_accepted", "order_accepted"]
    (change,) = await house.journal("leverage_set")
    assert (change["symbol"], int(change["leverage"])) == (BTC, 7)


async def test_an_entry_without_its_leverage_is_not_sent(house: House) -> None:
    """The exchange refuses the leverage: the order is refused with the exchange's code, and nothing is placed."""
    await house.fault("server_error", path="/v1/client/leverages", method="POST", status=400, code=-1005)
    status, answer = await house.send(leverage="7")
    assert (status, answer["code"]) == (422, "orderly:-1005")
    assert "leverage 7" in answer["error"]
    assert await house.journal("order_accepted") == []


async def test_a_leverage_of_unknown_outcome_is_asked_for_again(house: House) -> None:
    """Setting a leverage twice does no harm: a lost answer defers the order instead of losing it."""
    await house.fault("lose_answer", path="/v1/client/leverages", method="POST", count=1)
    _, answer = await house.send(leverage="7")
    await house.until_stored(answer, "filled")
    assert len(await house.journal("order_accepted")) == 1


async def test_an_entry_that_waits_for_its_leverage_is_queued(house: House) -> None:
    """Nothing of it has left: killed now it would be sent later, not be looked for; a halt ends it, and it is not sent after all."""
    await house.fault("delay", path="/v1/client/leverages", method="POST", delay_ms=1500, count=1)
    answered = asyncio.create_task(house.send(leverage="7"))

    async def is_asked_for() -> bool:
        return house.daemon.trading.dispatcher.in_flight_count == 1

    await until(is_asked_for)
    (order,) = await house.orders()
    assert (order.status, order.attempt, order.submitted_at) == (OrderStatus.QUEUED, 0, None)
    await house.set_state(TradingState.HALTED)
    _, answer = await answered
    assert (await house.until_stored(answer, "denied")).code == "trading_halted"
    await until(lambda: house.daemon.trading.dispatcher.in_flight_count == 0)
    assert await house.journal("order_accepted") == []


async def test_what_may_not_be_sent_changes_no_leverage(house: House) -> None:
    """Its limits became too tight while it was held back: the symbol keeps the leverage that it has."""
    for _ in range(5):
        house.daemon.trading.submitter.breaker.record(was_unknown=True)
    _, answer = await house.send(leverage="7")
    order = await house.order(answer)
    with house.daemon.database.transaction() as connection:
        webhook = webhooks.get(connection, order.webhook_id)
        tighter = replace(webhook.settings, limits=replace(webhook.settings.limits, max_order_size=D("0.005")))
        webhooks.change_settings(connection, webhook.id, tighter, now=house.clock())
    house.daemon.trading.submitter.breaker.close()
    assert (await house.until_stored(answer, "denied")).code == "order_too_large"
    assert await house.journal("leverage_set") == []


async def test_a_halt_denies_what_waits_in_the_queue(house: House) -> None:
    """Queued entries and exits are denied within a second of `halt`, although the lane of their symbol is busy."""
    await house.send(quantity="0.02")
    await house.fault("rate_limit", path="/v1/order", method="POST")
    _, entry = await house.send(quantity="0.03")
    _, leaving = await house.send(action="close", quantity=None)
    await house.set_state(TradingState.HALTED)
    for answer in (entry, leaving):
        order = await house.until_stored(answer, "denied")
        assert order.code == "trading_halted"
    await house.clear_faults()
    assert await house.positions() == {BTC: D("0.02")}


async def test_exits_only_denies_waiting_entries_and_passes_exits(house: House) -> None:
    """`exits-only` ends queued entries; the exit behind them still goes."""
    await house.send(quantity="0.02")
    await house.fault("rate_limit", path="/v1/order", method="POST")
    _, entry = await house.send(quantity="0.03")
    _, leaving = await house.send(action="close", quantity=None)
    await house.set_state(TradingState.EXITS_ONLY)
    order = await house.until_stored(entry, "denied")
    assert order.code == "exits_only"
    await house.clear_faults()
    await house.until_stored(leaving, "filled")
    assert await house.positions() == {}


async def test_a_halt_reaches_orders_that_wait_for_the_rate_window(house: House) -> None:
    """One algo order a second: what was claimed before the halt, and has its turn after it, is not sent any more."""
    sending = [
        asyncio.create_task(house.send(symbol=symbol, quantity=quantity, stopLoss="2%"))
        for symbol, quantity in (("BTCUSDT.P", "0.01"), ("ETHUSDT.P", "0.1"), ("SOLUSDT.P", "1"), ("XRPUSDT.P", "50"))
    ]

    async def has_begun() -> bool:
        return bool(await house.journal("order_accepted"))

    await until(has_begun)
    await house.set_state(TradingState.HALTED)
    placed_at_halt = len(await house.journal("order_accepted"))
    await asyncio.gather(*sending)

    async def all_ended() -> bool:
        return all(order.status.is_final for order in await house.orders())

    await until(all_ended)
    denied = [order for order in await house.orders() if order.status is OrderStatus.DENIED]
    assert denied
    assert {order.code for order in denied} == {"trading_halted"}
    # One request may have been on the wire in the very moment.
    assert len(await house.journal("order_accepted")) <= placed_at_halt + 1


@pytest.mark.parametrize("minutes", [10, -10])
async def test_a_jumping_clock_does_not_stop_trading(house: House, minutes: int) -> None:
    """The machine's clock moves by ten minutes: the exchange's clock is measured anew, and the next alert is traded."""
    await house.send()
    house.clock.offset = timedelta(minutes=minutes)

    async def trades() -> bool:
        _, answer = await house.send(symbol="ETHUSDT.P", quantity="0.1")
        return answer.get("status") == "filled"

    await until(trades)
    assert (await house.positions())[ETH] > 0
    accepted = [row["client_order_id"] for row in await house.journal("order_accepted")]
    assert len(accepted) == len(set(accepted))


async def test_an_entry_that_cannot_be_sent_gives_up_after_its_attempts(hasty_house: House) -> None:
    """Turned away each time: the entry ends as rejected, with the exchange's words, and nothing was placed."""
    house = hasty_house
    await house.fault("rate_limit", path="/v1/order", method="POST")
    _, answer = await house.send()
    order = await house.until_stored(answer, "rejected")
    assert (order.code, order.attempt) == ("exchange_busy", 3)
    assert "orderly:-1003" in (order.error or "")


async def test_an_order_too_old_for_its_turn_expires(house: House) -> None:
    """A deferred order whose alert passed its age meanwhile is expired and never sent."""
    await house.fault("rate_limit", path="/v1/order", method="POST")
    _, answer = await house.send()
    house.clock.offset = timedelta(seconds=61)
    order = await house.until_stored(answer, "expired", "rejected")
    await house.clear_faults()
    assert order.code in ("alert_expired", "exchange_busy")
    assert await house.journal("order_accepted") == []


async def kinds(house: House) -> list[str]:
    """The history, oldest first."""
    return [event.kind for event in await house.daemon.database.read(events.list_events, limit=1000)]


async def test_an_exit_that_is_refused_is_sent_once_more(house: House) -> None:
    """The exchange's no is final for what was asked: the close is made anew from the position, and sent a second time."""
    await house.send(quantity="0.02")
    await house.fault("refuse", code=-1103, count=1)
    _, answer = await house.send(action="close", quantity=None)
    order = await house.until_stored(answer, "filled")
    assert order.attempt == 2
    assert await house.positions() == {}


async def test_an_exit_that_is_refused_twice_is_told(house: House) -> None:
    """The second no is the last: the order is rejected with the exchange's code, and the trader hears that the position is open still."""
    await house.send(quantity="0.02")
    await house.fault("refuse", code=-1103)
    _, answer = await house.send(action="close", quantity=None)
    order = await house.until_stored(answer, "rejected")
    assert (order.attempt, order.code) == (2, "orderly:-1103")
    assert (await kinds(house)).count("exit_refused") == 1
    _, entry = await house.send(quantity="0.02")
    assert (await house.order(entry)).attempt == 1
    assert (await kinds(house)).count("exit_refused") == 1


async def test_a_refused_key_closes_the_account_for_entries(house: House) -> None:
    """Nothing can be opened with it, and what was opened might not be closed: entries stay out until somebody resumes, exits pass."""
    await house.send(quantity="0.02")
    await house.fault("key_revoked", path="/v1/order", method="POST", count=1)
    _, refused = await house.send(quantity="0.01")
    assert (await house.until_stored(refused, "rejected")).code == "orderly:-1002"
    status, denied = await house.send(quantity="0.01")
    assert (status, denied["code"]) == (422, "exits_only")
    assert "orderly:-1002" in denied["error"]
    _, leaving = await house.send(action="close", quantity=None)
    await house.until_stored(leaving, "filled")
    assert await house.positions() == {}


def test_backoff_doubles_up_to_a_minute() -> None:
    """2, 4, 8 … 60 seconds; jitter is a share on top."""
    assert [backoff_s(2, attempt) for attempt in (1, 2, 3, 9)] == [2, 4, 8, 60]
    assert backoff_s(2, 1, 0.25) == 2.5
