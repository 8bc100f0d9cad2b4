"""Cancel steps deny queued orders and cancel open ones at the exchange; protective orders stay."""

from __future__ import annotations

from decimal import Decimal

from kekbridge.model import OrderStatus
from kekbridge.store import alerts
from tests.bridge import BTC, House
from tests.waiting import until

D = Decimal


async def _cancel(house: House, **fields: object) -> str:
    """Send a cancel, wait until it is executed, and return the alert's status."""
    _, answer = await house.send(action="cancel", quantity=None, **fields)

    async def is_done() -> bool:
        return (await house.daemon.database.read(alerts.find, answer["alertId"])).status != "queued"

    await until(is_done)
    return (await house.daemon.database.read(alerts.find, answer["alertId"])).status


async def test_a_resting_order_is_cancelled(house: House) -> None:
    """It is canceled in the store only once the exchange reports it so."""
    _, resting = await house.send(orderType="limit", limitPrice="64000")
    assert await _cancel(house) == "done"
    assert (await house.order(resting)).status is OrderStatus.CANCELED
    assert await house.daemon.exchange.open_orders() == ()


async def test_a_queued_order_is_denied(house: House) -> None:
    """An order that waits for its next attempt is denied and never sent."""
    await house.fault("rate_limit", path="/v1/order", method="POST")
    _, queued = await house.send()
    assert await _cancel(house) == "done"
    await house.clear_faults()
    order = await house.order(queued)
    assert (order.status, order.code) == (OrderStatus.DENIED, "canceled_by_alert")
    assert await house.journal("order_accepted") == []


async def test_the_stop_of_a_position_stays(house: House) -> None:
    """A cancel closes no position, so its stop must stay."""
    await house.send(stopLoss="2%")
    assert await _cancel(house) == "done"
    assert await house.positions() == {BTC: D("0.01")}
    assert len(await house.daemon.exchange.live_stops(BTC)) == 1


async def test_orders_of_another_symbol_stay(house: House) -> None:
    """A cancel step concerns the orders of its own symbol only."""
    _, other = await house.send(symbol="ETHUSDT.P", quantity="0.1", orderType="limit", limitPrice="1790")
    assert await _cancel(house) == "done"
    assert (await house.order(other)).status is OrderStatus.ACCEPTED
