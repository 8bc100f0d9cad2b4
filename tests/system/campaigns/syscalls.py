"""R4: the order of system calls, watched by strace: an alert's bytes are in the log and flushed before the first byte of its 2xx leaves."""

from __future__ import annotations

import re
from pathlib import Path

from tests.system.campaigns.run import Outcome, running
from tests.system.disk import CAN_TRACE_DAEMON
from tests.system.harness import Process
from tests.system.oracles import Findings
from tests.system.warm import WarmBridge, WarmProcess

_CALLS = "pwrite64,write,fdatasync,fsync,recvfrom,read,sendto,sendmsg,writev"
_LINE = re.compile(r"^(\d+)\s+(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)$")
MARK = "order-of-calls-"


class StracedBridge(WarmBridge):
    """A bridge whose daemon runs under strace."""

    def _new_daemon(self) -> Process:
        trace = ("strace", "-f", "-y", "-s", "9000", "-e", f"trace={_CALLS}", "-o", str(self.trace_path))
        return WarmProcess(
            self.daemon_arguments(), environment=self.daemon_environment(), log=self.log_path, tracer=trace
        )

    @property
    def trace_path(self) -> Path:
        return self.directory / "strace.txt"


async def order_of_calls(seed: int, alerts: int) -> Outcome:
    """R4: for each alert its bytes go into the -wal, that file is flushed, and only then the answer is written."""
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
    """How many alerts were written to the log, flushed and answered in this order."""
    written: dict[str, int] = {}  # alert -> line of the first write into the log that holds it
    flushed: list[tuple[int, int]] = []  # start and end of each flush of the log
    answered: dict[str, int] = {}
    under_way: dict[str, int] = {}  # thread -> start of its flush
    for number, line in enumerate(trace.read_text(errors="replace").splitlines()):
        match = _LINE.match(line)
        if match is None:
            continue
        thread, call, rest = match.groups()
        if call in ("fdatasync", "fsync"):
            if "resumed>" not in line and "-wal>" in rest:
                under_way[thread] = number
            if "= 0" in line and thread in under_way:
                flushed.append((under_way.pop(thread), number))
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
