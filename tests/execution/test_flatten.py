"""The emergency flatten cancels and closes everything on the account, and reports flat only once it has verified it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from kekbridge.execution.flatten import FlattenResult, flatten
from tests.bridge import BTC, ETH, Bridge

D = Decimal


async def _flatten(bridge: Bridge, *, deadline_s: float = 20.0) -> tuple[FlattenResult, list[str]]:
    progress: list[str] = []
    result = await flatten(
        bridge.daemon.exchange, clock=lambda: datetime.now(UTC), deadline_s=deadline_s, on_progress=progress.append
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
