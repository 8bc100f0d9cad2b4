"""The way to the exchange: told after a while, once, and again when it is back; one cause is one message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kekbridge.exchange.base import Health
from kekbridge.ops.conditions import Conditions
from kekbridge.ops.watches import ConnectionWatch
from kekbridge.store.database import Database
from kekbridge.store.events import Event
from tests.ops.conftest import Clock

GOOD = Health(is_reachable=True, is_maintenance=False, stream_is_live=True, clock_offset_ms=3, last_heard_at=None)


class Bench:
    """A watch over a health that is set by hand, looked at by a clock of its own."""

    def __init__(self, conditions: Conditions) -> None:
        self.health = GOOD
        self.seconds = 0.0
        self.watch = ConnectionWatch(
            conditions, lambda: self.health, after_s=60, clock_tolerance_s=2, seconds=lambda: self.seconds
        )

    async def go_on(self, seconds: float, **health: Any) -> None:
        """So long with this health, looking every ten seconds."""
        self.health = replace(GOOD, **health)
        for _ in range(int(seconds // 10)):
            self.seconds += 10
            await self.watch.run()


@pytest.fixture
def bench(conditions: Conditions) -> Bench:
    return Bench(conditions)


async def test_a_short_gap_is_nobodys_business(bench: Bench, told: Callable[[], list[Event]]) -> None:
    """A stream is opened anew now and then: only a gap of a minute in one piece is told."""
    for _ in range(3):
        await bench.go_on(50, stream_is_live=False)
        await bench.go_on(10)
    assert told() == []


async def test_the_stream_is_told_once_and_when_it_is_back(bench: Bench, told: Callable[[], list[Event]]) -> None:
    """An hour without it is one message; each new outage is a new one."""
    for _ in range(2):
        await bench.go_on(3600, stream_is_live=False)
        await bench.go_on(20)
    assert [event.kind for event in told()] == ["stream_down", "stream_back"] * 2
    assert told()[0].data["lasting"] == "1 min"


async def test_an_exchange_that_is_away_takes_its_stream_along(bench: Bench, told: Callable[[], list[Event]]) -> None:
    """One cause, one message; the stream counts from when the exchange was back."""
    await bench.go_on(600, is_reachable=False, stream_is_live=False, detail="maintenance until 12:00")
    await bench.go_on(30, stream_is_live=False)
    await bench.go_on(30)
    assert [event.kind for event in told()] == ["exchange_down", "exchange_back"]
    assert told()[0].data["detail"] == "maintenance until 12:00"


async def test_a_skewed_clock_is_told_with_its_direction(bench: Bench, told: Callable[[], list[Event]]) -> None:
    """Over the tolerance it is told, around it no second time, well under it that it is right again."""
    for offset in (2500, 1900, 2100, 1500, 900):
        await bench.go_on(10, clock_offset_ms=offset)
    await bench.go_on(10, clock_offset_ms=-5000)
    await bench.go_on(10, clock_offset_ms=None)
    assert [event.kind for event in told()] == ["clock_skew", "clock_right", "clock_skew"]
    assert [dict(event.data) for event in told() if event.kind == "clock_skew"] == [
        {"seconds": "2.5", "direction": "behind"},
        {"seconds": "5.0", "direction": "ahead of"},
    ]


async def test_a_restart_tells_nothing_again(
    bench: Bench, database: Database, clock: Clock, told: Callable[[], list[Event]]
) -> None:
    """The condition is stored: a new daemon that finds it still so is silent, and tells the end."""
    await bench.go_on(120, stream_is_live=False)
    again = Bench(Conditions(database, clock))
    await again.go_on(120, stream_is_live=False)
    await again.go_on(10)
    assert [event.kind for event in told()] == ["stream_down", "stream_back"]
