"""R1 and R2: the daemon is killed at random moments, and at each failpoint."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.system.campaigns.run import MARKETS, Outcome, Run, running

IN_FLIGHT = 50
POINTS = tuple(f"W{number}" for number in range(11))


async def random_kills(seed: int, kills: int) -> Outcome:
    """R1: kill -9 at a random moment with 50 alerts in flight; senders repeat alerts without an answer."""
    with running(seed, environment={"KEKBRIDGE_QUEUE_MAX_AGE_S": "30"}) as run:
        sending: set[asyncio.Task[Any]] = set()
        for _ in range(kills):
            for _ in range(max(IN_FLIGHT - len(sending), 10)):
                task = asyncio.create_task(run.send(run.any_alert()))
                sending.add(task)
                task.add_done_callback(sending.discard)
            # Mostly while alerts arrive and orders are sent, sometimes later, during fills and stops.
            await asyncio.sleep(run.rng.uniform(0.0, 0.3 if run.rng.random() < 0.8 else 1.5))
            run.bridge.daemon.kill()
            await asyncio.to_thread(run.restart)
        await asyncio.gather(*sending)
        await run.settle()
        return Outcome("R1 kill -9 at a random moment, 50 in flight", kills, run.findings(), seed, note=_summary(run))


async def crash_points(seed: int, kills: int) -> list[Outcome]:
    """R2: die at each failpoint W0 to W10, `kills` times each."""
    return [await crash_point(seed, kills, point) for point in POINTS]


async def crash_point(seed: int, kills: int, point: str) -> Outcome:
    """R2 at one failpoint: each start arms it and works until the daemon dies there; the next start recovers."""
    environment = {"KEKBRIDGE_QUEUE_MAX_AGE_S": "30"}
    if point == "W2":
        # Answered at once, and at Orderly's own rate limits: some orders are then picked up after their response.
        environment |= {"KEKBRIDGE_SERVER_RESPOND_WITHIN_S": "0", "KEKBRIDGE_EXCHANGE_RATE_FACTOR": "1"}
    died = 0
    with running(seed, environment=environment) as run:
        run.bridge.daemon.kill()
        sending: set[asyncio.Task[Any]] = set()
        for _ in range(kills):
            await asyncio.to_thread(run.restart, KEKBRIDGE_TEST_CRASH_AT=f"{point}:{run.rng.randint(1, 3)}")
            died += await _work_until_dead(run, point, sending)
        run.bridge.daemon.kill()
        await asyncio.to_thread(run.restart)
        await asyncio.gather(*sending)
        await run.settle()
        findings = run.findings()
        if died < kills:
            findings.failures.append(f"R2 {point}: died {died} times of {kills}")
        return Outcome(f"R2 killed at {point}", died, findings, seed, note=_summary(run))


async def _work_until_dead(run: Run, point: str, sending: set[asyncio.Task[Any]]) -> int:
    """Send alerts that reach the failpoint until the daemon dies; return 1 if it did. Senders continue through the restart."""
    for _ in range(20):
        if not run.bridge.daemon.is_alive:
            return 1  # orders left by the previous run have reached it already
        new = [asyncio.create_task(run.send(alert)) for alert in _work(run, point)]
        sending.update(new)
        await run.until(
            lambda batch=new: not run.bridge.daemon.is_alive or all(task.done() for task in batch),  # type: ignore[misc]
            deadline_s=3.0,
        )
        await run.until(lambda: not run.bridge.daemon.is_alive, deadline_s=0.3)
    return int(not run.bridge.daemon.is_alive)


def _work(run: Run, point: str) -> list[dict[str, Any]]:
    symbol = run.rng.choice(list(MARKETS))
    size = MARKETS[symbol]
    if point == "W7":
        return [run.alert(action="buy", symbol=symbol, quantity=size, stopLoss="5%")]
    if point == "W8":
        return [run.alert(action=action, symbol=symbol, quantity=size) for action in ("buy", "flip", "flip")]
    if point == "W2":
        return [run.alert(action="buy", symbol=symbol, quantity=size) for _ in range(15)]
    return [run.any_alert() for _ in range(3)]


def _summary(run: Run) -> str:
    by_status = run.query("SELECT status, count(*) FROM orders GROUP BY status ORDER BY 2 DESC")
    acknowledged = sum(sent.is_acknowledged for sent in run.sent)
    orders = ", ".join(f"{count} {status}" for status, count in by_status)
    return f"{run.number} alerts, {acknowledged} acknowledged; orders: {orders}"
