"""The daemon process as its operator sees it: signals, supervisor, halt and flatten, and starts that fail."""

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

from tests.system.forked import forked_bridge, run_forked
from tests.system.harness import BridgeProcess, call, clean_environment, timestamp, wait_until
from tests.waiting import DEADLINE_S

ETH = "PERP_ETH_USDC"


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeProcess]:
    with forked_bridge(tmp_path_factory.mktemp("daemon")) as running:
        yield running


def _command(*arguments: str, data_dir: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with any exit code."""
    return run_forked(
        *arguments,
        environment={
            **clean_environment(),
            "KEKBRIDGE_DATA_DIR": str(data_dir),
            "KEKBRIDGE_VAULT_BACKEND": "key_file",
            "KEKBRIDGE_PAPER_PORT": "0",
            **environment,
        },
    )


def _error_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the command's one-line error, without log lines."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("kekbridge: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


# ------------------------------------------------------------------------------------------------ a stop loss, end to end


def test_a_triggered_stop_shows_in_every_command(bridge: BridgeProcess) -> None:
    """A bracket whose stop is triggered ends flat with its take-profit canceled, and orders, positions and explain show it."""
    status, answer = bridge.send(alertId="bracket", symbol="ETHUSDT.P", quantity="0.1", stopLoss="1%", takeProfit="2%")
    assert (status, answer["status"]) == (200, "filled")
    call(f"{bridge.paper_url}/paper/prices", {ETH: "1764"})
    wait_until(lambda: not _position(bridge), what="the position to be closed")

    def exits() -> dict[str, str] | None:
        (order,) = bridge.cli("explain", "bracket")["orders"]
        legs = {leg["kind"]: leg["status"] for leg in order["exits"]}
        return legs if order["exitFills"] and legs.get("TAKE_PROFIT") == "canceled" else None

    assert wait_until(exits, what="the exits")["STOP_LOSS"] == "filled"
    (order,) = bridge.cli("explain", "bracket")["orders"]
    (fill,) = order["exitFills"]
    assert (fill["side"], fill["quantity"]) == ("SELL", "0.1")
    (row,) = [row for row in bridge.cli("orders") if row["clientOrderId"] == answer["clientOrderId"]]
    assert row["status"] == "filled"
    assert {leg["kind"] for leg in row["exits"]} == {"STOP_LOSS", "TAKE_PROFIT"}


def _position(bridge: BridgeProcess) -> list[dict[str, Any]]:
    return [position for position in bridge.cli("positions") if position["symbol"] == ETH]


# ------------------------------------------------------------------------------------------------- halt, flatten, resume


def test_halt_survives_a_restart_and_resume_ends_it(bridge: BridgeProcess) -> None:
    """`halt` denies alerts, also after a restart; `resume` trades again."""
    assert _command("halt", data_dir=bridge.data_dir).returncode == 0
    assert bridge.send(alertId="halted")[1]["code"] == "trading_halted"
    assert bridge.daemon.terminate() == 0
    bridge.start_daemon()
    bridge.wait_ready()
    assert bridge.send(alertId="still-halted")[1]["code"] == "trading_halted"
    assert _command("resume", data_dir=bridge.data_dir).returncode == 0
    status, answer = bridge.send(alertId="resumed")
    assert (status, answer["status"]) == (200, "filled")


def test_flatten_works_while_the_daemon_is_stuck(bridge: BridgeProcess) -> None:
    """With the daemon's process stopped, `flatten` halts trading, closes everything itself, reports it, and leaves trading halted."""
    bridge.send(alertId="to-be-closed", quantity="0.002", stopLoss="2%")
    # A process stopped during a commit would keep the database locked, and `flatten` would fail.
    wait_until(lambda: _response_is_stored(bridge, "to-be-closed"), what="the stored response")
    os.kill(bridge.daemon.pid, signal.SIGSTOP)
    try:
        done = _command("flatten", "--yes", "--json", data_dir=bridge.data_dir)
    finally:
        os.kill(bridge.daemon.pid, signal.SIGCONT)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["flat"], result["positionsLeft"], result["ordersLeft"]) == (True, [], 0)
    assert result["positionsClosed"] >= 1
    wait_until(lambda: bridge.send()[1].get("code") == "trading_halted", what="the halt in the daemon")
    assert _command("resume", data_dir=bridge.data_dir).returncode == 0


