"""The emergency: everything cancelled and closed, also what others made, and believed only when it is seen."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from kekbridge.execution.flatten import FlattenResult, flatten
from tests.bridge import BTC, ETH, Bridge

D = Decimal


async def _flatten(bridge: Bridge, *, deadline_s: float = 20.0) -> tuple[FlattenResult, list[str]]:
    told: list[str] = []
    result = await flatten(
        bridge.daemon.exchange, clock=lambda: datetime.now(UTC), deadline_s=deadline_s, tell=told.append
    )
    return result, told


async def test_everything_goes(bridge: Bridge) -> None:
    """Long with a bracket, foreign short, resting limit and stop orders: afterwards no position and no order of any type."""
    await bridge.control("positions", {ETH: "-0.5"})
    await bridge.send(stopLoss="2%", takeProfit="3%")
    await bridge.send(symbol="SOLUSDT.P", quantity="1", orderType="limit", limitPrice="139")
    await bridge.send(symbol="SOLUSDT.P", quantity="1", orderType="stop", triggerPrice="150")
    result, told = await _flatten(bridge)
    assert result.is_flat
    assert result.positions_closed == 2
    assert await bridge.positions() == {}
    assert await bridge.daemon.exchange.open_orders() == ()
    assert {f"closing {BTC}: 0.01", f"closing {ETH}: -0.5"} <= set(told)


async def test_a_flat_account_stays_flat(bridge: Bridge) -> None:
    """Nothing to close is no failure, and opens nothing."""
    result, _ = await _flatten(bridge)
    assert (result.is_flat, result.positions_closed) == (True, 0)
    assert await bridge.journal("order_accepted") == []


async def test_what_could_not_be_closed_is_told(bridge: Bridge) -> None:
    """The exchange refuses every close: not flat, with the position and the exchange's words, after the deadline."""
    await bridge.send()
    await bridge.fault("refuse", code=-1101, message="no")
    result, _ = await _flatten(bridge, deadline_s=1.5)
    assert not result.is_flat
    assert [(position.symbol, position.quantity) for position in result.positions_left] == [(BTC, D("0.01"))]
    assert "-1101" in result.trouble
