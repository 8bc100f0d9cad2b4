"""Orders that rest at the exchange are cancelled once what they were for is over. Judged by what is open, and by what rests."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.model import Limits, OrderStatus, Side, TradingState
from kekbridge.ops.trading_operations import ExitsOnly, Halt
from kekbridge.store import settings
from tests.bridge import BTC, Bridge, position_fields, quick_bridge, running_paper
from tests.waiting import until

D = Decimal
DIP = {"orderType": "limit", "limitPrice": "64500"}
EXITS: dict[str, dict[str, str]] = {
    "limit": {"action": "close", "orderType": "limit", "limitPrice": "66000"},
    "stop": {"action": "close", "orderType": "stop", "triggerPrice": "64000"},
}


async def _rested(bridge: Bridge, answer: dict[str, Any]) -> None:
    await bridge.until_stored(answer, "accepted")


# --------------------------------------------------------------------------------------------------------- resting exits


async def _close(bridge: Bridge) -> None:
    await bridge.send(action="close", quantity=None)


async def _stop_out(bridge: Bridge) -> None:
    await bridge.control("prices", {BTC: "64300"})
    await bridge.until_flat(BTC)
    await bridge.control("prices", {BTC: "65000"})


async def _close_by_hand(bridge: Bridge) -> None:
    await bridge.place_elsewhere(side=Side.SELL, quantity=D("0.04"))


async def _reverse_and_back(bridge: Bridge) -> None:
    await bridge.send(**position_fields("sell", "0.04", "-0.04"))
    await bridge.send(**position_fields("buy", "-0.04", "0.03"))


@pytest.mark.parametrize("kind", EXITS)
@pytest.mark.parametrize("leave", [_close, _stop_out, _close_by_hand, _reverse_and_back])
async def test_a_resting_exit_ends_with_its_position(
    bridge: Bridge, kind: str, leave: Callable[[Bridge], Awaitable[None]]
) -> None:
    """However the position ended, the old exit does not close the next one (core rule: superseded once flat or reversed)."""
    await bridge.send(quantity="0.04", stopLoss="1%")
    await bridge.until_positions({BTC: D("0.04")})
    _, resting = await bridge.send(**EXITS[kind])
    await _rested(bridge, resting)
    await leave(bridge)
    if leave is not _reverse_and_back:
        await bridge.until_flat(BTC)
        await bridge.send(quantity="0.03")
    await bridge.until_stored(resting, "canceled")
    await bridge.until_positions({BTC: D("0.03")})


@pytest.mark.parametrize("kind", EXITS)
async def test_a_resting_exit_stays_while_its_position_is_open(bridge: Bridge, kind: str) -> None:
    """A part that is closed and a part that is added change nothing; it closes what is open when it trades."""
    await bridge.send(quantity="0.04")
    _, resting = await bridge.send(**EXITS[kind])
    await _rested(bridge, resting)
    await bridge.send(action="close", quantity="0.02")
    await bridge.send(quantity="0.01")
    await bridge.until_positions({BTC: D("0.03")})
    await bridge.control("prices", {BTC: "66100" if kind == "limit" else "63900"})
    await bridge.until_flat(BTC)
    assert (await bridge.order(resting)).cancel_requested_at is None


async def test_a_resting_exit_whose_position_was_closed_while_no_bridge_ran(tmp_path: Path) -> None:
    """The next start sees by the fills that what is open now was opened later."""
    async with running_paper(tmp_path / "paper") as url:
        async with quick_bridge(tmp_path / "data", url) as bridge:
            await bridge.send(quantity="0.04")
            _, resting = await bridge.send(**EXITS["limit"])
            await _rested(bridge, resting)
        async with quick_bridge(tmp_path / "other", url) as hand:
            await hand.place_elsewhere(side=Side.SELL, quantity=D("0.04"))
            await hand.place_elsewhere(side=Side.BUY, quantity=D("0.05"))
        async with quick_bridge(tmp_path / "data", url) as bridge:
            await bridge.until_stored(resting, "canceled")
            await bridge.control("prices", {BTC: "66100"})
            assert await bridge.positions() == {BTC: D("0.05")}


async def test_an_exit_that_was_never_tried_is_superseded_at_a_start(tmp_path: Path) -> None:
    """It waited behind an unanswered entry; while no bridge ran, the trader closed its position and opened another by hand."""
    async with running_paper(tmp_path / "paper") as url:
        async with quick_bridge(tmp_path / "data", url) as bridge:
            await bridge.send(quantity="0.04")
            await bridge.until_positions({BTC: D("0.04")})
            await bridge.fault("delay", path="/v1/order", method="POST", delay_ms=30_000, when="before")
            sending = [asyncio.create_task(bridge.send(**position_fields("buy", "0.04", "0.06")))]

            async def are_stored(count: int) -> bool:
                return len(await bridge.orders()) == count

            await until(lambda: are_stored(2))
            sending.append(asyncio.create_task(bridge.send(**position_fields("sell", "0.06", "0"))))
            await until(lambda: are_stored(3))
            (leaving,) = [order for order in await bridge.orders() if order.is_exit]
            assert (leaving.status, leaving.attempt) == (OrderStatus.QUEUED, 0)
        for each in sending:
            each.cancel()
        async with quick_bridge(tmp_path / "other", url) as hand:
            await hand.clear_faults()
            await hand.place_elsewhere(side=Side.SELL, quantity=await hand.position())
            await hand.until_flat(BTC)
            await hand.place_elsewhere(side=Side.BUY, quantity=D("0.05"))
        async with quick_bridge(tmp_path / "data", url) as bridge:
            order = await bridge.until_stored({"clientOrderId": leaving.client_order_id}, "denied")
            assert order.code == "superseded"
            assert await bridge.positions() == {BTC: D("0.05")}


# -------------------------------------------------------------------------------------- entries that may not enter any more


@pytest.mark.parametrize("state", [TradingState.HALTED, TradingState.EXITS_ONLY])
async def test_a_stop_of_trading_cancels_resting_entries_only(bridge: Bridge, state: TradingState) -> None:
    """Entries end at the exchange, too; a resting exit and the stop of what is open stay."""
    await bridge.send(quantity="0.04", stopLoss="5%")
    await bridge.until_positions({BTC: D("0.04")})
    _, leaving = await bridge.send(**EXITS["limit"])
    _, resting = await bridge.send(**DIP)
    await _rested(bridge, resting)
    await bridge.set_state(state)
    await bridge.until_stored(resting, "canceled")
    await bridge.control("prices", {BTC: "64400"})
    assert await bridge.positions() == {BTC: D("0.04")}
    assert (await bridge.order(leaving)).cancel_requested_at is None
    assert len(await bridge.daemon.exchange.live_stops(BTC)) == 1
    (event,) = await bridge.events("cancel_requested")
    assert event["code"] == state.value


async def test_an_order_sent_as_trading_stops_is_cancelled_once_it_rests(bridge: Bridge) -> None:
    """Its answer comes after the halt."""
    await bridge.fault("delay", path="/v1/order", method="POST", delay_ms=400, when="before", count=1)
    sending = asyncio.create_task(bridge.send(**DIP))

    async def is_sent() -> bool:
        return [order.status for order in await bridge.orders()] == [OrderStatus.SUBMITTING]

    await until(is_sent)
    await bridge.set_state(TradingState.HALTED)
    _, resting = await sending
    await bridge.until_stored(resting, "canceled")
    assert await bridge.daemon.exchange.open_orders() == ()


async def test_a_halt_while_no_bridge_ran_cancels_at_the_next_start(tmp_path: Path) -> None:
    """The state is stored; the start makes it true at the exchange."""
    async with running_paper(tmp_path / "paper") as url:
        async with quick_bridge(tmp_path / "data", url) as bridge:
            _, resting = await bridge.send(**DIP)
            await _rested(bridge, resting)
            path = bridge.daemon.database.path
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            now = datetime.now(UTC)
            settings.set_trading_state(connection, TradingState.HALTED, reason="r", by="test", now=now)
        async with quick_bridge(tmp_path / "data", url) as bridge:
            await bridge.until_stored(resting, "canceled")


async def test_a_daily_loss_cancels_resting_entries(bridge: Bridge) -> None:
    """The limit is reached after the entry was placed; a count of orders that is used up cancels none."""
    bridge.add_webhook("losing", limits=Limits(max_notional=None, max_leverage=None, max_daily_loss=D(20)))
    bridge.add_webhook("counting", limits=Limits(max_notional=None, daily_orders=1))
    _, counted = await bridge.send("counting", orderType="limit", limitPrice="63000")
    assert (await bridge.send("counting"))[1]["code"] == "daily_orders"
    _, resting = await bridge.send("losing", orderType="limit", limitPrice="63000")
    await bridge.send("losing", quantity="0.04")
    await bridge.until_positions({BTC: D("0.04")})
    await bridge.control("prices", {BTC: "64000"})
    await bridge.send("losing", action="close")
    await bridge.until_flat(BTC)
    await bridge.until_stored(resting, "canceled")
    assert (await bridge.order(counted)).cancel_requested_at is None


async def test_a_daily_loss_of_an_open_position_cancels_resting_entries(bridge: Bridge) -> None:
    """No alert comes that would be denied: the limit is noticed as the price falls, before the entry fills."""
    bridge.add_webhook("losing", limits=Limits(max_notional=None, max_leverage=None, max_daily_loss=D(20)))
    _, resting = await bridge.send("losing", orderType="limit", limitPrice="63000")
    await bridge.send("losing", quantity="0.04")
    await bridge.until_positions({BTC: D("0.04")})
    await bridge.control("prices", {BTC: "64000"})
    await bridge.until_stored(resting, "canceled")
    assert (await bridge.send("losing"))[1]["code"] == "exits_only"
    assert await bridge.positions() == {BTC: D("0.04")}


async def test_a_partly_filled_bracket_keeps_what_it_filled_and_its_stop(bridge: Bridge) -> None:
    """The cancel of the rest takes no stop away."""
    await bridge.fault("partial_fills", parts=40)
    sending = asyncio.create_task(bridge.send(quantity="0.04", stopLoss="2%", orderType="limit", limitPrice="65000"))

    async def is_partly_filled() -> bool:
        return await bridge.position() > 0

    await until(is_partly_filled)
    await bridge.control("prices", {BTC: "65500"})
    _, answer = await sending
    await bridge.set_state(TradingState.EXITS_ONLY)
    await bridge.until_stored(answer, "canceled")
    held = await bridge.position()
    assert 0 < held < D("0.04")

    async def is_protected() -> bool:
        stops = await bridge.daemon.exchange.live_stops(BTC)
        return bool(stops) and sum((stop.quantity for stop in stops), D(0)) in (0, held)  # 0: the whole position

    await until(is_protected)
    assert await bridge.position() == held


@pytest.mark.parametrize("operation", [Halt(), ExitsOnly()])
async def test_the_command_says_how_many_entries_are_cancelled(bridge: Bridge, operation: Halt | ExitsOnly) -> None:
    """Exits and filled entries do not count."""
    await bridge.send(quantity="0.04")
    await bridge.send(**EXITS["limit"])
    answers = [(await bridge.send(**DIP))[1] for _ in range(2)]
    assert (await bridge.daemon.operations.run(operation))["restingEntries"] == 2
    for answer in answers:
        await bridge.until_stored(answer, "canceled")
    assert (await bridge.daemon.operations.run(operation))["restingEntries"] == 0


# ---------------------------------------------------------------------------------- entries that a later alert leaves behind


@pytest.mark.parametrize("mode", ["position", "signal"])
async def test_a_flat_strategy_leaves_no_resting_entry(bridge: Bridge, mode: str) -> None:
    """Nothing is open when it says that it is flat: its entries are cancelled, the answer names them, and no price opens them."""
    bridge.add_webhook("following", follow=mode, reorder_ms=0)
    _, resting = await bridge.send("following", **(position_fields("buy", "0", "0.04") | DIP))
    await _rested(bridge, resting)
    status, answer = await bridge.send("following", **position_fields("sell", "0.04", "0"))
    assert (status, answer["success"], answer["status"]) == (200, True, "done")
    assert any(resting["clientOrderId"] in warning for warning in answer["warnings"])
    order = await bridge.until_stored(resting, "canceled")
    assert order.executed_quantity == 0
    await bridge.control("prices", {BTC: "64400"})
    assert await bridge.positions() == {}
    _, again = await bridge.send("following", **position_fields("sell", "0.04", "0"))
    assert (again["status"], again["code"]) == ("ignored", "nothing_to_close")


@pytest.mark.parametrize("mode", ["position", "signal"])
async def test_a_reversal_leaves_no_resting_entry(bridge: Bridge, mode: str) -> None:
    """The strategy is short; its earlier buy does not close that later."""
    bridge.add_webhook("following", follow=mode, reorder_ms=0)
    _, resting = await bridge.send("following", **(position_fields("buy", "0", "0.04") | DIP))
    await _rested(bridge, resting)
    await bridge.send("following", **position_fields("sell", "0.04", "-0.04"))
    await bridge.until_stored(resting, "canceled")
    await bridge.control("prices", {BTC: "64400"})
    assert await bridge.positions() == {BTC: D("-0.04")}


async def test_a_new_target_replaces_the_resting_entry_of_the_earlier_one(bridge: Bridge) -> None:
    """Position mode: the size follows from the target alone, so that both would be too much."""
    bridge.add_webhook("following", follow="position", reorder_ms=0)
    _, first = await bridge.send("following", **(position_fields("buy", "0", "0.04") | DIP))
    await _rested(bridge, first)
    _, second = await bridge.send("following", **(position_fields("buy", "0", "0.03") | DIP))
    await bridge.until_stored(first, "canceled")
    await bridge.control("prices", {BTC: "64400"})
    await bridge.until_stored(second, "filled")
    assert await bridge.positions() == {BTC: D("0.03")}


async def test_a_step_in_the_same_direction_keeps_the_resting_entry(bridge: Bridge) -> None:
    """Without resync only the step counts: both entries together are the strategy's position."""
    bridge.add_webhook("following", follow="position", reorder_ms=0)
    _, first = await bridge.send("following", **(position_fields("buy", "0", "0.04") | DIP))
    await _rested(bridge, first)
    await bridge.send("following", **position_fields("buy", "0.04", "0.06"))
    await bridge.control("prices", {BTC: "64400"})
    await bridge.until_positions({BTC: D("0.06")})


