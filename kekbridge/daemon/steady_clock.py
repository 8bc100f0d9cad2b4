"""The daemon's clock: UTC that does not move with the machine's wall clock and is set right by the exchange's.

The wall clock is read once, at the start; from then on time is counted on a clock that is never set. Ages, deadlines, acceptance windows
and back-off are compared on it, so a wall clock that is set back by an hour neither stops a job nor makes an old alert young.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from kekbridge.log import get_logger

log = get_logger("kekbridge.daemon.clock")

# It goes on while the machine sleeps, where the system has it (Linux); elsewhere the exchange's replies correct the clock after a sleep.
_STEADY_ID = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


_elapsed_s: Callable[[], float] = partial(time.clock_gettime, _STEADY_ID)


class SteadyClock:
    """Call it for the present time (aware, UTC). `wall` and `elapsed` return seconds: Unix time, and a clock that is never set."""

    def __init__(self, wall: Callable[[], float] = time.time, elapsed: Callable[[], float] = _elapsed_s) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._origin = wall() - elapsed()

    def __call__(self) -> datetime:
        return datetime.fromtimestamp(self._origin + self._elapsed(), UTC)

    def step(self, milliseconds: int) -> None:
        """Set the clock: the exchange's replies have proven that it is wrong by this much (positive: it was behind)."""
        log.warning("clock_corrected", milliseconds=milliseconds)
        self._origin += milliseconds / 1000

    def ahead_of_wall_ms(self) -> int:
        """How far this clock is ahead of the machine's wall clock, in ms."""
        return round((self._origin + self._elapsed() - self._wall()) * 1000)
