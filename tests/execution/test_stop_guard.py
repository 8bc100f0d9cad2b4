"""The stop guard: however a stop comes to be missing, it ends with a live stop or without a position."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kekbridge.exchange.base import Retryable
from kekbridge.model import Order, OrderStatus, OrderType, Purpose
from kekbridge.store import orders as order_rows
from kekbridge.store import protection
from tests.bridge import BTC, Bridge, quick_bridge, running_paper
from tests.system.exposure import longest_naked_s
from tests.waiting import until

D = Decimal


async def _protective(bridge: Bridge, answer: dict[str, object]) -> tuple[Order, ...]:
    entry = await bridge.order(answer)
    return await bridge.daemon.database.read(protection.orders_for, entry)


async def _until_state(bridge: Bridge, answer: dict[str, object], state: str) -> None:
    def read(connection: object) -> str | None:
        row = connection.execute(  # type: ignore[attr-defined]
            "SELECT state FROM protections WHERE client_order_id = ?", (answer["clientOrderId"],)
        ).fetchone()
        return None if row is None else str(row[0])

    async def is_reached() -> bool:
        return await bridge.daemon.database.read(read) == state

    await until(is_reached)


async def test_a_bracket_with_a_live_stop_needs_nothing(bridge: Bridge) -> None:
    """The usual case: the entry's own stop is live at the exchange, and no order is added."""
    _, answer = await bridge.send(stopLoss="2%")
    await _until_state(bridge, answer, "live")
    assert await _protective(bridge, answer) == ()


async def test_a_lost_stop_is_replaced(bridge: Bridge) -> None:
    """The exchange drops the stop of a filled entry: a stop order of the same size and price replaces it."""
    await bridge.fault("lose_stop", count=1)
    _, answer = await bridge.send(stopLoss="2%", quantity="0.02")
    await _until_state(bridge, answer, "replaced")
    (stop,) = await _protective(bridge, answer)
    assert stop.intent.order_type is OrderType.STOP
    assert (stop.intent.quantity, stop.intent.trigger_price) == (
        D("0.02"),
        (await bridge.order(answer)).intent.stop_loss,
    )
    assert stop.intent.reduce_only
    assert await bridge.positions() == {BTC: D("0.02")}


@pytest.mark.parametrize("has_two_take_profits", [False, True])
@pytest.mark.parametrize("is_stopped_out", [False, True])
async def test_a_position_opened_after_the_entry_was_closed_is_not_guarded_for_it(
    bridge: Bridge, has_two_take_profits: bool, is_stopped_out: bool
) -> None:
    """Closed (by an alert, or by its stop) and entered again at once: the first entry's stop is neither placed nor executed again."""
    take_profits = [{"price": "1%", "share": "50%"}, {"price": "2%", "share": "50%"}] if has_two_take_profits else None
    _, answer = await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=take_profits)
    await _until_state(bridge, answer, "live")
    if is_stopped_out:
        await bridge.control("prices", {BTC: "63000"})
        await bridge.until_flat(BTC)
    else:
        assert (await bridge.send(action="close", quantity=None))[1]["status"] == "filled"
    _, again = await bridge.send(quantity="0.01")
    assert again["status"] == "filled"
    await _until_state(bridge, answer, "over")
    placed = [order for order in await _protective(bridge, answer) if not order.intent.take_profits]
    assert placed == []
    assert await bridge.positions() == {BTC: D("0.01")}


async def test_a_position_whose_stop_cannot_be_placed_is_closed(hasty_bridge: Bridge) -> None:
    """Stop lost and every new one rejected: within protect_within_s the position is closed by reduce-only orders."""
    bridge = hasty_bridge
    await bridge.fault("lose_stop", count=1)
    await bridge.fault("refuse", algo_type="STOP", code=-1101)
    _, answer = await bridge.send(stopLoss="2%")
    await bridge.until_flat(BTC)
    await _until_state(bridge, answer, "over")
    closes = [order for order in await _protective(bridge, answer) if order.intent.order_type is OrderType.MARKET]
    assert [order.intent.quantity for order in closes] == [D("0.01")]
    assert all(order.intent.reduce_only for order in closes)


