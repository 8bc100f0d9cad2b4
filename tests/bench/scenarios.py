"""The scenarios, one function each: measure one system in one round, return its figures."""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.bench import profiling
from tests.bench.brackets import brackets
from tests.bench.exits import exits
from tests.bench.layers import LAYERS
from tests.bench.load import Result, run
from tests.bench.markets import FEW, MANY
from tests.bench.reading import COMMANDS, reading
from tests.bench.replicating import replicating
from tests.bench.restarting import restarting
from tests.bench.systems import Flask, Kekbridge, OneCommit, Reference, ReferencePlus, System, ThrottledFlask, without
from tests.programs import HAS_LITESTREAM
from tests.system.harness import clean_environment

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Size:
    """Amount of work in a scenario."""

    lone: int
    burst: int
    sustained: int
    brackets: int
    #: Brackets of the market of a close that stand before it.
    in_the_way: int
    loaded: tuple[int, int]
    stored: tuple[int, ...]
    read: tuple[int, int]
    #: Number of the commands of reading.py that are measured.
    commands: int
    #: Starts of each command, of which the median counts.
    starts: int
    #: Work that a program does after it starts to answer (kekbridge imports its admin code then) does not count for an alert.
    settle_s: float


SIZES: Mapping[str, Size] = {
    # Shows that a scenario runs; what it measures does not matter.
    "smoke": Size(
        lone=3,
        burst=5,
        sustained=10,
        brackets=2,
        in_the_way=3,
        loaded=(5, 10),
        stored=(50,),
        read=(20, 60),
        commands=2,
        starts=1,
        settle_s=0.0,
    ),
    "full": Size(
        lone=100,
        burst=50,
        sustained=1000,
        brackets=8,
        in_the_way=80,
        loaded=(3000, 20_000),
        stored=(10_000, 1_000_000),
        read=(1000, 1_000_000),
        commands=len(COMMANDS),
        starts=5,
        settle_s=1.0,
    ),
}
ALL = (Kekbridge, Reference, ReferencePlus, Flask)
SAFE = (Kekbridge, Reference, ReferencePlus)
# A lone alert is past its answer, its fill and their commits when the next one comes.
_PAUSE_S = 0.2


def _drive(system: System, *, count: int, at_once: int, copies: int = 1, warm: int = 10, settle_s: float) -> Result:
    """Measure a run, after the work that follows a start and a short warm-up run."""

    async def both() -> Result:
        await asyncio.sleep(settle_s)
        if warm:
            await run(system, count=warm, at_once=min(5, warm))
        return await run(system, count=count, at_once=at_once, copies=copies)

    return asyncio.run(both())


def _drive_apart(system: System, *, count: int) -> list[tuple[float, float]]:
    """Send alerts one after the other with a pause after each; return the times of connect and order."""

    async def all_of_them() -> list[tuple[float, float]]:
        spans = []
        for _ in range(count):
            spans += (await run(system, count=1, at_once=1)).spans
            await asyncio.sleep(_PAUSE_S)
        return spans

    return asyncio.run(all_of_them())


def _percentile(values: list[float], share: float) -> float:
    if not values:
        return float("nan")
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def _times(result: Result) -> Figures:
    return {
        "order p50 ms": statistics.median(result.orders or [float("nan")]) * 1000,
        "order p99 ms": _percentile(result.orders, 0.99) * 1000,
        "ack p99 ms": _percentile(result.acks, 0.99) * 1000,
    }


def warm_lone(make: type[System], size: Size) -> Figures:
    """Send alerts one after the other."""
    with make() as system:
        return _times(_drive(system, count=size.lone, at_once=1, settle_s=size.settle_s))


def ten_at_once(make: type[System], size: Size) -> Figures:
    with make() as system:
        times = _times(_drive(system, count=size.lone * 2, at_once=10, settle_s=size.settle_s))
        return {**times, "order p99/p50": times["order p99 ms"] / times["order p50 ms"]}


def burst(make: type[System], size: Size) -> Figures:
    """Send all alerts of a bar close at once."""
    with make() as system:
        result = _drive(
            system, count=size.burst, at_once=size.burst, warm=50 if size.burst >= 50 else 5, settle_s=size.settle_s
        )
        return {"last order ms": result.last_order_s * 1000, "ack p99 ms": _percentile(result.acks, 0.99) * 1000}


def spread(make: type[System], size: Size) -> Figures:
    """Send a burst with each alert for another market."""
    with make(markets=MANY) as system:
        result = _drive(
            system, count=size.burst, at_once=size.burst, warm=50 if size.burst >= 50 else 5, settle_s=size.settle_s
        )
        return {"last order ms": result.last_order_s * 1000, "ack p99 ms": _percentile(result.acks, 0.99) * 1000}


