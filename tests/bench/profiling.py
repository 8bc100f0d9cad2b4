"""Where an alert's time goes: calls per alert, which are exact, and the CPU time of each part, which the profiler inflates."""

from __future__ import annotations

import marshal
import os
import re
import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from tests.bench.systems import System

# What the interpreter does not do itself, by the name of the C function.
_BUILT_IN: Mapping[str, str] = {
    "sqlite3": "SQLite",
    "_socket": "sockets",
    "socket.close": "sockets",
    "select.epoll": "sockets",
    "_sodium": "signatures",
    "_hashlib": "signatures",
    "pydantic_core": "pydantic",
}
# By the path of the file; the first that fits decides.
_FILES: Mapping[str, str] = {
    "/tests/bench/": "the program",
    "/kekbridge/store/": "kekbridge: store",
    "/kekbridge/exchange/": "kekbridge: exchange",
    "/kekbridge/ingress/": "kekbridge: ingress",
    "/kekbridge/alerts/": "kekbridge: alerts",
    "/kekbridge/risk/": "kekbridge: rules",
    "/kekbridge/planning/": "kekbridge: rules",
    "/kekbridge/model/": "kekbridge: model",
    "/kekbridge/": "kekbridge: execution, log and the rest",
    "/aiohttp/": "aiohttp",
    "/asyncio/": "asyncio",
    "/structlog/": "structlog",
    "/pydantic/": "pydantic",
    "/json/": "json",
}
_WAIT_S = 60.0

_Function = tuple[str, int, str]


def wrapped(system: System) -> System:
    """The same system under the profiler. Only what is started as a module can be."""
    command = system.command

    def under_profiler() -> list[str]:
        flag, module, *arguments = command()
        assert flag == "-m"
        return ["-m", "tests.bench.profiled", str(system.directory / "profile"), module, *arguments]

    system.command = under_profiler  # type: ignore[method-assign]
    return system


def begin(system: System) -> None:
    """Count from now on."""
    os.kill(system.pid, signal.SIGUSR1)


def figures(system: System, alerts: int) -> dict[str, float]:
    """End the system, and read what was counted: calls and CPU microseconds per alert, by thread and by part."""
    os.kill(system.pid, signal.SIGUSR2)
    system.wait(_WAIT_S)
    calls: defaultdict[str, float] = defaultdict(float)
    spent: defaultdict[str, float] = defaultdict(float)
    for file in sorted(system.directory.glob("profile.*")):
        told = marshal.loads(file.read_bytes())  # noqa: S302 - our own, of a moment ago
        thread = re.sub(r"[_-]?[0-9]+$", "", file.name.removeprefix("profile."))
        for part, count, seconds in _shares(told):
            calls[f"calls, {thread}"] += count
            spent[f"µs, {part}"] += seconds
    total = sum(spent.values())
    shares = {f"share of {name.removeprefix('µs, ')}": value / total for name, value in spent.items()}
    kept = {name: value for name, value in calls.items() if value >= alerts}
    return {name: value / alerts for name, value in kept.items()} | {"calls": sum(calls.values()) / alerts} | shares


def _shares(stats: Mapping[_Function, Any]) -> Iterator[tuple[str, int, float]]:
    """Part, calls and own seconds of each function; what is built into Python counts for whoever calls it."""
    for function, (_, count, own_s, _, callers) in stats.items():
        part = _part(function)
        if part is not None or not callers:
            yield part or "Python", count, own_s
            continue
        for caller, (_, calls, seconds, _) in callers.items():
            yield _part(caller) or "Python", calls, seconds


def _part(function: _Function) -> str | None:
    """None for what is built in and no part of its own."""
    path, _, name = function
    if path == "~":
        return next((part for word, part in _BUILT_IN.items() if word in name), None)
    return next((part for word, part in _FILES.items() if word in path), "Python's library and others")
