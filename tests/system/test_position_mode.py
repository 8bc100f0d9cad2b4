"""Webhooks that follow a strategy's position: reversals, swapped and lost alerts; also cancels and alerts with several steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from kekbridge.model import Purpose
from kekbridge.store import alerts
from tests.bridge import Bridge, position_fields, running_bridge
from tests.waiting import until

BTC = "PERP_BTC_USDC"


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    async with running_bridge(tmp_path) as opened:
        await opened.control("prices", {BTC: "50000"})
        opened.add_webhook("main")
        yield opened


async def test_a_reversal_closes_first_and_opens_the_rest(bridge: Bridge) -> None:
    """Long 0.3 to short 0.1: a reduce-only close of what is open, then an entry of 0.1, never one order through zero."""
    bridge.add_webhook("follower", follow="position")
    await bridge.set_positions(BTC="0.3")
    status, answer = await bridge.send("follower", **position_fields("sell", "0.3", "-0.1"))
    assert status in (200, 202), answer
    exit_order, entry = await bridge.until_settled()
    assert (exit_order.intent.purpose, exit_order.intent.reduce_only) == (Purpose.EXIT, True)
    assert (entry.intent.purpose, entry.intent.quantity) == (Purpose.ENTRY, Decimal("0.1"))
    assert await bridge.position() == Decimal("-0.1")


async def test_a_reversal_that_rested_sells_no_more_than_it_said(bridge: Bridge) -> None:
    """Long 0.2, a limit sell of 0.3 rests, somebody else buys 0.2: it sells 0.3, and what the other bought stays."""
    bridge.add_webhook("other")
    await bridge.set_positions(BTC="0.2")
    limit = {"orderType": "limit", "limitPrice": "50100"}
    status, answer = await bridge.send(action="sell", quantity="0.3", **limit)
    assert status in (200, 202), answer
    assert (await bridge.send("other", action="buy", quantity="0.2"))[0] == 200
    await bridge.until_positions({BTC: Decimal("0.4")})
    await bridge.control("prices", {BTC: "50200"})
    await bridge.until_settled()

    async def is_done() -> bool:
        return len(await bridge.journal("fill", side="SELL")) == 2

    await until(is_done)
    assert sum(Decimal(fill["quantity"]) for fill in await bridge.journal("fill", side="SELL")) == Decimal("0.3")
    assert await bridge.position() == Decimal("0.1")


@pytest.mark.parametrize("resync", [False, True])
@pytest.mark.parametrize("gap_s", [0.0, 0.1])
async def test_swapped_alerts_of_one_bar_end_at_the_strategys_position(
    bridge: Bridge, resync: bool, gap_s: float
) -> None:
    """If the open of the other side overtakes the close within reorder_ms, the position still ends at the strategy's."""
    bridge.add_webhook("follower", follow="position", resync=resync, reorder_ms=30_000)
    await bridge.set_positions(BTC="0.2")
    stamp = bridge.message("follower")["timestamp"]  # both alerts belong to the same bar
    opened = asyncio.create_task(bridge.send("follower", timestamp=stamp, **position_fields("sell", "0", "-0.1")))
    await asyncio.sleep(gap_s)
    closed = await bridge.send("follower", timestamp=stamp, **position_fields("sell", "0.2", "0"))
    assert closed[0] in (200, 202), closed
    assert (await opened)[0] in (200, 202), await opened
    await bridge.until_settled()
    assert await bridge.position() == Decimal("-0.1")


@pytest.mark.parametrize("resync", [False, True])
async def test_a_late_close_after_a_restart_does_not_close_the_next_position(tmp_path: Path, resync: bool) -> None:
    """A swapped close that arrives after reorder_ms and a restart is out of date, and the position stays."""
    async with running_bridge(tmp_path) as bridge:
        await bridge.control("prices", {BTC: "50000"})
        bridge.add_webhook("follower", follow="position", resync=resync, reorder_ms=10)
        await bridge.set_positions(BTC="0.1")
        stamp = bridge.message("follower")["timestamp"]
        assert (await bridge.send("follower", timestamp=stamp, **position_fields("buy", "0", "0.2")))[0] in (200, 202)
        await bridge.until_settled()
        position = await bridge.position()
    assert position == Decimal("0.2" if resync else "0.3")
    async with running_bridge(tmp_path) as bridge:
        status, answer = await bridge.send("follower", timestamp=stamp, **position_fields("sell", "0.1", "0"))
        assert status in (200, 202), answer
        await bridge.until_settled()
        assert await bridge.position() == Decimal("0.2")
        stored = (await bridge.daemon.database.read(alerts.search)).alerts[-1]
        assert stored.warnings[0].startswith("out of date"), stored.warnings
        assert (stored.code == "out_of_date") is resync


async def test_an_alert_in_order_does_not_wait(bridge: Bridge) -> None:
    """An alert that continues from the known position is answered long before reorder_ms is over."""
    bridge.add_webhook("follower", follow="position", reorder_ms=600_000)
    status, answer = await bridge.send("follower", **position_fields("buy", "0", "0.1"))
    assert (status, answer["status"]) == (200, "filled")


