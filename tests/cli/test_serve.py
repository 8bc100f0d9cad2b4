"""`serve` and other commands as processes: the printed curl line trades on paper, and every reading command shows it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kekbridge import __version__
from tests.cli.processes import DEADLINE_S, Served, bare_environment, paste, shells, starting
from tests.cli.terminal import at_terminal
from tests.system.forked import run_forked
from tests.system.harness import call, wait_until


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Function that starts processes on one data directory; those still running at the end are killed."""
    with starting(bare_environment(tmp_path / "data")) as start_process:
        yield start_process


@pytest.mark.skipif(shutil.which("curl") is None, reason="the printed line needs curl")
def test_the_first_five_minutes(start: Callable[..., Served]) -> None:
    """`serve` prints a curl line that fills on paper in any shell; sent again it is a duplicate; every reading command shows it."""
    served = start("serve")
    served.line(lambda text: text.startswith("Ready."))
    printed = "\n".join(served.printed)
    for word in ("paper", "key file", "/api/webhooks/tradingview", served.environment["KEKBRIDGE_DATA_DIR"]):
        assert word in printed
    curl = served.line(lambda text: text.startswith("curl "))
    assert served.printed.count(curl) == 1  # one line, not wrapped

    first, *more = shells()
    answer = paste(first, curl)
    assert answer["status"] == "filled"
    assert answer["executedPrice"] > 0
    assert "duplicate" not in answer
    for shell in [*more, first]:
        again = paste(shell, curl)
        assert again["duplicate"] is True
        assert again["orderId"] == answer["orderId"]

    paper_url = next(text.split()[-1] for text in served.printed if text.startswith("paper exchange"))
    journal = call(f"{paper_url}/paper/journal")
    assert [event["event"] for event in journal].count("order_received") == 1

    (order,) = served.data("orders")
    assert (order["status"], order["orderId"], order["symbol"]) == ("filled", answer["orderId"], "PERP_BTC_USDC")
    (position,) = wait_until(lambda: served.data("positions"))
    assert (position["symbol"], position["quantity"]) == ("PERP_BTC_USDC", "0.001")
    *_, logged = [
        entry for entry in map(json.loads, served.run("logs", "--json").stdout.splitlines()) if entry["kind"] == "alert"
    ]
    assert (logged["status"], logged["alertId"]) == ("filled", answer["alertId"])
    for reference in (answer["alertId"], answer["clientOrderId"], logged["id"], logged["id"][:13]):
        report = served.data("explain", reference)
        assert report["id"] == logged["id"]
        assert report["orders"][0]["fills"]
        assert all(verdict["passed"] for verdict in report["verdicts"])
    for command in (("orders",), ("positions",), ("logs",), ("explain", logged["id"])):
        shown = served.run(*command)
        assert shown.returncode == 0, shown.stderr
        assert "filled" in shown.stdout or "long" in shown.stdout

    assert served.stop() == 0
    assert served.data("orders")[0]["status"] == "filled"  # reading needs no daemon


def test_the_welcome_is_short_and_says_what_to_do(start: Callable[..., Served]) -> None:
    """At most twelve lines: version and mode, addresses, what to try, what comes next; no token and no secret but in the line to paste."""
    served = start("serve")
    served.line(lambda text: text.startswith("Ready."))
    assert len(served.printed) <= 12
    first = served.printed[0]
    assert first.startswith("kekbridge ")
    assert __version__ in first
    assert "paper" in first
    text = "\n".join(line for line in served.printed if not line.startswith("curl "))
    for word in ("webhook URL", "web pages", "kekbridge web link", "kekbridge try", "kekbridge template default"):
        assert word in text
    assert "wh_test_" not in text
    assert "code=" not in text  # stdout is a pipe, which others may read


