"""Run kekbridge from the outside: processes, a sender that behaves like TradingView, and the paper exchange's journal.

Used by system tests, campaigns and the benchmark. It uses the command line and HTTP only, and imports nothing from the package.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import aiohttp

from tests.paths import ROOT
from tests.waiting import DEADLINE_S

WEBHOOK_PATH = "/api/webhooks/tradingview"
_FIRST_PORT, _LAST_PORT, _SHARES = 10_000, 32_000, 32
_drawn: set[int] = set()


def free_port() -> int:
    """Return a port that is free for TCP and UDP, outside the range of outgoing connections; no other test of this run gets the same one.

    Each of xdist's workers draws from its own share of the range, a campaign from all of it, and none draws a port twice.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    share = range(_FIRST_PORT, _LAST_PORT)
    if worker is not None:
        share = share[int(worker.removeprefix("gw")) % _SHARES :: _SHARES]
    for _ in range(1000):
        port = random.choice(share)
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp, suppress(OSError):
            if port not in _drawn:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
                _drawn.add(port)
                return port
    raise AssertionError("no free port was found")


def timestamp() -> str:
    """Return the present time as {{timenow}} writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def call(url: str, body: object = None, *, timeout: float = DEADLINE_S) -> Any:
    """GET, or POST `body` as JSON; return the decoded response whatever its status."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data=data, headers={"Content-Type": "application/json"})  # noqa: S310 - loopback http only
    try:
        with urlopen(request, timeout=timeout, context=unverified()) as answer:  # noqa: S310 - loopback only
            return json.load(answer)
    except HTTPError as error:
        return json.load(error)


def unverified() -> ssl.SSLContext:
    """A TLS client that accepts a certificate that the test made."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def wait_until(condition: Any, *, deadline_s: float = DEADLINE_S, what: str = "the condition") -> Any:
    """Poll until the condition returns a true value, and return that; fail after the deadline."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come true within {deadline_s:.0f} s")


def catch_up(data_dir: Path) -> None:
    """Have the daemon on a data directory bring its tables up to date, which lag behind its answers, before a test reads the file.

    Nothing happens without a daemon, or if it does not answer.
    """
    with suppress(OSError, http.client.HTTPException), socket.socket(socket.AF_UNIX) as connected:
        directory = os.open(data_dir, os.O_RDONLY)
        try:
            connected.settimeout(DEADLINE_S)
            connected.connect(f"/proc/self/fd/{directory}/control.sock")  # the directory's own path may be too long
        finally:
            os.close(directory)
        connection = http.client.HTTPConnection("bridge")
        connection.sock = connected
        connection.request("GET", "/caught-up")
        reply = connection.getresponse()
        assert reply.status != 404, reply.read()


class Process:
    """A kekbridge command as a process."""

    def __init__(
        self,
        arguments: list[str],
        *,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        prefix: tuple[str, ...] = (),
    ):
        self._arguments = arguments
        self._prefix = prefix
        self._environment = {**clean_environment(), **(environment or {})}
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.started: dict[str, Any] = {}

    def start(self) -> dict[str, Any]:
        """Start it and return the JSON line that it prints when it is ready."""
        log = self._log.open("ab") if self._log else subprocess.DEVNULL
        try:
            self.process = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "kekbridge", *self._arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        finally:
            if self._log:
                log.close()  # type: ignore[union-attr]
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            log_tail = self._log.read_text()[-2000:] if self._log else ""
            raise AssertionError(
                f"kekbridge {' '.join(self._arguments)} ended with {code} before it was ready: {log_tail}"
            )
        self.started = self._decode(line)
        return self.started

    @staticmethod
    def _decode(line: bytes | str) -> dict[str, Any]:
        started: dict[str, Any] = json.loads(line)
        return started

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9, and wait for its end."""
        if self.is_alive:
            assert self.process is not None
            os.killpg(
                self.process.pid, signal.SIGKILL
            )  # it leads a session of its own, so a prefix command dies with it
        self._reap()

    def terminate(self, *, deadline_s: float = DEADLINE_S) -> int:
        """Send SIGTERM; return the exit code."""
        assert self.process is not None
        if self.is_alive:
            os.killpg(self.process.pid, signal.SIGTERM)
        return self.wait(deadline_s=deadline_s)

    def wait(self, *, deadline_s: float = DEADLINE_S) -> int:
        """Wait for its end and return the exit code; kill it after the deadline."""
        assert self.process is not None
        try:
            return self.process.wait(deadline_s)
        finally:
            self.kill()

    def _reap(self) -> None:
        if self.process is not None:
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()


def clean_environment() -> dict[str, str]:
    """Return this environment without kekbridge settings, and with bytecode caching on, as in an installation.

    The web pages listen on any free port: bridges of several tests run at once. The machine's own service is out of sight.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KEKBRIDGE_")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["KEKBRIDGE_ADMIN_PORT"] = "0"
    environment["KEKBRIDGE_TEST_SERVICE_ROOT"] = "/nonexistent"
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH", "")]))
    return environment


