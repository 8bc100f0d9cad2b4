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

_BUILT_IN_PATH = "~"
_Function = tuple[str, int, str]
Profile = dict[str, list[Mapping[_Function, Any]]]


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


def stop(system: System) -> Profile:
    """Stop the system; return the profile of each thread."""
    os.kill(system.pid, signal.SIGUSR2)
    system.wait(_WAIT_S)
    found: Profile = {}
    for file in sorted(system.directory.glob("profile.*")):
        thread = re.sub(r"[_-]?[0-9]+$", "", file.name.removeprefix("profile."))
        stats = marshal.loads(file.read_bytes())  # noqa: S302 - written by our own process
        found.setdefault(thread, []).append(stats)
    return found


def figures(profile: Profile, alerts: int) -> dict[str, float]:
    """Return the calls per alert by thread, and the share of CPU time by part."""
    calls: defaultdict[str, float] = defaultdict(float)
    cpu_s: defaultdict[str, float] = defaultdict(float)
    for thread, stats in _each(profile):
        for part, count, seconds in _by_part(stats):
            calls[f"calls, {thread}"] += count
            cpu_s[part] += seconds
    total = sum(cpu_s.values())
    shares = {f"share of {part}": value / total for part, value in cpu_s.items()}
    kept = {name: value for name, value in calls.items() if value >= alerts}
    return {name: value / alerts for name, value in kept.items()} | {"calls": sum(calls.values()) / alerts} | shares


def python_calls(profile: Profile) -> int:
    """Return the number of calls of functions written in Python."""
    return sum(
        count for _, stats in _each(profile) for (path, _, _), (_, count, *_) in stats.items() if path != _BUILT_IN_PATH
    )


def seconds_per_call(profile: Profile, file: str, function: str) -> float:
    """Return the mean CPU time of a function, with everything that it calls."""
    calls, seconds = 0, 0.0
    for _, stats in _each(profile):
        for (path, _, name), (_, count, _, cumulative_s, _) in stats.items():
            if name == function and path.endswith(file):
                calls, seconds = calls + count, seconds + cumulative_s
    if not calls:
        raise AssertionError(f"{function} in {file} was never called")
    return seconds / calls


def _each(profile: Profile) -> Iterator[tuple[str, Mapping[_Function, Any]]]:
    return ((thread, stats) for thread, each in profile.items() for stats in each)


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
    if path == _BUILT_IN_PATH:
        return next((part for word, part in _BUILT_IN.items() if word in name), None)
    return next((part for word, part in _FILES.items() if word in path), "Python's library and others")