async def test_a_lost_alert_is_reported_and_corrected_with_resync(bridge: Bridge) -> None:
    """The strategy was long and the account is flat: a warning names both; with resync its part becomes the strategy's position."""
    bridge.add_webhook("reporting", follow="position", reorder_ms=50)
    bridge.add_webhook("resyncing", follow="position", resync=True, reorder_ms=50)
    await bridge.send("reporting", alertId="one", **position_fields("buy", "0.1", "0.15"))
    await bridge.until_settled()
    assert await bridge.position() == Decimal("0.05")
    await bridge.until_positions({BTC: Decimal("0.05")})
    await bridge.send("resyncing", alertId="two", **position_fields("buy", "0.15", "0.2"))
    await bridge.until_settled()
    assert await bridge.position() == Decimal("0.25")  # beside the 0.05 of the other webhook
    stored = {one.alert_id: one.warnings for one in (await bridge.daemon.database.read(alerts.search)).alerts}
    assert any(text.startswith("drift: the strategy held 0.1 BTC") for text in stored["one"])
    assert any(text.startswith("drift: the strategy held 0.15 BTC") for text in stored["two"])


async def test_the_close_of_a_position_that_was_never_opened_is_no_error(bridge: Bridge) -> None:
    """An alert created while the strategy was in a position closes first: 200, no order, nothing opened."""
    bridge.add_webhook("follower", follow="position", reorder_ms=50)
    status, answer = await bridge.send("follower", **position_fields("sell", "0.2", "0"))
    assert (status, answer["success"], answer["code"]) == (200, True, "nothing_to_close")
    assert await bridge.orders() == ()


async def test_a_cancel_by_comment_takes_its_own_orders_only(bridge: Bridge) -> None:
    """Two resting orders with different comments: cancel with one comment leaves the other."""
    for comment, price in (("grid-a", "40000"), ("grid-b", "41000")):
        status, answer = await bridge.send(
            action="buy", quantity="0.01", orderType="limit", limitPrice=price, comment=comment
        )
        assert (status, answer["status"]) == (200, "accepted"), answer
    status, _ = await bridge.send(action="cancel", comment="grid-a")
    assert status in (200, 202)

    async def one_is_left() -> bool:
        return [order["price"] for order in (await bridge.control("state"))["open_orders"]] == ["41000"]

    await until(one_is_left)


async def test_a_cancel_takes_stop_orders_too(bridge: Bridge) -> None:
    """A resting stop entry is an algo order at the exchange: a cancel of the symbol finds it."""
    status, answer = await bridge.send(action="buy", quantity="0.01", orderType="stop", triggerPrice="52000")
    assert (status, answer["status"]) == (200, "accepted"), answer
    await bridge.send(action="cancel")

    async def none_is_left() -> bool:
        return not (await bridge.control("state"))["open_algo_orders"]

    await until(none_is_left)


async def test_steps_run_in_order_and_stop_at_the_first_denial(bridge: Bridge) -> None:
    """Of four steps whose third is denied, the first two trade, the response names the third, and the fourth never starts."""
    await bridge.set_positions(BTC="0.1")
    steps = [
        {"action": "close"},
        {"action": "buy", "symbol": "ETHUSDT.P", "quantity": "0.1"},
        {"action": "buy", "symbol": "ETHUSDT.P", "quantity": "100000"},
        {"action": "buy", "symbol": "SOLUSDT.P", "quantity": "1"},
    ]
    status, answer = await bridge.send(steps=steps)
    assert status in (200, 202), answer
    assert answer["stopped"]["code"] == "order_too_large"
    sent = await bridge.until_settled()
    assert [order.intent.symbol for order in sent] == [BTC, "PERP_ETH_USDC"]
    assert (await bridge.position(), await bridge.position("PERP_ETH_USDC")) == (Decimal(0), Decimal("0.1"))
    assert await bridge.position("PERP_SOL_USDC") == 0


async def test_swapped_alerts_end_right_in_signal_mode(bridge: Bridge) -> None:
    """The default template has the strategy's position: an open that overtook the close of its bar waits for it."""
    bridge.add_webhook("signals", reorder_ms=30_000)
    await bridge.set_positions(BTC="0.2")
    stamp = bridge.message("signals")["timestamp"]
    opened = asyncio.create_task(bridge.send("signals", timestamp=stamp, **position_fields("sell", "0", "-0.1")))
    await asyncio.sleep(0.1)
    closed = await bridge.send("signals", timestamp=stamp, **position_fields("sell", "0.2", "0"))
    assert closed[0] in (200, 202), closed
    assert (await opened)[0] in (200, 202), await opened
    await bridge.until_settled()
    assert await bridge.position() == Decimal("-0.1")


async def test_an_alert_of_a_strategy_that_shares_its_market_does_not_wait(bridge: Bridge) -> None:
    """In signal mode the account may hold more than the strategy: adding to the same side is in order."""
    bridge.add_webhook("signals", reorder_ms=600_000)
    await bridge.set_positions(BTC="0.2")
    async with asyncio.timeout(60):
        status, answer = await bridge.send("signals", **position_fields("buy", "0", "0.1"))
    assert status in (200, 202), answer
    await bridge.until_settled()
    assert await bridge.position() == Decimal("0.3")