def sustained(make: type[System], size: Size) -> Figures:
    """Send 50 alerts at a time for a long run."""
    with make() as system:
        _drive(system, count=min(50, size.burst), at_once=min(50, size.burst), settle_s=size.settle_s)
        before = system.cpu_s()
        result = _drive(system, count=size.sustained, at_once=50, warm=0, settle_s=size.settle_s)
        spent = system.cpu_s() - before
        return {"alerts/s": size.sustained / result.elapsed_s, "cpu ms/alert": spent / size.sustained * 1000}


def profile(make: type[System], size: Size) -> Figures:
    """Profile sustained load: calls, which are exact, and shares of CPU time, which the profiler distorts."""
    with profiling.wrapped(make()) as system:
        _drive(system, count=min(50, size.burst), at_once=min(50, size.burst), settle_s=size.settle_s)
        profiling.begin(system)
        _drive(system, count=size.sustained, at_once=50, warm=0, settle_s=0)
        return profiling.figures(profiling.stop(system), size.sustained)


def python_calls(make: type[System], size: Size) -> Figures:
    """Count the calls of Python functions per alert: of lone ones, and under load."""
    figures: Figures = {}
    for title, count, at_once in (("lone", size.lone, 1), ("sustained", size.sustained, 50)):
        with profiling.wrapped(make()) as system:
            _drive(system, count=min(50, size.burst), at_once=min(50, size.burst), settle_s=size.settle_s)
            profiling.begin(system)
            _drive(system, count=count, at_once=at_once, warm=0, settle_s=0)
            figures[f"calls per alert, {title}"] = profiling.python_calls(profiling.stop(system)) / count
    return figures


def decide_by_markets(make: type[System], size: Size) -> Figures:
    """Compare the CPU time of `decide` with a position in each of a few markets and in each of many; kekbridge only."""
    figures: Figures = {}
    for markets in (FEW, MANY):
        with profiling.wrapped(make(markets=markets)) as system:
            _drive(system, count=2 * markets, at_once=FEW, settle_s=size.settle_s)
            profiling.begin(system)
            _drive(system, count=size.lone, at_once=1, warm=0, settle_s=0)
            seconds = profiling.seconds_per_call(profiling.stop(system), "kekbridge/planning/decide.py", "decide")
            figures[f"decide µs, {markets} markets"] = seconds * 1e6
    figures[f"decide, {MANY} / {FEW} markets"] = (
        figures[f"decide µs, {MANY} markets"] / figures[f"decide µs, {FEW} markets"]
    )
    return figures


def layers(make: type[System], size: Size) -> Figures:
    """Measure what a performance layer brings: kekbridge with and without it, alone, in a burst and under load."""
    with make() as system:
        lone = _drive(system, count=size.lone, at_once=1, settle_s=size.settle_s)
        last = _drive(system, count=size.burst, at_once=size.burst, warm=min(50, size.burst), settle_s=0)
        before = system.cpu_s()
        result = _drive(system, count=size.sustained, at_once=50, warm=0, settle_s=0)
        spent = system.cpu_s() - before
        return {
            "order p50 ms": statistics.median(lone.orders) * 1000,
            "burst, last order ms": last.last_order_s * 1000,
            "alerts/s": size.sustained / result.elapsed_s,
            "cpu ms/alert": spent / size.sustained * 1000,
        }


def slow_exchange(make: type[System], size: Size) -> Figures:
    """The exchange answers after a second: responses do not wait for it, or wait the longest time that can be set."""
    with make(delay_s=1.0) as system:
        slow = _drive(system, count=size.burst, at_once=size.burst, warm=1, settle_s=size.settle_s)
    with make() as system:
        quick = _drive(system, count=size.burst, at_once=size.burst, warm=1, settle_s=size.settle_s)
    with make(delay_s=1.0, environment={"KEKBRIDGE_SERVER_RESPOND_WITHIN_S": "2.5"}) as system:
        waiting = _drive(system, count=size.burst, at_once=size.burst, warm=1, settle_s=size.settle_s)
    ack_slow, ack_quick = _percentile(slow.acks, 0.99), _percentile(quick.acks, 0.99)
    late = {"past 3 s": float(slow.late), "past 3 s, waiting": float(waiting.late)}
    return {"ack p99 ms": ack_slow * 1000, "slow/instant": ack_slow / ack_quick, **late}


