"""Profile of an alert: calls per alert, which are exact, and shares of CPU time by part, which the profiler distorts."""

from __future__ import annotations

import marshal
import os
import re
import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from tests.bench.systems import System

# Work done in C, by part of the function's name.
_BUILT_IN: Mapping[str, str] = {
    "sqlite3": "SQLite",
    "_socket": "sockets",
    "socket.close": "sockets",
    "select.epoll": "sockets",
    "_sodium": "signatures",
    "_hashlib": "signatures",
    "pydantic_core": "pydantic",
}
# Python functions, by part of the file's path; the first match counts.
_FILES: Mapping[str, str] = {
    "/tests/bench/": "the program",
    "/kekbridge/ingress/": "kekbridge: ingress",
    "/kekbridge/alerts/": "kekbridge: alerts",
    "/kekbridge/planning/": "kekbridge: planning",
    "/kekbridge/risk/": "kekbridge: risk",
    "/kekbridge/execution/": "kekbridge: execution",
    "/kekbridge/exchange/": "kekbridge: exchange",
    "/kekbridge/store/": "kekbridge: store",
    "/kekbridge/model/": "kekbridge: model",
    "/kekbridge/": "kekbridge: log and the rest",
    "/aiohttp/": "aiohttp",
    "/asyncio/": "asyncio",
    "/pydantic/": "pydantic",
    "/json/": "json",
}
_WAIT_S = 60.0

_Function = tuple[str, int, str]


def wrapped(system: System) -> System:
    """Make the system run under the profiler; it must be started as a module."""
    command = system.command

    def under_profiler() -> list[str]:
        flag, module, *arguments = command()
        assert flag == "-m"
        return ["-m", "tests.bench.profiled", str(system.directory / "profile"), module, *arguments]

    system.command = under_profiler  # type: ignore[method-assign]
    return system


def begin(system: System) -> None:
    """Reset the counts."""
    os.kill(system.pid, signal.SIGUSR1)


def figures(system: System, alerts: int) -> dict[str, float]:
    """Stop the system; return its calls per alert by thread, and the share of CPU time by part."""
    os.kill(system.pid, signal.SIGUSR2)
    system.wait(_WAIT_S)
    calls: defaultdict[str, float] = defaultdict(float)
    cpu_s: defaultdict[str, float] = defaultdict(float)
    for file in sorted(system.directory.glob("profile.*")):
        stats = marshal.loads(file.read_bytes())  # noqa: S302 - written by our own process
        thread = re.sub(r"[_-]?[0-9]+$", "", file.name.removeprefix("profile."))
        for part, count, seconds in _by_part(stats):
            calls[f"calls, {thread}"] += count
            cpu_s[part] += seconds
    total = sum(cpu_s.values())
    shares = {f"share of {part}": value / total for part, value in cpu_s.items()}
    kept = {name: value for name, value in calls.items() if value >= alerts}
    return {name: value / alerts for name, value in kept.items()} | {"calls": sum(calls.values()) / alerts} | shares


def _by_part(stats: Mapping[_Function, Any]) -> Iterator[tuple[str, int, float]]:
    """Yield part, calls and own seconds of each function; built-in functions count for their callers."""
    for function, (_, count, own_s, _, callers) in stats.items():
        part = _part(function)
        if part is not None or not callers:
            yield part or "Python", count, own_s
            continue
        for caller, (_, calls, seconds, _) in callers.items():
            yield _part(caller) or "Python", calls, seconds


def _part(function: _Function) -> str | None:
    """Return the part a function belongs to; None for built-in functions that are not in _BUILT_IN."""
    path, _, name = function
    if path == "~":
        return next((part for word, part in _BUILT_IN.items() if word in name), None)
    return next((part for word, part in _FILES.items() if word in path), "Python's library and others")
