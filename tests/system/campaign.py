"""Run campaigns that try to lose an alert or double an order: `python -m tests.system.campaign R1 R2 --kills 100 --seed 7`.

Each campaign starts its own paper exchange and daemon as processes. The exit code is 1 if an oracle found a violation.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

from tests.system.campaigns import answers, deliveries, kills, mixed, powercut, restarts, storage, syscalls
from tests.system.campaigns.run import Outcome

Campaign = Callable[[int, int], Awaitable[Outcome | list[Outcome]]]

# Name -> the campaign, its number of trials in every test run, and its number for a release.
CAMPAIGNS: dict[str, tuple[Campaign, int, int]] = {
    "R1": (kills.random_kills, 4, 1000),
    "R2": (kills.crash_points, 1, 200),
    "R3": (powercut.power_cuts, 2, 300),
    "R4": (syscalls.order_of_calls, 10, 100),
    "R5": (deliveries.repeats, 40, 10_000),
    "R6": (answers.lost_answers, 20, 10_000),
    "R7": (answers.lost_answers_and_lag, 10, 10_000),
    "R8": (deliveries.filled_while_down, 2, 1000),
    "R9": (deliveries.other_bodies, 10, 1000),
    "R10": (deliveries.two_daemons, 2, 100),
    "R11": (storage.storage_faults, 1, 100),
    "R13": (restarts.socket_activated, 3, 500),
    "M3": (deliveries.bursts, 2, 1000),
    "M4": (answers.stops, 4, 4000),
    "M5": (deliveries.closes, 20, 10_000),
    "M7": (deliveries.stale, 30, 1000),
    "M8": (deliveries.swapped, 6, 5000),
    "X1": (mixed.mixed, 40, 5000),
}
COLUMNS = (
    "campaign",
    "N",
    "lost",
    "doubled",
    "limit breaches",
    "longest naked",
    "unknown left",
    "seed",
    "seconds",
    "note",
)


def cells(outcome: Outcome) -> tuple[str, ...]:
    """Format an outcome as a row of the table."""
    found = outcome.findings
    naked = "-" if found.longest_naked_s is None else f"{found.longest_naked_s:.2f} s"
    figures = (outcome.trials, found.lost, found.doubled, found.breaches)
    note = outcome.note + (f" — {len(found.failures)} FAILURES" if found.failures else "")
    return (
        outcome.campaign,
        *(str(figure) for figure in figures),
        naked,
        str(found.unknown),
        str(outcome.seed),
        f"{outcome.seconds:.0f}",
        note,
    )


def table(outcomes: list[Outcome], *, markdown: bool) -> str:
    rows = [COLUMNS, *(cells(outcome) for outcome in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    if not markdown:
        return "\n".join(line.rstrip() for line in lines)
    rule = " | ".join("-" * width for width in widths)
    return "\n".join(f"| {line} |" for line in (lines[0], rule, *lines[1:]))


def machine() -> str:
    """Describe the machine: cores, memory, Python version."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{os.cpu_count()} cores, {pages / 2**30:.0f} GiB, Python {sys.version.split()[0]}"


async def run(names: list[str], *, seed: int, size: str, trials: int | None, kills: int | None = None) -> list[Outcome]:
    """Run the named campaigns one after the other; print failures as they are found. `kills`: those of X1."""
    outcomes: list[Outcome] = []
    for name in names:
        campaign, small, release = CAMPAIGNS[name]
        if name == "X1" and kills is not None:
            campaign = partial(mixed.mixed, kills=kills)
            wanted = trials or (release if size == "release" else small)
        else:
            wanted = trials or kills or (release if size == "release" else small)
        started = time.monotonic()
        found = await campaign(seed, wanted)
        seconds = time.monotonic() - started
        new = found if isinstance(found, list) else [found]
        for outcome in new:
            outcome.seconds = outcome.seconds or seconds / len(new)
            for failure in outcome.findings.failures[:40]:
                print(f"{outcome.campaign}: {failure}", file=sys.stderr, flush=True)
        outcomes += new
        print(f"{name} done after {seconds:.0f} s", file=sys.stderr, flush=True)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.campaign", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="CAMPAIGN", help=f"default: all of {' '.join(CAMPAIGNS)}")
    parser.add_argument(
        "--trials",
        "--alerts",
        type=int,
        dest="trials",
        help="number of trials of each, instead of its size; of X1: alerts",
    )
    parser.add_argument("--kills", type=int, help="X1: number of kills; the others: the same as --trials")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", choices=("small", "release"), default="small")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in CAMPAIGNS]
    if unknown:
        parser.error(f"no campaign {unknown[0]}; choose from {' '.join(CAMPAIGNS)}")
    names = options.names or list(CAMPAIGNS)
    outcomes = asyncio.run(run(names, seed=options.seed, size=options.size, trials=options.trials, kills=options.kills))
    print(table(outcomes, markdown=options.markdown))
    print(
        f"\n{datetime.now(UTC):%Y-%m-%d}, {machine()}, command: python -m tests.system.campaign {' '.join(sys.argv[1:])}"
    )
    return 0 if all(outcome.findings.is_clean for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