def limited_exchange(make: type[System], size: Size) -> Figures:
    """The exchange accepts ten orders in any second and rejects the rest."""
    with make(limit=10) as system:
        result = _drive(system, count=size.burst, at_once=size.burst, warm=0, settle_s=size.settle_s)
        return {
            "last order s": result.last_order_s,
            "refused": float(result.refused),
            "never ordered": float(result.missing),
        }


def one_market(make: type[System], size: Size) -> Figures:
    """All entries of a burst are for one market of an exchange that answers after a second."""
    with make(markets=1, delay_s=1.0, environment={"KEKBRIDGE_QUEUE_CONCURRENCY": str(FEW)}) as system:
        result = _drive(system, count=size.burst, at_once=size.burst, warm=1, settle_s=size.settle_s)
        return {"last order s": result.last_order_s, "never ordered": float(result.missing)}


def limited_brackets(make: type[System], size: Size) -> Figures:
    """The exchange accepts one bracket in any second, exits do not wait behind them; kekbridge with its paper exchange only."""
    return brackets(size.brackets)


def exits_first(make: type[System], size: Size) -> Figures:
    """A close while other orders are in its way, and what they wait for; kekbridge with its paper exchange only."""
    return exits(size.burst, size.in_the_way)


def every_alert_twice(make: type[System], size: Size) -> Figures:
    with make() as system:
        return {
            "double orders": float(
                _drive(system, count=size.burst, at_once=10, copies=2, warm=0, settle_s=size.settle_s).doubles
            )
        }


def memory(make: type[System], size: Size) -> Figures:
    with make() as system:
        time.sleep(size.settle_s)
        idle = system.pss_mib()
        first, second = size.loaded
        _drive(system, count=first, at_once=50, warm=0, settle_s=size.settle_s)
        loaded = system.pss_mib()
        _drive(system, count=second - first, at_once=50, warm=0, settle_s=size.settle_s)
        return {"idle MiB": idle, "loaded MiB": system.pss_mib(), "late/early": system.pss_mib() / loaded}


def start_up(make: type[System], size: Size) -> Figures:
    """Measure from spawn to first response."""
    with make() as system:
        return {"start s": system.start_s}


def start_up_stored(make: type[System], size: Size) -> Figures:
    """Start with stored alerts, and the latency of a single alert afterwards; kekbridge only."""
    return restarting(make, size.stored, alerts=size.lone, settle_s=size.settle_s)


def replicated(make: type[System], size: Size) -> Figures:
    """Sustained load without and with a replica, and the replica's lag; kekbridge only."""
    return replicating(make, alerts=size.sustained, settle_s=size.settle_s)


