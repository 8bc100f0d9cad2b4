"""Commands and the running bridge: only one of them writes, and a command never claims what did not happen."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kekbridge.cli.context import CliContext, now, open_database
from kekbridge.cli.control import BridgeUnavailable, NoAccess, NoBridge, OperationFailed, run_operation
from kekbridge.cli.main import run_command
from kekbridge.config import load_settings
from kekbridge.daemon.control_socket import SERVICE_DATA_DIR, SERVICE_ROOT_VARIABLE, SERVICE_SOCKET, ControlSocket
from kekbridge.errors import NotFound
from kekbridge.model import TradingState
from kekbridge.ops.trading_operations import ExitsOnly, Halt, ListLockouts, Resume
from kekbridge.ops.webhook_operations import ShowWebhook
from kekbridge.paper.settings import PAPER_ORDERLY_KEY, PAPER_ORDERLY_SECRET
from kekbridge.store import journal, settings
from kekbridge.store.database import Database
from kekbridge.store.lock import DaemonLock
from kekbridge.store.orders import list_orders
from tests.cli.processes import DEADLINE_S, Served, bare_environment, starting
from tests.cli.terminal import at_terminal
from tests.cli.venues import PASSPHRASE, live_environment, running_venue
from tests.paths import ROOT
from tests.system.forked import run_forked
from tests.system.harness import call, timestamp, wait_until


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Function that starts processes on one data directory."""
    with starting(bare_environment(tmp_path / "data")) as start_process:
        yield start_process


@pytest.fixture
def bridge(start: Callable[..., Served]) -> Served:
    """A running bridge with its control socket open."""
    served = start("serve", "--json")
    served.line(lambda text: text.startswith("{"))
    return served


@pytest.fixture
def context(data_dir: Path) -> CliContext:
    """The context of a command on the test's data directory."""
    return CliContext(data_dir, load_settings(), None)


def trading_state(data_dir: Path) -> TradingState:
    with Database.open(data_dir, create=False).snapshot() as connection:
        return settings.trading_control(connection, now=now()).state


def operations_of(bridge: Served) -> list[str]:
    """Names of the operations that the bridge has run, from its log."""
    lines = [json.loads(line) for line in bridge.log if line and line.startswith("{")]
    return [line["operation"] for line in lines if line["event"] == "operation"]


# ------------------------------------------------------------------------------------------------- who writes, and where

#: Every command that writes: its operation, its arguments and its stdin.
WRITES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("webhook-create", ("webhook", "create", "w", "--max-notional", "500"), ""),
    ("webhook-edit", ("webhook", "edit", "w", "--max-notional", "700", "--name", "v"), ""),
    ("webhook-rotate", ("webhook", "rotate", "v", "--grace", "1h"), ""),
    ("webhook-disable", ("webhook", "disable", "v"), ""),
    ("webhook-enable", ("webhook", "enable", "v"), ""),
    ("halt", ("halt", "--reason", "storm"), ""),
    ("exits-only", ("exits-only",), ""),
    ("resume", ("resume", "--reason", "over"), ""),
    ("notify-set", ("notify", "set"), "json://127.0.0.1:1/TOKEN\n"),
    ("notify-change", ("notify", "add"), "xml://127.0.0.1:1/TOKEN\n"),
    ("notify-level", ("notify", "level", "order_filled", "off"), ""),
    ("notify-quiet-hours", ("notify", "quiet-hours", "22:00-07:00", "--zone", "UTC"), ""),
    ("backup-record", ("backup", "FILE"), ""),
    ("webhook-delete", ("webhook", "delete", "v", "--yes"), ""),
)


