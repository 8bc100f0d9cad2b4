"""Webhooks that follow a strategy's position, in a running bridge: reversals, swapped and lost alerts; cancels, several steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from kekbridge.model import Purpose
from kekbridge.store import alerts
from tests.system.desk import Desk, fill, open_desk
from tests.waiting import until

BTC = "PERP_BTC_USDC"


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path) as opened:
        await opened.control("prices", {BTC: "50000"})
        opened.add_webhook("main")
        yield opened


async def test_a_reversal_closes_first_and_opens_the_rest(desk: Desk) -> None:
    """Long 0.3 to short 0.1: a reduce-only close of what is open, then an entry of 0.1, never one order through zero."""
    desk.add_webhook("follower", follow="position")
    await desk.hold(BTC="0.3")
    status, answer = await desk.send("follower", **fill("sell", "0.3", "-0.1"))
    assert status in (200, 202), answer
    exit_order, entry = await desk.settled()
    assert (exit_order.intent.purpose, exit_order.intent.reduce_only) == (Purpose.EXIT, True)
    assert (entry.intent.purpose, entry.intent.quantity) == (Purpose.ENTRY, Decimal("0.1"))
    assert await desk.position() == Decimal("-0.1")


@pytest.mark.parametrize("resync", [False, True])
@pytest.mark.parametrize("gap_s", [0.0, 0.1])
async def test_swapped_alerts_of_one_bar_end_right(desk: Desk, resync: bool, gap_s: float) -> None:
    """The open of the other side overtakes the close: within reorder_ms the position still ends where the strategy is."""
    desk.add_webhook("follower", follow="position", resync=resync, reorder_ms=30_000)
    await desk.hold(BTC="0.2")
    stamp = desk.message("follower")["timestamp"]  # of the bar that both belong to
    opened = asyncio.create_task(desk.send("follower", timestamp=stamp, **fill("sell", "0", "-0.1")))
    await asyncio.sleep(gap_s)
    closed = await desk.send("follower", timestamp=stamp, **fill("sell", "0.2", "0"))
    assert closed[0] in (200, 202), closed
    assert (await opened)[0] in (200, 202), await opened
    await desk.settled()
    assert await desk.position() == Decimal("-0.1")


@pytest.mark.parametrize("resync", [False, True])
async def test_a_close_that_comes_after_a_restart_does_not_flatten_its_successor(tmp_path: Path, resync: bool) -> None:
    """Close and open arrive swapped, the close long after reorder_ms and after a restart: it is out of date, the position stays."""
    async with open_desk(tmp_path) as desk:
        await desk.control("prices", {BTC: "50000"})
        desk.add_webhook("follower", follow="position", resync=resync, reorder_ms=10)
        await desk.hold(BTC="0.1")
        stamp = desk.message("follower")["timestamp"]
        assert (await desk.send("follower", timestamp=stamp, **fill("buy", "0", "0.2")))[0] in (200, 202)
        await desk.settled()
        position, keys = await desk.position(), desk.keys
    assert position == Decimal("0.2" if resync else "0.3")
    async with open_desk(tmp_path) as desk:
        desk.keys, desk.sent = keys, 10
        status, answer = await desk.send("follower", timestamp=stamp, **fill("sell", "0.1", "0"))
        assert status in (200, 202), answer
        await desk.settled()
        assert await desk.position() == Decimal("0.2")
        stored = (await desk.daemon.database.read(alerts.search)).alerts[-1]
        assert stored.warnings[0].startswith("out of date"), stored.warnings
        assert (stored.code == "out_of_date") is resync


async def test_an_alert_that_follows_from_the_position_does_not_wait(desk: Desk) -> None:
    """reorder_ms costs nothing while nothing is out of turn: an answer comes long before it is over."""
    desk.add_webhook("follower", follow="position", reorder_ms=600_000)
    status, answer = await desk.send("follower", **fill("buy", "0", "0.1"))
    assert (status, answer["status"]) == (200, "filled")


async def test_a_lost_alert_is_reported_and_corrected_with_resync(desk: Desk) -> None:
    """The strategy was long before and the account is flat: a warning names both; with resync the position becomes the strategy's."""
    desk.add_webhook("reporting", follow="position", reorder_ms=50)
    desk.add_webhook("resyncing", follow="position", resync=True, reorder_ms=50)
    await desk.send("reporting", alertId="one", **fill("buy", "0.1", "0.15"))
    await desk.settled()
    assert await desk.position() == Decimal("0.05")
    await desk.seen({BTC: Decimal("0.05")})
    await desk.send("resyncing", alertId="two", **fill("buy", "0.15", "0.2"))
    await desk.settled()
    assert await desk.position() == Decimal("0.2")
    stored = {one.alert_id: one.warnings for one in (await desk.daemon.database.read(alerts.search)).alerts}
    assert any(text.startswith("drift: the strategy held 0.1 BTC") for text in stored["one"])
    assert any(text.startswith("drift: the strategy held 0.15 BTC") for text in stored["two"])


async def test_the_close_of_a_position_never_opened_is_answered_politely(desk: Desk) -> None:
    """An alert created while the strategy was in a position closes first: 200, no order, nothing opened."""
    desk.add_webhook("follower", follow="position", reorder_ms=50)
    status, answer = await desk.send("follower", **fill("sell", "0.2", "0"))
    assert (status, answer["success"], answer["code"]) == (200, True, "nothing_to_close")
    assert await desk.orders() == ()


async def test_a_cancel_by_comment_takes_its_own_orders_only(desk: Desk) -> None:
    """Two resting orders with different comments: cancel with one comment leaves the other."""
    for comment, price in (("grid-a", "40000"), ("grid-b", "41000")):
        status, answer = await desk.send(
            action="buy", quantity="0.01", orderType="limit", limitPrice=price, comment=comment
        )
        assert (status, answer["status"]) == (200, "accepted"), answer
    status, _ = await desk.send(action="cancel", comment="grid-a")
    assert status in (200, 202)

    async def one_is_left() -> bool:
        return [order["price"] for order in (await desk.control("state"))["open_orders"]] == ["41000"]

    await until(one_is_left)


async def test_a_cancel_takes_stop_orders_too(desk: Desk) -> None:
    """A resting stop entry is an algo order at the exchange: a cancel of the symbol finds it."""
    status, answer = await desk.send(action="buy", quantity="0.01", orderType="stop", triggerPrice="52000")
    assert (status, answer["status"]) == (200, "accepted"), answer
    await desk.send(action="cancel")

    async def none_is_left() -> bool:
        return not (await desk.control("state"))["open_algo_orders"]

    await until(none_is_left)


async def test_steps_run_in_order_and_stop_at_the_first_no(desk: Desk) -> None:
    """Close, then open another market, then one that is refused: the first two trade, the third is named, the fourth never starts."""
    await desk.hold(BTC="0.1")
    steps = [
        {"action": "close"},
        {"action": "buy", "symbol": "ETHUSDT.P", "quantity": "0.1"},
        {"action": "buy", "symbol": "ETHUSDT.P", "quantity": "100000"},
        {"action": "buy", "symbol": "SOLUSDT.P", "quantity": "1"},
    ]
    status, answer = await desk.send(steps=steps)
    assert status in (200, 202), answer
    assert answer["stopped"]["code"] == "order_too_large"
    sent = await desk.settled()
    assert [order.intent.symbol for order in sent] == [BTC, "PERP_ETH_USDC"]
    assert (await desk.position(), await desk.position("PERP_ETH_USDC")) == (Decimal(0), Decimal("0.1"))
    assert await desk.position("PERP_SOL_USDC") == 0