@pytest.mark.parametrize("action", ["close", "close_all"])
async def test_a_close_ends_the_resting_entries_of_its_webhook(bridge: Bridge, action: str) -> None:
    """Those of another webhook stay, and so do those of a close of a part."""
    bridge.add_webhook("other")
    await bridge.send(quantity="0.04")
    _, own = await bridge.send(**DIP)
    _, others = await bridge.send("other", **DIP)
    await bridge.send(action="close", quantity="50%")
    await _rested(bridge, own)
    _, leaving = await bridge.send(action=action, quantity=None)
    assert leaving["status"] == "filled"
    await bridge.until_stored(own, "canceled")
    assert (await bridge.order(others)).cancel_requested_at is None


async def test_a_restart_goes_on_with_what_a_flat_strategy_cancels(tmp_path: Path) -> None:
    """The request is stored with the alert: the exchange answered no cancel before the bridge stopped."""
    async with running_paper(tmp_path / "paper") as url:
        async with quick_bridge(tmp_path / "data", url) as bridge:
            _, resting = await bridge.send(**(position_fields("buy", "0", "0.04") | DIP))
            await _rested(bridge, resting)
            await bridge.fault("server_error", status=502, method="DELETE", path="/v1/order")
            await bridge.send(**position_fields("sell", "0.04", "0"))
        async with quick_bridge(tmp_path / "data", url) as bridge:
            assert (await bridge.order(resting)).cancel_requested_at is not None
            await bridge.clear_faults()
            await bridge.until_stored(resting, "canceled")