def shape(value: Any) -> Any:
    """The keys of JSON and the kinds of its values."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items() if key != "process"}  # null without a bridge
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return None if value is None else type(value).__name__


def run_all(environment: dict[str, str], tmp_path: Path) -> list[Any]:
    """Run every writing command in order; return the shapes of what they print with --json."""
    shapes = []
    for _, arguments, stdin in WRITES:
        line = [str(tmp_path / "b.zip") if part == "FILE" else part for part in arguments]
        done = run_forked(*line, "--json", environment=environment, stdin=stdin)
        assert (done.returncode, done.stderr.startswith("kekbridge:")) == (0, False), (arguments, done.stderr)
        shapes.append(shape(json.loads(done.stdout)))
    return shapes


def test_every_writing_command_works_with_and_without_a_bridge(bridge: Served, tmp_path: Path) -> None:
    """Beside a bridge, the bridge does it; without one, the command does. What it prints is the same, and the history stays a chain."""
    beside = run_all(bridge.environment, tmp_path)
    shown = [operation for operation in operations_of(bridge) if operation not in ("webhook-show", "backup-key")]
    assert shown == [operation for operation, _, _ in WRITES]
    alone_in = tmp_path / "alone"
    alone = run_all(bridge.environment | {"KEKBRIDGE_DATA_DIR": str(alone_in)}, tmp_path)
    for (_, arguments, _), one, other in zip(WRITES, beside, alone, strict=True):
        assert one == other, arguments
    for directory in (tmp_path / "data", alone_in):
        with Database.open(directory, create=False).snapshot() as connection:
            assert journal.verify(connection) is None
    assert not any("TOKEN" in line for line in bridge.log if line)


def test_no_command_and_no_page_writes_itself() -> None:
    """Changes are operations: a command that wrote beside a running bridge would not be seen by it, and would fork its history."""
    found = []
    for file in sorted((ROOT / "kekbridge").rglob("*.py")):
        if file.parent.name not in ("cli", "admin"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ("transaction", "write_soon", "append"):
                owner = ast.unparse(node.value)
                if node.attr != "append" or owner == "events":
                    found.append(f"{file.name}: {owner}.{node.attr}")
            if isinstance(node, ast.Attribute) and node.attr == "write" and "database" in ast.unparse(node.value):
                found.append(f"{file.name}: {ast.unparse(node.value)}.write")
    assert found == []


def test_halt_is_in_force_when_the_command_returns(bridge: Served) -> None:
    """The very next alert is denied; after resume the next one trades."""
    url = json.loads(bridge.printed[0])["webhookUrl"]
    wait_until(lambda: call(url.replace("/api/webhooks/tradingview", "/readyz"))["ready"])
    webhook = bridge.data("webhook", "create", "w", "--no-require-signature")
    alert = {"apiKey": webhook["apiKey"], "action": "buy", "symbol": "BTCUSDT.P", "quantity": "0.001"}
    for number in range(3):
        assert bridge.run("halt").returncode == 0
        denied = call(url, alert | {"timestamp": timestamp(), "alertId": f"a{number}"})
        assert denied["code"] == "trading_halted"
        assert bridge.run("resume").returncode == 0
        assert call(url, alert | {"timestamp": timestamp(), "alertId": f"b{number}"})["success"] is True


def test_a_command_shows_what_the_bridge_has_answered(bridge: Served, context: CliContext) -> None:
    """The tables lag behind the answers: a command that reads has the bridge catch up first."""
    webhook = bridge.data("webhook", "create", "w", "--no-require-signature", "--no-require-timestamp")
    for number in range(3):
        fields = {"apiKey": webhook["apiKey"], "alertId": f"a{number}", "symbol": "BTCUSDT", "quantity": "0.001"}
        answer = call(webhook["webhookUrl"], fields | {"action": "buy"})
        with open_database(context) as database, database.snapshot() as connection:
            states = {order.client_order_id: order.status for order in list_orders(connection)}
        assert states[answer["clientOrderId"]] == answer["status"] == "filled"


def test_many_commands_at_once_take_turns(start: Callable[..., Served], tmp_path: Path) -> None:
    """Without a bridge each waits for the lock of the one before; beside one it serves them all. Nothing is lost."""

    def create(name: str) -> int:
        return run_forked("webhook", "create", name, environment=bare_environment(tmp_path / "data")).returncode

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(create, [f"alone-{number}" for number in range(6)])) == [0] * 6
        bridge = start("serve", "--json")
        # Some find no bridge yet, some one that is starting, some one that runs.
        assert list(pool.map(create, [f"beside-{number}" for number in range(12)])) == [0] * 12
    bridge.line(lambda text: text.startswith("{"))
    names = {webhook["name"] for webhook in bridge.data("webhook", "list")}
    assert names >= {f"alone-{number}" for number in range(6)} | {f"beside-{number}" for number in range(12)}
    with Database.open(tmp_path / "data", create=False).snapshot() as connection:
        assert journal.verify(connection) is None


def test_the_services_socket_is_found_from_the_data_directory(start: Callable[..., Served], tmp_path: Path) -> None:
    """Under systemd it is in the runtime directory, for the service's group; a command needs only the data directory."""
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o750)
    bridge = start("serve", "--json", RUNTIME_DIRECTORY=str(runtime))
    bridge.line(lambda text: text.startswith("{"))
    assert stat.S_IMODE((runtime / "control.sock").stat().st_mode) == 0o660
    del bridge.environment["RUNTIME_DIRECTORY"]
    assert bridge.run("halt").returncode == 0
    assert operations_of(bridge) == ["halt"]
    assert bridge.stop() == 0
    assert list(runtime.iterdir()) == []