def _response_is_stored(bridge: BridgeProcess, alert_id: str) -> bool:
    return _is_stored(bridge, alert_id, "AND answer_status IS NOT NULL")


def _is_stored(bridge: BridgeProcess, alert_id: str, condition: str = "") -> bool:
    """Read from the file: a command would take a second or more to start."""
    with closing(sqlite3.connect(bridge.data_dir / "kekbridge.db")) as connection:
        query = f"SELECT 1 FROM alerts WHERE alert_id = ? {condition}"
        return connection.execute(query, (alert_id,)).fetchone() is not None


def test_flatten_without_an_exchange_is_one_line(tmp_path: Path) -> None:
    """If no paper exchange has ever run here, a one-line error names the fix, and nothing hangs."""
    assert _command("webhook", "create", "w", data_dir=tmp_path / "data").returncode == 0
    done = _command("flatten", "--yes", data_dir=tmp_path / "data")
    assert done.returncode == 2
    assert "kekbridge serve" in _error_line(done)


def test_flatten_asks_first(bridge: BridgeProcess) -> None:
    """Without --yes and without a confirmation nothing is done."""
    done = _command("flatten", data_dir=bridge.data_dir)
    assert done.returncode == 1
    assert bridge.send(alertId="not-flattened")[1].get("code") != "trading_halted"


# --------------------------------------------------------------------------------------------------------- other processes


def test_a_second_daemon_does_not_start(bridge: BridgeProcess) -> None:
    """Two daemons on one data directory would send each other's orders: exit code 4 and one line with the first one's process id."""
    done = _command("serve", "--port", "0", data_dir=bridge.data_dir)
    assert done.returncode == 4
    assert str(bridge.daemon.pid) in _error_line(done)


