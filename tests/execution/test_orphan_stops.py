"""Orphan stops are cancelled; stops that still protect a position stay."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from kekbridge.execution.orphan_stops import OrphanStopCanceller
from kekbridge.model import Order, OrderStatus, OrderType
from kekbridge.store import alerts, journal
from tests.bridge import BTC, Bridge
from tests.waiting import until

D = Decimal


async def _open_with_trailing_stop(bridge: Bridge) -> dict[str, Any]:
    """Open a long of 0.02 whose trailing stop is live at the exchange."""
    _, answer = await bridge.send(quantity="0.02", trailingStop="3%")
    await until(lambda: _is_live(bridge))
    return answer


async def _stops(bridge: Bridge) -> tuple[Order, ...]:
    return tuple(order for order in await bridge.orders() if order.intent.order_type is OrderType.STOP)


async def _is_live(bridge: Bridge) -> bool:
    return [stop.status for stop in await _stops(bridge)] == [OrderStatus.ACCEPTED]


async def _is_canceled(bridge: Bridge) -> bool:
    is_stored = [stop.status for stop in await _stops(bridge)] == [OrderStatus.CANCELED]
    return is_stored and not (await bridge.control("state"))["open_algo_orders"]


async def test_a_trailing_stop_is_cancelled_with_its_position(bridge: Bridge) -> None:
    """An alert closes the position: no stop that could close a later one is left at the exchange."""
    entry = await bridge.order(await _open_with_trailing_stop(bridge))
    await bridge.send(action="close", quantity=None)
    await until(lambda: _is_canceled(bridge))

    async def is_in_history() -> bool:
        history = await bridge.daemon.database.read(journal.of_alert, entry.alert_id)
        return [event.kind for event in history].count("leftover_canceled") == 1

    await until(is_in_history)
    assert (await bridge.daemon.database.read(alerts.get, entry.alert_id)).status == "filled"


async def test_a_trailing_stop_does_not_pass_to_the_next_position(bridge: Bridge) -> None:
    """Closed and entered again at once without a stop: the new position does not keep the stop of the previous one."""
    await _open_with_trailing_stop(bridge)
    await bridge.send(action="close", quantity=None)
    await bridge.send(quantity="0.01")
    await until(lambda: _is_canceled(bridge))
    assert await bridge.positions() == {BTC: D("0.01")}


async def test_the_stop_of_a_partly_closed_position_stays(bridge: Bridge) -> None:
    """A part is closed, then more is bought: the position was never flat, so its stop still belongs to it."""
    await _open_with_trailing_stop(bridge)
    canceled: list[str] = []

    async def cancel(client_order_id: str) -> str | None:
        canceled.append(client_order_id)
        return None

    daemon = bridge.daemon
    canceller = OrphanStopCanceller(
        book=daemon.trading.book,
        database=daemon.database,
        exchange=daemon.exchange,
        cancel=cancel,
        clock=bridge.clock,
        read_lag_s=0,
    )
    await bridge.send(action="close", quantity="0.01")
    await bridge.send(quantity="0.03")
    for _ in range(3):
        await canceller.poll()
    assert canceled == []
    await bridge.send(action="close", quantity=None)

    async def is_cancelled() -> bool:
        await canceller.poll()
        return bool(canceled)

    await until(is_cancelled)
    assert set(canceled) == {stop.client_order_id for stop in await _stops(bridge)}