def test_a_link_to_another_bridge_is_no_way_to_halt_it(start: Callable[..., Served], tmp_path: Path) -> None:
    """An old data directory whose link leads to a bridge that now uses another one: nothing is halted, and nothing is claimed."""
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o750)
    bridge = start("serve", "--json", RUNTIME_DIRECTORY=str(runtime))
    bridge.line(lambda text: text.startswith("{"))
    old = tmp_path / "old"
    old.mkdir(mode=0o700)
    (old / "control.sock").symlink_to(runtime / "control.sock")
    refused = bridge.run("halt", "--data-dir", str(old))
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "nothing was changed" in refused.stderr
    assert bridge.data("dashboard")["trading"]["state"] == "running"


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's name, as /run/user/1000 does; pytest's own may be longer."""
    with tempfile.TemporaryDirectory(prefix="kb-") as path:
        yield Path(path)


def test_a_long_data_directory_is_found_without_the_runtime_directory(
    start: Callable[..., Served], tmp_path: Path, short_dir: Path
) -> None:
    """The path is too long for a socket: it is in XDG_RUNTIME_DIR, and a command whose environment has none finds it (as in a cron job)."""
    personal = short_dir
    long = tmp_path / ("d" * 120)
    bridge = start("serve", "--json", KEKBRIDGE_DATA_DIR=str(long), XDG_RUNTIME_DIR=str(personal))
    bridge.line(lambda text: text.startswith("{"))
    wait_until(lambda: any(personal.iterdir()), what="the socket, which opens shortly after the listener")
    (socket_file,) = personal.iterdir()
    assert stat.S_IMODE(socket_file.stat().st_mode) == 0o600
    del bridge.environment["XDG_RUNTIME_DIR"]
    assert bridge.run("halt").returncode == 0
    assert operations_of(bridge) == ["halt"]
    assert bridge.stop() == 0
    assert list(personal.iterdir()) == []


# ------------------------------------------------------------------------------------------- bridges that do not answer


def test_what_a_killed_bridge_left_is_no_bridge(bridge: Served, tmp_path: Path) -> None:
    """After kill -9 the socket's file is still there: commands work without it, and the next bridge replaces it."""
    bridge.process.kill()
    bridge.process.wait(DEADLINE_S)
    assert (tmp_path / "data" / "control.sock").exists()
    halted = bridge.run("halt")
    assert (halted.returncode, halted.stdout.startswith("halted:")) == (0, True)
    assert trading_state(tmp_path / "data") is TradingState.HALTED
    with starting(bridge.environment) as again:
        second = again("serve", "--json")
        second.line(lambda text: text.startswith("{"))
        assert second.data("dashboard")["trading"]["state"] == "halted"
        assert second.run("resume").returncode == 0
        assert operations_of(second) == ["state", "resume"]
        assert second.stop() == 0
    assert not (tmp_path / "data" / "control.sock").exists()


def test_a_second_bridge_leaves_the_first_ones_socket(bridge: Served) -> None:
    """It is refused before it touches the socket."""
    second = bridge.run("serve")
    assert second.returncode == 4
    assert str(bridge.process.pid) in second.stderr
    assert bridge.run("halt").returncode == 0
    assert operations_of(bridge) == ["halt"]


