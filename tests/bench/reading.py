"""Cost of a long history for read commands and the listener: a store of a million alerts relative to one of a thousand."""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack

from tests.bench import filling
from tests.bench.histories import with_history
from tests.bench.load import run
from tests.bench.systems import System
from tests.system.harness import clean_environment

# The newest alert, an old one, and every filter of `logs`; a text that does not occur is the worst case.
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "logs": ("logs",),
    "logs --webhook": ("logs", "--webhook", "bench"),
    "logs --status denied": ("logs", "--status", "denied"),
    "logs --status unknown (none)": ("logs", "--status", "unknown"),
    "logs --code": ("logs", "--code", "daily_limit"),
    "logs --symbol (1 in 1000)": ("logs", "--symbol", filling.RARE),
    "logs --symbol --status": ("logs", "--symbol", filling.RARE, "--status", "denied"),
    "logs --since 7d": ("logs", "--since", "7d"),
    "logs --text (nowhere)": ("logs", "--text", "occurs nowhere"),
    "explain": ("explain", "01A00000000000000000000007"),
    "stats": ("stats", "--since", "7d"),
    "stats --since all": ("stats", "--since", "all"),
    "stats --webhook": ("stats", "--since", "all", "--webhook", "bench"),
    "orders": ("orders",),
}


def reading(make: type[System], counts: tuple[int, int], *, alerts: int, times: int, commands: int) -> dict[str, float]:
    """Measure the first `commands` commands in CPU seconds on the long history and relative to the short one, and the listener's times.

    Both bridges run at once and alternate, so that other load on the machine affects both.
    """
    few, many = counts
    short, long = (with_history(make, count) for count in counts)
    with ExitStack() as running:
        for system in (short, long):
            system.start()
            running.callback(system.stop)
        acks: dict[System, list[float]] = {short: [], long: []}
        for _ in range(max(alerts // 5, 1)):
            for system in acks:
                acks[system] += _send(system, 5)
        figures = {f"listener, ack p50: {many} / {few}": statistics.median(acks[long]) / statistics.median(acks[short])}
        for name, arguments in itertools.islice(COMMANDS.items(), commands):
            seconds = [(_cpu_s(short, arguments), _cpu_s(long, arguments)) for _ in range(times)]
            figures[f"{name}: CPU s at {many}"] = statistics.median(long_s for _, long_s in seconds)
            figures[f"{name}: {many} / {few}"] = statistics.median(long_s / short_s for short_s, long_s in seconds)
    return figures


def _send(system: System, count: int) -> list[float]:
    """Send alerts one after the other; return the seconds to each response."""
    return asyncio.run(run(system, count=count, at_once=1)).acks


def _cpu_s(system: System, arguments: tuple[str, ...]) -> float:
    """Return the CPU seconds of a command beside the running daemon, including Python's start."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kekbridge", *arguments],
        env={**clean_environment(), **system.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    errors = process.stderr.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise AssertionError(f"{' '.join(arguments)}: {errors}")
    return used.ru_utime + used.ru_stime
