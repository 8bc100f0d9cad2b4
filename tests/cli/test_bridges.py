"""Which bridge a state command acts on: one that runs, wherever it is; the output names it, and nothing is ever created."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import multiprocessing
import os
import shutil
import threading
from pathlib import Path
from typing import Any, Final

import pytest

from kekbridge.cli.context import now
from kekbridge.cli.main import run_command
from kekbridge.daemon.control_socket import SERVICE_ROOT_VARIABLE
from kekbridge.model import TradingState
from kekbridge.store import settings
from kekbridge.store.database import Database
from kekbridge.store.lock import DaemonLock
from tests.cli.conftest import Run
from tests.cli.processes import DEADLINE_S, Served, bare_environment, serving
from tests.cli.terminal import at_terminal
from tests.system.harness import call, wait_until

STATE_COMMANDS = (
    ("halt",),
    ("exits-only",),
    ("resume",),
    ("flatten", "--yes"),
    ("close", "BTC", "--yes"),
    ("cancel", "kb-0123456789"),
)


def state_of(data_dir: Path) -> TradingState:
    with Database.open(data_dir, create=False, migrate=False).snapshot() as connection:
        return settings.trading_control(connection, now=now()).state


@pytest.mark.parametrize("command", STATE_COMMANDS)
def test_without_a_bridge_nothing_is_created(
    run: Run, data_dir: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Exit code 3 and the places that were looked at, whether or not --data-dir was given."""
    missing = run(*command)
    assert (missing.code, missing.out, missing.err.count("\n")) == (3, "", 1)
    for place in (f"{data_dir} (KEKBRIDGE_DATA_DIR)", "no-service/run/kekbridge/control.sock", "--data-dir"):
        assert place in missing.err
    named = run(*command, "--data-dir", str(tmp_path / "other"))
    assert named.code == 3
    assert f"looked in {tmp_path / 'other'} only, as --data-dir says" in named.err
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_directory_says_how_it_will_start(run: Run, data_dir: Path) -> None:
    """Without a running bridge the data directory's next start is changed, and the output says so."""
    assert run("webhook", "create", "w").code == 0
    for command, label, start in (
        ("halt", "halted", "halted"),
        ("exits-only", "exits only", "with exits only"),
        ("resume", "resumed", "trading"),
    ):
        done = run(command)
        assert done.out == f"{label}: PAPER, {data_dir} (not running; it will start {start})\n"
    assert run("halt", "--json").data["bridge"] == {"mode": "paper", "dataDir": str(data_dir), "process": None}
    assert state_of(data_dir) is TradingState.HALTED


def test_the_running_service_comes_first(run: Run, data_dir: Path, service: Served, root: Path) -> None:
    """Its socket is asked although the command's own directory has data; --data-dir alone leads elsewhere, with a note."""
    name = f"PAPER, {root / 'var/lib/kekbridge'} (process {service.process.pid})"
    assert run("webhook", "create", "w", "--data-dir", str(data_dir)).code == 0
    assert run("halt").out == f"halted: {name}\n"
    assert state_of(data_dir) is TradingState.RUNNING
    assert service.data("dashboard")["trading"]["state"] == "halted"
    assert run("resume", "--json").data["bridge"]["process"] == service.process.pid
    own = run("halt", "--data-dir", str(data_dir))
    assert own.out == f"halted: PAPER, {data_dir} (not running; it will start halted)\n"
    assert own.err.splitlines()[-1] == f"Another bridge runs and is not changed: {name}"
    assert service.data("dashboard")["trading"]["state"] == "running"


def test_several_running_bridges(run: Run, data_dir: Path, service: Served, root: Path) -> None:
    """A script must name one; a person at a terminal is asked, and the one that was chosen is named."""
    theirs = f"PAPER, {root / 'var/lib/kekbridge'} (process {service.process.pid})"
    environment = bare_environment(data_dir) | {SERVICE_ROOT_VARIABLE: str(root)}
    with serving(environment) as own:
        mine = f"PAPER, {data_dir} (process {own.process.pid})"
        refused = run("halt")
        assert refused.code == 2
        assert refused.err == f"kekbridge: 2 bridges run: {mine}; {theirs}; name one with --data-dir\n"
        assert run("exits-only", "--data-dir", str(data_dir)).out == f"exits only: {mine}\n"
        with at_terminal("halt", environment=environment, columns=250) as terminal:
            terminal.expect(f"1  {mine}")
            terminal.expect(f"2  {theirs}")
            terminal.expect("Its number: ")
            terminal.type("3")
            terminal.expect("Its number: ")
            terminal.type("2")
            terminal.expect(f"halted: {theirs}")
            assert terminal.end()[0] == 0
        assert service.data("dashboard")["trading"]["state"] == "halted"
        assert own.data("dashboard")["trading"]["state"] == "exits_only"