def test_a_locked_database_is_503_and_recovers(bridge: BridgeProcess) -> None:
    """While another program locks the database an alert is not stored; sent again later, it is traded once."""
    locker = sqlite3.connect(bridge.data_dir / "kekbridge.db", isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    at = timestamp()
    try:
        status, answer = bridge.send(alertId="locked-out", timestamp=at)
    finally:
        locker.execute("ROLLBACK")
        locker.close()
    assert (status, answer["code"]) == (503, "store_unavailable")
    status, answer = bridge.send(alertId="locked-out", timestamp=at)
    assert status in (200, 202)
    assert "duplicate" not in answer


# ----------------------------------------------------------------------------------------------- starts that fail


def test_a_missing_vault_is_one_line(tmp_path: Path) -> None:
    """Without the configured secrets directory the daemon does not start: one line names it."""
    done = _command(
        "serve",
        "--port",
        "0",
        data_dir=tmp_path / "data",
        KEKBRIDGE_VAULT_BACKEND="directory",
        KEKBRIDGE_VAULT_SECRETS_DIR=str(tmp_path / "gone"),
    )
    assert done.returncode != 0
    assert str(tmp_path / "gone") in _error_line(done)


def test_an_unusable_data_directory_is_one_line(tmp_path: Path) -> None:
    """If the data directory is a file, the daemon does not start: one line names the option to change."""
    (tmp_path / "data").write_text("occupied")
    done = _command("serve", "--port", "0", data_dir=tmp_path / "data")
    assert done.returncode == 2
    assert "--data-dir" in _error_line(done)


# --------------------------------------------------------------------------------------------------------------- signals


def test_sigterm_waits_for_orders_in_flight(tmp_path: Path) -> None:
    """After SIGTERM the exchange's response to an order in flight is still recorded, and the sender answered."""
    with forked_bridge(tmp_path) as bridge:
        _slow_orders(bridge, delay_ms=1200)
        answers: list[tuple[int, dict[str, Any]]] = []
        sender = threading.Thread(target=lambda: answers.append(bridge.send(alertId="in-flight")))
        sender.start()
        wait_until(lambda: _is_stored(bridge, "in-flight"), what="the alert to be stored")
        assert bridge.daemon.terminate() == 0
        sender.join()
        assert answers[0][0] in (200, 202)
        states = {row["alertId"]: row["status"] for row in bridge.logs()}
        assert states["in-flight"] in ("accepted", "filled")
        bridge.start_daemon()
        bridge.wait_ready()
        wait_until(lambda: bridge.cli("orders")[-1]["status"] == "filled", what="the fill")
        assert set(bridge.orders_received().values()) == {1}


def test_a_second_sigterm_forces_the_exit(tmp_path: Path) -> None:
    """A second SIGTERM ends the process at once, and the next start finds the order."""
    with forked_bridge(tmp_path) as bridge:
        _slow_orders(bridge, delay_ms=4000)
        sender = threading.Thread(target=_send_ignoring_broken_connection, args=(bridge, "cut"))
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


def _slow_orders(bridge: BridgeProcess, *, delay_ms: int) -> None:
    """Make the exchange execute orders at once and respond late."""
    fault = {"fault": "delay", "path": "/v1/order", "method": "POST", "delay_ms": delay_ms, "when": "after", "count": 1}
    call(f"{bridge.paper_url}/paper/faults", fault)


def _send_ignoring_broken_connection(bridge: BridgeProcess, alert_id: str) -> None:
    try:
        bridge.send(alertId=alert_id)
    except OSError:
        pass  # the connection breaks when the process ends


# ------------------------------------------------------------------------------------------------------------ a supervisor


def test_the_supervisors_socket_survives_a_restart(tmp_path: Path) -> None:
    """LISTEN_FDS: alerts that arrive while no daemon runs wait in the backlog for the next one, which reports READY and WATCHDOG."""
    with (
        forked_bridge(tmp_path) as bridge,
        socket.create_server(("127.0.0.1", 0), backlog=64) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify_socket,
    ):
        bridge.daemon.terminate()
        notify_socket.bind(str(tmp_path / "notify"))
        notify_socket.settimeout(DEADLINE_S)
        bridge.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        first = _supervised(bridge, listener, tmp_path / "notify")
        assert _receive(notify_socket, "READY=1")
        assert bridge.send(alertId="before")[0] == 200
        first.terminate()
        assert first.wait(DEADLINE_S) == 0
        assert _receive(notify_socket, "STOPPING=1")

        answers: list[int] = []
        sender = threading.Thread(target=lambda: answers.append(bridge.send(alertId="meanwhile")[0]))
        sender.start()  # only the kernel accepts connections now
        second = _supervised(bridge, listener, tmp_path / "notify")
        try:
            assert _receive(notify_socket, "READY=1")
            sender.join(DEADLINE_S)
            assert answers
            assert answers[0] in (200, 202)
            assert _receive(notify_socket, "WATCHDOG=1")
        finally:
            second.terminate()
            second.wait(DEADLINE_S)
        assert set(bridge.orders_received().values()) == {1}


def _supervised(bridge: BridgeProcess, listener: socket.socket, notify: Path) -> subprocess.Popen[bytes]:
    """Run `serve` with the listener as file 3, as systemd does; through a shell, because LISTEN_PID must be the process's own id."""
    script = f'exec 3<&{listener.fileno()}; export LISTEN_PID=$$; exec "$0" -m kekbridge serve --json'
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
        pass_fds=[listener.fileno()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _receive(notify_socket: socket.socket, message: str) -> bool:
    """Read the daemon's notifications until this message; raise TimeoutError if it does not come."""
    while message not in notify_socket.recv(4096).decode().split("\n"):
        pass
    return True
