"""R13: restarts under continuous alerts with the listening socket held by the supervisor: no connection is refused, no alert lost."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.system.campaigns.run import Outcome, Run, running
from tests.system.forked import SocketBridge
from tests.system.harness import Sent

_PER_SECOND = 30
_ORDERS = 0.1  # share of alerts that trade; more of them would only lengthen the queue on a busy machine


async def socket_activated(seed: int, restarts: int) -> Outcome:
    """R13: SIGTERM and restart while alerts arrive; an alert without an answer counts as refused."""
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
        refused = [sent for sent in run.sent if None in sent.answers or not _is_settled(sent)]
        findings.failures += [f"R13 {sent.alert_id}: refused, answered {sent.answers}" for sent in refused]
        resent = sum(len(sent.answers) > 1 for sent in run.sent)
        note = f"{len(run.sent)} alerts, {len(refused)} refused, {resent} sent again after a 503, slowest restart {slowest:.2f} s"
        return Outcome("R13 restarts under continuous alerts", restarts, findings, seed, note=note)


def _is_settled(sent: Sent) -> bool:
    """Return True if the alert was stored: answered 2xx, or 422, which is a stored denial."""
    last = sent.answers[-1]
    return last is not None and (200 <= last < 300 or last == 422)


async def _stream(run: Run, stop: asyncio.Event) -> None:
    sending: set[asyncio.Task[Any]] = set()
    while not stop.is_set():
        task = asyncio.create_task(_send_without_proxy(run))
        sending.add(task)
        task.add_done_callback(sending.discard)
        await asyncio.sleep(1 / _PER_SECOND)
    await asyncio.gather(*sending)


async def _send_without_proxy(run: Run) -> None:
    """Send as TradingView does without a proxy: again after 5xx, not after a broken connection."""
    alert = run.any_alert() if run.rng.random() < _ORDERS else run.alert(action="ping")
    sent = Sent(alert_id=str(alert["alertId"]), body=alert)
    run.sent.append(sent)
    await run.direct_sender.send(alert, sent)