def test_on_a_terminal_the_welcome_comes_first_with_a_sign_in_link(tmp_path: Path) -> None:
    """No log line before it; the link is whole on its line and opens the pages once; what happens then is one line each, no log."""
    with at_terminal("serve", environment=bare_environment(tmp_path / "data"), columns=80) as terminal:
        screen = terminal.expect("Ready.").replace("\r", "")
        assert "kekbridge" in screen.splitlines()[0]
        assert " info " not in screen
        link = re.search(r"http://\S+/sign-in\?code=\S+", screen)
        assert link is not None
        with urllib.request.urlopen(link[0].partition("/sign-in")[0] + "/login", timeout=DEADLINE_S) as page:  # noqa: S310  loopback
            assert page.status == 200
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(link[0], timeout=DEADLINE_S) as page:
            assert "Log out" in page.read().decode()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            opener.open(link[0], timeout=DEADLINE_S)
        environment = bare_environment(tmp_path / "data")
        assert run_forked("try", environment=environment).returncode == 0
        bought = terminal.expect(" ms")
        assert re.search(r"\d\d:\d\d:\d\d  default  \S*buy 0\.\d+ BTC  filled at 65,000  [\d.]+ ms", bought)
        assert run_forked("halt", "--reason", "storm", environment=environment).returncode == 0
        terminal.expect("trading halted: storm, by command line")
        assert run_forked("try", environment=environment).returncode == 1
        terminal.expect("denied: trading is halted (storm)")
        terminal.process.send_signal(signal.SIGTERM)
        code, rest = terminal.end()
        assert code == 0
        shown = bought + rest
        assert "Stopped." in rest
        assert " info " not in shown
        assert max(map(len, re.sub(r"\x1b\[\d*m", "", shown).replace("\r", "").splitlines())) <= 80


def test_with_a_log_format_a_terminal_shows_the_log(tmp_path: Path) -> None:
    """JSON after the welcome, and no line for people."""
    environment = bare_environment(tmp_path / "data")
    with at_terminal("serve", "--log-format", "json", environment=environment, columns=80) as terminal:
        terminal.expect("Ready.")
        assert run_forked("halt", environment=environment).returncode == 0
        assert '"event":"operation","operation":"halt"' in terminal.expect('"operation":"halt"')
        terminal.process.send_signal(signal.SIGTERM)
        code, rest = terminal.end()
        assert code == 0
        assert "trading halted" not in rest
        assert '"event":"stopping"' in rest


def test_try_buys_the_smallest_size_and_shows_the_fill(start: Callable[..., Served]) -> None:
    """One line as an event: time, webhook, order, price, duration; under each limit of the webhook, and again each time."""
    served = start("serve", "--json")
    started = json.loads(served.line(lambda text: True))
    wait_until(lambda: call(started["url"] + "/readyz")["ready"])
    done = served.run("try")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d\d:\d\d:\d\d  default  buy 0\.\d+ BTC  filled at 65,000  [\d.]+ ms\n", done.stdout)
    limits = ("--allowed-symbols", "ETH", "--require-stop-loss", "--max-stop-distance", "1%")
    served.data("webhook", "create", "strict", *limits)
    tried = served.data("try", "--webhook", "strict")
    assert (tried["status"], tried["symbol"], tried["webhook"]) == ("filled", "PERP_ETH_USDC", "strict")
    sizes = {order["symbol"]: order["quantity"] for order in served.data("orders")}
    assert sizes["PERP_ETH_USDC"] == tried["quantity"]
    served.run("halt")
    refused = served.run("try")
    assert refused.returncode == 1
    assert "trading_halted" in refused.stdout
    assert served.stop() == 0
    stopped = served.run("try")
    assert (stopped.returncode, "kekbridge serve" in stopped.stderr) == (2, True)


def test_the_webhook_stays_the_same_over_restarts(start: Callable[..., Served]) -> None:
    """The first start creates the webhook `default`; later starts show the same one, and the line trades again under a new id."""
    first = start("serve")
    line = first.line(lambda text: text.startswith("curl "))
    first.line(lambda text: text.startswith("Ready."))
    assert first.stop(signal.SIGINT) == 0
    second = start("serve")
    again = second.line(lambda text: text.startswith("curl "))
    key = re.compile(r'"apiKey":"([^"]+)"')
    alert = re.compile(r'"alertId":"([^"]+)"')
    assert key.findall(line) == key.findall(again)
    assert alert.findall(line) != alert.findall(again)
    assert [webhook["name"] for webhook in second.data("webhook", "list")] == ["default"]


def test_json_is_one_line_with_what_a_script_needs(start: Callable[..., Served]) -> None:
    """`serve --json` prints addresses and credentials on one line; the log goes to stderr."""
    served = start("serve", "--json")
    started = json.loads(served.line(lambda text: True))
    assert set(started) == {"mode", "url", "webhookUrl", "paperUrl", "dataDir", "vault", "webhook"}
    assert started["mode"] == "paper"
    assert started["webhookUrl"] == started["url"] + "/api/webhooks/tradingview"
    assert set(started["webhook"]) == {"name", "id", "apiKey", "apiSecret"}
    assert call(started["url"] + "/healthz")["status"] == "ok"
    assert served.stop() == 0
    assert len(served.printed) == 1


