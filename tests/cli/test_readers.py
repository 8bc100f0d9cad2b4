"""Commands that read: a message when there is nothing, every code explained, hostile alerts harmless on the screen."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.codes import CODES
from kekbridge.model import OrderStatus
from kekbridge.store import journal, webhooks
from kekbridge.store.database import Database
from tests.cli.processes import Served, bare_environment, starting
from tests.stored import accept, book_on, record_fill, store_order
from tests.system.harness import call, wait_until

HOSTILE = "\x1b[2J\x1b]0;pwned\x07[/][red]x[/red]\u202e\x9b31m\r\nfake line"


@pytest.mark.parametrize("command", [("logs",), ("orders",), ("orders", "--open"), ("positions",), ("webhook", "list")])
def test_an_empty_list_is_a_message_on_stderr_and_empty_json(run: Any, command: tuple[str, ...]) -> None:
    """An empty list is no error: a message on stderr, and nothing on stdout that a script could take for data."""
    run("webhook", "create", "gone")  # creates the database
    run("webhook", "delete", "gone", "--yes")
    shown = run(*command)
    assert (shown.code, shown.out) == (0, "")
    assert shown.err
    assert run(*command, "--json").out.strip() in ("", "[]")


def test_every_code_is_explained(run: Any) -> None:
    """`explain --codes` lists every code with meaning and fix; `explain CODE` shows one, without a database."""
    assert {code["name"] for code in run("explain", "--codes", "--json").data} == set(CODES)
    text = " ".join(run("explain", "--codes").out.split())
    for code in CODES.values():
        assert f"{code.meaning} {code.fix}" in text
    shown = run("explain", "timestamp_stale")
    assert shown.code == 0
    assert CODES["timestamp_stale"].fix in shown.out


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        ("orderly:-1105", "too far from the mark price"),
        ("orderly:http-502", "HTTP status 502"),
        ("orderly:-9999", "does not document"),
        ("rate_limited", "Too many entries"),
    ],
)
def test_codes_that_logs_print_are_explained(run: Any, code: str, meaning: str) -> None:
    """Those of the exchange, too, with what to do about them; no database is needed."""
    shown = run("explain", code)
    assert (shown.code, meaning in shown.out, "fix" in shown.out) == (0, True, True)
    assert run("explain", code, "--json").data[0]["name"] == code


def test_explain_without_or_with_an_unknown_argument(run: Any) -> None:
    """No argument is wrong usage, an unknown alert is exit code 3."""
    run("webhook", "create", "w")
    assert run("explain").code == 2
    assert run("explain", "nobody").code == 3


@pytest.mark.parametrize("arguments", [("--since", "yesterday"), ("--symbol", "BTCUSDT"), ("--limit", "0")])
def test_invalid_filters_are_refused(run: Any, arguments: tuple[str, ...]) -> None:
    """A filter that would match nothing, or everything, is wrong usage."""
    run("webhook", "create", "w")
    assert run("logs", *arguments).code == 2


def test_trading_state_is_stored_with_its_reason(run: Any) -> None:
    """halt, exits-only and resume print the new state, who set it and why; they need no daemon."""
    run("webhook", "create", "w")
    halted = run("halt", "--reason", "exchange incident", "--json").data
    assert (halted["state"], halted["reason"], halted["by"]) == ("halted", "exchange incident", "command line")
    assert "exits only" in run("exits-only").out
    assert run("resume", "--json").data["state"] == "running"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Served, dict[str, Any]]]:
    """A running bridge and a webhook that needs neither signature nor timestamp."""
    with starting(bare_environment(tmp_path / "data")) as start:
        bridge = start("serve", "--json")
        started = json.loads(bridge.line(lambda text: True))
        wait_until(lambda: call(started["url"] + "/readyz")["ready"])
        yield bridge, bridge.data("webhook", "create", "w", "--no-require-signature", "--no-require-timestamp")


def test_hostile_alerts_are_harmless_on_the_screen(served: tuple[Served, dict[str, Any]]) -> None:
    """Escape sequences, markup and line breaks in an alert's fields are only text on the terminal and in the log."""
    bridge, webhook = served
    for number, fields in enumerate(
        ({"symbol": HOSTILE}, {"symbol": "BTCUSDT", "comment": HOSTILE, HOSTILE: HOSTILE}, {"action": HOSTILE})
    ):
        body = {"apiKey": webhook["apiKey"], "alertId": f"h{number}", "action": "buy", "quantity": "0.01"} | fields
        assert "success" in call(webhook["webhookUrl"], body)
    call(webhook["webhookUrl"], {"apiKey": HOSTILE, "action": "buy"})
    ids = [json.loads(line) for line in bridge.run("logs", "--json").stdout.splitlines()]
    shown = [
        bridge.run("logs"),
        bridge.run("orders"),
        *(bridge.run("explain", one["id"]) for one in ids if "id" in one),
    ]
    assert len(shown) >= 4
    for done in shown:
        assert done.returncode == 0, done.stderr
        unsafe = {character for character in done.stdout if unicodedata.category(character) in ("Cc", "Cf")}
        assert unsafe <= {"\n"}
    assert not any(line.startswith("fake line") for done in shown for line in done.stdout.splitlines())
    assert bridge.stop() == 0
    assert not any(unicodedata.category(character) in ("Cc", "Cf") for line in bridge.log if line for character in line)


