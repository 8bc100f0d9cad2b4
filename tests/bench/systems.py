"""The systems under test as processes: kekbridge, the reference and a common bot, each with its own stub exchange."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError
from urllib.request import urlopen

from tests.bench.markets import BASES, FEW
from tests.bench.reference import SECRET
from tests.system.harness import clean_environment, free_port, run_cli, timestamp

_START_S = 60.0


def spawn(
    arguments: list[str], environment: dict[str, str] | None = None, log: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, its stderr appended to `log`."""
    target = log.open("ab") if log else subprocess.DEVNULL
    try:
        return subprocess.Popen(
            [*arguments],
            stdout=subprocess.DEVNULL,
            stderr=target,
            env={**clean_environment(), **(environment or {})},
            start_new_session=True,
        )
    finally:
        if log:
            target.close()  # type: ignore[union-attr]


def get(url: str) -> Any:
    with urlopen(url, timeout=10) as answer:  # noqa: S310 - loopback http only
        return json.load(answer)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> float:
    """Wait until the URL answers 200; return the seconds."""
    started = time.monotonic()
    while time.monotonic() - started < _START_S:
        try:
            get(url)
            return time.monotonic() - started
        except (URLError, OSError, ValueError):
            if process.poll() is not None:
                raise AssertionError(f"{process.args!r} ended with {process.returncode}") from None
            time.sleep(0.005)
    raise AssertionError(f"{url} did not answer within {_START_S:.0f} s")


