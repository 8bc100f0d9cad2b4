"""What replication costs an alert, and how far the replica is behind meanwhile; kekbridge only, with the replica on the same disk."""

from __future__ import annotations

import asyncio
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kekbridge.cli.control import status_at
from kekbridge.daemon.control_socket import NAME
from tests.bench.load import Result, run
from tests.bench.systems import System
from tests.system.harness import wait_until

_SAMPLE_S = 0.1


def replicating(make: type[System], *, alerts: int, settle_s: float) -> dict[str, float]:
    """Sustained load, 50 at a time, without and with a replica."""
    figures: dict[str, float] = {}
    with make() as alone:
        figures |= _times(_drive(alone, alerts, settle_s), "without")
    system = make()
    replica = system.directory / "replica"
    system.environment["KEKBRIDGE_REPLICA_URL"] = f"file://{replica}"
    with system:
        wait_until(lambda: _lag_s(system) is not None, what="a first copy")
        with _sampled(system) as lags:
            figures |= _times(_drive(system, alerts, settle_s), "with")
        figures |= {"lag s, median": statistics.median(lags), "lag s, most": max(lags)}
        figures["copied KB per alert"] = _bytes(replica / "ltx" / "0") / (alerts + min(50, alerts)) / 1000
    return figures


def _times(result: Result, title: str) -> dict[str, float]:
    return {
        f"alerts/s, {title}": len(result.acks) / result.elapsed_s,
        f"ack p99 ms, {title}": sorted(result.acks)[int(len(result.acks) * 0.99)] * 1000,
    }


def _drive(system: System, alerts: int, settle_s: float) -> Result:
    async def both() -> Result:
        await asyncio.sleep(settle_s)
        await run(system, count=min(50, alerts), at_once=min(50, alerts))
        return await run(system, count=alerts, at_once=50)

    return asyncio.run(both())


def _lag_s(system: System) -> float | None:
    found = (status_at(system.directory / "data" / NAME) or {}).get("replica")
    return found["lagS"] if found and found["upTo"] else None


@contextmanager
def _sampled(system: System) -> Iterator[list[float]]:
    """The lags while the block runs."""
    lags = [_lag_s(system) or 0.0]
    end = threading.Event()

    def sample() -> None:
        while not end.wait(_SAMPLE_S):
            lag = _lag_s(system)
            if lag is not None:
                lags.append(lag)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield lags
    finally:
        end.set()
        thread.join()


def _bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