def test_a_hung_bridge_is_never_a_success(bridge: Served, tmp_path: Path, context: CliContext) -> None:
    """One line, exit code 1, and it does not claim to know; the state is not written behind its back."""
    os.kill(bridge.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(BridgeUnavailable, match="whether `halt` took effect is not known") as unknown:
            run_operation(context, Halt(), answer_within_s=0.5)
        assert unknown.value.exit_code == 1
        assert trading_state(tmp_path / "data") is TradingState.RUNNING
    finally:
        os.kill(bridge.process.pid, signal.SIGCONT)
    # It had been taken, and is done once the bridge runs again.
    wait_until(lambda: trading_state(tmp_path / "data") is TradingState.HALTED)
    run_operation(context, Resume())


def test_a_bridge_that_is_starting_is_waited_for(context: CliContext, tmp_path: Path) -> None:
    """A lock without a socket: one line after a while, and nothing is changed; if the bridge ends meanwhile, the command does it."""
    Database.open(tmp_path / "data").close_now()
    with DaemonLock(tmp_path / "data"):
        began = time.monotonic()
        with pytest.raises(BridgeUnavailable, match=rf"\(process {os.getpid()}\) is starting.*nothing was changed"):
            run_operation(context, Halt(), start_within_s=0.3)
        assert time.monotonic() - began >= 0.3
        with pytest.raises(BridgeUnavailable, match="is starting"):
            run_operation(context, ListLockouts(), start_within_s=0.1)
    assert trading_state(tmp_path / "data") is TradingState.RUNNING
    held = DaemonLock(tmp_path / "data")
    held.acquire()
    threading.Timer(0.5, held.release).start()
    assert run_operation(context, Halt())["state"] == "halted"


def test_a_full_backlog_is_a_bridge_that_hangs(context: CliContext, tmp_path: Path) -> None:
    """A bridge that no longer accepts connections is not bypassed, either."""
    Database.open(tmp_path / "data").close_now()
    with DaemonLock(tmp_path / "data"):
        control_socket = ControlSocket(tmp_path / "data", {})
        listening = control_socket.bind()
        try:
            with pytest.raises(BridgeUnavailable, match="not known"):
                run_operation(context, Halt(), answer_within_s=0.3)
        finally:
            listening.close()
            control_socket.close()
    assert trading_state(tmp_path / "data") is TradingState.RUNNING


def test_another_command_that_holds_the_lock_is_named(context: CliContext, tmp_path: Path) -> None:
    """It is waited for, then named: it is no bridge that could be killed without a thought."""
    Database.open(tmp_path / "data").close_now()
    held = DaemonLock(tmp_path / "data", is_daemon=False)
    assert held.try_acquire()
    with pytest.raises(BridgeUnavailable, match=rf"another command \(process {os.getpid()}\)"):
        run_operation(context, Halt(), start_within_s=0.2)
    with pytest.raises(NoBridge):
        run_operation(context, ListLockouts())
    held.release()


def test_without_data_and_without_a_bridge(context: CliContext, tmp_path: Path) -> None:
    """No data directory is exit code 3, a stopped bridge 2; neither creates anything."""
    with pytest.raises(NotFound):
        run_operation(context, ListLockouts())
    for operation in (ShowWebhook(webhook="w"), Halt(), ExitsOnly(), Resume()):
        with pytest.raises(NotFound):
            run_operation(context, operation)
    assert not (tmp_path / "data").exists()
    Database.open(tmp_path / "data").close_now()
    with pytest.raises(NoBridge, match="start it with `kekbridge serve`"):
        run_operation(context, ListLockouts())


def test_an_error_of_the_bridge_keeps_its_exit_code(bridge: Served, context: CliContext) -> None:
    """As if the command had done it itself: 3 for an unknown name, 2 for a wrong setting, 1 for what failed."""
    with pytest.raises(OperationFailed, match="there is no webhook named nobody") as missing:
        run_operation(context, Resume(webhook="nobody"))
    assert missing.value.exit_code == 3
    assert bridge.run("webhook", "edit", "nobody", "--max-notional", "5").returncode == 3
    again = bridge.run("webhook", "create", "default")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert bridge.run("webhook", "test", "default", "--url", "http://127.0.0.1:9/x").returncode == 1


# ------------------------------------------------------------------------------------------------------- other users


def _as_another_user(data_dir: Path, results: Any) -> None:
    os.setgroups([])
    os.setgid(65_534)
    os.setuid(65_534)
    found = []
    for command in (("halt",), ("lockouts", "list"), ("webhook", "show", "default"), ("orders",)):
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            found.append((run_command([*command, "--data-dir", str(data_dir)]), errors.getvalue()))
    results.put(found)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_bridge_is_exit_code_3(start: Callable[..., Served]) -> None:
    """The file mode is the gate: the error names its owner, and nothing is changed, created or shown."""
    place = Path(tempfile.mkdtemp())  # pytest's directories are closed to other users
    place.chmod(0o755)
    try:
        bridge = start("serve", "--json", KEKBRIDGE_DATA_DIR=str(place / "data"))
        bridge.line(lambda text: text.startswith("{"))
        assert run_command(["halt", "--help"]) == 0  # imports what the other user may not be able to read
        forks = multiprocessing.get_context("fork")
        results = forks.Queue()
        child = forks.Process(target=_as_another_user, args=(place / "data", results))
        child.start()
        refused = results.get(timeout=DEADLINE_S)
        child.join(DEADLINE_S)
        for code, line in refused:
            assert code == 3
            assert line.startswith(f"kekbridge: {place / 'data'}: permission denied; run `sudo kekbridge ")
            assert line.endswith(f" --data-dir {place / 'data'}`, or the command as root\n")
        assert operations_of(bridge) == []
        assert bridge.stop() == 0
    finally:
        shutil.rmtree(place)


def test_the_services_group_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not use the service's socket learns which group may."""
    for path in (SERVICE_SOCKET, SERVICE_DATA_DIR):
        monkeypatch.delenv(SERVICE_ROOT_VARIABLE, raising=False)
        error = NoAccess(path)
        assert (error.exit_code, error.code) == (3, "no_access")
        assert "join the group kekbridge" in error.message


# ------------------------------------------------------------------------------------- what the bridge's vault is good for


def test_the_passphrase_of_an_open_vault_is_not_asked_for(tmp_path: Path) -> None:
    """The bridge's vault was opened at its start: beside it, a command needs neither the passphrase nor a terminal."""
    environment = bare_environment(tmp_path / "data") | live_environment(tmp_path, "")
    del environment["KEKBRIDGE_VAULT_SECRETS_DIR"]
    paper = environment | {"KEKBRIDGE_MODE": "paper", "KEKBRIDGE_EXCHANGE_ACCOUNT_ID": ""}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_forked(*arguments, environment=paper)

    with at_terminal("serve", "--json", environment=paper) as terminal:
        terminal.expect("Passphrase for")
        terminal.type(PASSPHRASE)
        terminal.expect('"vault":')

        created = run("webhook", "create", "w", "--json")
        assert created.returncode == 0, created.stderr
        secret = json.loads(created.stdout)["apiSecret"]
        assert json.loads(run("webhook", "show", "w", "--secret", "--json").stdout)["apiSecret"] == secret
        for command in (
            ("template", "w"),
            ("webhook", "test", "w"),
            ("webhook", "rotate", "w"),
            ("notify", "channels"),
            ("vault", "status"),
            ("keys", "generate", "--mode", "live"),
            ("doctor",),
        ):
            done = run(*command)
            assert done.returncode == 0, (command, done.stderr)
    alone = run("webhook", "create", "late")
    assert alone.returncode == 2
    assert "needs its passphrase" in alone.stderr


def test_keys_beside_a_live_bridge(tmp_path: Path) -> None:
    """`keys` acts through the bridge's vault; removing the key there is seen in its history."""
    with running_venue(tmp_path / "venue") as venue:
        environment = bare_environment(tmp_path / "data") | live_environment(tmp_path, venue.base_url)
        with starting(environment) as start:
            assert run_forked("keys", "add", environment=environment, stdin=PAPER_ORDERLY_SECRET).returncode == 0
            bridge = start("serve", "--json")
            bridge.line(lambda text: text.startswith("{"))
            assert bridge.run("keys", "check").returncode == 0
            assert [key["isHere"] for key in bridge.data("keys", "list")] == [True]
            assert bridge.data("keys", "restrict-ip", "203.0.113.7", "127.0.0.1")["addresses"] == [
                "203.0.113.7",
                "127.0.0.1",
            ]
            removed = bridge.data("keys", "remove", "--local", "--yes")
            assert removed == {"orderlyKey": PAPER_ORDERLY_KEY, "removedAtExchange": False, "removedHere": True}
            assert operations_of(bridge)[-2:] == ["keys-show", "keys-remove"]
            assert "orderly_key_removed" in bridge.run("history", "list", "--json").stdout


def test_secrets_are_in_no_log(bridge: Served) -> None:
    """Neither parameters nor results of an operation are logged, only its name, process and user."""
    created = bridge.data("webhook", "create", "w")
    shown = bridge.data("webhook", "show", "w", "--secret")
    assert shown["apiSecret"] == created["apiSecret"]
    assert bridge.run("keys", "add", "--mode", "live", "--account", "0x" + "1" * 64).returncode == 2
    (line,) = [line for line in bridge.log if line and '"webhook-create"' in line]
    logged = json.loads(line)
    assert logged["user"] == os.geteuid()
    assert logged["process"] > 0
    assert bridge.stop() == 0
    whole = "\n".join(line for line in bridge.log if line)
    assert created["apiSecret"] not in whole
    assert created["apiKey"] not in whole


def test_a_terminal_shows_that_a_command_waits(bridge: Served) -> None:
    """While a busy machine keeps the bridge from answering, the screen does not look as if nothing happened; a pipe gets the result."""
    os.kill(bridge.process.pid, signal.SIGSTOP)
    try:
        with at_terminal("jobs", "run", "disk", environment=bridge.environment) as terminal:
            terminal.expect("Waiting for the bridge, 1 s")
            os.kill(bridge.process.pid, signal.SIGCONT)
            code, screen = terminal.end()
    finally:
        os.kill(bridge.process.pid, signal.SIGCONT)
    assert (code, "\r\x1b[K" in screen, "Waiting" in screen.rpartition("\x1b[K")[2]) == (0, True, False)
    assert "Waiting" not in bridge.run("jobs", "run", "disk").stderr


def test_no_proxy_is_asked(bridge: Served) -> None:
    """The socket is no network: http_proxy does not matter."""
    bridge.environment |= dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"), "http://127.0.0.1:9")
    for command in (("halt",), ("dashboard", "--json"), ("webhook", "test", "default"), ("jobs", "run", "disk")):
        done = bridge.run(*command)
        assert done.returncode == 0, (command, done.stderr)


def test_an_older_bridge_is_not_migrated_under_its_feet(bridge: Served, tmp_path: Path) -> None:
    """A command of another version that reads beside a running bridge leaves the database as it is."""
    with Database.open(tmp_path / "data").transaction() as connection:
        connection.execute("DELETE FROM _sqlite_migrations WHERE id = (SELECT max(id) FROM _sqlite_migrations)")
    refused = bridge.run("orders")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "is of another version than this command" in refused.stderr


def test_commands_import_no_http_server() -> None:
    """A command that asks the bridge starts without aiohttp and the exchange client."""
    code = "import sys, kekbridge.cli.trading_state, kekbridge.cli.control, kekbridge.ops.trading_operations; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )
    assert set(done.stdout.split()).isdisjoint(
        {"aiohttp", "apprise", "apscheduler", "kekbridge.exchange.orderly.client"}
    )


def test_exits_only_survives_a_restart(bridge: Served) -> None:
    """What a command set in a running bridge is stored."""
    assert bridge.run("exits-only").returncode == 0
    assert bridge.stop() == 0
    with starting(bridge.environment) as again:
        second = again("serve", "--json")
        second.line(lambda text: text.startswith("{"))
        assert second.data("dashboard")["trading"]["state"] == "exits_only"
