"""Stops of ours that outlived their position are cancelled; those that still protect something stay."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from kekbridge.execution.orphan_stops import OrphanStopCanceller
from kekbridge.model import Order, OrderStatus, OrderType
from kekbridge.store import alerts, events
from tests.bridge import BTC, Bridge
from tests.waiting import until

D = Decimal


async def _trailed(bridge: Bridge) -> dict[str, Any]:
    """Long 0.02 with a trailing stop that waits at the exchange."""
    _, answer = await bridge.send(quantity="0.02", trailingStop="3%")
    await until(lambda: _is_waiting(bridge))
    return answer


async def _stops(bridge: Bridge) -> tuple[Order, ...]:
    return tuple(order for order in await bridge.orders() if order.intent.order_type is OrderType.STOP)


async def _is_waiting(bridge: Bridge) -> bool:
    return [stop.status for stop in await _stops(bridge)] == [OrderStatus.ACCEPTED]


async def _is_canceled(bridge: Bridge) -> bool:
    is_told = [stop.status for stop in await _stops(bridge)] == [OrderStatus.CANCELED]
    return is_told and not (await bridge.control("state"))["open_algo_orders"]


async def test_a_trailing_stop_goes_with_its_position(bridge: Bridge) -> None:
    """An alert closes the position: nothing that could close a later one is left at the exchange."""
    entry = await bridge.order(await _trailed(bridge))
    await bridge.send(action="close", quantity=None)
    await until(lambda: _is_canceled(bridge))

    async def is_told() -> bool:
        story = await bridge.daemon.database.read(events.of_alert, entry.alert_id)
        return [event.kind for event in story].count("leftover_canceled") == 1

    await until(is_told)
    assert (await bridge.daemon.database.read(alerts.get, entry.alert_id)).status == "filled"


async def test_a_trailing_stop_is_not_inherited(bridge: Bridge) -> None:
    """Closed and entered again at once, without a stop: the new position does not get the stop of the one before."""
    await _trailed(bridge)
    await bridge.send(action="close", quantity=None)
    await bridge.send(quantity="0.01")
    await until(lambda: _is_canceled(bridge))
    assert await bridge.positions() == {BTC: D("0.01")}


async def test_a_stop_of_what_is_left_stays(bridge: Bridge) -> None:
    """A part was closed, then more was bought: some of the first position was always open, and its stop with it."""
    await _trailed(bridge)
    canceled: list[str] = []

    async def cancel(name: str) -> str | None:
        canceled.append(name)
        return None

    inside = bridge.daemon
    leftovers = OrphanStopCanceller(
        database=inside.database, exchange=inside.exchange, cancel=cancel, clock=bridge.clock, patience_s=0
    )
    await bridge.send(action="close", quantity="0.01")
    await bridge.send(quantity="0.03")
    for _ in range(3):
        await leftovers.poll()
    assert canceled == []
    await bridge.send(action="close", quantity=None)

    async def is_noticed() -> bool:
        await leftovers.poll()
        return bool(canceled)

    await until(is_noticed)
    assert set(canceled) == {stop.client_order_id for stop in await _stops(bridge)}
