"""Tables on a person's terminal of 80 and 60 columns: no word and no number is cut, and the state shown is the real one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.processes import Served, bare_environment, starting
from tests.cli.terminal import at_terminal
from tests.system.harness import call, timestamp, wait_until

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
LONG_NAME = "eth-scalper-long-name"


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A bridge with positions, a resting order, and a webhook that its limit of two orders a day has closed."""
    directory = tmp_path_factory.mktemp("tables")
    environment = bare_environment(directory / "data") | {"TZ": "Asia/Kolkata", "TERM": "xterm", "NO_COLOR": "1"}
    with starting(environment) as start:
        served = start("serve", "--json")
        url = json.loads(served.line(lambda text: text.startswith("{")))["webhookUrl"]
        wait_until(lambda: call(url.replace("/api/webhooks/tradingview", "/readyz"))["ready"])
        for name, limits in (("btc-trend", ("--allowed-symbols", "BTC,ETH", "--daily-orders", "2")), (LONG_NAME, ())):
            webhook = served.data("webhook", "create", name, "--no-require-signature", *limits)
            for number, fields in enumerate(
                (
                    {"action": "buy", "symbol": "BTCUSDT.P", "quantity": "0.001", "stopLoss": "2%", "takeProfit": "4%"},
                    {"action": "sell", "symbol": "ETHUSDT.P", "quantity": "0.02"},
                    {
                        "action": "buy",
                        "symbol": "BTCUSDT.P",
                        "quantity": "0.002",
                        "orderType": "limit",
                        "limitPrice": "60000",
                    },
                )
            ):
                call(
                    url, {"apiKey": webhook["apiKey"], "timestamp": timestamp(), "alertId": f"{name}{number}"} | fields
                )
        wait_until(lambda: len(served.data("positions")) == 2, what="the positions")
        yield served


def screen(bridge: Served, *command: str, columns: int) -> str:
    """What a command shows on a terminal of this width, without colours."""
    with at_terminal(*command, environment=bridge.environment, columns=columns) as terminal:
        code, text = terminal.end()
    assert code == 0, text
    return _ESCAPES.sub("", text).replace("\r", "")


COMMANDS = (("positions",), ("orders",), ("logs",), ("webhook", "list"), ("risk", "show"), ("jobs",))


@pytest.mark.parametrize("columns", [80, 60])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_nothing_is_cut(bridge: Served, command: tuple[str, ...], columns: int) -> None:
    """Each row fits, and each of its words is one that a terminal with room for everything shows as well."""
    shown = screen(bridge, *command, columns=columns)
    words = _words(screen(bridge, *command, columns=250)) | _words(_LEFT_OUT) | {"alert", "filled", "time", "webhook"}
    for line in shown.splitlines():
        assert len(line) <= columns, line
        assert "…" not in line
        own = {word for word in _words(line) if not _is_age(word)}
        assert own <= words, (line, own - words)


_LEFT_OUT = "Not shown for lack of room: ; widen the terminal, or use --json."


def _words(text: str) -> set[str]:
    return set(re.sub("[,;:]", " ", text).split())


def _is_age(word: str) -> bool:
    """True for a figure that moves between two runs."""
    return re.fullmatch(r"[0-9.]+|s|ms|min|h|ago|in", word) is not None


@pytest.mark.parametrize("columns", [80, 60])
def test_side_and_size_are_never_left_out(bridge: Served, columns: int) -> None:
    """Other columns go in a stated order: of positions SEEN, LIQUIDATION, MARK, ENTRY."""
    positions = screen(bridge, "positions", columns=columns)
    assert re.search(r"BTC +long +0\.002 ", positions)
    assert re.search(r"ETH +short +0\.04 ", positions)
    header = next(line for line in positions.splitlines() if line.startswith("MARKET"))
    assert ("SEEN" in header) == (columns == 80)
    orders = screen(bridge, "orders", columns=columns)
    for text in ("buy 0.001 market", "sell 0.02 market", "buy 0.002 limit 60000"):
        assert text in orders
    if columns == 60:
        assert "Not shown for lack of room: " in positions


def test_prices_have_the_decimals_of_their_market(bridge: Served) -> None:
    """As the exchange writes them, in each row; P&L has two decimals."""
    (header, *rows) = bridge.run("positions").stdout.splitlines()
    assert header.split()[:5] == ["MARKET", "SIDE", "QUANTITY", "ENTRY", "MARK"]
    cells = {row.split()[0]: row.split() for row in rows}
    assert re.fullmatch(r"[0-9]+\.[0-9]", cells["BTC"][3])
    assert re.fullmatch(r"[0-9]+\.[0-9]{2}", cells["ETH"][3])
    assert re.fullmatch(r"[+-]?[0-9]+\.[0-9]{2}", cells["BTC"][5])


def test_times_are_local_and_named(bridge: Served) -> None:
    """In the machine's zone, whose name is in the heading; --utc shows UTC."""
    for command in ("orders", "logs"):
        local, utc = (screen(bridge, command, *options, columns=250).splitlines() for options in ((), ("--utc",)))
        assert local[0].startswith("TIME (IST)")
        assert utc[0].startswith("TIME (UTC)")
        minutes = [int(line[:2]) * 60 + int(line[3:5]) for line in (local[1], utc[1])]
        assert (minutes[0] - minutes[1]) % (24 * 60) == 5 * 60 + 30
    ids = [one["id"] for one in map(json.loads, bridge.run("logs", "--json").stdout.splitlines()) if "id" in one]
    assert " IST (" in screen(bridge, "explain", ids[0], columns=250)
    assert " UTC (" in screen(bridge, "explain", ids[0], "--utc", columns=250)


def shown_state(bridge: Served, name: str) -> tuple[str, Any]:
    listed = bridge.run("webhook", "list")
    row = next(line for line in listed.stdout.splitlines() if line.startswith(name))
    data = next(one for one in bridge.data("webhook", "list") if one["name"] == name)
    return re.split(r"  +", row)[1], (data["trading"], listed.stderr)


def test_a_closed_webhook_is_shown_closed_with_a_fix_that_works(bridge: Served) -> None:
    """`enabled` would be untrue: it takes exits only. Resuming says that it closes again; raising the limit first ends it."""
    state, (data, notes) = shown_state(bridge, "btc-trend")
    assert re.fullmatch(r"exits only until \d\d:\d\d \(orders a day\)", state)
    assert data["state"] == "exits_only"
    assert "btc-trend takes no entries.  Fix:  raise --daily-orders" in notes
    assert "or wait " in notes
    assert state in bridge.run("webhook", "show", "btc-trend").stdout
    assert "exits only until 05:30 (orders a day)" in bridge.run("risk", "show").stdout  # midnight in UTC
    again = bridge.run("resume", "--webhook", "btc-trend")
    assert "webhook btc-trend is still over its orders a day: the next entry closes it again" in again.stderr
    assert bridge.run("webhook", "edit", "btc-trend", "--daily-orders", "50").returncode == 0
    assert "still over" not in bridge.run("resume", "--webhook", "btc-trend").stderr
    assert shown_state(bridge, "btc-trend")[0] == "enabled"
