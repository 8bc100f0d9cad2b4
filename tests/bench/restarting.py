"""Start with a long history, and the latency of a single alert afterwards. A history is filled once and used in every round."""

from __future__ import annotations

import asyncio
import atexit
import statistics

from tests.bench import filling
from tests.bench.load import run
from tests.bench.systems import System

_filled: dict[int, System] = {}


def restarting(make: type[System], counts: tuple[int, ...], *, alerts: int, settle_s: float) -> dict[str, float]:
    """Measure the seconds to the first response and the median latency of a single order by number of stored alerts."""
    figures: dict[str, float] = {}
    for count in (0, *counts):
        system = _with_history(make, count)
        system.start()
        try:
            orders = asyncio.run(_lone_orders(system, alerts, settle_s))
        finally:
            system.stop()
        figures[f"start s, {count}"] = system.start_s
        figures[f"order p50 ms, {count}"] = statistics.median(orders) * 1000
    for count in counts:
        figures[f"start, {count} / empty"] = figures[f"start s, {count}"] / figures["start s, 0"]
        figures[f"order p50, {count} / empty"] = figures[f"order p50 ms, {count}"] / figures["order p50 ms, 0"]
    return figures


async def _lone_orders(system: System, alerts: int, settle_s: float) -> list[float]:
    await asyncio.sleep(settle_s)
    await run(system, count=min(10, alerts), at_once=1)
    return (await run(system, count=alerts, at_once=1)).orders


def _with_history(make: type[System], count: int) -> System:
    """Return a stopped system with `count` past alerts in its store; removed when this process ends."""
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
