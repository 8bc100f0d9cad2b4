"""R4: order of system calls, from strace: an alert is written to the WAL and flushed before the first byte of its 2xx is sent."""

from __future__ import annotations

import re
from pathlib import Path

from tests.system.campaigns.run import Outcome, running
from tests.system.disk import CAN_TRACE_DAEMON
from tests.system.forked import ForkedBridge, ForkedProcess
from tests.system.harness import Process
from tests.system.oracles import Findings

_CALLS = "pwrite64,write,fdatasync,fsync,recvfrom,read,sendto,sendmsg,writev"
_LINE = re.compile(r"^(\d+)\s+(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)$")
MARK = "order-of-calls-"


class StracedBridge(ForkedBridge):
    """A bridge whose daemon runs under strace."""

    def _new_daemon(self) -> Process:
        trace = ("strace", "-f", "-y", "-s", "9000", "-e", f"trace={_CALLS}", "-o", str(self.trace_path))
        return ForkedProcess(
            self.daemon_arguments(), environment=self.daemon_environment(), log=self.log_path, tracer=trace
        )

    @property
    def trace_path(self) -> Path:
        return self.directory / "strace.txt"


async def order_of_calls(seed: int, alerts: int) -> Outcome:
    """R4: each alert is written to the -wal file and flushed before its response is written."""
    findings = Findings()
    if not CAN_TRACE_DAEMON:
        return Outcome("R4 flushed before the 2xx (strace)", 0, findings, seed, note="needs strace and root: not run")
    with running(seed, bridge_type=StracedBridge) as run:
        for number in range(alerts):
            alert = {**run.any_alert(), "alertId": f"{MARK}{number:05}"}
            await run.send(alert)
        await run.settle()
        run.bridge.daemon.terminate()
        assert isinstance(run.bridge, StracedBridge)
        in_order = count_in_order(run.bridge.trace_path)
        if in_order != alerts:
            findings.failures.append(f"R4: {in_order} of {alerts} were flushed before they were answered")
        findings.add(run.findings())
        return Outcome(
            "R4 flushed before the 2xx (strace)", alerts, findings, seed, note=f"{in_order} of {alerts} in order"
        )


def count_in_order(trace: Path) -> int:
    """Count the alerts that were written to the WAL, flushed and answered in this order."""
    written: dict[str, int] = {}  # alert -> line of its first write into the WAL
    flushed: list[tuple[int, int]] = []  # start and end of each flush of the WAL
    answered: dict[str, int] = {}
    started: dict[str, int] = {}  # thread -> start of its flush
    for number, line in enumerate(trace.read_text(errors="replace").splitlines()):
        match = _LINE.match(line)
        if match is None:
            continue
        thread, call, rest = match.groups()
        if call in ("fdatasync", "fsync"):
            if "resumed>" not in line and "-wal>" in rest:
                started[thread] = number
            if "= 0" in line and thread in started:
                flushed.append((started.pop(thread), number))
        elif call == "pwrite64" and "-wal>" in rest:
            for name in re.findall(MARK + r"\d{5}", rest):
                written.setdefault(name, number)
        elif call in ("sendto", "sendmsg", "write", "writev") and "HTTP/1.1 2" in rest and "alertId" in rest:
            for name in re.findall(MARK + r"\d{5}", rest):
                answered.setdefault(name, number)
    return sum(
        any(start > written.get(name, number) and end < number for start, end in flushed)
        for name, number in answered.items()
    )
