"""The emergency flatten cancels and closes everything on the account, and reports flat only once it has verified it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from kekbridge.execution.direct_orders import send_directly
from kekbridge.execution.flatten import FlattenResult, flatten
from kekbridge.model import MarginMode
from tests.bridge import BTC, ETH, SOL, Bridge

D = Decimal


async def _flatten(bridge: Bridge, *, deadline_s: float = 20.0) -> tuple[FlattenResult, list[str]]:
    progress: list[str] = []
    result = await flatten(
        bridge.daemon.exchange,
        send=send_directly(bridge.daemon.exchange, lambda: datetime.now(UTC)),
        deadline_s=deadline_s,
        on_progress=progress.append,
    )
    return result, progress


async def test_closes_every_position_and_cancels_every_order(bridge: Bridge) -> None:
    """A long with a bracket, a short that kekbridge did not open, resting limit and stop orders: no position and no order is left."""
    await bridge.control("positions", {ETH: "-0.5"})
    await bridge.send(stopLoss="2%", takeProfit="3%")
    await bridge.send(symbol="SOLUSDT.P", quantity="1", orderType="limit", limitPrice="139")
    await bridge.send(symbol="SOLUSDT.P", quantity="1", orderType="stop", triggerPrice="150")
    result, progress = await _flatten(bridge)
    assert result.is_flat
    assert result.positions_closed == 2
    assert await bridge.positions() == {}
    assert await bridge.daemon.exchange.open_orders() == ()
    assert {f"closing {BTC}: 0.01", f"closing {ETH}: -0.5"} <= set(progress)


async def test_a_flat_account_stays_flat(bridge: Bridge) -> None:
    """With nothing to close it succeeds and opens nothing."""
    result, _ = await _flatten(bridge)
    assert (result.is_flat, result.positions_closed) == (True, 0)
    assert await bridge.journal("order_accepted") == []


async def test_reports_what_could_not_be_closed(bridge: Bridge) -> None:
    """The exchange rejects every close: after the deadline the result has the open position and the exchange's error."""
    await bridge.send()
    await bridge.fault("refuse", code=-1101, message="no")
    result, _ = await _flatten(bridge, deadline_s=1.5)
    assert not result.is_flat
    assert [(position.symbol, position.quantity) for position in result.positions_left] == [(BTC, D("0.01"))]
    assert "-1101" in result.error


async def test_an_isolated_position_that_is_left_is_not_flat(bridge: Bridge) -> None:
    """It was passed over, and the command ended with exit code 0: now it is tried, and what could not be closed is named with its mode."""
    await bridge.set_isolated(BTC, "0.3")
    await bridge.fault("refuse", code=-1101, message="no")
    result, _ = await _flatten(bridge, deadline_s=0.5)
    assert not result.is_flat
    assert [(each.symbol, each.margin_mode) for each in result.positions_left] == [(BTC, MarginMode.ISOLATED)]
    assert "-1101" in result.error


@pytest.mark.parametrize("held", ["18", "-18", "32.5"])
async def test_a_position_above_the_largest_order_is_closed_in_parts(bridge: Bridge, held: str) -> None:
    """18 BTC with base_max 10: orders of 10 and 8, instead of one that the exchange refuses with -1104 in every round."""
    await bridge.set_positions(BTC=held)
    result, _ = await _flatten(bridge)
    assert (result.is_flat, result.positions_closed, await bridge.positions()) == (True, 1, {})
    sizes = [D(row["quantity"]) for row in await bridge.journal("fill", symbol=BTC)]
    assert sorted(sizes, reverse=True) == sizes_of(abs(D(held)))
    assert await bridge.journal("order_refused") == []


def sizes_of(quantity: Decimal) -> list[Decimal]:
    """Orders of at most 10 that together close a quantity."""
    return [D(10)] * int(quantity // 10) + ([quantity % 10] if quantity % 10 else [])


async def test_what_no_order_can_close_is_named_as_dust(bridge: Bridge) -> None:
    """5.1234 SOL with steps of 0.01: 5.12 is closed, 0.0034 is dust with its minimum, and nothing is refused or tried for ever."""
    await bridge.set_positions(SOL="5.1234")
    result, _ = await _flatten(bridge)
    assert (result.is_flat, result.positions_closed, result.positions_left) == (True, 1, ())
    assert [(dust.symbol, dust.quantity) for dust in result.dust] == [(SOL, D("0.0034"))]
    assert result.dust[0].minimum > D("0.0034")
    assert await bridge.positions() == {SOL: D("0.0034")}
    assert await bridge.journal("order_refused") == []


async def test_isolated_positions_are_closed_as_isolated(bridge: Bridge) -> None:
    """One opened by hand, alone or beside a cross position of the same market: both are gone, neither was closed by the other's order."""
    await bridge.set_positions(BTC="0.5")
    await bridge.set_isolated(BTC, "-0.3")
    await bridge.set_isolated(ETH, "2")
    result, progress = await _flatten(bridge)
    assert (result.is_flat, result.positions_closed) == (True, 3)
    assert (await bridge.positions(), await bridge.isolated_positions()) == ({}, {})
    assert f"closing {BTC} isolated: -0.3" in progress


async def test_stops_stay_until_their_position_is_gone(bridge: Bridge) -> None:
    """The exchange refuses every close: entries are canceled, the stop stays live. When it takes them again, both are gone."""
    await bridge.send(stopLoss="2%")
    await bridge.send(symbol="SOLUSDT.P", quantity="1", orderType="limit", limitPrice="139")
    await bridge.fault("refuse", code=-1101, message="no")
    result, _ = await _flatten(bridge, deadline_s=1.5)
    assert not result.is_flat
    assert len(await bridge.daemon.exchange.live_stops(BTC)) == 1
    assert [order.symbol for order in await bridge.daemon.exchange.open_orders()] == [BTC]
    await bridge.clear_faults()
    result, _ = await _flatten(bridge)
    assert result.is_flat
    assert await bridge.daemon.exchange.open_orders() == ()


async def test_stops_of_closed_positions_go_while_another_is_left(bridge: Bridge) -> None:
    """A stop order of a position that was closed is canceled at once; that of one which could not be closed stays live."""
    await bridge.send(stopLoss="2%")
    await bridge.send(symbol="ETHUSDT.P", quantity="1")
    stop: dict[str, Any] = {
        "action": "sell",
        "quantity": "1",
        "orderType": "stop",
        "triggerPrice": "1700",
        "reduceOnly": True,
    }
    assert (await bridge.send(symbol="ETHUSDT.P", **stop))[1]["status"] == "accepted"
    await bridge.fault("refuse", code=-1101, symbol=BTC)
    result, _ = await _flatten(bridge, deadline_s=2.5)
    assert [(each.symbol, each.margin_mode) for each in result.positions_left] == [(BTC, MarginMode.CROSS)]
    assert await bridge.positions() == {BTC: D("0.01")}
    assert {order.symbol for order in await bridge.daemon.exchange.open_orders()} == {BTC}
