"""Exits live as long as the position that they were admitted against, go first, and are held by a halt. Judged by money and position."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from kekbridge.exchange.orderly.client import OrderlyExchange
from kekbridge.exchange.orderly.rate_limiter import Endpoint
from kekbridge.model import OrderStatus, TradingState
from kekbridge.ops.trading_operations import ListHeldExits, Resume
from kekbridge.store import journal
from tests.bridge import BTC, ETH, Bridge, position_fields
from tests.waiting import until

D = Decimal
CREATE: dict[str, Any] = {"path": "/v1/order", "method": "POST"}


async def _queued(bridge: Bridge, answer: dict[str, Any]) -> bool:
    order = await bridge.order(answer)
    return order.status is OrderStatus.QUEUED and order.attempt > 0


async def _kinds(bridge: Bridge) -> list[str]:
    return [event.kind for event in await bridge.daemon.database.read(journal.list_events, limit=1000)]


async def test_an_exit_outlives_the_age_limit(bridge: Bridge) -> None:
    """The exchange accepts nothing for longer than the allowed age: the close is sent afterwards, and the trader heard meanwhile."""
    await bridge.send(quantity="0.02")
    await bridge.fault("rate_limit", **CREATE)
    _, leaving = await bridge.send(action="close", quantity=None)
    await until(lambda: _queued(bridge, leaving))
    bridge.clock.offset += timedelta(minutes=5)

    async def is_notified() -> bool:
        return "exit_waiting" in await _kinds(bridge)

    await until(is_notified)
    await bridge.clear_faults()
    await bridge.until_stored(leaving, "filled")
    assert await bridge.positions() == {}


async def test_an_exit_whose_position_was_closed_meanwhile_is_superseded(bridge: Bridge) -> None:
    """What is opened later does not belong to it, and stays open."""
    await bridge.send(quantity="0.02")
    await bridge.fault("rate_limit", **CREATE)
    _, leaving = await bridge.send(action="close", quantity=None)
    await until(lambda: _queued(bridge, leaving))
    await bridge.set_positions(BTC="0")
    order = await bridge.until_stored(leaving, "denied")
    assert order.code == "superseded"
    await bridge.set_positions(BTC="0.03")
    await bridge.clear_faults()
    assert await bridge.positions() == {BTC: D("0.03")}


async def test_a_later_target_of_the_webhook_supersedes_its_exit(bridge: Bridge) -> None:
    """The strategy left and came back while nothing could be sent: the position stays as it is."""
    bridge.add_webhook("following", follow="position", reorder_ms=0)
    await bridge.send("following", **position_fields("buy", "0", "0.02"))
    await bridge.fault("rate_limit", **CREATE)
    _, leaving = await bridge.send("following", **position_fields("sell", "0.02", "0"))
    await until(lambda: _queued(bridge, leaving))
    await bridge.send("following", **position_fields("buy", "0", "0.02"))
    assert (await bridge.until_stored(leaving, "denied")).code == "superseded"
    await bridge.clear_faults()
    await bridge.until_settled()
    assert await bridge.positions() == {BTC: D("0.02")}


async def test_an_exit_never_grows(bridge: Bridge) -> None:
    """What was added to the position by hand while the close waited stays open."""
    await bridge.send(quantity="0.02")
    await bridge.fault("rate_limit", **CREATE)
    _, leaving = await bridge.send(action="close", quantity=None)
    await until(lambda: _queued(bridge, leaving))
    await bridge.set_positions(BTC="0.05")
    await bridge.clear_faults()
    await bridge.until_stored(leaving, "filled")
    assert await bridge.position() == D("0.03")


async def test_a_close_does_not_wait_for_a_resting_order_with_a_waiting_leg(bridge: Bridge) -> None:
    """A limit reversal rests; the market close of another webhook is sent at once and closes the position."""
    bridge.add_webhook("other")
    await bridge.send(quantity="0.2")
    await bridge.send(action="sell", quantity="0.3", orderType="limit", limitPrice="70000")
    _, leaving = await bridge.send("other", action="close", quantity=None)
    assert leaving["status"] == "filled", leaving
    assert await bridge.positions() == {}


async def test_a_leg_is_not_placed_after_its_resting_leg_was_cancelled_by_hand(bridge: Bridge) -> None:
    """A reversal whose reduce-only part was canceled by hand opens no new position."""
    bridge.add_webhook("reversing", reverse=True)
    await bridge.send("reversing", quantity="0.2")
    _, resting = await bridge.send("reversing", action="sell", quantity="0.3", orderType="limit", limitPrice="70000")
    await bridge.until_stored(resting, "accepted")
    (report,) = await bridge.daemon.exchange.open_orders()
    assert report.reduce_only
    await bridge.daemon.exchange.cancel(report)
    await bridge.until_settled()
    legs = [order for order in await bridge.orders() if order.alert_id == (await bridge.order(resting)).alert_id]
    assert sorted(order.status.value for order in legs) == ["canceled", "denied"]
    assert await bridge.daemon.exchange.open_orders() == ()
    assert await bridge.positions() == {BTC: D("0.2")}


async def test_a_limit_flip_works_when_its_limit_trades_late(bridge: Bridge) -> None:
    """The age of the second leg counts from the end of the first, which rested as the trader wanted."""
    await bridge.send(quantity="0.2")
    _, flip = await bridge.send(action="flip", quantity=None, orderType="limit", limitPrice="66000")
    await bridge.until_stored(flip, "accepted")
    await bridge.jump_to(bridge.clock() + timedelta(seconds=90))
    await asyncio.sleep(0.6)
    await bridge.control("prices", {BTC: "66100"})

    async def is_flipped() -> bool:
        return await bridge.position() == D("-0.2")

    await until(is_flipped)


async def test_an_exit_ends_the_entries_that_it_overtakes_when_it_is_queued(bridge: Bridge) -> None:
    """The close goes before queued brackets of its own market, and those of its webhook are never sent."""
    await bridge.send(quantity="0.02")
    await bridge.fault("rate_limit", path="/v1/algo/order", method="POST")
    brackets = [(await bridge.send(quantity="0.01", stopLoss="2%"))[1] for _ in range(5)]
    _, leaving = await bridge.send(action="close", quantity=None)
    assert leaving["status"] == "filled", leaving
    await bridge.clear_faults()
    for answer in brackets:
        assert (await bridge.until_stored(answer, "denied")).code == "overtaken_by_exit"
    assert await bridge.positions() == {}


async def test_a_retry_after_of_entries_holds_no_exit(bridge: Bridge) -> None:
    """Entries earned 300 s: one of another market waits, a close is sent at once."""
    exchange = bridge.daemon.exchange
    assert isinstance(exchange, OrderlyExchange)
    await bridge.send(quantity="0.02")
    exchange._rate_limiter.pause(Endpoint.ORDER_CREATE, 300)
    _, entry = await bridge.send(symbol="ETHUSDT.P", quantity="0.1")
    assert entry["status"] == "queued"
    _, leaving = await bridge.send(action="close", quantity=None)
    assert leaving["status"] == "filled", leaving
    assert await bridge.positions() == {}


@pytest.mark.parametrize(("choice", "left"), [("send", {}), ("drop", {BTC: D("0.02")})])
async def test_resume_lists_the_exits_that_a_halt_held(bridge: Bridge, choice: str, left: dict[str, Decimal]) -> None:
    """They are sent, or dropped if the trader says so."""
    await bridge.send(quantity="0.02")
    await bridge.fault("rate_limit", **CREATE)
    _, leaving = await bridge.send(action="close", quantity=None)
    await until(lambda: _queued(bridge, leaving))
    await bridge.set_state(TradingState.HALTED)
    await bridge.clear_faults()
    operations = bridge.daemon.operations
    listed = await operations.run(ListHeldExits())
    assert [each["clientOrderId"] for each in listed] == [leaving["clientOrderId"]]
    resumed = await operations.run(Resume(held_exits="drop" if choice == "drop" else "send"))
    assert resumed["heldExits"] == listed
    await bridge.until_stored(leaving, "filled" if choice == "send" else "denied")
    assert await bridge.positions() == left


@pytest.mark.parametrize("code", [-1001, -1002])
async def test_one_rejection_of_the_key_does_not_end_an_exit(bridge: Bridge, code: int) -> None:
    """It is tried again with a pause, the trader hears at once, and entries are not closed for it."""
    await bridge.send(quantity="0.02")
    await bridge.fault("refuse", code=code, message="try again", count=1, **CREATE)
    _, leaving = await bridge.send(action="close", quantity=None)
    order = await bridge.until_stored(leaving, "filled")
    assert order.attempt == 2
    assert await bridge.positions() == {}
    assert "exit_waiting" in await _kinds(bridge)


async def test_coarser_steps_are_read_at_once(bridge: Bridge) -> None:
    """The exchange rejects the size of a close: the rules are read, and it is sent once more."""
    await bridge.send(symbol="ETHUSDT.P", quantity="0.1")
    await bridge.fault("refuse", code=-1104, message="not a multiple of the step", count=1, **CREATE)
    _, leaving = await bridge.send(symbol="ETHUSDT.P", action="close", quantity=None)
    order = await bridge.until_stored(leaving, "filled")
    assert order.attempt == 2
    assert ETH not in await bridge.positions()
