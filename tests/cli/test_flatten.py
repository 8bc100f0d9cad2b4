"""`kekbridge flatten` beside a bridge that answers, beside one that hangs, and without one: the account is flat each time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.forked import forked_bridge, run_forked
from tests.system.harness import BridgeProcess, call, clean_environment

KEYS = {
    "flat",
    "positionsClosed",
    "ordersLeft",
    "positionsLeft",
    "isolatedPositions",
    "dust",
    "trouble",
    "halted",
    "bridge",
}


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[BridgeProcess]:
    """A bridge at a paper exchange of its own, with a position, an isolated one opened by hand, and a resting order."""
    with forked_bridge(tmp_path) as running:
        call(f"{running.paper_url}/paper/isolated-positions", {"PERP_BTC_USDC": {"quantity": "-0.3", "leverage": 5}})
        assert running.send()[1]["status"] == "filled"
        assert running.send(orderType="limit", limitPrice="60000")[0] == 200
        yield running


def run_flatten(bridge: BridgeProcess, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment() | bridge.daemon_environment() | changes
    return run_forked("flatten", "--yes", "--json", environment=environment)


def flatten(bridge: BridgeProcess) -> tuple[dict[str, Any], str]:
    """Run the command; return its JSON and what it wrote on stderr."""
    done = run_flatten(bridge)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def is_flat(bridge: BridgeProcess) -> bool:
    state = call(f"{bridge.paper_url}/paper/state")
    return not (state["positions"] or state["isolated_positions"])


def test_a_running_bridge_does_it(bridge: BridgeProcess) -> None:
    """With its own client and its own vault; trading stays halted."""
    result, _ = flatten(bridge)
    assert set(result) == KEYS
    assert (result["flat"], result["positionsClosed"], result["ordersLeft"]) == (True, 2, 0)
    assert result["halted"]
    assert is_flat(bridge)
    logged = [json.loads(line) for line in bridge.log_path.read_text().splitlines()]
    assert [line["operation"] for line in logged if line["event"] == "operation"] == ["flatten"]
    assert bridge.send(alertId="later")[1]["code"] == "trading_halted"


def test_a_hung_bridge_does_not_prevent_it(bridge: BridgeProcess) -> None:
    """The command closes from here, and says that trading could not be halted."""
    os.kill(bridge.daemon.pid, signal.SIGSTOP)
    try:
        result, notes = flatten(bridge)
    finally:
        os.kill(bridge.daemon.pid, signal.SIGCONT)
    assert (result["flat"], result["positionsClosed"], result["halted"]) == (True, 2, False)
    assert "Could not halt trading" in notes
    assert is_flat(bridge)


def test_without_a_bridge_it_halts_and_closes(bridge: BridgeProcess) -> None:
    """The account of the data directory, never another one that the settings name now; the next start is halted."""
    bridge.daemon.kill()
    other = run_flatten(bridge, KEKBRIDGE_EXCHANGE_ACCOUNT_ID="0x" + "9" * 64)
    assert (other.returncode, other.stdout) == (2, "")
    assert "belongs to paper account" in other.stderr
    assert not is_flat(bridge)
    result, notes = flatten(bridge)
    assert (set(result), result["flat"]) == (KEYS, True)
    assert "Could not" not in notes
    assert "closing PERP_BTC_USDC isolated: -0.3" in notes
    assert is_flat(bridge)
    bridge.start_daemon()
    bridge.wait_ready()
    assert bridge.send(alertId="later")[1]["code"] == "trading_halted"


def test_a_bridge_that_dies_while_it_closes(tmp_path: Path) -> None:
    """Killed when its first close had been sent: the command ends it under the lock, nothing is closed twice, and the next start agrees."""
    with forked_bridge(tmp_path, environment={"KEKBRIDGE_TEST_CRASH_AT": "W5:2"}) as bridge:
        assert bridge.send(quantity="0.2", stopLoss="2%")[1]["status"] == "filled"
        result, notes = flatten(bridge)
        assert (result["flat"], result["halted"]) == (True, True)
        assert "the bridge ended before it answered" in notes
        assert is_flat(bridge)
        del bridge.environment["KEKBRIDGE_TEST_CRASH_AT"]
        bridge.start_daemon()
        bridge.wait_ready()
        assert bridge.send(alertId="later")[1]["code"] == "trading_halted"
        fills = [row for row in bridge.journal() if row["event"] == "fill"]
        assert [(row["side"], row["quantity"]) for row in fills] == [("BUY", "0.2"), ("SELL", "0.2")]
        assert is_flat(bridge)