def run_cli(*arguments: str, data_dir: Path, stdin: str | None = None, check: bool = True) -> str:
    """Run a command and return its stdout. With `check`, fail if its exit code is not 0."""
    done = subprocess.run(
        [sys.executable, "-m", "kekbridge", *arguments],
        env={**clean_environment(), "KEKBRIDGE_DATA_DIR": str(data_dir), "KEKBRIDGE_VAULT_BACKEND": "key_file"},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"kekbridge {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


@dataclass
class BridgeProcess:
    """A daemon with one webhook and its paper exchange, as two processes."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    paper_arguments: tuple[str, ...] = ()
    webhook_arguments: tuple[str, ...] = (
        "--no-require-signature",
        "--rate-per-minute",
        "100000",
        "--max-notional",
        "none",
    )
    #: A command that starts the daemon, such as prlimit and its options.
    prefix: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.data_dir = self.directory / "data"
        self.port = free_port()
        self.paper_port = free_port()
        self.paper = self._new_paper()
        self.paper_url = f"http://127.0.0.1:{self.paper_port}"
        scheme = "https" if "KEKBRIDGE_TLS_CERT" in self.environment else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.daemon = self._new_daemon()
        self.webhook: dict[str, Any] = {}

    def paper_options(self) -> list[str]:
        return [
            *("paper", "--port", str(self.paper_port), "--data-dir", str(self.directory / "paper")),
            *("--prices", "static", "--json", *self.paper_arguments),
        ]

    def _new_paper(self) -> Process:
        return Process(self.paper_options(), log=self.directory / "paper.log")

    @property
    def log_path(self) -> Path:
        return self.directory / "daemon.log"

    def daemon_arguments(self) -> list[str]:
        return ["serve", "--port", str(self.port), "--json"]

    def daemon_environment(self) -> dict[str, str]:
        return {
            "KEKBRIDGE_EXCHANGE_BASE_URL": self.paper_url,
            "KEKBRIDGE_VAULT_BACKEND": "key_file",
            "KEKBRIDGE_DATA_DIR": str(self.data_dir),
            **{
                f"KEKBRIDGE_RISK_RATE_PER_{window}": "0" for window in ("MINUTE", "HOUR", "DAY")
            },  # campaigns send many alerts
            **self.environment,
        }

    def _new_daemon(self) -> Process:
        return Process(
            self.daemon_arguments(), environment=self.daemon_environment(), log=self.log_path, prefix=self.prefix
        )

    def start(self) -> None:
        """Start the exchange, create the webhook, and start the daemon."""
        self.paper.start()
        arguments = [
            *("--rate-per-hour", "1000000", "--rate-per-day", "1000000"),
            *self.webhook_arguments,
        ]
        self.webhook = self._create_webhook(["webhook", "create", "test", "--json", *arguments])
        self.start_daemon()

    def _create_webhook(self, arguments: list[str]) -> dict[str, Any]:
        created: dict[str, Any] = json.loads(self.run(*arguments))
        return created

    def start_daemon(self) -> None:
        self.daemon = self._new_daemon()
        self.daemon.start()

    def wait_ready(self, deadline_s: float = DEADLINE_S) -> None:
        """Wait until /readyz reports ready: reconciled with the exchange."""
        wait_until(self.is_ready, deadline_s=deadline_s, what="/readyz")

    def is_ready(self) -> bool:
        try:
            return bool(call(f"{self.url}/readyz", timeout=2)["ready"])
        except (URLError, OSError, ValueError, KeyError):
            return False

    def processes(self) -> list[int]:
        """Ids of the daemon and its exchange, as far as they run."""
        return [process.pid for process in (self.daemon, self.paper) if process.is_alive]

    def stop(self) -> None:
        self.daemon.kill()
        self.paper.kill()

    def cli(self, *arguments: str) -> Any:
        """Run a read command with --json; return its decoded output."""
        return json.loads(self.run(*arguments, "--json"))

    def run(self, *arguments: str) -> str:
        """Run a command on the data directory; return its stdout."""
        return run_cli(*arguments, data_dir=self.data_dir)

    def logs(self, *kinds: str) -> list[dict[str, Any]]:
        """Return every alert and every rejected request, newest last, or the entries of these kinds."""
        lines = self.run("logs", "--json", "--limit", "100000").splitlines()
        found = [json.loads(line) for line in lines]
        return [one for one in found if one["kind"] in (kinds or ("alert", "refusal"))]

    def journal(self) -> list[dict[str, Any]]:
        """Return everything that happened at the exchange, oldest first."""
        events: list[dict[str, Any]] = call(f"{self.paper_url}/paper/journal", timeout=60)
        return events

    def orders_received(self) -> Counter[str]:
        """Count the accepted orders at the exchange by client order id."""
        return Counter(str(event["client_order_id"]) for event in self.journal() if event["event"] == "order_accepted")

    def alert(self, **fields: Any) -> dict[str, Any]:
        """Build an alert; `fields` override the defaults."""
        return {
            "apiKey": self.webhook["apiKey"],
            "action": "buy",
            "symbol": "BTCUSDT.P",
            "quantity": "0.001",
            "orderType": "market",
            "timestamp": timestamp(),
            **fields,
        }

    def send(self, **fields: Any) -> tuple[int, dict[str, Any]]:
        """POST one alert; return the response's status and body."""
        body = json.dumps(self.alert(**fields)).encode()
        request = Request(self.url + WEBHOOK_PATH, data=body)  # noqa: S310 - loopback http only
        try:
            with urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310 - loopback http only
                return answer.status, json.load(answer)
        except HTTPError as error:
            return error.code, json.load(error)


@contextmanager
def bridge_process(directory: Path, **options: Any) -> Iterator[BridgeProcess]:
    """Run a bridge that is ready to trade; stop it at the end of the block. tests/system/forked.py has one that starts sooner."""
    with running(BridgeProcess(directory, **options)) as bridge:
        yield bridge


@contextmanager
def running(bridge: BridgeProcess) -> Iterator[BridgeProcess]:
    """Start a bridge and wait until it is ready to trade; stop it at the end of the block."""
    try:
        bridge.start()
        bridge.wait_ready()
        yield bridge
    finally:
        bridge.stop()


@dataclass
class Sent:
    """The sender's record of one alert. `answers`: the statuses received, in order; None for a broken or refused connection."""

    alert_id: str
    answers: list[int | None] = field(default_factory=list)
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def is_acknowledged(self) -> bool:
        return any(status is not None and 200 <= status < 300 for status in self.answers)


class TradingView:
    """A sender that behaves like TradingView: 3 s timeout, resends 5 s after a 500-599 other than 504, at most 4 deliveries.

    `behind_proxy`: a proxy in front of the bridge answers 502 for a broken or refused connection, so those are sent again too.
    `pause` replaces the 5 s between two deliveries.
    """

    TIME_LIMIT_S = 3.0
    RESEND_AFTER_S = 5.0
    SENDS = 4

    def __init__(
        self, url: str, *, behind_proxy: bool = False, pause: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._url = url + WEBHOOK_PATH
        self._behind_proxy = behind_proxy
        self._pause = pause or partial(asyncio.sleep, self.RESEND_AFTER_S)

    async def send(self, alert: Mapping[str, Any], sent: Sent | None = None) -> Sent:
        """Send one alert with its resends, each on a new connection; `sent` is filled as the responses arrive."""
        sent = sent or Sent(alert_id=str(alert.get("alertId", "")), body=dict(alert))
        text = json.dumps(alert)
        for attempt in range(self.SENDS):
            if attempt:
                await self._pause()
            status = await self._post(text)
            sent.answers.append(status)
            if status is None and not self._behind_proxy:
                return sent
            if status is not None and (not 500 <= status <= 599 or status == 504):
                return sent
        return sent

    async def post_once(self, alert: Mapping[str, Any]) -> int | None:
        """Deliver an alert once, without resends."""
        return await self._post(json.dumps(alert))

    async def _post(self, text: str) -> int | None:
        timeout = aiohttp.ClientTimeout(total=self.TIME_LIMIT_S)
        connector = aiohttp.TCPConnector(force_close=True)  # TradingView opens a connection for each alert
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
                session.post(self._url, data=text.encode(), headers={"Content-Type": "application/json"}) as answer,
            ):
                await answer.read()
                return answer.status
        except (TimeoutError, aiohttp.ClientError, OSError):
            return None  # TradingView documents no resend for broken or refused connections