def test_commands_beside_the_daemon_take_effect_at_once(start: Callable[..., Served]) -> None:
    """A new webhook accepts alerts at once, a disabled one refuses them, halted nothing trades; its URL is the daemon's real one."""
    served = start("serve", "--json")
    started = json.loads(served.line(lambda text: True))
    wait_until(lambda: call(started["url"] + "/readyz")["ready"])
    created = served.data("webhook", "create", "late", "--no-require-signature", "--no-require-timestamp")
    assert created["webhookUrl"] == started["webhookUrl"]

    def send(alert: str, action: str) -> tuple[int, dict[str, Any]]:
        body = {"apiKey": created["apiKey"], "alertId": alert, "action": action, "symbol": "ETHUSDT", "quantity": "0.1"}
        request = urllib.request.Request(created["webhookUrl"], data=json.dumps(body).encode())  # noqa: S310  loopback
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310  loopback
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    assert send("a1", "buy")[0] == 200
    served.data("webhook", "edit", "late", "--max-order-size", "0.05")
    assert send("a2", "buy")[1]["code"] == "order_too_large"
    assert served.run("exits-only").returncode == 0
    assert send("a3", "buy")[1]["code"] == "exits_only"
    assert served.data("halt")["state"] == "halted"
    assert send("a4", "close")[1]["code"] == "trading_halted"
    assert served.data("resume")["state"] == "running"
    assert send("a5", "close")[0] == 200
    served.data("webhook", "disable", "late")
    assert send("a6", "buy")[0] == 403
    served.data("webhook", "delete", "late", "--yes")
    assert send("a7", "buy")[0] == 401
    denied = served.run("logs", "--json", "--status", "denied", "--webhook", "late").stdout.splitlines()
    assert [json.loads(text)["code"] for text in denied] == ["order_too_large", "exits_only", "trading_halted"]


def test_logs_follow_new_alerts(start: Callable[..., Served]) -> None:
    """`logs -f` prints alerts received after it started, including unauthenticated ones."""
    served = start("serve", "--json")
    started = json.loads(served.line(lambda text: True))
    following = start("logs", "-f", "--json")
    # Sent until it is shown: `logs -f` may not have started reading when the first one arrives.
    body = json.dumps({"apiKey": "wh_test_unknown", "action": "buy"}).encode()

    def refused_is_shown() -> bool:
        try:
            urllib.request.urlopen(started["webhookUrl"], data=body, timeout=DEADLINE_S)  # noqa: S310  loopback
        except urllib.error.HTTPError as error:
            error.close()
        return following.has_printed

    wait_until(refused_is_shown)
    shown = json.loads(following.line(lambda text: json.loads(text)["kind"] != "event"))  # the start's own may follow
    assert shown["kind"] == "refusal"
    assert shown["code"] == "api_key_unknown"
    assert following.stop(signal.SIGINT) == 130


def test_a_second_daemon_is_refused(start: Callable[..., Served]) -> None:
    """Two daemons on one data directory would send each other's orders: exit code 4, one line with the first one's process id."""
    served = start("serve", "--json")
    served.line(lambda text: True)
    second = served.run("serve")
    assert second.returncode == 4
    assert str(served.process.pid) in second.stderr
    assert second.stderr.count("\n") == 1


def test_a_taken_port_is_one_line(start: Callable[..., Served], tmp_path: Path) -> None:
    """A port in use is named in the error, without a traceback."""
    served = start("serve", "--json")
    port = json.loads(served.line(lambda text: True))["url"].rsplit(":", 1)[1]
    second = served.run("serve", "--port", port, "--data-dir", str(tmp_path / "other"))
    assert second.returncode == 2
    assert port in second.stderr
    assert "Traceback" not in second.stderr