def test_the_own_directory_may_be_the_services(
    run: Run, service: Served, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bridge that is found in two ways is one bridge."""
    monkeypatch.setenv("KEKBRIDGE_DATA_DIR", str(root / "var/lib/kekbridge"))
    done = run("halt")
    assert (done.code, f"(process {service.process.pid})" in done.out) == (0, True)
    assert "Another bridge" not in done.err


def _halt_as_another_user(data_dir: Path, results: Any) -> None:
    os.setgroups([])
    os.setgid(65_534)
    os.setuid(65_534)
    found = []
    for command in (["halt"], ["halt", "--data-dir", str(data_dir)]):
        with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
            found.append((run_command(command), errors.getvalue()))
    results.put(found)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_service_out_of_reach_is_never_passed_over(
    run: Run, service: Served, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 3 with who may, although the caller's own directory has data that could be halted instead."""
    own = root / "own"
    monkeypatch.setenv("KEKBRIDGE_DATA_DIR", str(own))
    assert run("webhook", "create", "w", "--data-dir", str(own)).code == 0
    assert run("halt", "--data-dir", str(own)).code == 0  # imports what the other user may not be able to read
    assert run("resume", "--data-dir", str(own)).code == 0
    for file in (own, *own.iterdir()):
        shutil.chown(file, 65_534, 65_534)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_halt_as_another_user, args=(own, results))
    child.start()
    (code, error), (named_code, _) = results.get(timeout=DEADLINE_S)
    child.join(DEADLINE_S)
    assert code == 3
    assert f"{root / 'run/kekbridge/control.sock'}: permission denied" in error
    assert "run `sudo kekbridge halt`, or join the group kekbridge" in error
    assert named_code == 0  # it was named
    assert service.data("dashboard")["trading"]["state"] == "running"


_READING: Final = (
    "positions",
    "orders",
    "logs",
    "explain first",
    "stats",
    "risk show",
    "webhook list",
    "history list",
    "export fills",
    "jobs",
)
_GROUP: Final = 4_242


def _read_as_another_user(group: int, results: Any) -> None:
    os.setgroups([group])
    os.setgid(group)
    os.setuid(65_534)
    found = []
    for command in _READING:
        with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()) as out:
            found.append((run_command([*command.split(), "--json"]), out.getvalue(), errors.getvalue()))
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()) as out:
        found.append((run_command(["backup", "/nowhere/b.zip"]), out.getvalue(), errors.getvalue()))
    results.put(found)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_members_of_the_services_group_read_without_sudo(
    run: Run, service: Served, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They see what root sees, with the settings of the service; others get exit code 3 and the very line to type."""
    runtime = root / "run/kekbridge"
    for path in (runtime, runtime / "control.sock"):
        shutil.chown(path, group=_GROUP)
    (root / "run").chmod(0o755)
    wait_until(lambda: service.data("dashboard")["ready"]["ready"])
    webhook = service.data("webhook", "create", "w", "--no-require-signature", "--no-require-timestamp")
    alert = {
        "apiKey": webhook["apiKey"],
        "alertId": "first",
        "action": "buy",
        "symbol": "BTCUSDT.P",
        "quantity": "0.001",
    }
    assert call(webhook["webhookUrl"], alert)["status"] == "filled"
    wait_until(lambda: service.data("positions"))
    own = root / "own"
    monkeypatch.setenv("KEKBRIDGE_DATA_DIR", str(root / "var/lib/kekbridge"))
    expected = [
        run(*command.split(), "--json") for command in _READING
    ]  # also imports what others may not be able to read
    assert run("backup", "/nowhere/b.zip").code == 2
    importlib.import_module("kekbridge.cli.bridge_database")
    monkeypatch.setenv("KEKBRIDGE_DATA_DIR", str(own))
    found = []
    for group in (_GROUP, 65_534):
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        child = context.Process(target=_read_as_another_user, args=(group, results))
        child.start()
        found.append(results.get(timeout=DEADLINE_S))
        child.join(DEADLINE_S)
    for *_, (code, _, error) in found:
        assert (code, "run `sudo kekbridge backup /nowhere/b.zip`" in error) == (3, True)
    members, others = ([*each[:-1]] for each in found)
    for command, (code, out, error), wanted in zip(_READING, members, expected, strict=True):
        assert (code, error) == (0, wanted.err), command
        if command in ("orders", "explain first", "webhook list", "export fills"):
            assert out == wanted.out, command
        assert out
    for command, (code, out, error) in zip(_READING, others, strict=True):
        assert (code, out) == (3, "")
        assert f"run `sudo kekbridge {command} --json`, or join the group kekbridge" in error
    assert not own.exists()


def test_a_bridge_elsewhere_is_pointed_at(run: Run, tmp_path: Path) -> None:
    """A command in the wrong home changes nothing, and names the bridge that runs with its own --data-dir."""
    with serving(bare_environment(tmp_path / "elsewhere")) as bridge:
        done = run("halt")
        assert done.code == 3
        if Path("/proc/net/unix").exists():
            assert f"PAPER, {tmp_path / 'elsewhere'} (process {bridge.process.pid})" in done.err
        assert bridge.data("dashboard")["trading"]["state"] == "running"


def test_wrong_settings_do_not_prevent_a_halt(run: Run, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A settings file or variable that `serve` would refuse is no reason not to stop a bridge that runs."""
    with serving(bare_environment(data_dir)) as bridge:
        (data_dir / "config.toml").write_text("[riks]\nmax_notional = 5\n")
        monkeypatch.setenv("KEKBRIDGE_MODES", "live")
        done = run("halt")
        assert (done.code, done.out) == (0, f"halted: PAPER, {data_dir} (process {bridge.process.pid})\n")
    stopped = run("exits-only", "--json")
    assert (stopped.code, json.loads(stopped.out)["state"]) == (0, "exits_only")
    assert run("orders").code == 2


def test_a_bridge_that_ends_meanwhile_is_not_named(run: Run, data_dir: Path) -> None:
    """It held the lock without a socket and ended: the command did it without it, and says so."""
    Database.open(data_dir).close_now()
    lock = DaemonLock(data_dir)
    lock.acquire()
    threading.Timer(0.5, lock.release).start()
    assert run("halt").out == f"halted: PAPER, {data_dir} (not running; it will start halted)\n"
    assert state_of(data_dir) is TradingState.HALTED
