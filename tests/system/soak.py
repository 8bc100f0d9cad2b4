"""Hours of a trader's use in minutes: `python -m tests.system.soak --minutes 30 --rate 10 --seed 1` prints a table.

Alerts of every kind arrive while prices move, stops fire, pages and event streams are opened and closed, metrics are read and commands
run beside the daemon. Its memory (PSS) and open files must stay what they were after the first alerts; afterwards the oracles of the crash
campaigns judge what became of the alerts. The exit code is 1 if one of them is over its mark or finds a violation.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
from yarl import URL

from tests.bench.systems import pss_mib
from tests.system.campaign import machine
from tests.system.campaigns.run import Run, running
from tests.system.harness import BridgeProcess, call
from tests.system.oracles import Findings

#: Marks of a full run: memory at the end relative to memory after the first alerts, and open files more than then.
MOST_GROWTH, MOST_FILES_MORE = 1.10, 8
#: Alerts after which everything that is created once has been created.
FIRST_ALERTS = 3000
_SAMPLE_EVERY_S = 5.0
#: Samples whose median is a figure of the table: about one minute.
_SAMPLES = 12
_PAGES = (
    "/",
    "/log",
    "/orders",
    "/positions",
    "/stats",
    "/risk",
    "/webhooks",
    "/history",
    "/jobs",
    "/docs",
    "/metrics",
)
_COMMANDS = (("logs",), ("orders",), ("positions",), ("stats",), ("risk", "show"), ("history", "verify"))
_MARKS = {"PERP_BTC_USDC": 65_000.0, "PERP_ETH_USDC": 1_800.0, "PERP_SOL_USDC": 140.0}


@dataclass(frozen=True)
class Sample:
    """The daemon at one moment."""

    #: Seconds since the start.
    at_s: float
    alerts: int
    pss_mib: float
    files: int
    threads: int


@dataclass
class Report:
    """What a run has measured."""

    seed: int
    findings: Findings = field(default_factory=Findings)
    samples: list[Sample] = field(default_factory=list)
    statuses: dict[int | None, int] = field(default_factory=dict)
    pages: int = 0
    streams: int = 0
    commands: int = 0
    #: Pages, streams and commands that failed.
    errors: list[str] = field(default_factory=list)
    first_alerts: int = FIRST_ALERTS

    def early(self) -> list[Sample]:
        """The first samples after `first_alerts`."""
        return [one for one in self.samples if one.alerts >= self.first_alerts][:_SAMPLES]

    def late(self) -> list[Sample]:
        return self.samples[-_SAMPLES:]

    def growth(self) -> float:
        """Memory at the end, relative to memory after the first alerts."""
        return median(one.pss_mib for one in self.late()) / median(one.pss_mib for one in self.early())

    def files_more(self) -> float:
        """Open files at the end, more than after the first alerts."""
        return median(one.files for one in self.late()) - median(one.files for one in self.early())

    def failures(self) -> list[str]:
        """What is wrong after a full run."""
        found = [*self.findings.failures, *self.errors]
        if not self.early():
            return [*found, f"only {self.samples[-1].alerts} alerts were sent; make the run longer"]
        after = sum(one.alerts >= self.first_alerts for one in self.samples)
        if after < 2 * _SAMPLES:
            return [
                *found,
                f"{after} samples after {self.first_alerts:,} alerts, expected at least {2 * _SAMPLES}: the first and the last {_SAMPLES}"
                " are compared, and here they overlap; make the run longer",
            ]
        if self.growth() > MOST_GROWTH:
            found.append(f"memory grew to {self.growth():.2f} of what it was after {self.first_alerts:,} alerts")
        if self.files_more() > MOST_FILES_MORE:
            found.append(f"{self.files_more():.0f} more open files than after {self.first_alerts:,} alerts")
        return found


class _Soak:
    """One run: what is done side by side."""

    def __init__(self, run: Run, report: Report, rate: float) -> None:
        self._run = run
        self._report = report
        self._rate = rate
        self._rng = random.Random(report.seed + 1)
        self._began = time.monotonic()
        self._sending: set[asyncio.Task[None]] = set()

    async def for_seconds(self, seconds: float) -> None:
        """Use the bridge for so long, and wait for the alerts on their way."""
        jobs = (self._alerts(), self._prices(), self._browse(), self._streams(), self._commands(), self._sample())
        tasks = [asyncio.create_task(job) for job in jobs]
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()  # a fault of the run itself
        await asyncio.gather(*self._sending)

    async def _alerts(self) -> None:
        while True:
            task = asyncio.create_task(self._alert())
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
            await asyncio.sleep(self._rng.expovariate(self._rate))

    async def _alert(self) -> None:
        """An alert of any kind, sometimes again, sometimes one that is refused."""
        kind = self._rng.random()
        taken = [one.body for one in self._run.sent[-100:] if one.is_acknowledged]
        if kind < 0.05 and taken:  # what TradingView or the trader sends twice
            self._count(await self._run.sender.post_once(self._rng.choice(taken)))
            return
        alert = self._run.any_alert()
        if kind < 0.08:
            alert["symbol"] = "NOSUCHMARKET"
        elif kind < 0.10:
            alert["quantity"] = "many"
        self._count((await self._run.send(alert)).answers[-1])

    def _count(self, status: int | None) -> None:
        self._report.statuses[status] = self._report.statuses.get(status, 0) + 1

    async def _prices(self) -> None:
        """Prices walk, so that stops of 5 % fire now and then."""
        marks = dict(_MARKS)
        while True:
            for symbol, start in _MARKS.items():
                step = marks[symbol] * self._rng.gauss(0.0, 0.004)
                marks[symbol] = min(max(marks[symbol] + step, start * 0.6), start * 1.6)
            prices = {symbol: f"{mark:.2f}" for symbol, mark in marks.items()}
            await asyncio.to_thread(call, f"{self._run.bridge.paper_url}/paper/prices", prices)
            await asyncio.sleep(1.0)

    async def _browse(self) -> None:
        async with self._signed_in() as session:
            while True:
                async with session.get(self._rng.choice(_PAGES)) as page:
                    await page.read()
                    self._report.pages += 1
                    if page.status != 200:
                        self._report.errors.append(f"{page.url.path} was answered {page.status}")
                await asyncio.sleep(0.5)

    async def _streams(self) -> None:
        """Live pages that are opened, left open for a while, and closed."""
        async with self._signed_in() as session:
            while True:
                async with session.get("/api/events") as stream:
                    self._report.streams += 1
                    if stream.status != 200:
                        self._report.errors.append(f"the event stream was answered {stream.status}")
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._rng.uniform(0.5, 5.0)):
                            while await stream.content.readany():
                                pass

    @contextlib.asynccontextmanager
    async def _signed_in(self) -> Any:
        link = (await asyncio.to_thread(self._run.bridge.run, "web", "link")).split()[-1]
        async with aiohttp.ClientSession(URL(link).origin(), cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
            async with session.get(link) as page:
                assert page.status == 200, f"{link} was answered {page.status}"
            yield session

    async def _commands(self) -> None:
        while True:
            for command in _COMMANDS:
                try:
                    await asyncio.to_thread(self._run.bridge.run, *command)
                except AssertionError as error:
                    self._report.errors.append(str(error))
                self._report.commands += 1
                await asyncio.sleep(5.0)

    async def _sample(self) -> None:
        pid = self._run.bridge.daemon.pid
        while True:
            files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
            alerts = sum(self._report.statuses.values())
            at_s = time.monotonic() - self._began
            self._report.samples.append(Sample(at_s, alerts, pss_mib(pid), files, threads))
            await asyncio.sleep(_SAMPLE_EVERY_S)


async def soak(
    seconds: float,
    *,
    rate: float,
    seed: int,
    first_alerts: int = FIRST_ALERTS,
    bridge_type: type[BridgeProcess] = BridgeProcess,
) -> Report:
    """Use a bridge of its own for so long, with `rate` alerts a second on average; then judge what became of every alert."""
    report = Report(seed, first_alerts=first_alerts)
    with running(seed, bridge_type=bridge_type) as run:
        await _Soak(run, report, rate).for_seconds(seconds)
        await run.settle()
        report.findings = run.findings()
    return report


def table(report: Report) -> str:
    """The report as a Markdown table: a row for each of ten moments."""
    rows = ["| seconds | alerts | PSS, MiB | open files | threads |", "|---|---|---|---|---|"]
    step = max(len(report.samples) // 10, 1)
    rows += (
        f"| {one.at_s:.0f} | {one.alerts:,} | {one.pss_mib:.1f} | {one.files} | {one.threads} |"
        for one in [*report.samples[::step], report.samples[-1]]
    )
    found = report.findings
    statuses = ", ".join(f"{status}: {count:,}" for status, count in sorted(report.statuses.items(), key=str))
    rows += [
        "",
        f"Answers: {statuses}. {report.pages:,} pages, {report.streams:,} streams, {report.commands:,} commands.",
    ]
    if report.early():
        rows.append(
            f"PSS at the end to after {report.first_alerts:,} alerts: {report.growth():.3f}; files more: {report.files_more():.0f}."
        )
    rows.append(f"{found.lost} lost, {found.doubled} doubled, {found.breaches} limits exceeded.")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=10.0, help="alerts a second on average")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    report = asyncio.run(soak(options.minutes * 60, rate=options.rate, seed=options.seed))
    print(table(report))
    print(f"\n{datetime.now(UTC):%Y-%m-%d}, {machine()}, command: python -m tests.system.soak {' '.join(sys.argv[1:])}")
    failures = report.failures()
    for failure in failures[:40]:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