async def test_only_the_uncovered_part_is_closed(hasty_bridge: Bridge) -> None:
    """Two entries in one symbol, one loses its stop for good: the other's position stays, though reads lag behind the close."""
    bridge = hasty_bridge
    _, covered = await bridge.send(stopLoss="2%", quantity="0.02")
    await _until_state(bridge, covered, "live")
    await bridge.fault("lose_stop", count=1)
    await bridge.fault("refuse", algo_type="STOP", code=-1101)
    _, uncovered = await bridge.send(stopLoss="2%", quantity="0.01")
    await _until_state(bridge, uncovered, "over")
    assert await bridge.positions() == {BTC: D("0.02")}
    await bridge.daemon.trading.reconciler.reconcile()
    bridge.daemon.trading.stop_guard.wake()
    await _until_state(bridge, covered, "live")
    assert await bridge.positions() == {BTC: D("0.02")}


async def test_a_protective_order_never_waits_in_the_queue(hasty_bridge: Bridge) -> None:
    """A deferred close must not wait in the queue: the position may be another one by then. The guard places a new order instead."""
    bridge = hasty_bridge
    await bridge.fault("lose_stop", count=1)
    await bridge.fault("refuse", algo_type="STOP", code=-1101)
    await bridge.fault("rate_limit", path="/v1/order", method="POST", count=1)
    _, answer = await bridge.send(stopLoss="2%")
    await bridge.until_flat(BTC)
    await _until_state(bridge, answer, "over")
    closes = [order for order in await _protective(bridge, answer) if order.intent.order_type is OrderType.MARKET]
    assert [order.status for order in closes] == [OrderStatus.REJECTED, OrderStatus.FILLED]
    assert closes[0].code == "exchange_busy"
    assert not bridge.daemon.trading.book.queued


async def test_a_stop_request_without_a_response_does_not_keep_the_position_open(tmp_path: Path) -> None:
    """The exchange delays the request for a new stop: the position is closed within protect_within_s, not after the response."""
    response_delay_s = 9
    settings: dict[str, Any] = {"queue__protect_within_s": 2.5, "exchange__request_timeout_s": 10}
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        quick_bridge(tmp_path, paper_url, **settings) as bridge,
    ):
        await bridge.fault("lose_stop", count=1)
        _, answer = await bridge.send(orderType="limit", price="60000", stopLoss="50000")
        await bridge.until_stored(answer, "accepted")
        await bridge.fault(
            "delay", path="/v1/algo/order", method="POST", delay_ms=response_delay_s * 1000, when="before"
        )
        await bridge.control("prices", {BTC: "59000"})
        await _until_state(bridge, answer, "over")
        assert BTC not in await bridge.positions()
        uncovered_s = longest_naked_s(await bridge.control("journal"))
        assert uncovered_s is not None
        assert uncovered_s < response_delay_s


async def test_a_stop_waits_for_a_permit_no_longer_than_it_may(bridge: Bridge) -> None:
    """Without a rate-limit permit in time the protective order is rejected locally: no request is sent for it, then or later."""
    _, answer = await bridge.send(stopLoss="2%")
    entry = await bridge.order(answer)
    exchange, submitter = bridge.daemon.exchange, bridge.daemon.trading.submitter
    permit = await exchange.acquire_permit(entry)  # brackets and stops share a window of one per second: it is full now
    intent = replace(
        entry.intent,
        order_type=OrderType.STOP,
        side=entry.intent.side.opposite,
        purpose=Purpose.PROTECT,
        reduce_only=True,
    )
    expires_at = datetime.now(UTC) + timedelta(days=1)
    stop, result = await submitter.submit(entry, intent, expires_at=expires_at, within_s=0.05)
    permit.release()
    assert isinstance(result, Retryable)
    stored = await bridge.daemon.database.read(order_rows.get, stop.client_order_id)
    assert (stored.status, stored.code) == (OrderStatus.REJECTED, "exchange_busy")
    assert await bridge.journal("order_received", client_order_id=stop.client_order_id) == []


async def test_a_partly_filled_entry_is_covered_after_every_fill(bridge: Bridge) -> None:
    """Each partial fill increases what must be covered; in the end the live stops are as large as the position."""
    await bridge.fault("partial_fills", parts=3, count=1)
    await bridge.fault("lose_stop", count=1)
    _, answer = await bridge.send(stopLoss="2%", quantity="0.03")

    async def is_covered() -> bool:
        stops = await bridge.daemon.exchange.live_stops(BTC)
        held = (await bridge.positions()).get(BTC, D(0))
        return held == D("0.03") and sum((stop.quantity for stop in stops), D(0)) >= held

    await until(is_covered)
    await _until_state(bridge, answer, "replaced")