class System:
    """One system with its stub exchange, started by `with`. Subclasses define its command and the form of its alerts."""

    name = ""

    def __init__(
        self,
        *,
        delay_s: float = 0.0,
        limit: int = 0,
        markets: int = FEW,
        environment: dict[str, str] | None = None,
        wrap: list[str] | None = None,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="kekbridge-bench-"))
        self.port = free_port()
        self.exchange_port = free_port()
        self.delay_s = delay_s
        self.limit = limit
        self.markets = markets
        self.environment = environment or {}
        self.wrap = wrap or []
        self.start_s = 0.0
        self._seen = 0
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def exchange_url(self) -> str:
        return f"http://127.0.0.1:{self.exchange_port}"

    @property
    def pid(self) -> int:
        """Process id of the system, even when it is a child of strace."""
        pid = self._processes[-1].pid
        if self.wrap:
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        return pid

    def prepare(self) -> None:
        """Create what the system needs before its start."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def message(self, number: int) -> tuple[bytes, dict[str, str]]:
        """Return body and extra headers of alert `number`, which its quantity identifies."""
        return json.dumps(self._fields(number)).encode(), {}

    def _fields(self, number: int) -> dict[str, str]:
        return {
            "apiKey": "bench",
            "alertId": f"bench-{number}",
            "action": "buy",  # an opposite entry would be sized from the position
            "symbol": f"{BASES[number % self.markets]}USDT.P",
            "quantity": quantity_of(number),
            "timestamp": timestamp(),
        }

    def __enter__(self) -> Self:
        exchange = ["-m", "tests.bench.exchange", "--port", str(self.exchange_port), "--delay-s", str(self.delay_s)]
        self._processes.append(spawn([sys.executable, *exchange, "--limit", str(self.limit)]))
        try:
            wait_for(f"{self.exchange_url}/v1/public/system_info", self._processes[-1])
            self.prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        self._processes.append(
            spawn([*self.wrap, sys.executable, *self.command()], self.environment, self.directory / "log")
        )
        self.start_s = wait_for(f"http://127.0.0.1:{self.port}/readyz", self._processes[-1])

    def stop(self) -> None:
        """Kill the system, not its exchange."""
        process = self._processes.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def wait(self, within_s: float) -> None:
        """Wait until the system has ended by itself."""
        self._processes[-1].wait(within_s)

    def __exit__(self, *_: object) -> None:
        while self._processes:
            self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def arrivals(self) -> dict[str, list[tuple[float, int]]]:
        """Return the order requests at the exchange since the last call: times and statuses by quantity."""
        rows = get(f"{self.exchange_url}/bench/arrivals?since={self._seen}")
        self._seen += len(rows)
        found: dict[str, list[tuple[float, int]]] = {}
        for quantity, at, status in rows:
            found.setdefault(f"{float(quantity):.5f}", []).append((at, status))
        return found

    def pss_mib(self) -> float:
        return pss_mib(self.pid)

    def io(self) -> dict[str, int]:
        """Return what the process has written so far: write calls, bytes given to them, bytes to the disk (proc(5))."""
        lines = Path(f"/proc/{self.pid}/io").read_text().splitlines()
        return {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Kekbridge(System):
    """The daemon; without its own rate limits unless the exchange has one, because the other systems have none."""

    name = "kekbridge"

    def prepare(self) -> None:
        self.data_dir = self.directory / "data"
        self.data_dir.mkdir()
        limits = ["--rate-per-minute", "1000000", "--rate-per-hour", "1000000", "--rate-per-day", "10000000"]
        limits += ["--max-open-positions", "1000", "--max-notional", "none"]
        printed = run_cli("webhook", "create", "bench", "--json", *limits, data_dir=self.data_dir)
        self.webhook = json.loads(printed)
        self.environment = {
            "KEKBRIDGE_DATA_DIR": str(self.data_dir),
            "KEKBRIDGE_VAULT_BACKEND": "key_file",
            "KEKBRIDGE_EXCHANGE_BASE_URL": self.exchange_url,
            "KEKBRIDGE_SERVER_RESPOND_WITHIN_S": "0",
            "KEKBRIDGE_QUEUE_MAX_WAITING": "100000",
            "KEKBRIDGE_RISK_MAX_OPEN_POSITIONS": "1000",
            "KEKBRIDGE_QUEUE_CONCURRENCY": str(self.markets),
            **{f"KEKBRIDGE_RISK_RATE_PER_{window}": "0" for window in ("MINUTE", "HOUR", "DAY")},
            **({} if self.limit else {"KEKBRIDGE_EXCHANGE_RATE_FACTOR": "1000"}),
            **self.environment,
        }

    def command(self) -> list[str]:
        return ["-m", "kekbridge", "serve", "--port", str(self.port)]

    def message(self, number: int) -> tuple[bytes, dict[str, str]]:
        body = json.dumps({**self._fields(number), "apiKey": self.webhook["apiKey"], "orderType": "market"}).encode()
        return body, {"X-Webhook-Signature": _hmac(self.webhook["apiSecret"].encode(), body)}


def without(layer: str, name: str = "") -> type[Kekbridge]:
    """The same daemon without one of its performance layers (layers.py)."""

    class Without(Kekbridge):
        def command(self) -> list[str]:
            _, *program = super().command()
            return ["-m", "tests.bench.layers", layer, *program]

    Without.name = name or f"without {layer}"
    return Without


OneCommit = without("group commit", "one commit each")


class Reference(System):
    name = "reference"

    def command(self) -> list[str]:
        files = ["--exchange", self.exchange_url, "--database", str(self.directory / "reference.db")]
        return ["-m", "tests.bench.reference", "--port", str(self.port), *files]

    def message(self, number: int) -> tuple[bytes, dict[str, str]]:
        body = json.dumps(self._fields(number)).encode()
        return body, {"X-Webhook-Signature": _hmac(SECRET, body)}


class ReferencePlus(Reference):
    """The reference with the duties of a bridge: verdicts, a hash chain and the report stream."""

    name = "reference plus"

    def command(self) -> list[str]:
        flag, _, *rest = super().command()
        return [flag, "tests.bench.reference_plus", *rest]


class Flask(System):
    """Flask and ccxt without ccxt's throttle, which would queue a burst at one order per 100 ms."""

    name = "flask"

    def command(self) -> list[str]:
        return [
            "-m",
            "tests.bench.flask_bot",
            "--port",
            str(self.port),
            "--exchange",
            self.exchange_url,
            "--no-throttle",
        ]


class ThrottledFlask(System):
    name = "flask throttled"

    def command(self) -> list[str]:
        return ["-m", "tests.bench.flask_bot", "--port", str(self.port), "--exchange", self.exchange_url]


def pss_mib(pid: int) -> float:
    """Return the memory of a process in MiB, of what it shares with others its share. Needs root if it forbids core dumps."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no Pss in smaps_rollup")


def quantity_of(number: int) -> str:
    """Return the quantity that identifies alert `number`, in the exchange's ticks."""
    return f"{(number + 100) * 0.00001:.5f}"


def _hmac(secret: bytes, body: bytes) -> str:
    return hmac.new(secret, body, hashlib.sha256).hexdigest()
