"""`kekbridge close` and `kekbridge cancel` beside a bridge and without one; test_bridges.py has which bridge they find."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.system.forked import forked_bridge, run_forked
from tests.system.harness import BridgeProcess, call, clean_environment

BTC = "PERP_BTC_USDC"


def command(bridge: BridgeProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the bridge's data directory; it must succeed."""
    done = run_forked(*arguments, environment=clean_environment() | bridge.daemon_environment())
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done


def data(bridge: BridgeProcess, *arguments: str) -> Any:
    return json.loads(command(bridge, *arguments, "--json").stdout)


def held(bridge: BridgeProcess) -> tuple[dict[str, str], dict[str, str]]:
    """Cross and isolated positions at the exchange."""
    state = call(f"{bridge.paper_url}/paper/state")
    return state["positions"], state["isolated_positions"]


def test_beside_a_bridge_and_without_one(tmp_path: Path) -> None:
    """A running bridge does it and stores it as its own. Else the command calls the exchange; the next start knows of it, and trades."""
    with forked_bridge(tmp_path) as bridge:
        call(f"{bridge.paper_url}/paper/isolated-positions", {BTC: {"quantity": "-0.3", "leverage": 5}})
        assert bridge.send(quantity="0.2", stopLoss="2%")[1]["status"] == "filled"
        check_beside(bridge)
        check_spellings(bridge)
        check_without(bridge)


def check_beside(bridge: BridgeProcess) -> None:
    """A part of the cross position, the isolated one alone, an order by its id."""
    resting = bridge.send(orderType="limit", limitPrice="60000")[1]
    part = data(bridge, "close", "BTC", "--quantity", "0.05", "--margin-mode", "cross", "--yes")
    assert (part["closed"], part["orders"][0]["executedQuantity"]) == (True, "0.05")
    assert (held(bridge)[0], held(bridge)[1]) == ({BTC: "0.15"}, {BTC: "-0.3"})
    isolated = command(bridge, "close", "BTC", "--margin-mode", "isolated", "--yes")
    name = f"PAPER, {bridge.data_dir} (process {bridge.daemon.pid})"
    assert isolated.stdout == f"closed: {name}: still open: {BTC} 0.15\n"
    assert held(bridge)[1] == {}
    canceled = command(bridge, "cancel", resting["clientOrderId"])
    assert canceled.stdout == f"canceled: {name}: buy 0.001 BTC ({resting['clientOrderId']})\n"
    logged = [json.loads(line) for line in bridge.log_path.read_text().splitlines()]
    operations = [line["operation"] for line in logged if line["event"] == "operation"]
    assert operations == ["close", "close", "cancel"]


def check_spellings(bridge: BridgeProcess) -> None:
    """The chart's ticker works as in an alert; a market that does not exist is an error before anything is asked."""
    environment = clean_environment() | bridge.daemon_environment()
    planned = command(bridge, "close", "BINANCE:BTCUSDT.P", "--quantity", " 5 ", "--margin-mode", "cross", "--dry-run")
    assert "At most the position: 0.15 of 5 BTC.\nsell 0.15 BTC: planned\n" in planned.stderr
    assert (
        "At most"
        not in command(bridge, "close", "BTC", "--quantity", "1e-1", "--margin-mode", "cross", "--dry-run").stderr
    )
    for text, error in (("BTCC", "symbol: there is no market BTCC; did you mean BTC?"), ("BTC1!", "'BTC1!' is")):
        asked = run_forked("close", text, environment=environment, stdin="y\n")
        assert (asked.returncode in (2, 3), error in asked.stderr, "market orders" in asked.stderr) == (
            True,
            True,
            False,
        )
        assert run_forked("close", text, "--yes", environment=environment).returncode == asked.returncode
    asked = run_forked("close", "btcusd", environment=environment, stdin="n\n")
    assert "Close the whole BTC position with market orders?" in asked.stderr
    assert data(bridge, "orders", "--symbol", "btcusd") == data(bridge, "orders", "--symbol", "BTC")


def check_without(bridge: BridgeProcess) -> None:
    """An order of the killed bridge, and all that is open in the market."""
    resting = bridge.send(alertId="resting", orderType="limit", limitPrice="60000")[1]
    bridge.daemon.kill()
    assert data(bridge, "cancel", resting["clientOrderId"])["canceled"]
    closed = data(bridge, "close", "BTCUSDT.P", "--quantity", "5", "--yes")
    assert (closed["closed"], closed["positionsLeft"], closed["limitedTo"]) == (True, [], "0.15")
    assert held(bridge) == ({}, {})
    bridge.start_daemon()
    bridge.wait_ready()
    assert bridge.send(alertId="later")[1]["status"] == "filled"
    listed = {order["clientOrderId"]: order for order in data(bridge, "orders")}
    assert listed[resting["clientOrderId"]]["status"] == "canceled"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("BTC", "--quantity", "much"), "--quantity"),
        (("BTC", "--quantity", "1", "--share", "5"), "at most one"),
        (("BTC", "--share", "101"), "at most 100"),
        (("BTC", "--margin-mode", "hedged"), "expected cross or isolated"),
    ],
)
def test_wrong_input_is_one_line(run: Run, arguments: tuple[str, ...], error: str) -> None:
    """What was found and what is expected, before anything is looked for, asked or read."""
    result = run("close", *arguments)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert error in result.err
