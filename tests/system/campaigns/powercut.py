"""R3: power cuts. Only flushed writes survive, and a daemon started from them must have every acknowledged alert."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.system.campaigns.run import Outcome, Run, running
from tests.system.disk import CAN_TRACE_DAEMON, TRACER, Disk, write_image
from tests.system.forked import ForkedBridge, ForkedProcess
from tests.system.harness import Process, wait_until
from tests.system.oracles import Findings, database_file

_IN_FLIGHT = 12
_NAME = "R3 power cut: unflushed writes dropped or torn"


class TracedBridge(ForkedBridge):
    """A bridge whose daemon's writes are traced, so that a power cut can be simulated."""

    disk: Disk

    def _new_daemon(self) -> Process:
        tracer = (*TRACER, "-o", str(self.trace_path))
        return ForkedProcess(
            self.daemon_arguments(), environment=self.daemon_environment(), log=self.log_path, tracer=tracer
        )

    @property
    def trace_path(self) -> Path:
        return self.directory / "trace"

    def start_daemon(self) -> None:
        self.disk = Disk.of(self.data_dir)
        super().start_daemon()

    def cut_power(self, rng: random.Random) -> None:
        """Kill the daemon and replace its files with what a power cut at this moment could leave."""
        tracer = _status(self.daemon.pid, "TracerPid")
        self.daemon.kill()
        # It writes the rest of its trace and ends by itself; without a parent to reap it, it may remain as a zombie.
        wait_until(lambda: _status(int(tracer), "State")[:1] in ("", "Z"), what="the end of the trace")
        self.disk.follow(self.trace_path)
        write_image(self.disk.after_cut(rng if rng.random() < 0.5 else None), self.data_dir)


async def power_cuts(seed: int, cuts: int) -> Outcome:
    """R3: alerts arrive, the power is cut at a random moment, the daemon restarts from flushed data; the exchange runs on."""
    findings = Findings()
    if not CAN_TRACE_DAEMON:
        return Outcome(_NAME, 0, findings, seed, note="needs strace and root: not run")
    # Answered as soon as it is stored: the more alerts are acknowledged before a cut, the more a cut can reveal.
    environment = {"KEKBRIDGE_QUEUE_MAX_AGE_S": "30", "KEKBRIDGE_SERVER_RESPOND_WITHIN_S": "0"}
    with running(seed, environment=environment, bridge_type=TracedBridge) as run:
        assert isinstance(run.bridge, TracedBridge)
        sending: set[asyncio.Task[Any]] = set()
        for number in range(cuts):
            new = [asyncio.create_task(run.send(run.any_alert())) for _ in range(_IN_FLIGHT)]
            sending.update(new)
            await asyncio.sleep(run.rng.uniform(0.0, 1.5))
            await asyncio.to_thread(run.bridge.cut_power, run.rng)
            findings.failures += [f"R3 cut {number}: {breach}" for breach in _breaches(run)]
            await asyncio.to_thread(run.restart)
        await asyncio.gather(*sending)
        await run.settle()
        findings.add(run.findings())
        acknowledged = sum(sent.is_acknowledged for sent in run.sent)
        return Outcome(_NAME, cuts, findings, seed, note=f"{acknowledged} of {len(run.sent)} alerts acknowledged")


def _status(pid: int, name: str) -> str:
    """Return a value of /proc/PID/status; empty if there is no such process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))


def _breaches(run: Run) -> list[str]:
    """Check the files before a daemon opens them; in a copy, because opening a database changes it."""
    file = database_file(run.bridge)
    with tempfile.TemporaryDirectory(prefix="kekbridge-image-") as copy:
        for path in (file, file.with_name(file.name + "-wal")):
            if path.exists():
                shutil.copy(path, copy)
        with closing(sqlite3.connect(Path(copy) / file.name)) as connection:
            state = connection.execute("PRAGMA integrity_check").fetchall()
            query = "SELECT json_extract(data, '$.sender_id') FROM journal WHERE identity IS NOT NULL"
            stored = {name for (name,) in connection.execute(query)}
    lost = [sent.alert_id for sent in run.sent if sent.is_acknowledged and sent.alert_id not in stored]
    broken = [] if state == [("ok",)] else [f"integrity check: {state}"]
    return broken + [f"{alert_id}: acknowledged and lost" for alert_id in lost]
