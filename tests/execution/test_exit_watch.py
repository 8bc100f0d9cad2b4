"""Exits live as long as the position that they were admitted against, go first, and are held by a halt. Judged by money and position."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from kekbridge.exchange.base import Accepted
from kekbridge.exchange.orderly.client import OrderlyExchange
from kekbridge.exchange.orderly.rate_limiter import Endpoint
from kekbridge.model import FIRST_RETRY_LEG, OrderStatus, TradingState
from kekbridge.ops.trading_operations import ListHeldExits, Resume
from kekbridge.store import alerts, journal
from tests.bridge import BTC, ETH, Bridge, position_fields, quick_bridge, running_paper
from tests.equality import assert_rebuilt_equal
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


async def _cancel_at_exchange(bridge: Bridge) -> None:
    """The exchange cancels what is open of a market order, as it does where the book or the price band ends."""

    async def is_there() -> bool:
        return bool(await bridge.daemon.exchange.open_orders())

    await until(is_there)
    (report,) = await bridge.daemon.exchange.open_orders()
    assert isinstance(await bridge.daemon.exchange.cancel(report), Accepted)

    async def is_gone() -> bool:
        return all(each.order_id != report.order_id for each in await bridge.daemon.exchange.open_orders())

    await until(is_gone)


async def _clear(paper_url: str) -> None:
    """End every fault of an exchange without a bridge."""
    async with aiohttp.ClientSession() as session, session.post(f"{paper_url}/paper/faults", json={}) as response:
        assert response.status == 200


async def _sizes_sent(bridge: Bridge) -> list[Decimal]:
    """The sizes of all sells that the exchange has accepted, oldest first."""
    return [D(row["quantity"]) for row in await bridge.journal("order_accepted", side="SELL")]


LEAVING: list[dict[str, Any]] = [
    {"action": "close", "quantity": None},
    {"action": "sell", "quantity": "0.04", "reduceOnly": True},
    position_fields("sell", "0.04", "0"),
]


@pytest.mark.parametrize("fields", LEAVING, ids=["close", "reduce_only", "target"])
async def test_a_market_exit_that_the_exchange_cancels_is_sent_again(bridge: Bridge, fields: dict[str, Any]) -> None:
    """It lives until it is done: as an order of its own, until nothing is left open. The answer says that it is not done."""
    await bridge.send(quantity="0.04")
    await bridge.fault("no_fill")
    asked = asyncio.create_task(bridge.send(**fields))
    await _cancel_at_exchange(bridge)
    await _cancel_at_exchange(bridge)  # of the second try
    status, answer = await asked
    assert (status, answer["success"], answer["status"]) == (202, True, "queued"), answer
    await bridge.clear_faults()
    await bridge.until_flat(BTC)
    tries = sorted(await bridge.until_settled(), key=lambda order: order.sequence)[1:]
    assert [order.status.value for order in tries] == ["canceled", "canceled", "filled"]
    assert len({order.client_order_id for order in tries}) == 3
    assert await _sizes_sent(bridge) == [D("0.04")] * 3
    alert = await bridge.daemon.database.read(alerts.get, tries[0].alert_id)
    assert alert.status == "filled"


async def test_only_what_is_left_of_a_canceled_exit_is_sent_again(bridge: Bridge) -> None:
    """A part was filled: the retry closes the rest, and leaves what another webhook holds."""
    bridge.add_webhook("other")
    await bridge.send(quantity="0.04")
    await bridge.send("other", quantity="0.03")
    await bridge.fault("partial_fills", parts=100, count=1)
    asked = asyncio.create_task(bridge.send(action="sell", quantity="0.04", reduceOnly=True))

    async def has_traded() -> bool:
        return await bridge.position() < D("0.07")

    await until(has_traded)
    await _cancel_at_exchange(bridge)
    status, answer = await asked
    assert (status, answer["status"]) == (200, "filled")
    first, second = answer["orders"]
    assert [(each["leg"], each["status"]) for each in (first, second)] == [(0, "canceled"), (0, "filled")]
    assert 0 < first["executedQuantity"] < 0.04
    rest = D("0.04") - D(str(first["executedQuantity"]))
    assert await _sizes_sent(bridge) == [D("0.04"), rest]
    assert await bridge.positions() == {BTC: D("0.03")}


async def test_a_canceled_exit_whose_position_is_gone_is_not_sent_again(bridge: Bridge) -> None:
    """The position was closed by hand while the order was at the exchange, or while its retry waited."""
    await bridge.send(quantity="0.04")
    await bridge.fault("no_fill")
    asked = asyncio.create_task(bridge.send(action="close", quantity=None))
    await _cancel_at_exchange(bridge)
    await asked
    await bridge.set_positions(BTC="0")
    await bridge.clear_faults()
    tries = sorted(await bridge.until_settled(), key=lambda order: order.sequence)[1:]
    assert (tries[-1].status, tries[-1].code) in (
        (OrderStatus.DENIED, "superseded"),
        (OrderStatus.CANCELED, None),
        (OrderStatus.DENIED, "nothing_to_close"),
    )
    assert await bridge.positions() == {}


@pytest.mark.parametrize(
    "bound", [{"slippage": "0.5%"}, {"orderType": "ioc", "limitPrice": "65500"}], ids=["slippage", "ioc"]
)
async def test_an_exit_with_a_bound_of_its_own_is_not_sent_again(bridge: Bridge, bound: dict[str, str]) -> None:
    """The trader has said at which price it may trade: the answer and a notification say how much is still open."""
    await bridge.send(quantity="0.04")
    if "slippage" in bound:
        await bridge.fault("no_fill")
        asked = asyncio.create_task(bridge.send(action="close", quantity=None, **bound))
        await _cancel_at_exchange(bridge)
        status, answer = await asked
    else:
        status, answer = await bridge.send(action="close", quantity=None, **bound)
    assert (status, answer["success"], answer["code"]) == (422, False, "exit_canceled"), answer
    heard = await bridge.heard("exit_canceled")
    assert D(heard["quantity"]) == D("0.04")
    assert len(await _sizes_sent(bridge)) == 1
    assert await bridge.positions() == {BTC: D("0.04")}


async def test_a_flip_goes_on_when_its_close_was_canceled(bridge: Bridge) -> None:
    """The close is finished first, then the other side is opened with the size that was asked for."""
    await bridge.send(quantity="0.04")
    await bridge.fault("no_fill")
    asked = asyncio.create_task(bridge.send(action="flip", quantity=None))
    await _cancel_at_exchange(bridge)
    await bridge.clear_faults()
    await asked
    await bridge.until_settled()
    assert await _sizes_sent(bridge) == [D("0.04")] * 3
    assert await bridge.positions() == {BTC: D("-0.04")}


async def test_a_cancel_ends_no_exit_that_is_sent_again(bridge: Bridge) -> None:
    """Nor the first of them, whose position would stay open."""
    await bridge.send(quantity="0.04")
    await bridge.fault("no_fill")
    asked = asyncio.create_task(bridge.send(action="close", quantity=None))
    await _cancel_at_exchange(bridge)
    await bridge.send(action="cancel_all", symbol=None, quantity=None)
    await asked
    await bridge.clear_faults()
    await bridge.until_flat(BTC)


async def test_the_trader_hears_once_that_a_canceled_exit_is_still_open(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many tries it takes."""
    monkeypatch.setattr("kekbridge.execution.exit_watch._STILL_OPEN_AFTER", timedelta(seconds=0.2))
    monkeypatch.setattr("kekbridge.execution.exit_watch._FIRST_RETRY_S", 0.3)
    monkeypatch.setattr("kekbridge.execution.exit_watch._LONGEST_RETRY_S", 0.3)
    await bridge.send(quantity="0.04")
    await bridge.fault("no_fill")
    asked = asyncio.create_task(bridge.send(action="close", quantity=None))
    for _ in range(4):
        await _cancel_at_exchange(bridge)
    await asked
    assert "0.04 of 0.04 not filled" in (await bridge.heard("exit_waiting"))["waiting_for"]
    await bridge.clear_faults()
    await bridge.until_flat(BTC)
    assert (await _kinds(bridge)).count("exit_waiting") == 1


