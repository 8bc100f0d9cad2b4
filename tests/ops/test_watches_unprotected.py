"""Positions that must have a stop: whoever opened them, one that is not wholly covered is told, and told to be over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from kekbridge.model import Limits
from kekbridge.store import events, webhooks
from tests.bridge import BTC, ETH, Bridge, quick_bridge, running_paper


async def look(bridge: Bridge, times: int = 2) -> list[tuple[str, str]]:
    """So many looks; everything told so far."""
    await bridge.daemon.exchange.refresh()
    for _ in range(times):
        await bridge.daemon.operator_services.jobs.run_now("protection")
    with bridge.daemon.database.snapshot() as connection:
        found = events.latest(connection, kinds=["position_unprotected", "position_protected"])
    return [(event.kind, str(event.data.get("position", ""))) for event in found]


@pytest.fixture
async def paper(tmp_path: Path) -> AsyncIterator[str]:
    async with running_paper(tmp_path / "paper") as url:
        yield url


async def test_where_no_stop_is_demanded_none_is_missed(tmp_path: Path, paper: str) -> None:
    """A trader may trade without stops: then silence is right, also about positions opened elsewhere."""
    async with quick_bridge(tmp_path, paper) as bridge:
        await bridge.send()
        await bridge.control("positions", {ETH: "-0.3"})
        assert await look(bridge) == []


async def test_an_account_that_demands_stops_misses_every_one(tmp_path: Path, paper: str) -> None:
    """One look is no proof; the second tells it with its size, further ones do not; closed, it is over."""
    async with quick_bridge(tmp_path, paper, risk__require_stop_loss=True) as bridge:
        _, answer = await bridge.send(stopLoss="2%")
        await bridge.until_stored(answer, "filled")
        await bridge.control("positions", {ETH: "-0.3"})
        assert await look(bridge, 1) == []
        assert await look(bridge, 3) == [("position_unprotected", "-0.3")]
        await bridge.control("positions", {ETH: "0"})
        assert await look(bridge) == [("position_unprotected", "-0.3"), ("position_protected", "")]


async def test_a_stop_that_covers_a_part_is_not_enough(tmp_path: Path, paper: str) -> None:
    """The position grew beyond its stop by a hand elsewhere: what was bought with a stop must be covered."""
    async with quick_bridge(tmp_path, paper) as bridge:
        _, answer = await bridge.send(stopLoss="2%")
        await bridge.until_stored(answer, "filled")
        assert await look(bridge) == []
        await bridge.control("positions", {BTC: "0.05"})
        assert await look(bridge) == [("position_unprotected", "0.05")]


async def test_a_webhook_that_demands_stops_is_enough(tmp_path: Path, paper: str) -> None:
    """Its last entry decides whose position it is: its stop canceled by hand is missed."""
    async with quick_bridge(tmp_path, paper) as bridge:
        await bridge.send()
        assert await look(bridge) == []
        with bridge.daemon.database.transaction() as connection:
            (hook,) = webhooks.list_all(connection)
            wanted = replace(hook.settings, limits=Limits(require_stop_loss=True))
            webhooks.change_settings(connection, hook.id, wanted, now=bridge.clock())
        await bridge.daemon.operator_services.jobs.run_now("positions")
        assert await look(bridge) == [("position_unprotected", "0.01")]
