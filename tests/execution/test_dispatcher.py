"""Dispatching: first in, first out within a symbol, in parallel across symbols, and no symbol blocked for good."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.model import OrderStatus, TradingState
from tests.bridge import BTC, ETH, Bridge, quick_bridge, running_paper
from tests.waiting import until

D = Decimal


async def test_one_stuck_symbol_does_not_stop_the_others(bridge: Bridge) -> None:
    """An order whose request hangs blocks its own symbol only."""
    await bridge.fault("delay", path="/v1/order", method="POST", delay_ms=250, count=1)
    slow = asyncio.create_task(bridge.send(quantity="0.01"))
    answers = await asyncio.gather(*(bridge.send(symbol="ETHUSDT.P", quantity="0.1") for _ in range(2)))
    assert [status for status, _ in answers] == [200, 200]
    _, answer = await slow
    await bridge.until_stored(answer, "filled")
    assert await bridge.positions() == {BTC: D("0.01"), ETH: D("0.2")}


async def test_orders_that_depend_on_each_other_are_sent_one_after_the_other(bridge: Bridge) -> None:
    """Buys and sells of one symbol that arrive at once reach the exchange in the order of their admission."""
    sides = ["buy", "sell"] * 4
    answers = await asyncio.gather(*(bridge.send(action=side, quantity="0.001") for side in sides))
    for _, answer in answers:
        await bridge.until_stored(answer, "filled")
    stored = sorted(await bridge.orders(), key=lambda order: order.sequence)
    accepted = [row["client_order_id"] for row in await bridge.journal("order_accepted")]
    assert accepted == [order.client_order_id for order in stored]


async def test_market_entries_of_one_side_do_not_wait_for_each_other(bridge: Bridge) -> None:
    """Whichever fills first, the position is the same: the second is sent although the first has no answer yet."""
    await bridge.fault("delay", path="/v1/order", method="POST", when="before", delay_ms=400, count=1)
    slow = asyncio.create_task(bridge.send(quantity="0.01"))
    await until(lambda: bridge.daemon.trading.dispatcher.in_flight_count == 1)
    _, quick = await bridge.send(quantity="0.02")
    assert quick["status"] == "filled"
    assert not slow.done()
    _, answer = await slow
    await bridge.until_stored(answer, "filled")
    assert await bridge.positions() == {BTC: D("0.03")}


async def test_a_burst_of_one_symbol_is_sent_once_each(bridge: Bridge) -> None:
    """Orders that arrive together leave together; each is accepted exactly once."""
    answers = await asyncio.gather(*(bridge.send(quantity="0.001") for _ in range(8)))
    for _, answer in answers:
        await bridge.until_stored(answer, "filled")
    accepted = [row["client_order_id"] for row in await bridge.journal("order_accepted")]
    stored = await bridge.orders()
    assert sorted(accepted) == sorted(order.client_order_id for order in stored)
    assert {order.attempt for order in stored} == {1}


@pytest.mark.parametrize("fault", ["rate_limit", "reset_before", "refuse"])
async def test_an_order_that_is_not_accepted_does_not_stop_those_beside_it(bridge: Bridge, fault: str) -> None:
    """Deferred, lost or rejected: the others of a burst end as they would without it, none is sent twice."""
    await bridge.fault(fault, path="/v1/order", method="POST", count=1)
    answers = await asyncio.gather(*(bridge.send(quantity="0.001") for _ in range(6)))
    ended = [await bridge.until_stored(answer, "filled", "rejected", "unknown") for _, answer in answers]
    failed = [order for order in ended if order.status is not OrderStatus.FILLED]
    assert len(failed) == (0 if fault == "rate_limit" else 1)
    accepted = [row["client_order_id"] for row in await bridge.journal("order_accepted")]
    assert len(set(accepted)) == len(accepted) == 6 - len(failed)


async def test_a_halt_denies_orders_behind_a_slow_one(tmp_path: Path) -> None:
    """An entry whose outcome the others have to wait for hangs: those behind it are denied by the halt, none of them is sent."""
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        quick_bridge(tmp_path, paper_url, exchange__request_timeout_s=10) as bridge,
    ):
        await bridge.fault("withhold_reports")
        await bridge.fault("delay", path="/v1/order", method="POST", when="after", delay_ms=3000, count=1)
        sending = [asyncio.create_task(bridge.send(quantity="0.002"))]
        await until(lambda: bridge.daemon.trading.dispatcher.in_flight_count == 1)
        sending += [asyncio.create_task(bridge.send(quantity="0.001", stopLoss="2%")) for _ in range(3)]

        async def are_stored() -> bool:
            return len(await bridge.orders()) == 4

        await until(are_stored)
        await bridge.set_state(TradingState.HALTED)
        answers = [await each for each in sending]
        stored = [await bridge.until_stored(answer, "filled", "denied") for _, answer in answers]
        assert [order.status for order in stored] == [OrderStatus.FILLED, *[OrderStatus.DENIED] * 3]


async def test_an_order_behind_an_unknown_one_expires_in_time(bridge: Bridge) -> None:
    """Its symbol is blocked by an order of unknown outcome: it expires while it waits."""
    await bridge.fault("reset_before", path="/v1/order", method="POST", count=1)
    await bridge.fault("server_error", method="GET")
    _, unknown = await bridge.send()
    _, behind = await bridge.send(quantity="0.02")
    assert (await bridge.order(behind)).status is OrderStatus.QUEUED
    bridge.clock.offset = timedelta(seconds=61)
    order = await bridge.until_stored(behind, "expired")
    assert order.code == "alert_expired"
    assert (await bridge.order(unknown)).status is OrderStatus.UNKNOWN
    await bridge.clear_faults()


async def test_a_deferred_order_is_sent_when_its_time_comes(bridge: Bridge) -> None:
    """Rate-limited once, it stays queued ahead of later orders and is sent a moment later."""
    await bridge.fault("rate_limit", path="/v1/order", method="POST", count=1)
    _, first = await bridge.send(quantity="0.01")
    _, second = await bridge.send(quantity="0.02")
    for answer in (first, second):
        await bridge.until_stored(answer, "filled")
    assert (await bridge.order(first)).attempt == 2
    accepted = [row["client_order_id"] for row in await bridge.journal("order_accepted")]
    assert accepted == [first["clientOrderId"], second["clientOrderId"]]


async def test_the_dispatcher_polls_the_queue_when_idle(bridge: Bridge) -> None:
    """The watchdog checks this: an idle dispatcher still polls its queue twice a second."""
    assert bridge.daemon.trading.dispatcher.idle_for_s() < 5
    assert bridge.daemon.trading.dispatcher.in_flight_count == 0


async def test_a_close_that_overtakes_an_entry_denies_it(bridge: Bridge) -> None:
    """Entries are held by the circuit breaker, a close passes: the entry before it is denied, or it would reopen what was closed."""
    await bridge.send(quantity="0.02")
    for _ in range(5):
        bridge.daemon.trading.submitter.breaker.record(was_unknown=True)
    _, entry = await bridge.send(quantity="0.03")
    _, other = await bridge.send(symbol="ETHUSDT.P", quantity="0.1")
    _, leaving = await bridge.send(action="close", quantity=None)
    await bridge.until_stored(leaving, "filled")
    order = await bridge.order(entry)
    assert (order.status, order.code) == (OrderStatus.DENIED, "overtaken_by_exit")
    bridge.daemon.trading.submitter.breaker.close()
    await bridge.until_stored(other, "filled")
    assert await bridge.positions() == {ETH: D("0.1")}


async def test_a_shutdown_does_not_wait_for_permits(tmp_path: Path) -> None:
    """Thirty entries at ten per second: those without a permit stay queued at shutdown, and the next start sends each once."""
    async with running_paper(tmp_path / "paper", rate_limits=True) as paper_url:
        limited: dict[str, Any] = {"exchange.rate_factor": 1}
        async with quick_bridge(tmp_path, paper_url, server__respond_within_s=0, **limited) as bridge:
            answers = await asyncio.gather(*(bridge.send(quantity="0.001") for _ in range(30)))
        assert all(status in (200, 202) for status, _ in answers)
        async with quick_bridge(tmp_path, paper_url, **limited) as bridge:
            first = await bridge.orders()
            assert len(first) == 30
            assert {order.attempt for order in first} <= {0, 1}
            await until(lambda: _are_all_filled(bridge))
            accepted = [row["client_order_id"] for row in await bridge.journal("order_accepted")]
            assert sorted(accepted) == sorted(order.client_order_id for order in first)


async def _are_all_filled(bridge: Bridge) -> bool:
    return all(order.status is OrderStatus.FILLED for order in await bridge.orders())
