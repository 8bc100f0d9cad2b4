"""No secret outside the vault: after trading, errors and kill -9, everything the daemon wrote or showed is searched."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import base58
import pytest

from kekbridge.ops.web_token import TOKEN_FILE
from tests.system.forked import run_forked
from tests.system.harness import WEBHOOK_PATH, Process, call, clean_environment, free_port, timestamp, wait_until
from tests.waiting import DEADLINE_S

MASTER_KEY = bytes(range(100, 132))
NOTIFY_URL = "json://127.0.0.1:9/a-token-of-a-private-channel"


@dataclass
class Session:
    """Secrets that were used, and every place that could hold one."""

    directory: Path
    secrets: dict[str, bytes]
    shown: dict[str, bytes]

    def places(self) -> Iterator[tuple[str, bytes]]:
        """Yield every text the daemon showed and every file it wrote, except the vault and the admin token's file."""
        yield from self.shown.items()
        for path in sorted(self.directory.rglob("*")):
            if path.is_file() and "secrets" not in path.parts and "paper" not in path.parts and path.name != TOKEN_FILE:
                yield str(path), path.read_bytes()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Run a daemon in testnet mode (key from a secrets directory) on a paper exchange through orders, denials, errors and kill -9."""
    directory = tmp_path_factory.mktemp("secrets")
    paper = Process(
        ["paper", "--port", str(free_port()), "--data-dir", str(directory / "paper"), "--prices", "static", "--json"]
    )
    exchange = paper.start()
    orderly_secret = str(exchange["orderly_secret"])
    environment = _environment(directory, exchange)
    _fill_vault(directory / "secrets", orderly_secret)
    webhook = json.loads(
        _command("webhook", "create", "test", "--no-require-signature", "--json", environment=environment)
    )
    port = free_port()
    daemon = Process(["serve", "--port", str(port), "--json"], environment=environment, log=directory / "daemon.log")
    shown: dict[str, bytes] = {}
    try:
        started = daemon.start()
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: call(f"{url}/readyz")["ready"], what="/readyz")
        shown["the ready line"] = json.dumps({**started, "webhook": None}).encode()
        shown["checks"] = json.dumps(started["checks"]).encode()
        shown |= _send_alerts(url + WEBHOOK_PATH, webhook)
        shown["/proc environ"] = _environment_of(daemon.pid)
        shown["/proc cmdline"] = Path(f"/proc/{daemon.pid}/cmdline").read_bytes()
        shown["/proc limits"] = Path(f"/proc/{daemon.pid}/limits").read_bytes()
        for command in (("logs",), ("orders",), ("webhook", "list"), ("webhook", "show", "test"), ("config", "show")):
            shown[" ".join(command)] = _command(*command, "--json", environment=environment).encode()
        for command in (("history", "list"), ("stats",), ("risk", "show"), ("vault", "status"), ("export", "alerts")):
            shown[" ".join(command)] = _command(*command, environment=environment).encode()
        shown["explain"] = _command("explain", "one", environment=environment).encode()
        _command("backup", str(directory / "a-backup"), environment=environment)  # searched like every other file
        login = json.loads(_command("dashboard", "--token", "--json", environment=environment))
        shown |= _admin(login["url"], login["token"])
        daemon.kill()
        yield Session(
            directory,
            {
                "apiKey": webhook["apiKey"].encode(),
                "apiSecret": webhook["apiSecret"].encode(),
                "Orderly seed": base58.b58decode(orderly_secret.removeprefix("ed25519:"))[:32],
                "master key": MASTER_KEY,
                "notify URL": NOTIFY_URL.rpartition("/")[2].encode(),
                "admin token": login["token"].encode(),
            },
            shown,
        )
    finally:
        daemon.kill()
        paper.kill()


def test_no_secret_is_outside_the_vault(session: Session) -> None:
    """No secret is in data, log, environment, command line, responses or command output, neither raw nor as hex, base58 or base64."""
    hits = [
        f"{name} ({form}) in {place}"
        for place, content in session.places()
        for name, secret in session.secrets.items()
        for form, needle in _forms(secret)
        if needle in content
    ]
    assert hits == []


def test_the_search_finds_secrets_in_the_vault(session: Session) -> None:
    """The same search in the vault's own files finds the secrets, so the test above can fail."""
    content = b"".join(path.read_bytes() for path in (session.directory / "secrets").iterdir())
    for name in ("Orderly seed", "master key"):
        assert any(needle in content for _, needle in _forms(session.secrets[name])), name


def test_the_start_reports_its_checks_of_key_and_exchange(session: Session) -> None:
    """Outside paper mode the start reports whether key, scopes, clock and exchange are fit for trading."""
    checks = {check["name"]: check["level"] for check in json.loads(session.shown["checks"])}
    assert len(checks) >= 5, checks
    assert "broken" not in checks.values(), checks


