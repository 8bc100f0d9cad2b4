"""Waiters get the orders of an alert once they are settled."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal

import pytest
from msgspec.structs import replace

from kekbridge.execution.updates import OrderUpdates, TimedEvent
from kekbridge.model import FIRST_PROTECTIVE_LEG, Order, OrderStatus, OrderType, Purpose, client_order_id_of
from tests.store.factories import NOW, intent

ALERT = "01KF0000000000000000000001"

# ------------------------------------------------------------------------------------------------------------- TimedEvent


async def test_waiting_for_a_set_event_takes_no_turn_of_the_event_loop() -> None:
    """An event set before the wait is not missed, and no other task runs in between."""
    has_run = False

    def run() -> None:
        nonlocal has_run
        has_run = True

    asyncio.get_running_loop().call_soon(run)
    event = TimedEvent()
    event.set()
    assert await event.wait(60)
    assert not has_run


async def test_setting_an_event_ends_the_wait() -> None:
    """Also if it is set twice before the waiter runs."""
    event = TimedEvent()
    waiting = asyncio.create_task(event.wait(60))
    await asyncio.sleep(0)
    event.set()
    event.set()
    async with asyncio.timeout(5):
        assert await waiting


async def test_waiting_for_an_event_times_out() -> None:
    """The timeout is in seconds; an event that was set and cleared before does not count."""
    event = TimedEvent()
    event.set()
    event.clear()
    async with asyncio.timeout(5):
        assert not await event.wait(0.001)


async def test_an_event_works_again_after_a_cancelled_wait() -> None:
    """Setting it after the wait was cancelled wakes no task, and the next wait starts afresh."""
    event = TimedEvent()
    waiting = asyncio.create_task(event.wait(60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    event.set()
    event.clear()
    assert not await event.wait(0)


# ------------------------------------------------------------------------------------------------------ UnrecordedFills


def order(leg: int = 0, status: OrderStatus = OrderStatus.QUEUED, **changes: object) -> Order:
    """One leg of alert ALERT."""
    base = Order(
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
    return replace(base, **changes)


async def test_a_waiter_is_woken_when_every_leg_is_settled() -> None:
    """Of two legs the first outcome does not wake the waiter, the second does; both are returned by leg."""
    order_updates = OrderUpdates()
    with order_updates.wait_for(ALERT, [order(0), order(1)]) as waiter:
        waiting = asyncio.create_task(waiter.wait(20))
        order_updates.publish(order(1, OrderStatus.FILLED))
        await asyncio.sleep(0)
        assert not waiting.done()
        order_updates.publish(order(0, OrderStatus.REJECTED))
        assert [each.status for each in await waiting] == [OrderStatus.REJECTED, OrderStatus.FILLED]


async def test_a_resting_order_settles_and_a_market_order_does_not() -> None:
    """Accepted ends the wait for a limit order, which may rest for days, but not for a market order."""
    order_updates = OrderUpdates()
    limit = intent(order_type=OrderType.LIMIT, limit_price=Decimal(64000))
    with order_updates.wait_for(ALERT, [order(0, intent=limit)]) as waiter:
        order_updates.publish(order(0, OrderStatus.ACCEPTED, intent=limit))
        assert (await waiter.wait(0.001))[0].is_settled
    with order_updates.wait_for(ALERT, [order(0)]) as waiter:
        order_updates.publish(order(0, OrderStatus.ACCEPTED))
        assert not (await waiter.wait(0.001))[0].is_settled


async def test_a_waiter_ignores_protective_orders() -> None:
    """A stop that kekbridge added afterwards may stay open for days: it neither delays the response nor appears in it."""
    order_updates = OrderUpdates()
    stop = order(FIRST_PROTECTIVE_LEG, OrderStatus.QUEUED, intent=intent(purpose=Purpose.PROTECT, reduce_only=True))
    with order_updates.wait_for(ALERT, [order(0, OrderStatus.FILLED), stop]) as waiter:
        order_updates.publish(stop)
        assert [each.leg for each in await waiter.wait(20)] == [0]


async def test_a_waiter_gets_only_its_own_alerts_orders_inside_the_block() -> None:
    """Orders of other alerts, and those published after the block, do not reach it."""
    order_updates = OrderUpdates()
    with order_updates.wait_for(ALERT, [order(0)]) as waiter:
        assert (await waiter.wait(0))[0].status is OrderStatus.QUEUED
        order_updates.publish(replace(order(0, OrderStatus.FILLED), alert_id="another"))
        assert waiter.orders[0].status is OrderStatus.QUEUED
    order_updates.publish(order(0, OrderStatus.FILLED))
    assert waiter.orders[0].status is OrderStatus.QUEUED


# ---------------------------------------------------------------------------------------------------- PendingAcceptance
