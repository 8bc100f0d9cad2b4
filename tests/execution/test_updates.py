"""Whoever waits for an alert's orders is told when nothing more will happen soon."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from kekbridge.execution.updates import OrderUpdates
from kekbridge.model import FIRST_PROTECTIVE_LEG, Order, OrderStatus, OrderType, Purpose, client_order_id_of
from tests.store.factories import NOW, intent

ALERT = "01KF0000000000000000000001"


def order(leg: int = 0, status: OrderStatus = OrderStatus.QUEUED, **changes: object) -> Order:
    """One leg of the one alert."""
    made = Order(
        client_order_id=client_order_id_of(ALERT, leg),
        alert_id=ALERT,
        webhook_id="hook",
        leg=leg,
        sequence=leg,
        intent=intent(),
        status=status,
        created_at=NOW,
        expires_at=NOW + timedelta(seconds=60),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


async def test_a_waiter_is_woken_when_every_leg_is_settled() -> None:
    """Two legs: the first outcome does not wake, the second does, and both are told in their order."""
    outcomes = OrderUpdates()
    with outcomes.wait_for(ALERT, [order(0), order(1)]) as watch:
        waiting = asyncio.create_task(watch.wait(20))
        outcomes.publish(order(1, OrderStatus.FILLED))
        await asyncio.sleep(0)
        assert not waiting.done()
        outcomes.publish(order(0, OrderStatus.REJECTED))
        assert [each.status for each in await waiting] == [OrderStatus.REJECTED, OrderStatus.FILLED]


async def test_a_resting_order_settles_and_a_market_order_does_not() -> None:
    """Accepted is the end of waiting for a limit order, which may rest for days, but not for a market order."""
    outcomes = OrderUpdates()
    limit = intent(order_type=OrderType.LIMIT, limit_price=Decimal(64000))
    with outcomes.wait_for(ALERT, [order(0, intent=limit)]) as watch:
        outcomes.publish(order(0, OrderStatus.ACCEPTED, intent=limit))
        assert (await watch.wait(0.001))[0].is_settled
    with outcomes.wait_for(ALERT, [order(0)]) as watch:
        outcomes.publish(order(0, OrderStatus.ACCEPTED))
        assert not (await watch.wait(0.001))[0].is_settled


async def test_protective_orders_keep_nobody_waiting() -> None:
    """A stop that kekbridge added afterwards waits for days: it neither delays the answer nor shows in it."""
    outcomes = OrderUpdates()
    stop = order(FIRST_PROTECTIVE_LEG, OrderStatus.QUEUED, intent=intent(purpose=Purpose.PROTECT, reduce_only=True))
    with outcomes.wait_for(ALERT, [order(0, OrderStatus.FILLED), stop]) as watch:
        outcomes.publish(stop)
        assert [each.leg for each in await watch.wait(20)] == [0]


async def test_a_waiter_that_gives_up_leaves_nothing_behind() -> None:
    """After the block a publication reaches nobody, and other alerts never did."""
    outcomes = OrderUpdates()
    with outcomes.wait_for(ALERT, [order(0)]) as watch:
        assert (await watch.wait(0))[0].status is OrderStatus.QUEUED
        outcomes.publish(replace(order(0, OrderStatus.FILLED), alert_id="another"))
        assert watch.orders[0].status is OrderStatus.QUEUED
    outcomes.publish(order(0, OrderStatus.FILLED))
    assert watch.orders[0].status is OrderStatus.QUEUED
