"""Orphan stops are cancelled; stops that still protect a position stay."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from kekbridge.execution.orphan_stops import OrphanStopCanceller
from kekbridge.model import Order, OrderStatus, OrderType
from kekbridge.store import alerts, events
from tests.bridge import BTC, House
from tests.waiting import until

D = Decimal


async def _open_with_trailing_stop(house: House) -> dict[str, Any]:
    """Open a long of 0.02 whose trailing stop is live at the exchange."""
    _, answer = await house.send(quantity="0.02", trailingStop="3%")
    await until(lambda: _is_live(house))
    return answer


async def _stops(house: House) -> tuple[Order, ...]:
    return tuple(order for order in await house.orders() if order.intent.order_type is OrderType.STOP)


async def _is_live(house: House) -> bool:
    return [stop.status for stop in await _stops(house)] == [OrderStatus.ACCEPTED]


async def _is_canceled(house: House) -> bool:
    is_stored = [stop.status for stop in await _stops(house)] == [OrderStatus.CANCELED]
    return is_stored and not (await house.control("state"))["open_algo_orders"]


async def test_a_trailing_stop_is_cancelled_with_its_position(house: House) -> None:
    """An alert closes the position: no stop that could close a later one is left at the exchange."""
    entry = await house.order(await _open_with_trailing_stop(house))
    await house.send(action="close", quantity=None)
    await until(lambda: _is_canceled(house))

    async def is_in_history() -> bool:
        history = await house.daemon.database.read(events.of_alert, entry.alert_id)
        return [event.kind for event in history].count("leftover_canceled") == 1

    await until(is_in_history)
    assert (await house.daemon.database.read(alerts.get, entry.alert_id)).status == "filled"


async def test_a_trailing_stop_does_not_pass_to_the_next_position(house: House) -> None:
    """Closed and entered again at once without a stop: the new position does not keep the stop of the previous one."""
    await _open_with_trailing_stop(house)
    await house.send(action="close", quantity=None)
    await house.send(quantity="0.01")
    await until(lambda: _is_canceled(house))
    assert await house.positions() == {BTC: D("0.01")}


async def test_the_stop_of_a_partly_closed_position_stays(house: House) -> None:
    """A part is closed, then more is bought: the position was never flat, so its stop still belongs to it."""
    await _open_with_trailing_stop(house)
    canceled: list[str] = []

    async def cancel(client_order_id: str) -> str | None:
        canceled.append(client_order_id)
        return None

    daemon = house.daemon
    canceller = OrphanStopCanceller(
        database=daemon.database, exchange=daemon.exchange, cancel=cancel, clock=house.clock, read_lag_s=0
    )
    await house.send(action="close", quantity="0.01")
    await house.send(quantity="0.03")
    for _ in range(3):
        await canceller.poll()
    assert canceled == []
    await house.send(action="close", quantity=None)

    async def is_cancelled() -> bool:
        await canceller.poll()
        return bool(canceled)

    await until(is_cancelled)
    assert set(canceled) == {stop.client_order_id for stop in await _stops(house)}