def long_history(make: type[System], size: Size) -> Figures:
    """Read commands on a long history, relative to a short one; kekbridge only."""
    return reading(make, size.read, alerts=size.lone, times=max(size.lone // 20, 1), commands=size.commands)


def flushes(make: type[System], size: Size) -> Figures:
    """Count fdatasync and fsync with strace: per single alert, per alert of a burst, and between a lone alert and its order."""
    figures: Figures = {}
    for title, count, at_once in (("lone", size.lone, 1), ("burst", size.burst, size.burst)):
        with _traced(make) as system:
            _drive(system, count=5, at_once=1, warm=0, settle_s=size.settle_s)
            time.sleep(size.settle_s)
            before = len(_flush_times(system))
            _drive(system, count=count, at_once=at_once, warm=0, settle_s=size.settle_s)
            time.sleep(size.settle_s)
            figures[f"per alert, {title}"] = (len(_flush_times(system)) - before) / count
            if title == "lone":
                spans = _drive_apart(system, count=max(count // 5, 1))
                times = _flush_times(system)
                counts = [sum(sent_at <= at <= ordered_at for at in times) for sent_at, ordered_at in spans]
                figures |= {"before the order, least": float(min(counts)), "before the order, most": float(max(counts))}
    return figures


def written(make: type[System], size: Size) -> Figures:
    """Count the write calls and bytes of lone alerts, one after the other and with pauses; sockets are not in these counts (proc(5))."""
    figures: Figures = {}
    with make() as system:
        _drive(system, count=10, at_once=1, settle_s=size.settle_s)
        time.sleep(max(size.settle_s, _PAUSE_S))
        for title, count in (("", size.lone), (", apart", max(size.lone // 5, 1))):
            before = system.io()
            if title:
                _drive_apart(system, count=count)
            else:
                _drive(system, count=count, at_once=1, warm=0, settle_s=0)
                time.sleep(_PAUSE_S)
            spent = {name: (value - before[name]) / count for name, value in system.io().items()}
            figures[f"write calls{title}"] = spent["syscw"]
            figures[f"written KB{title}"] = spent["wchar"] / 1000
            figures[f"to disk KB{title}"] = spent["write_bytes"] / 1000
    return figures


def slow_disk(make: type[System], size: Size) -> Figures:
    """Run on a disk that takes 5 ms per flush."""
    with _traced(make, "-e", "inject=fdatasync,fsync:delay_exit=5000") as system:
        result = _drive(system, count=max(size.sustained // 2, 10), at_once=50, settle_s=size.settle_s)
        return {"alerts/s": len(result.orders) / result.elapsed_s}


def command_line(make: type[System], size: Size) -> Figures:
    """Time commands relative to an empty Python program."""
    with make() as system:
        bare = _seconds("-c", "pass", system=system, times=size.starts)
        return {
            f"{title} x bare": _seconds("-m", "kekbridge", *arguments, system=system, times=size.starts) / bare
            for title, arguments in (("--help", ["--help"]), ("--version", ["--version"]), ("positions", ["positions"]))
        }


def _traced(make: type[System], *options: str) -> System:
    system = make()
    system.wrap = [
        "strace",
        "--seccomp-bpf",  # stops at these calls only, because tracing every call would slow the process down
        "-f",
        "-qq",
        "-ttt",
        "-e",
        "trace=fdatasync,fsync",
        "-o",
        str(system.directory / "trace"),
        *options,
    ]
    return system


def _flush_times(system: System) -> list[float]:
    """Return when each flush so far began, on CLOCK_MONOTONIC."""
    offset = time.time() - time.monotonic()
    lines = (system.directory / "trace").read_text().splitlines()
    return [float(line.split()[1]) - offset for line in lines if "fdatasync(" in line or "fsync(" in line]


def _seconds(*arguments: str, system: System, times: int) -> float:
    def once() -> float:
        started = time.monotonic()
        environment = {**clean_environment(), **system.environment}
        subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=True)
        return time.monotonic() - started

    return statistics.median(once() for _ in range(times))


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is measured, of which systems, and what it needs: strace, Litestream, or root, who alone sees memory and writes of a process
    that forbids core dumps."""

    title: str
    measure: Callable[[type[System], Size], Figures]
    systems: tuple[type[System], ...]
    needs: str = ""

    @property
    def missing(self) -> str:
        """What it needs and does not have here; empty if it can run."""
        if self.needs == "strace" and shutil.which("strace") is None:
            return "strace is not installed"
        if self.needs == "litestream" and not HAS_LITESTREAM:
            return "Litestream is not installed"
        if self.needs == "root" and os.geteuid() != 0:
            return "only root may read the memory and writes of a process that forbids core dumps"
        return ""


SCENARIOS: Mapping[str, Scenario] = {
    "lone": Scenario("warm lone alert", warm_lone, ALL),
    "ten": Scenario("10 at a time", ten_at_once, ALL),
    "burst": Scenario("burst of 50", burst, (*ALL, ThrottledFlask)),
    "spread": Scenario("burst of 50, 50 markets", spread, ALL),
    "sustained": Scenario("sustained, 50 at a time", sustained, ALL),
    "profile": Scenario("sustained, profiled", profile, SAFE),
    "calls": Scenario("Python calls", python_calls, SAFE),
    "decide": Scenario("decide, by markets", decide_by_markets, (Kekbridge,)),
    "layers": Scenario("with and without a layer", layers, (Kekbridge, *(without(layer) for layer in LAYERS))),
    "slow": Scenario("exchange answers after 1 s", slow_exchange, ALL),
    "onemarket": Scenario("50 entries in one market, answers after 1 s", one_market, ALL),
    "limited": Scenario("exchange takes 10 a second", limited_exchange, (*ALL, ThrottledFlask)),
    "brackets": Scenario("exchange takes a bracket a second", limited_brackets, (Kekbridge,)),
    "exits": Scenario("a close with others in its way", exits_first, (Kekbridge,)),
    "twice": Scenario("every alert twice", every_alert_twice, ALL),
    "memory": Scenario("memory (PSS)", memory, ALL, needs="root"),
    "start": Scenario("start to first answer", start_up, ALL),
    "restart": Scenario("start with stored alerts", start_up_stored, (Kekbridge,)),
    "replica": Scenario("sustained, with a replica", replicated, (Kekbridge,), needs="litestream"),
    "stored": Scenario("stored alerts", long_history, (Kekbridge,)),
    "flushes": Scenario("flushes of the disk", flushes, SAFE, needs="strace"),
    "written": Scenario("written per lone alert", written, SAFE, needs="root"),
    "disk": Scenario("a disk of 5 ms", slow_disk, (*SAFE, OneCommit), needs="strace"),
    "cli": Scenario("command line", command_line, (Kekbridge,)),
}
