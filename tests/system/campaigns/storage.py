"""R11: the disk is full, the file system read-only, or another process holds the database: 503, no order, and recovery without a hand."""

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

_SPACE_MIB, _SPACE_PER_TRIAL_MIB = 12, 0.5  # each trial stores alerts until nothing more fits, and they stay
_UNTIL_FULL = 500  # alerts that fit into what the log and the database have taken already, at most
_Trouble = Callable[[Run, Findings], Coroutine[Any, Any, None]]


async def troubles(seed: int, trials: int) -> Outcome:
    """R11: each trouble `trials` times, with alerts before, during and after it."""
    findings = Findings()
    kinds: dict[str, _Trouble] = {"locked": _locked}
    if _can_mount():
        kinds |= {"full": _full, "read-only": _read_only}
    space = f"{_SPACE_MIB + round(trials * _SPACE_PER_TRIAL_MIB)}m"
    with ExitStack() as stack:
        # Side by side: each has its own bridge, and most of it is waiting. All are started first, for starting waits for nobody.
        runs = [stack.enter_context(running(seed, small_disk=None if name == "locked" else space)) for name in kinds]
        stories = [
            _try_kind(run, trials, name, trouble) for run, (name, trouble) in zip(runs, kinds.items(), strict=True)
        ]
        for found in await asyncio.gather(*stories):
            findings.add(found)
    notes = [f"{name} {trials}" for name in kinds]
    return Outcome("R11 disk full, read-only, locked", trials * len(kinds), findings, seed, note=", ".join(notes))


async def _try_kind(run: Run, trials: int, name: str, trouble: _Trouble) -> Findings:
    findings = Findings()
    for number in range(trials):
        await _must_pass(run, findings, f"R11 {name} {number}: before")
        await trouble(run, findings)
        await run.until(run.bridge.is_ready)
        await _must_pass(run, findings, f"R11 {name} {number}: after", tries=8)
    await run.settle()
    findings.add(run.findings())
    return findings


async def _must_pass(run: Run, findings: Findings, what: str, *, tries: int = 1) -> None:
    """An alert must be taken; after a trouble the next one that comes may be the one that finds the store usable again."""
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


async def _must_be_refused(run: Run, findings: Findings, what: str, *, alerts: int = 3) -> None:
    """While the store cannot take it, an alert is 503 (send again) and no order of it reaches the exchange."""
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
        await _must_be_refused(run, findings, "locked")
        other.execute("ROLLBACK")


async def _full(run: Run, findings: Findings) -> None:
    """Not a byte is left on the disk; then space is made again."""
    await run.until(lambda: not run.waiting())
    filler = run.bridge.data_dir / "filler"
    await asyncio.to_thread(_fill, filler)
    # What fits into the space that the log has taken already may still be stored: then it must be stored for good.
    for _ in range(_UNTIL_FULL):
        sent = await _send_once(run)
        if not sent.is_acknowledged:
            await _must_be_refused(run, findings, "full")
            break
        await asyncio.to_thread(_fill, filler)
    else:
        findings.failures.append("R11 full: the disk never got full")
    filler.unlink()


async def _read_only(run: Run, findings: Findings) -> None:
    """The file system comes back read-only after a crash: a refusal to start with one line; then writable again."""
    run.bridge.daemon.kill()
    _mount("remount,ro", run.bridge.data_dir)
    try:
        log_before = len(run.bridge.log_path.read_text().splitlines())
        await asyncio.to_thread(run.bridge.start_daemon)
        code = await asyncio.to_thread(run.bridge.daemon.wait)
        said = run.bridge.log_path.read_text().splitlines()[log_before:]
        if code == 0 or len(said) != 1:
            findings.failures.append(f"R11 read-only: ended with {code} and said {said}")
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
    """Whether this process may mount a small file system; without that right only the lock is tried."""
    return subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0