def test_a_taken_admin_port_costs_the_pages_only(start: Callable[..., Served]) -> None:
    """Trading starts, a failure condition names port and owner, and the pages come up by themselves once the port is free."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        served = start("serve", "--json", KEKBRIDGE_ADMIN_PORT=str(port))
        served.line(lambda text: True)
        assert served.run("webhook", "test", "default").returncode == 0
        without = served.run("dashboard", "--token")
        assert without.returncode == 2
        assert "not served" in without.stderr
        (condition,) = json.loads(served.run("dashboard", "--json").stdout)["conditions"]
        assert str(port) in condition["words"]
        assert f"(process {os.getpid()})" in condition["words"]
    assert served.run("jobs", "run", "pages").returncode == 0
    assert json.loads(served.run("dashboard", "--token", "--json").stdout)["url"] == f"http://127.0.0.1:{port}"
    assert json.loads(served.run("dashboard", "--json").stdout)["conditions"] == []


def test_live_mode_prints_no_credentials(start: Callable[..., Served]) -> None:
    """Live mode does not start without the exchange's key, and prints no webhook credential."""
    done = start("webhook", "list").run("serve", "--mode", "live")
    assert done.returncode == 2
    assert done.stderr.startswith("kekbridge: ")
    assert "wh_" not in done.stdout + done.stderr


def test_serve_trades_on_a_separate_paper_exchange(start: Callable[..., Served], tmp_path: Path) -> None:
    """`paper --json` prints what a client needs; `serve` pointed at it by exchange.base_url alone trades on it."""
    venue = start("paper", "--port", "0", "--json", "--data-dir", str(tmp_path / "venue"))
    identity = json.loads(venue.line(lambda text: True))
    assert set(identity) == {"base_url", "account_id", "orderly_key", "orderly_secret"}
    served = start("serve", "--json", KEKBRIDGE_EXCHANGE_BASE_URL=identity["base_url"])
    started = json.loads(served.line(lambda text: True))
    assert started["paperUrl"] is None
    wait_until(lambda: call(started["url"] + "/readyz")["ready"])
    created = served.data("webhook", "create", "w", "--no-require-signature", "--no-require-timestamp")
    body = {"apiKey": created["apiKey"], "alertId": "p1", "action": "buy", "symbol": "BTCUSDT", "quantity": "0.01"}
    with urllib.request.urlopen(started["webhookUrl"], data=json.dumps(body).encode(), timeout=DEADLINE_S) as answer:  # noqa: S310
        assert json.load(answer)["status"] == "filled"
    events = call(f"{identity['base_url']}/paper/journal")
    assert [event["symbol"] for event in events if event["event"] == "fill"] == ["PERP_BTC_USDC"]
    assert served.stop() == 0
    assert venue.stop() == 0


def test_template_is_one_line_alone_on_stdout(start: Callable[..., Served]) -> None:
    """`template` prints the message and nothing else on stdout, so that it can be piped; its explanation and the URL go to stderr."""
    created = start("webhook", "create", "w", "--json")
    created.line(lambda text: True)
    created.process.wait(DEADLINE_S)
    done = created.run(
        "template", "w", "--kind", "indicator", "--action", "sell", "--quantity", "0.5", "--symbol", "ETHUSDT.P"
    )
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    message = json.loads(done.stdout)
    assert (message["action"], message["quantity"], message["symbol"]) == ("sell", "0.5", "ETHUSDT.P")
    assert message["signature"].startswith("v1:")
    assert "/api/webhooks/tradingview" in done.stderr
    assert "warning:" not in done.stderr
    assert created.run("template", "nobody").returncode == 3


def test_template_bounds_what_it_leaves_to_placeholders(start: Callable[..., Served]) -> None:
    """Unbounded placeholders are named on a line of stderr that begins with `warning:`; the webhook's limits are the default bounds."""
    created = start("webhook", "create", "w", "--json")
    created.line(lambda text: True)
    created.process.wait(DEADLINE_S)
    open_message = created.run("template", "w")
    (warning,) = [line for line in open_message.stderr.splitlines() if line.startswith("warning:")]
    assert "symbol and quantity" in warning
    assert "any symbol and any quantity" in open_message.stderr
    bounded = created.run("template", "w", "--symbols", "BTCUSDT.P", "--max-quantity", "0.05")
    assert "warning:" not in bounded.stderr
    assert created.run("webhook", "edit", "w", "--allowed-symbols", "BTC", "--max-order-size", "0.2").returncode == 0
    by_limits = created.run("template", "w")
    assert "warning:" not in by_limits.stderr
    message = json.loads(by_limits.stdout)
    assert (message["symbols"], message["maxQuantity"]) == ("PERP_BTC_USDC", "0.2")
