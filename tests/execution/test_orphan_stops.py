"""Stops of ours that outlived their position are cancelled; those that still protect something stay."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from kekbridge.execution.orphan_stops import OrphanStopCanceller
from kekbridge.model import Order, OrderStatus, OrderType
from kekbridge.store import alerts, events
from tests.bridge import BTC, House
from tests.waiting import until

D = Decimal


async def _trailed(house: House) -> dict[str, Any]:
    """Long 0.02 with a trailing stop that waits at the exchange."""
    _, answer = await house.send(quantity="0.02", trailingStop="3%")
    await until(lambda: _is_waiting(house))
    return answer


async def _stops(house: House) -> tuple[Order, ...]:
    return tuple(order for order in await house.orders() if order.intent.order_type is OrderType.STOP)


async def _is_waiting(house: House) -> bool:
    return [stop.status for stop in await _stops(house)] == [OrderStatus.ACCEPTED]


async def _is_canceled(house: House) -> bool:
    is_told = [stop.status for stop in await _stops(house)] == [OrderStatus.CANCELED]
    return is_told and not (await house.control("state"))["open_algo_orders"]


async def test_a_trailing_stop_goes_with_its_position(house: House) -> None:
    """An alert closes the position: nothing that could close a later one is left at the exchange."""
    entry = await house.order(await _trailed(house))
    await house.send(action="close", quantity=None)
    await until(lambda: _is_canceled(house))

    async def is_told() -> bool:
        story = await house.daemon.database.read(events.of_alert, entry.alert_id)
        return [event.kind for event in story].count("leftover_canceled") == 1

    await until(is_told)
    assert (await house.daemon.database.read(alerts.get, entry.alert_id)).status == "filled"


async def test_a_trailing_stop_is_not_inherited(house: House) -> None:
    """Closed and entered again at once, without a stop: the new position does not get the stop of the one before."""
    await _trailed(house)
    await house.send(action="close", quantity=None)
    await house.send(quantity="0.01")
    await until(lambda: _is_canceled(house))
    assert await house.positions() == {BTC: D("0.01")}


async def test_a_stop_of_what_is_left_stays(house: House) -> None:
    """A part was closed, then more was bought: some of the first position was always open, and its stop with it."""
    await _trailed(house)
    canceled: list[str] = []

    async def cancel(name: str) -> str | None:
        canceled.append(name)
        return None

    inside = house.daemon
    leftovers = OrphanStopCanceller(
        database=inside.database, exchange=inside.exchange, cancel=cancel, clock=house.clock, patience_s=0
    )
    await house.send(action="close", quantity="0.01")
    await house.send(quantity="0.03")
    for _ in range(3):
        await leftovers.poll()
    assert canceled == []
    await house.send(action="close", quantity=None)

    async def is_noticed() -> bool:
        await leftovers.poll()
        return bool(canceled)

    await until(is_noticed)
    assert set(canceled) == {stop.client_order_id for stop in await _stops(house)}
