"""Start with a long history, and the latency of a single alert afterwards."""

from __future__ import annotations

import asyncio
import statistics

from tests.bench.histories import with_history
from tests.bench.load import run
from tests.bench.systems import System


def restarting(make: type[System], counts: tuple[int, ...], *, alerts: int, settle_s: float) -> dict[str, float]:
    """Measure the seconds to the first response and the median latency of a single order by number of stored alerts."""
    figures: dict[str, float] = {}
    for count in (0, *counts):
        system = with_history(make, count)
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
