"""Terminal dashboard: its screen fits and is safe for any state; one line when the bridge does not answer."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kekbridge.cli.dashboard import screen
from kekbridge.ops.web_token import read_token
from tests.bridge import running_bridge
from tests.cli.processes import bare_environment, starting
from tests.cli.terminal import at_terminal
from tests.system.forked import run_cli


def rendered(state: dict[str, Any], *, width: int = 80, height: int = 24, **more: Any) -> list[str]:
    """Render a state and return the lines that a terminal of this size shows."""
    console = Console(file=io.StringIO(), width=width, height=height, markup=False, highlight=False, emoji=False)
    with console.capture() as capture:
        console.print(screen(state, width=width, height=height, **more))
    return capture.get().rstrip("\n").split("\n")


def full_state() -> dict[str, Any]:
    """Return a state with more of everything than fits a screen."""
    position = {"quantity": "-12345.678", "entry": "65000.123456", "mark": "64000.5", "unrealizedPnl": "-123.456"}
    order = {"side": "BUY", "quantity": "0.1", "orderType": "limit", "limitPrice": "64000", "status": "accepted"}
    alert = {"receivedAt": "2026-03-10T08:00:00.000Z", "webhook": "a-very-long-webhook-name", "action": "buy"}
    why = {"status": "denied", "code": "daily_limit", "error": "[red]\x1b[2J" + "much " * 40}
    line = {"name": "traded a day", "used": "100 USDC", "limit": "20000 USDC"}
    counts = dict.fromkeys(("received", "done", "refused", "unknown", "waiting", "filled"), 1_000_000)
    latency = {name: {"p50": 12.3, "p95": 345.6} for name in ("received", "stored", "accepted", "filled", "answered")}
    return {
        "mode": "paper",
        "trading": {"state": "exits_only", "reason": "drawdown 20 %, limit 20 %"},
        "ready": {"ready": False, "detail": ""},
        "exchange": {"reachable": False, "streamLive": False},
        "account": {
            "value": "100000",
            "unrealizedPnl": "-1",
            "positions": [
                position | {"symbol": f"PERP_COIN{n}_USDC", "liquidation": None, "marginMode": mode}
                for n, mode in enumerate(["ISOLATED", *["CROSS"] * 8])
            ],
        },
        "openOrders": [order | {"symbol": "PERP_BTC_USDC"} for _ in range(9)],
        "lastAlerts": [alert | why | {"symbol": "PERP_BTC_USDC"} for _ in range(20)],
        "limits": [{"name": "account", "state": "running", "limits": [line] * 9}],
        "lastDay": {
            "unrealizedPnl": "-1",
            "netPnl": None,
            "fees": "0.1",
            "leverage": "1.234",
            "counts": counts,
            "latencyMs": latency,
        },
        "conditions": [
            {"words": f"[red]\x1b[2Jtrouble {n} {'much ' * 40}", "since": f"2026-03-10T08:0{n}:00.000Z"}
            for n in range(5)
        ],
    }


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 50), (60, 16)])
def test_it_fits_the_terminal(width: int, height: int) -> None:
    """Never more lines or columns than the terminal has; state first, keys last; outside text is neither markup nor escape sequence."""
    lines = rendered(full_state(), width=width, height=height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert "EXITS ONLY" in lines[0]
    assert "h halt" in lines[-1]
    assert "\x1b" not in "".join(lines)


def test_newest_active_conditions_are_on_top() -> None:
    """The three newest active conditions are below the state, with the number of the others."""
    lines = rendered(full_state(), width=80, height=24)
    shown = [line for line in lines if line.startswith("! ")]
    assert [line.split()[:3] for line in shown[1:]] == [["!", "[red][2Jtrouble", str(n)] for n in (2, 3, 4)]
    assert shown[0].startswith("! 2 more")
    assert not [
        line for line in rendered(full_state() | {"conditions": []}, width=80, height=24) if line.startswith("!")
    ]


def test_the_most_used_limits_are_shown() -> None:
    """The limits of all scopes with the highest usage in percent; limits without a number are left out."""
    state = full_state()
    state["limits"] = [
        {"name": "account", "state": "running", "limits": [{"name": "leverage", "used": "2x", "limit": "10x"}]},
        {
            "name": "main",
            "state": "exits_only",
            "limits": [
                {"name": "traded a day", "used": "1,900.00 USDC", "limit": "2,000.00 USDC"},
                {"name": "hours", "used": "closed", "limit": "Mon-Fri"},
            ],
        },
    ]
    lines = [line.strip() for line in rendered(state, height=50)]
    first = next(index for index, line in enumerate(lines) if line.startswith("LIMITS"))
    assert lines[first + 1].startswith("95 % ██████████  main: traded a day 1,900.00 USDC of")
    assert lines[first + 2].startswith("20 % ██          account: leverage 2x of 10x")
    assert lines[first + 3] == "closed  main: EXITS ONLY"


def test_a_key_asks_for_confirmation_and_errors_are_shown() -> None:
    """The last line is the question, or the error."""
    assert "HALTED: press y to confirm" in rendered(full_state(), pending="halted")[-1]
    assert "does not answer" in rendered(full_state(), error_text="the bridge does not answer")[-1]


async def test_the_command_shows_the_running_bridge(tmp_path: Path) -> None:
    """`dashboard --json` prints the live state and `--token` the access to the web pages, without further options."""
    async with running_bridge(tmp_path, admin__port=0) as bridge:
        bridge.add_webhook("main")
        await bridge.send(action="buy", quantity="0.01")
        await bridge.until_settled()
        state = json.loads(await asyncio.to_thread(run_cli, "dashboard", "--json", data_dir=bridge.data_dir))
        access = json.loads(
            await asyncio.to_thread(run_cli, "dashboard", "--token", "--json", data_dir=bridge.data_dir)
        )
        assert access["token"] == read_token(bridge.data_dir)
        assert access["url"].startswith("http://127.0.0.1:")
        assert (
            json.loads(await asyncio.to_thread(run_cli, "web", "token", "--json", data_dir=bridge.data_dir)) == access
        )
        rotated = json.loads(
            await asyncio.to_thread(run_cli, "web", "token", "--rotate", "--json", data_dir=bridge.data_dir)
        )
        assert rotated["token"] == read_token(bridge.data_dir) != access["token"]
        await asyncio.to_thread(run_cli, "halt", data_dir=bridge.data_dir)
        after = json.loads(await asyncio.to_thread(run_cli, "dashboard", "--json", data_dir=bridge.data_dir))
    assert state["account"]["positions"][0]["quantity"] == "0.01"
    assert state["account"]["positions"][0]["marginMode"] == "CROSS"
    assert after["trading"]["state"] == "halted"
    assert any("BTC" in line for line in rendered(after))


async def test_the_live_state_needs_no_admin_listener(tmp_path: Path) -> None:
    """The dashboard asks over the control socket: it works with `admin.enabled = false`, where `--token` has nothing to print."""
    async with running_bridge(tmp_path, admin__enabled=False) as bridge:
        state = json.loads(await asyncio.to_thread(run_cli, "dashboard", "--json", data_dir=bridge.data_dir))
        assert state["mode"] == "paper"
        assert await asyncio.to_thread(run_cli, "dashboard", "--token", data_dir=bridge.data_dir, check=False) == ""


def test_a_stopped_bridge_is_one_line(run: Any) -> None:
    """Without a running bridge there is no live state: the error says what to start."""
    run("webhook", "create", "w")
    stopped = run("dashboard", "--json")
    assert (stopped.code, stopped.out) == (2, "")
    assert "start it with `kekbridge serve`" in stopped.err


def test_h_and_y_halt_the_running_bridge(tmp_path: Path) -> None:
    """On a terminal: h asks, y halts, q leaves; the bridge has applied it."""
    with starting(bare_environment(tmp_path / "data")) as start:
        bridge = start("serve", "--json")
        bridge.line(lambda text: text.startswith("{"))
        with at_terminal("dashboard", environment=bridge.environment) as terminal:
            terminal.expect("h halt")
            terminal.press("h")
            terminal.expect("press y to confirm")
            terminal.press("y")
            terminal.expect("HALTED")
            terminal.press("q")
            code, _ = terminal.end()
        assert code == 0
        trading = bridge.data("dashboard")["trading"]
        assert (trading["state"], trading["by"]) == ("halted", "dashboard")
