"""Differences found by a reconciliation are published if the stream or the fills should have shown them; ordinary trading has none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kekbridge.store import journal
from tests.bridge import BTC, ETH, Bridge, quick_bridge, running_paper


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        quick_bridge(tmp_path, paper_url, queue__reconcile_every_s=3600) as opened,
    ):
        yield opened


async def reconcile(bridge: Bridge, times: int = 1) -> None:
    for _ in range(times):
        await bridge.daemon.operator_services.jobs.run_now("reconcile")


def published(bridge: Bridge) -> list[str]:
    with bridge.daemon.database.snapshot() as connection:
        found = journal.latest(connection, kinds=["reconciliation_difference"])
    return [str(event.data["detail"]) for event in found]


async def test_a_fill_missing_from_the_stream_is_published(bridge: Bridge) -> None:
    """The reconciliation stores the order; that the stream did not report it is published once."""
    _, answer = await bridge.send(orderType="limit", limitPrice="64800")
    await reconcile(bridge)
    await bridge.fault("withhold_reports")
    await bridge.control("prices", {BTC: "64700"})
    await reconcile(bridge, 3)
    assert published(bridge) == [
        f"order {answer['clientOrderId']} is filled, 0.01 executed; the stream did not report it"
    ]


async def test_a_position_without_fills_is_published_once(bridge: Bridge) -> None:
    """Published with the expected quantity when a second check finds the same gap; then it is the new baseline."""
    await reconcile(bridge)
    await bridge.control("positions", {ETH: "0.3"})
    await reconcile(bridge)
    assert published(bridge) == []
    await reconcile(bridge, 3)
    assert published(bridge) == ["PERP_ETH_USDC is 0.3, by its fills it should be 0"]
    await bridge.send(symbol="ETHUSDT.P", quantity="0.1")
    await bridge.control("positions", {ETH: "0"})
    await reconcile(bridge, 3)
    assert published(bridge)[1:] == ["PERP_ETH_USDC is 0, by its fills it should be 0.4"]


async def test_ordinary_trading_has_no_differences(bridge: Bridge) -> None:
    """Entries, exits, brackets, resting and canceled orders, with reconciliations in between: nothing is published."""

    async def keep_reconciling() -> None:
        while True:
            await reconcile(bridge)

    reconciling = asyncio.create_task(keep_reconciling())
    orders: list[dict[str, Any]] = [
        {"quantity": "0.03"},
        {"stopLoss": "2%", "takeProfit": "3%"},
        {"orderType": "limit", "limitPrice": "64000"},
        {"action": "sell", "quantity": "0.01", "reduceOnly": True},
        {"symbol": "ETHUSDT.P", "quantity": "0.5"},
        {"action": "cancel"},
        {"action": "close", "quantity": "50%"},
        {"action": "flip", "symbol": "ETHUSDT.P", "quantity": "0.2"},
        {"action": "close", "quantity": "0.01"},
    ]
    for number in range(3):
        for order in orders:
            status, answer = await bridge.send(**order)
            assert status in (200, 202), answer
        await bridge.control("prices", {BTC: str(65000 + number)})
    reconciling.cancel()
    await asyncio.gather(reconciling, return_exceptions=True)
    await reconcile(bridge, 3)
    assert published(bridge) == []