@pytest.mark.parametrize("after", ["0", "-0.02"], ids=["flat", "reversed"])
async def test_a_later_target_ends_the_retry_of_a_canceled_exit(bridge: Bridge, after: str) -> None:
    """The strategy came back while its exit was at the exchange: what the exchange canceled is not sent again, nor a reversal behind it."""
    bridge.add_webhook("following", follow="position", reorder_ms=0)
    await bridge.send("following", **position_fields("buy", "0", "0.02"))
    await bridge.fault("no_fill")
    leaving = asyncio.create_task(bridge.send("following", **position_fields("sell", "0.02", after)))

    async def is_open() -> bool:
        return bool(await bridge.daemon.exchange.open_orders())

    await until(is_open)
    back = asyncio.create_task(bridge.send("following", **position_fields("buy", after, "0.02")))

    async def is_queued() -> bool:
        return len({order.alert_id for order in await bridge.orders()}) == 3

    await until(is_queued)
    await _cancel_at_exchange(bridge)
    await bridge.clear_faults()
    await asyncio.gather(leaving, back)
    await bridge.until_settled()
    (retry,) = [order for order in await bridge.orders() if order.is_retry]
    assert (retry.status, retry.code) == (OrderStatus.DENIED, "superseded")
    assert await bridge.positions() == {BTC: D("0.02")}