def test_only_the_owner_may_read_the_data(session: Session) -> None:
    """The data directory is 0700 and every file in it 0600."""
    data = session.directory / "data"
    assert data.stat().st_mode & 0o777 == 0o700
    readable = [str(path) for path in data.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    assert readable == []


def test_the_running_daemon_may_write_no_core_file(session: Session) -> None:
    """The kernel shows a soft and hard limit of 0."""
    (line,) = [line for line in session.shown["/proc limits"].decode().splitlines() if line.startswith("Max core file")]
    assert line.split()[-3:] == ["0", "0", "bytes"]


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_crash_dumps_no_core_to_a_file_or_pipe(tmp_path: Path) -> None:
    """After SIGABRT there is no core file although the shell allowed one, and the wait status shows that no core was dumped to a pipe."""
    code = (
        "import os, resource; from kekbridge.daemon.process import disable_core_dumps\n"
        "hard = resource.getrlimit(resource.RLIMIT_CORE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))\n"
        "disable_core_dumps()\n"
        "os.abort()"
    )
    crashed = os.posix_spawn(
        "/bin/sh", ["sh", "-c", f'cd "{tmp_path}" && exec "$0" -c "$1"', sys.executable, code], clean_environment()
    )
    _, status = os.waitpid(crashed, 0)
    assert os.WTERMSIG(status) == signal.SIGABRT
    assert not os.WCOREDUMP(status)
    assert list(tmp_path.iterdir()) == []


DUMPABLE_AT_EXIT = """
import atexit, ctypes, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
atexit.register(lambda: print("dumpable", ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE)))
from kekbridge.cli.main import run
run()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
@pytest.mark.parametrize(
    "command",
    [
        ("webhook", "create", "w"),
        ("webhook", "show", "w", "--secret"),
        ("template", "w"),
        ("vault", "status"),
        ("keys", "add"),
        ("keys", "register"),
        ("backup", "key"),
        ("restore", "/nowhere.zip"),
        ("notify", "set"),
        ("dashboard", "--token"),
        ("doctor",),
    ],
    ids=" ".join,
)
def test_no_command_can_be_dumped(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A command that reads a secret shows its memory to no debugger of the same user, and leaves no core, however it ends."""
    environment = {
        **clean_environment(),
        "KEKBRIDGE_DATA_DIR": str(tmp_path / "data"),
        "KEKBRIDGE_VAULT_BACKEND": "key_file",
        "KEKBRIDGE_MODE": "paper",
    }
    done = subprocess.run(
        [sys.executable, "-c", DUMPABLE_AT_EXIT, *command],
        env=environment,
        input="",
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "dumpable 0 (0, 0)", done.stderr


def _environment_of(pid: int) -> bytes:
    """Return a process's environment; only root may read the daemon's."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except PermissionError:
        return b""


def _environment(directory: Path, exchange: dict[str, Any]) -> dict[str, str]:
    return {
        "KEKBRIDGE_MODE": "testnet",
        "KEKBRIDGE_DATA_DIR": str(directory / "data"),
        "KEKBRIDGE_VAULT_SECRETS_DIR": str(directory / "secrets"),
        "KEKBRIDGE_EXCHANGE_ACCOUNT_ID": str(exchange["account_id"]),
        "KEKBRIDGE_EXCHANGE_BASE_URL": str(exchange["base_url"]),
        "KEKBRIDGE_EXCHANGE_WS_PUBLIC_URL": str(exchange["base_url"]).replace("http", "ws") + "/ws/stream",
        "KEKBRIDGE_EXCHANGE_WS_PRIVATE_URL": str(exchange["base_url"]).replace("http", "ws") + "/v2/ws/private/stream",
        "KEKBRIDGE_LOG_LEVEL": "debug",
    }


def _admin(url: str, token: str) -> dict[str, bytes]:
    """Return responses of the admin API and metrics, errors included."""
    shown = {}
    for path, proof in (("/api/state", token), ("/metrics", token), ("/api/state", "wrong"), ("/api/nothing", token)):
        request = Request(url + path, headers={"Authorization": f"Bearer {proof}"})  # noqa: S310 - loopback http only
        try:
            with urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310 - loopback http only
                shown[f"admin {path} {answer.status}"] = answer.read()
        except HTTPError as error:
            shown[f"admin {path} {error.code}"] = error.read()
    assert {name.split()[-1] for name in shown} >= {"200", "401", "404"}
    return shown


def _fill_vault(secrets: Path, orderly_secret: str) -> None:
    secrets.mkdir(mode=0o700)
    contents = {"master-key": MASTER_KEY, "orderly-secret": orderly_secret.encode(), "notify-urls": NOTIFY_URL.encode()}
    for name, content in contents.items():
        file = secrets / name
        file.touch(mode=0o600)
        file.write_bytes(content)


def _send_alerts(url: str, webhook: dict[str, Any]) -> dict[str, bytes]:
    """Send valid, denied and invalid alerts; return their responses."""
    alert = {
        "apiKey": webhook["apiKey"],
        "action": "buy",
        "symbol": "BTCUSDT.P",
        "quantity": "0.001",
        "timestamp": timestamp(),
    }
    bodies: dict[str, Any] = {
        "order": {**alert, "alertId": "one"},
        "secret in a comment": {**alert, "alertId": "two", "comment": f"my secret is {webhook['apiSecret']}"},
        "secret as symbol": {**alert, "alertId": "three", "symbol": webhook["apiSecret"]},
        "key as action": {**alert, "alertId": webhook["apiKey"], "action": webhook["apiKey"]},
        "wrong key": {**alert, "apiKey": webhook["apiKey"][:-1] + "x"},
        "stale": {**alert, "timestamp": "2020-01-01T00:00:00Z"},
        "refused": {**alert, "alertId": "four", "quantity": "1000000"},
    }
    return {f"answer to {name}": json.dumps(call(url, body)).encode() for name, body in bodies.items()}


def _command(*arguments: str, environment: dict[str, str]) -> str:
    done = run_forked(*arguments, environment={**clean_environment(), **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def _forms(secret: bytes) -> Iterator[tuple[str, bytes]]:
    yield "raw", secret
    yield "hex", secret.hex().encode()
    yield "base58", base58.b58encode(secret)
    yield "base64", base64.b64encode(secret).rstrip(b"=")
    yield "base64url", base64.urlsafe_b64encode(secret).rstrip(b"=")