def test_stats_read_and_show_times_in_one_zone(run: Any) -> None:
    """The machine's zone, or UTC with --utc; the heading names it."""
    run("webhook", "create", "w")
    local = datetime(2026, 1, 15, 10, 30).astimezone()
    assert run("stats", "--since", "2026-01-15T10:30").out.startswith(f"since 2026-01-15 10:30:00 {local:%Z}\n")
    assert run("stats", "--since", "2026-01-15T10:30", "--utc").out.startswith("since 2026-01-15 10:30:00 UTC\n")


def test_stats_divide_profit_and_loss(run: Any, data_dir: Path) -> None:
    """By webhook and market, best first, once there are two of them; what no webhook caused is named; `--json` has exact amounts."""
    run("webhook", "create", "w")
    with Database.open(data_dir).transaction() as connection:
        book = book_on(connection, now=datetime.now(UTC))
        owner = webhooks.find(connection, "w").id
        order = accept(book, store_order(book, status=OrderStatus.SUBMITTING, webhook_id=owner), order_id="7")
        record_fill(book, order, realized_pnl=Decimal("-1.255"), fee=Decimal("0.1"))
    assert "P&L by" not in run("stats", "--since", "all").out
    with Database.open(data_dir).transaction() as connection:
        record_fill(book_on(connection), order_id="9", symbol="PERP_SOL_USDC", realized_pnl=Decimal(5), fee=Decimal(0))
    shown = run("stats", "--since", "all").out
    rows = [line.split()[:2] for line in shown.partition("P&L by webhook")[2].splitlines()]
    assert rows.index(["none", "+5.00"]) < rows.index(["w", "-1.36"]) < rows.index(["SOL", "+5.00"])
    (_, own) = run("stats", "--since", "all", "--json").data["pnlByWebhook"]
    assert (own["name"], own["netPnl"]) == ("w", "-1.355")


def test_logs_show_events_of_the_bridge(run: Any, data_dir: Path) -> None:
    """Listed among the alerts with the text of the notification; filters on alerts exclude them."""
    run("webhook", "create", "w")
    with Database.open(data_dir).transaction() as connection:
        journal.append(connection, "stream_down", now=datetime.now(UTC), data={"lasting": "2 min"})
        journal.append(connection, "equity_peak_reset", now=datetime.now(UTC))  # no notification
    (shown,) = run("logs").out.splitlines()[1:]
    assert shown.split()[5:] == [
        "warning",
        "the",
        "exchange's",
        "stream",
        "has",
        "been",
        "down",
        "for",
        "2",
        "min:",
        "orders",
        "are",
        "polled",
        "instead",
    ]
    (found,) = [json.loads(line) for line in run("logs", "--json").out.splitlines()]
    assert (found["kind"], found["event"], found["data"]) == ("event", "stream_down", {"lasting": "2 min"})
    for filters in (
        ("--webhook", "w"),
        ("--status", "filled"),
        ("--code", "x"),
        ("--text", "stream"),
        ("--symbol", "BTC"),
    ):
        assert run("logs", *filters).out == ""


def test_events_of_the_bridge_are_found_by_an_index(data_dir: Path) -> None:
    """Only events without an alert are read, however many alerts there are."""
    with Database.open(data_dir).snapshot() as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT * FROM journal WHERE alert_id IS NULL AND kind IN ('a', 'b') ORDER BY sequence DESC LIMIT 5"
        ).fetchall()
    assert [row[3] for row in plan] == ["SCAN journal USING INDEX events_own"]
