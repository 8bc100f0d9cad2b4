"""Compare kekbridge with the reference and with a common bot: `python -m tests.bench [scenario…] --rounds 5 --markdown`.

Systems alternate, each ratio is taken within one round, and the median over the rounds is reported. Absolute times mean little, because
the load generator and the stub exchange run on the same cores.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import signal
import statistics
import sys
from collections import defaultdict
from datetime import UTC, datetime

from tests.bench.goals import GOALS
from tests.bench.scenarios import SCENARIOS, SIZES, Figures, Scenario, Size
from tests.bench.systems import Kekbridge

Table = dict[tuple[str, str], list[float]]


def measure(scenario: Scenario, size: Size, rounds: int, systems: set[str]) -> Table:
    """Measure a scenario; return the values by (system, figure), one per round."""
    table: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    chosen = [system for system in scenario.systems if system.name in systems]
    for _ in range(rounds):
        found: dict[str, Figures] = {}
        for make in chosen:
            found[make.name] = scenario.measure(make, size)
        for name, figures in found.items():
            for figure, value in figures.items():
                table[name, figure].append(value)
        for name, figures in found.items():
            for figure, value in found.get(Kekbridge.name, {}).items():
                if name != Kekbridge.name and figures.get(figure):
                    table[f"kekbridge / {name}", figure].append(value / figures[figure])
    return dict(table)


def rows_of(key: str, table: Table) -> list[list[str]]:
    """Format the rows: scenario, figure, system, median, min, max, rounds, and the goal if there is one."""
    rows = []
    for (name, figure), values in sorted(table.items(), key=lambda item: (item[0][1], item[0][0])):
        if any(math.isnan(value) for value in values):
            continue
        median = statistics.median(values)
        goal = GOALS.get((key, figure, name))
        spread = [_short(value) for value in (median, min(values), max(values))]
        rows.append(
            [SCENARIOS[key].title, figure, name, *spread, str(len(values)), goal.describe(median) if goal else "-"]
        )
    return rows


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "scenarios", nargs="*", metavar="scenario", help=f"any of {', '.join(SCENARIOS)}; all by default"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", choices=list(SIZES), default="full")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--systems", default=",".join({s.name for each in SCENARIOS.values() for s in each.systems}))
    given = parser.parse_args(arguments)
    unknown = set(given.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"no scenario {', '.join(sorted(unknown))}; choose from {', '.join(SCENARIOS)}")
    if given.markdown:
        cores, memory = os.cpu_count(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        command = " ".join(["python -m tests.bench", *arguments])
        print(
            f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}\n"
        )
        print("| scenario | figure | system | median | min | max | rounds | goal |\n|---|---|---|---|---|---|---|---|")
    for name in given.scenarios or SCENARIOS:
        scenario = SCENARIOS[name]
        if scenario.missing:
            print(f"{name}: {scenario.missing}", file=sys.stderr)
            continue
        table = measure(scenario, SIZES[given.size], given.rounds, set(given.systems.split(",")))
        for row in rows_of(name, table):
            print(
                "| " + " | ".join(row) + " |" if given.markdown else "  ".join(f"{cell:<24}" for cell in row),
                flush=True,
            )
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the processes started here, too
    sys.exit(main(sys.argv[1:]))
