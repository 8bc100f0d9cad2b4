"""The daemon's manners as its operator sees them: signals, supervisors, halting, and starts that cannot be."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import Bridge, call, clean_environment, running_bridge, wait_until
from tests.waiting import DEADLINE_S

ETH = "PERP_ETH_USDC"


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    with running_bridge(tmp_path_factory.mktemp("manners")) as running:
        yield running


def _command(*arguments: str, data_dir: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever its end is."""
    return subprocess.run(
        [sys.executable, "-m", "kekbridge", *arguments],
        env={
            **clean_environment(),
            "KEKBRIDGE_DATA_DIR": str(data_dir),
            "KEKBRIDGE_VAULT_BACKEND": "key_file",
            "KEKBRIDGE_PAPER_PORT": "0",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a refused start says, log lines left out."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("kekbridge: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


# ------------------------------------------------------------------------------------------------ a stop loss, all told


def test_a_stop_that_fires_is_told_by_every_command(bridge: Bridge) -> None:
    """Bracket entry, then the mark passes the stop: flat, the take-profit gone, and orders, positions and explain say so."""
    status, answer = bridge.send(alertId="bracket", symbol="ETHUSDT.P", quantity="0.1", stopLoss="1%", takeProfit="2%")
    assert (status, answer["status"]) == (200, "filled")
    call(f"{bridge.paper_url}/paper/prices", {ETH: "1764"})
    wait_until(lambda: not _position(bridge), what="the position to be closed")

    def told() -> dict[str, str] | None:
        (order,) = bridge.cli("explain", "bracket")["orders"]
        legs = {leg["kind"]: leg["status"] for leg in order["exits"]}
        return legs if order["exitFills"] and legs.get("TAKE_PROFIT") == "canceled" else None

    assert wait_until(told, what="the exits")["STOP_LOSS"] == "filled"
    (order,) = bridge.cli("explain", "bracket")["orders"]
    (fill,) = order["exitFills"]
    assert (fill["side"], fill["quantity"]) == ("SELL", "0.1")
    (row,) = [row for row in bridge.cli("orders") if row["clientOrderId"] == answer["clientOrderId"]]
    assert row["status"] == "filled"
    assert {leg["kind"] for leg in row["exits"]} == {"STOP_LOSS", "TAKE_PROFIT"}


def _position(bridge: Bridge) -> list[dict[str, Any]]:
    return [position for position in bridge.cli("positions") if position["symbol"] == ETH]


# ------------------------------------------------------------------------------------------------- halt, flatten, resume


def test_halt_survives_a_restart_and_resume_ends_it(bridge: Bridge) -> None:
    """`halt` refuses the next alert, also after a restart; `resume` trades again."""
    assert _command("halt", data_dir=bridge.data_dir).returncode == 0
    assert bridge.send(alertId="halted")[1]["code"] == "trading_halted"
    assert bridge.daemon.terminate() == 0
    bridge.start_daemon()
    bridge.wait_ready()
    assert bridge.send(alertId="still-halted")[1]["code"] == "trading_halted"
    assert _command("resume", data_dir=bridge.data_dir).returncode == 0
    status, answer = bridge.send(alertId="resumed")
    assert (status, answer["status"]) == (200, "filled")


def test_flatten_works_while_the_daemon_is_stuck(bridge: Bridge) -> None:
    """A stopped daemon process: `flatten` halts, closes everything itself, says so, and leaves trading halted."""
    bridge.send(alertId="to-be-closed", quantity="0.002", stopLoss="2%")
    # Stopped in the middle of a commit it would keep the database locked, and `flatten` could only say so.
    wait_until(lambda: _is_noted(bridge, "to-be-closed"), what="the note of the answer")
    os.kill(bridge.daemon.pid, signal.SIGSTOP)
    try:
        done = _command("flatten", "--yes", "--json", data_dir=bridge.data_dir)
    finally:
        os.kill(bridge.daemon.pid, signal.SIGCONT)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["flat"], told["positionsLeft"], told["ordersLeft"]) == (True, [], 0)
    assert told["positionsClosed"] >= 1
    wait_until(lambda: bridge.send()[1].get("code") == "trading_halted", what="the halt in the daemon")
    assert _command("resume", data_dir=bridge.data_dir).returncode == 0


def _is_noted(bridge: Bridge, alert_id: str) -> bool:
    return _is_stored(bridge, alert_id, "AND answer_status IS NOT NULL")


def _is_stored(bridge: Bridge, alert_id: str, condition: str = "") -> bool:
    """Read from the file: a command would take a second or more to start."""
    with closing(sqlite3.connect(bridge.data_dir / "kekbridge.db")) as connection:
        query = f"SELECT 1 FROM alerts WHERE alert_id = ? {condition}"
        return connection.execute(query, (alert_id,)).fetchone() is not None


def test_flatten_without_an_exchange_is_one_line(tmp_path: Path) -> None:
    """No paper exchange has ever run here: one line says what to do, and nothing hangs."""
    done = _command("flatten", "--yes", data_dir=tmp_path / "data")
    assert done.returncode == 2
    assert "kekbridge serve" in _refusal(done)


def test_flatten_asks_first(bridge: Bridge) -> None:
    """Without --yes and without an answer nothing is done."""
    done = _command("flatten", data_dir=bridge.data_dir)
    assert done.returncode == 1
    assert bridge.send(alertId="not-flattened")[1].get("code") != "trading_halted"


# --------------------------------------------------------------------------------------------------------- other processes


def test_a_second_daemon_is_refused(bridge: Bridge) -> None:
    """Two daemons on one data directory would send each other's orders: exit code 4, one line that names the first."""
    done = _command("serve", "--port", "0", data_dir=bridge.data_dir)
    assert done.returncode == 4
    assert str(bridge.daemon.pid) in _refusal(done)


def test_a_locked_database_is_503_and_recovers(bridge: Bridge) -> None:
    """Another program holds the database: the alert is not stored and may come again, and then it is traded once."""
    locker = sqlite3.connect(bridge.data_dir / "kekbridge.db", isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    try:
        status, answer = bridge.send(alertId="locked-out")
    finally:
        locker.execute("ROLLBACK")
        locker.close()
    assert (status, answer["code"]) == (503, "store_unavailable")
    status, answer = bridge.send(alertId="locked-out")
    assert status in (200, 202)
    assert "duplicate" not in answer


# ----------------------------------------------------------------------------------------------- starts that cannot be


def test_a_vault_that_is_gone_is_one_line(tmp_path: Path) -> None:
    """The configured place for secrets does not exist: no start, one line."""
    done = _command(
        "serve",
        "--port",
        "0",
        data_dir=tmp_path / "data",
        KEKBRIDGE_VAULT_BACKEND="directory",
        KEKBRIDGE_VAULT_SECRETS_DIR=str(tmp_path / "gone"),
    )
    assert done.returncode != 0
    assert str(tmp_path / "gone") in _refusal(done)


def test_a_data_directory_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    """A file where the directory should be: no start, one line with the way out."""
    (tmp_path / "data").write_text("occupied")
    done = _command("serve", "--port", "0", data_dir=tmp_path / "data")
    assert done.returncode == 2
    assert "--data-dir" in _refusal(done)


# --------------------------------------------------------------------------------------------------------------- signals


def test_a_stop_drains_what_is_under_way(tmp_path: Path) -> None:
    """SIGTERM while an order waits for the exchange's answer: the answer is still recorded and the sender still answered."""
    with running_bridge(tmp_path) as bridge:
        _slow_orders(bridge, delay_ms=1200)
        answers: list[tuple[int, dict[str, Any]]] = []
        sender = threading.Thread(target=lambda: answers.append(bridge.send(alertId="under-way")))
        sender.start()
        wait_until(lambda: _is_stored(bridge, "under-way"), what="the alert to be stored")
        assert bridge.daemon.terminate() == 0
        sender.join()
        assert answers[0][0] in (200, 202)
        states = {row["alertId"]: row["status"] for row in bridge.logs()}
        assert states["under-way"] in ("accepted", "filled")
        bridge.start_daemon()
        bridge.wait_ready()
        wait_until(lambda: bridge.cli("orders")[-1]["status"] == "filled", what="the fill")
        assert set(bridge.orders_received().values()) == {1}


def test_a_second_signal_forces(tmp_path: Path) -> None:
    """An operator who cannot wait sends SIGTERM twice: the process ends at once, and the next start finds the order."""
    with running_bridge(tmp_path) as bridge:
        _slow_orders(bridge, delay_ms=4000)
        sender = threading.Thread(target=_ignoring_cuts, args=(bridge, "cut"))
        sender.start()
        wait_until(lambda: _is_stored(bridge, "cut"), what="the alert to be stored")
        os.kill(bridge.daemon.pid, signal.SIGTERM)
        wait_until(lambda: '"stopping"' in (bridge.directory / "daemon.log").read_text(), what="the drain to begin")
        assert bridge.daemon.terminate() == 130
        sender.join()
        bridge.start_daemon()
        bridge.wait_ready()
        wait_until(lambda: bridge.cli("orders")[-1]["status"] == "filled", what="the fill")
        assert set(bridge.orders_received().values()) == {1}


def _slow_orders(bridge: Bridge, *, delay_ms: int) -> None:
    """The exchange carries orders out at once and answers late."""
    fault = {"fault": "delay", "path": "/v1/order", "method": "POST", "delay_ms": delay_ms, "when": "after", "count": 1}
    call(f"{bridge.paper_url}/paper/faults", fault)


def _ignoring_cuts(bridge: Bridge, alert_id: str) -> None:
    try:
        bridge.send(alertId=alert_id)
    except OSError:
        pass  # the connection is cut with the process


# ------------------------------------------------------------------------------------------------------------ a supervisor


def test_the_supervisor_holds_the_socket_through_a_restart(tmp_path: Path) -> None:
    """LISTEN_FDS: alerts that arrive while no daemon runs wait in the backlog and are answered by the next one; READY is told."""
    with (
        running_bridge(tmp_path) as bridge,
        socket.create_server(("127.0.0.1", 0), backlog=64) as door,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear,
    ):
        bridge.daemon.terminate()
        ear.bind(str(tmp_path / "notify"))
        ear.settimeout(DEADLINE_S)
        bridge.url = f"http://127.0.0.1:{door.getsockname()[1]}"
        first = _supervised(bridge, door, tmp_path / "notify")
        assert _words_until(ear, "READY=1")
        assert bridge.send(alertId="before")[0] == 200
        first.terminate()
        assert first.wait(DEADLINE_S) == 0
        assert _words_until(ear, "STOPPING=1")

        answers: list[int] = []
        sender = threading.Thread(target=lambda: answers.append(bridge.send(alertId="meanwhile")[0]))
        sender.start()  # nobody listens now but the kernel
        second = _supervised(bridge, door, tmp_path / "notify")
        try:
            assert _words_until(ear, "READY=1")
            sender.join(DEADLINE_S)
            assert answers
            assert answers[0] in (200, 202)
            assert _words_until(ear, "WATCHDOG=1")
        finally:
            second.terminate()
            second.wait(DEADLINE_S)
        assert set(bridge.orders_received().values()) == {1}


def _supervised(bridge: Bridge, door: socket.socket, notify: Path) -> subprocess.Popen[bytes]:
    """`serve` with the door as file 3, as systemd starts it; the shell is there because LISTEN_PID must name the process itself."""
    script = f'exec 3<&{door.fileno()}; export LISTEN_PID=$$; exec "$0" -m kekbridge serve --json'
    return subprocess.Popen(
        ["/bin/bash", "-c", script, sys.executable],
        env={
            **clean_environment(),
            "KEKBRIDGE_EXCHANGE_BASE_URL": bridge.paper_url,
            "KEKBRIDGE_VAULT_BACKEND": "key_file",
            "KEKBRIDGE_DATA_DIR": str(bridge.data_dir),
            "LISTEN_FDS": "1",
            "NOTIFY_SOCKET": str(notify),
            "WATCHDOG_USEC": "4000000",
        },
        pass_fds=[door.fileno()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _words_until(ear: socket.socket, word: str) -> bool:
    """Read what the daemon tells until it says this; TimeoutError when it does not."""
    while word not in ear.recv(4096).decode().split("\n"):
        pass
    return True
