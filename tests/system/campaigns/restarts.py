"""R13: restarts under continuous alerts, the listening socket held by the supervisor: nobody is refused, nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.system.campaigns.run import Outcome, Run, running
from tests.system.harness import Sent
from tests.system.warm import SocketBridge

_PER_SECOND = 12


async def socket_activated(seed: int, restarts: int) -> Outcome:
    """R13: SIGTERM and start again, with alerts arriving all the time; senders that get no answer count as refused."""
    with running(seed, environment={"KEKBRIDGE_QUEUE_MAX_AGE_S": "60"}, bridge_type=SocketBridge) as run:
        stop = asyncio.Event()
        stream = asyncio.create_task(_stream(run, stop))
        slowest = 0.0
        for _ in range(restarts):
            await asyncio.sleep(run.rng.uniform(0.2, 0.6))
            started = time.monotonic()
            await asyncio.to_thread(run.bridge.daemon.terminate)
            await asyncio.to_thread(run.restart)
            slowest = max(slowest, time.monotonic() - started)
        stop.set()
        await stream
        await run.settle()
        findings = run.findings()
        refused = [sent.alert_id for sent in run.sent if None in sent.answers]
        # Known gap, told in the table: a connection accepted at the very moment of the stop may be cut before its request is read.
        note = f"{len(run.sent)} alerts, {len(refused)} not answered, slowest restart {slowest:.2f} s"
        return Outcome("R13 restarts under continuous alerts", restarts, findings, seed, note=note)


async def _stream(run: Run, stop: asyncio.Event) -> None:
    sending: set[asyncio.Task[Any]] = set()
    while not stop.is_set():
        task = asyncio.create_task(_plain_send(run))
        sending.add(task)
        task.add_done_callback(sending.discard)
        await asyncio.sleep(1 / _PER_SECOND)
    await asyncio.gather(*sending)


async def _plain_send(run: Run) -> None:
    """As TradingView without a proxy: 5xx is sent again, a cut connection is not."""
    alert = run.any_alert()
    sent = Sent(alert_id=str(alert["alertId"]), body=alert)
    run.sent.append(sent)
    await run.plain_sender.send(alert, sent)
