"""The daemon's clock does not move with the machine's wall clock, and the exchange's replies set it right (engine rule 9)."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest

from kekbridge.daemon.steady_clock import SteadyClock
from tests.bridge import Bridge, running_bridge, running_paper
from tests.waiting import until

HOUR = 3600.0


class Wall:
    """A wall clock that a test sets."""

    def __init__(self, offset_s: float = 0.0) -> None:
        self.offset_s = offset_s

    def __call__(self) -> float:
        return time.time() + self.offset_s


def test_the_wall_clock_is_read_once() -> None:
    """Set back or forward, it moves no deadline; how far it is off is known."""
    wall, elapsed = Wall(), 10.0
    clock = SteadyClock(wall, lambda: elapsed)
    started = clock()
    wall.offset_s = -HOUR
    elapsed = 12.5
    assert clock() - started == timedelta(seconds=2.5)
    assert abs(clock.ahead_of_wall_ms() - 3_602_500) < 1000
    clock.step(-500)
    assert clock() - started == timedelta(seconds=2)


async def is_stale(bridge: Bridge, age_s: float) -> bool:
    """Send an entry that fired so many real seconds ago; True if it was refused as too old."""
    status, answer = await bridge.send(timestamp=round((time.time() - age_s) * 1000))
    assert status in (200, 401), answer  # 401 names no reason
    return status == 401


@pytest.mark.parametrize("offset_s", [-HOUR, HOUR])
async def test_a_wall_clock_set_while_running_changes_no_age(tmp_path: Path, offset_s: float) -> None:
    """Set back an hour, an entry of real age 160 s was sent and no job ran for 55 minutes; set forward, every alert was too old."""
    wall = Wall()
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        running_bridge(tmp_path, paper_url, clock=SteadyClock(wall), log__level="error") as bridge,  # type: ignore[arg-type]
    ):
        bridge.add_webhook()
        assert not await is_stale(bridge, 1)
        wall.offset_s = offset_s
        assert await is_stale(bridge, 160)
        assert not await is_stale(bridge, 1)
        offset_ms = bridge.daemon.exchange.health.clock_offset_ms
        assert offset_ms is not None
        assert abs(offset_ms + offset_s * 1000) < 1000  # the trader is notified that the machine's clock is wrong


@pytest.mark.parametrize("offset_s", [-HOUR, HOUR])
async def test_a_wrong_clock_at_the_start_is_set_by_the_exchange(tmp_path: Path, offset_s: float) -> None:
    """The machine's clock is an hour off: ages use the exchange's time as soon as it has answered."""
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        running_bridge(tmp_path, paper_url, clock=SteadyClock(Wall(offset_s))) as bridge,  # type: ignore[arg-type]
    ):
        bridge.add_webhook()
        assert await is_stale(bridge, 160)
        assert not await is_stale(bridge, 1)
        assert abs(bridge.clock().timestamp() - time.time()) < 1
        await until(lambda: bridge.daemon.readiness().is_ready)
