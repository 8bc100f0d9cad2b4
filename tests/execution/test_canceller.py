"""Cancel steps: queued orders are withdrawn, open ones cancelled at the exchange, protection stays."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from kekbridge.model import OrderStatus
from kekbridge.store import alerts
from tests.bridge import BTC, Bridge
from tests.waiting import until

D = Decimal


async def _cancel(bridge: Bridge, **fields: Any) -> str:
    """Send a cancel, wait for its end, and give its status."""
    _, answer = await bridge.send(action="cancel", quantity=None, **fields)

    async def is_done() -> bool:
        return (await bridge.daemon.database.read(alerts.find, answer["alertId"])).status != "queued"

    await until(is_done)
    return (await bridge.daemon.database.read(alerts.find, answer["alertId"])).status


async def test_a_resting_order_is_cancelled(bridge: Bridge) -> None:
    """Cancelled at the exchange, and believed only when the exchange says so."""
    _, resting = await bridge.send(orderType="limit", limitPrice="64000")
    assert await _cancel(bridge) == "done"
    assert (await bridge.order(resting)).status is OrderStatus.CANCELED
    assert await bridge.daemon.exchange.open_orders() == ()


async def test_a_queued_order_is_withdrawn(bridge: Bridge) -> None:
    """It waits for its next attempt: it is denied and never sent."""
    await bridge.fault("rate_limit", path="/v1/order", method="POST")
    _, queued = await bridge.send()
    assert await _cancel(bridge) == "done"
    await bridge.clear_faults()
    order = await bridge.order(queued)
    assert (order.status, order.code) == (OrderStatus.DENIED, "canceled_by_alert")
    assert await bridge.journal("order_accepted") == []


async def test_the_stop_of_a_position_stays(bridge: Bridge) -> None:
    """A cancel closes no position, so what protects it must stay."""
    await bridge.send(stopLoss="2%")
    assert await _cancel(bridge) == "done"
    assert await bridge.positions() == {BTC: D("0.01")}
    assert len(await bridge.daemon.exchange.live_stops(BTC)) == 1


async def test_orders_of_others_stay(bridge: Bridge) -> None:
    """Only orders that kekbridge made are cancelled; another symbol's neither."""
    _, other = await bridge.send(symbol="ETHUSDT.P", quantity="0.1", orderType="limit", limitPrice="1790")
    assert await _cancel(bridge) == "done"
    assert (await bridge.order(other)).status is OrderStatus.ACCEPTED
