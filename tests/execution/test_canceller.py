"""Cancel steps deny queued orders and cancel open ones at the exchange; protective orders stay."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from kekbridge.model import OrderStatus
from kekbridge.store import alerts
from tests.bridge import BTC, Bridge
from tests.waiting import until

D = Decimal


async def _cancel(bridge: Bridge, **fields: Any) -> str:
    """Send a cancel, wait until it is executed, and return the alert's status."""
    _, answer = await bridge.send(action="cancel", quantity=None, **fields)

    async def is_done() -> bool:
        return (await bridge.daemon.database.read(alerts.find, answer["alertId"])).status != "queued"

    await until(is_done)
    return (await bridge.daemon.database.read(alerts.find, answer["alertId"])).status


async def test_a_resting_order_is_cancelled(bridge: Bridge) -> None:
    """It is canceled in the store only once the exchange reports it so."""
    _, resting = await bridge.send(orderType="limit", limitPrice="64000")
    assert await _cancel(bridge) == "done"
    assert (await bridge.order(resting)).status is OrderStatus.CANCELED
    assert await bridge.daemon.exchange.open_orders() == ()


async def test_a_queued_order_is_denied(bridge: Bridge) -> None:
    """An order that waits for its next attempt is denied and never sent."""
    await bridge.fault("rate_limit", path="/v1/order", method="POST")
    _, queued = await bridge.send()
    assert await _cancel(bridge) == "done"
    await bridge.clear_faults()
    order = await bridge.order(queued)
    assert (order.status, order.code) == (OrderStatus.DENIED, "canceled_by_alert")
    assert await bridge.journal("order_accepted") == []


async def test_the_stop_of_a_position_stays(bridge: Bridge) -> None:
    """A cancel closes no position, so its stop must stay."""
    await bridge.send(stopLoss="2%")
    assert await _cancel(bridge) == "done"
    assert await bridge.positions() == {BTC: D("0.01")}
    assert len(await bridge.daemon.exchange.live_stops(BTC)) == 1


async def test_orders_of_another_symbol_stay(bridge: Bridge) -> None:
    """A cancel step concerns the orders of its own symbol only."""
    _, other = await bridge.send(symbol="ETHUSDT.P", quantity="0.1", orderType="limit", limitPrice="1790")
    assert await _cancel(bridge) == "done"
    assert (await bridge.order(other)).status is OrderStatus.ACCEPTED
