"""R11: the disk is full, the file system read-only, or the database locked: 503, no order, and recovery by itself."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from tests.system.campaigns.run import Outcome, Run, running
from tests.system.harness import Sent
from tests.system.oracles import Findings, database_file

_SPACE_MIB, _SPACE_PER_TRIAL_MIB = 12, 0.5  # each trial stores alerts until nothing more fits, and keeps them
_UNTIL_FULL = 500  # upper bound of alerts that fit into space already allocated by WAL and database
_StorageFault = Callable[[Run, Findings], Coroutine[Any, Any, None]]


async def storage_faults(seed: int, trials: int) -> Outcome:
    """R11: each fault `trials` times, with alerts before, during and after it."""
    findings = Findings()
    kinds: dict[str, _StorageFault] = {"locked": _locked}
    if _can_mount():
        kinds |= {"full": _full, "read-only": _read_only}
    space = f"{_SPACE_MIB + round(trials * _SPACE_PER_TRIAL_MIB)}m"
    with ExitStack() as stack:
        # Concurrent, because each has its own bridge and mostly waits. All are started first: starting one blocks the others.
        runs = [stack.enter_context(running(seed, small_disk=None if name == "locked" else space)) for name in kinds]
        trials_by_kind = [
            _try_kind(run, trials, name, fault) for run, (name, fault) in zip(runs, kinds.items(), strict=True)
        ]
        for found in await asyncio.gather(*trials_by_kind):
            findings.add(found)
    notes = [f"{name} {trials}" for name in kinds]
    return Outcome("R11 disk full, read-only, locked", trials * len(kinds), findings, seed, note=", ".join(notes))


async def _try_kind(run: Run, trials: int, name: str, fault: _StorageFault) -> Findings:
    findings = Findings()
    for number in range(trials):
        await _must_be_stored(run, findings, f"R11 {name} {number}: before")
        await fault(run, findings)
        await run.until(run.bridge.is_ready)
        await _must_be_stored(run, findings, f"R11 {name} {number}: after", tries=8)
    await run.settle()
    findings.add(run.findings())
    return findings


async def _must_be_stored(run: Run, findings: Findings, what: str, *, tries: int = 1) -> None:
    """Send alerts until one is acknowledged, at most `tries`: the first after a fault may be needed to find the store usable again."""
    for _ in range(tries):
        sent = await _send_once(run)
        if sent.is_acknowledged:
            return
        await asyncio.sleep(0.5)
    findings.failures.append(f"{what}: an alert was answered {sent.answers}")


async def _send_once(run: Run) -> Sent:
    alert = run.alert(action="buy", symbol="SOLUSDT.P", quantity="0.2")
    sent = Sent(alert_id=str(alert["alertId"]), body=alert)
    run.sent.append(sent)
    sent.answers.append(await run.sender.post_once(alert))
    return sent


async def _must_be_unavailable(run: Run, findings: Findings, what: str, *, alerts: int = 3) -> None:
    """While the store fails, an alert is answered 503 (send again) and none of its orders reaches the exchange."""
    before = sum(run.bridge.orders_received().values())
    sent = await asyncio.gather(*(_send_once(run) for _ in range(alerts)))
    answers = [one.answers[-1] for one in sent]
    orders = sum(run.bridge.orders_received().values()) - before
    if set(answers) != {503} or orders:
        findings.failures.append(f"R11 {what}: alerts were answered {answers}, {orders} orders were placed")


async def _locked(run: Run, findings: Findings) -> None:
    """Another process holds the write lock for longer than the daemon waits."""
    await run.until(lambda: not run.waiting())
    with closing(sqlite3.connect(database_file(run.bridge), isolation_level=None, timeout=10)) as other:
        other.execute("BEGIN IMMEDIATE")
        await _must_be_unavailable(run, findings, "locked")
        other.execute("ROLLBACK")


async def _full(run: Run, findings: Findings) -> None:
    """Fill the disk to the last byte, then free space again."""
    await run.until(lambda: not run.waiting())
    filler = run.bridge.data_dir / "filler"
    await asyncio.to_thread(_fill, filler)
    # Alerts that fit into space the WAL has allocated already may still be stored, and then must not be lost.
    for _ in range(_UNTIL_FULL):
        sent = await _send_once(run)
        if not sent.is_acknowledged:
            await _must_be_unavailable(run, findings, "full")
            break
        await asyncio.to_thread(_fill, filler)
    else:
        findings.failures.append("R11 full: the disk never got full")
    filler.unlink()


async def _read_only(run: Run, findings: Findings) -> None:
    """The file system is read-only after a crash: the daemon refuses to start with a one-line error; then it is writable again."""
    run.bridge.daemon.kill()
    _mount("remount,ro", run.bridge.data_dir)
    try:
        log_before = len(run.bridge.log_path.read_text().splitlines())
        await asyncio.to_thread(run.bridge.start_daemon)
        code = await asyncio.to_thread(run.bridge.daemon.wait)
        log_lines = run.bridge.log_path.read_text().splitlines()[log_before:]
        if code == 0 or len(log_lines) != 1:
            findings.failures.append(f"R11 read-only: ended with {code} and logged {log_lines}")
    finally:
        _mount("remount,rw", run.bridge.data_dir)
    await asyncio.to_thread(run.restart)


def _fill(file: Path) -> None:
    with file.open("ab", buffering=0) as open_file:
        for size in (65_536, 4096, 512, 1):
            try:
                while True:
                    open_file.write(b"\0" * size)
            except OSError:
                continue


def _mount(options: str, directory: Path) -> None:
    subprocess.run(["mount", "-o", options, str(directory)], check=True, capture_output=True)


def _can_mount() -> bool:
    """Return True if this process may mount a file system; otherwise only the locked database is tried."""
    return subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0
