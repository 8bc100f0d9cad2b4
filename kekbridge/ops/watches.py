"""Watches the way to the exchange: is it reached, does its stream live, do both clocks agree. Asks nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kekbridge.exchange.base import Health
from kekbridge.formatting import duration
from kekbridge.ops.conditions import Conditions

# Below a second an offset is the network's delay as much as the clock.
_LEAST_SKEW_S: Final = 1.0


class ConnectionWatch:
    """`look` every few seconds. What is away for less than `after_s` is not told: a stream is opened anew now and then."""

    def __init__(
        self,
        conditions: Conditions,
        health: Callable[[], Health],
        *,
        after_s: float,
        clock_tolerance_s: float,
        seconds: Callable[[], float],
    ) -> None:
        """`seconds`: a clock that nobody sets, for how long something lasts."""
        self._conditions = conditions
        self._health = health
        self._after_s = after_s
        self._skew_s = max(clock_tolerance_s, _LEAST_SKEW_S)
        self._seconds = seconds
        self._away_since: dict[str, float] = {}

    async def look(self) -> None:
        health = self._health()
        await self._watch("exchange", health.is_reachable, health.detail or "no answer")
        if health.is_reachable:  # else the stream is down, too, and once is enough
            await self._watch("stream", health.stream_is_live, "")
        else:
            self._away_since.pop("stream", None)
        if health.clock_offset_ms is not None:
            await self._compare(health.clock_offset_ms / 1000)

    async def _watch(self, name: str, is_there: bool, detail: str) -> None:
        if is_there:
            self._away_since.pop(name, None)
            await self._conditions.note(name, None, over=f"{name}_back")
            return
        lasting = self._seconds() - self._away_since.setdefault(name, self._seconds())
        if lasting >= self._after_s:
            data = {"lasting": duration(lasting), "detail": detail}
            await self._conditions.note(name, f"{name}_down", over=None, data=data)

    async def _compare(self, offset_s: float) -> None:
        """`offset_s` positive: the exchange's clock is ahead. Told over the tolerance, over again when well under it."""
        known = "clock" in await self._conditions.known()
        if abs(offset_s) > (self._skew_s / 2 if known else self._skew_s):
            direction = "behind" if offset_s > 0 else "ahead of"
            data = {"seconds": f"{abs(offset_s):.1f}", "direction": direction}
            await self._conditions.note("clock", "clock_skew", over=None, data=data)
        else:
            await self._conditions.note("clock", None, over="clock_right")
