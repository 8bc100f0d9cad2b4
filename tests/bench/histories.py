"""Stopped bridges with many past alerts. Filling one takes minutes: each is made once and used in every round and scenario."""

from __future__ import annotations

import asyncio
import atexit

from tests.bench import filling
from tests.bench.load import run
from tests.bench.systems import System

_filled: dict[int, System] = {}


def with_history(make: type[System], count: int) -> System:
    """Return a stopped system with `count` past alerts in its store, and what earlier rounds added; removed when this process ends."""
    if count in _filled:
        return _filled[count]
    _filled[count] = system = make()
    system.__enter__()
    atexit.register(system.__exit__)
    asyncio.run(run(system, count=2, at_once=1))
    file = system.directory / "data" / "kekbridge.db"
    filling.wait_for_original(file)
    system.stop()
    if count:
        filling.fill(file, count)
    return system