async def test_a_crash_before_a_canceled_exit_is_recorded_doubles_nothing(tmp_path: Path) -> None:
    """The retry is stored first and waits for the order before it; the next start learns of the cancel, and makes no second retry."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url) as bridge:
            await bridge.send(quantity="0.04")
            await bridge.fault("no_fill")
            _, leaving = await bridge.send(action="close", quantity=None)
            order = await bridge.until_stored(leaving, "accepted")
            canceled = replace(order, status=OrderStatus.CANCELED, finished_at=bridge.clock())
            bridge.daemon.trading.exits.continue_canceled(canceled)
            await bridge.daemon.database.flush()
        async with quick_bridge(tmp_path, paper_url) as bridge:
            assert await _sizes_sent(bridge) == [D("0.04")]
            await _cancel_at_exchange(bridge)
            await bridge.clear_faults()
            await bridge.until_flat(BTC)
            tries = sorted(await bridge.until_settled(), key=lambda order: order.sequence)[1:]
            assert [(order.leg, order.status.value) for order in tries] == [
                (0, "canceled"),
                (FIRST_RETRY_LEG, "filled"),
            ]
            assert await _sizes_sent(bridge) == [D("0.04")] * 2
    assert_rebuilt_equal(tmp_path / "data")


async def test_a_retry_lives_through_a_restart(tmp_path: Path) -> None:
    """It is stored with its schedule like any queued exit."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url) as bridge:
            await bridge.send(quantity="0.04")
            await bridge.fault("no_fill")
            asked = asyncio.create_task(bridge.send(action="close", quantity=None))
            await _cancel_at_exchange(bridge)
            await bridge.fault("maintenance")
            await asked
        await _clear(paper_url)
        async with quick_bridge(tmp_path, paper_url) as bridge:
            await bridge.until_flat(BTC)
            assert await _sizes_sent(bridge) == [D("0.04")] * 2


async def test_a_cancel_of_the_exchange_that_no_report_says_is_learned_after_a_restart(tmp_path: Path) -> None:
    """What is left is sent again, once."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url) as bridge:
            await bridge.send(quantity="0.04")
            await bridge.fault("no_fill")
            await bridge.fault("withhold_reports")
            asked = asyncio.create_task(bridge.send(action="close", quantity=None))
            await _cancel_at_exchange(bridge)
            await bridge.fault("maintenance")
            await asked
        await _clear(paper_url)
        async with quick_bridge(tmp_path, paper_url) as bridge:
            await bridge.until_flat(BTC)
            assert await _sizes_sent(bridge) == [D("0.04")] * 2
