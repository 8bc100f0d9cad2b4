"""A filter that names nothing is an error with the nearest name, never an empty list; the shell is offered what exists."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from kekbridge.store import journal
from kekbridge.store.database import Database
from kekbridge.webhooks import registry
from tests.cli.conftest import Run
from tests.system.forked import run_forked
from tests.system.harness import clean_environment

MARKETS = ("PERP_BTC_USDC", "PERP_ETH_USDC", "PERP_SOL_USDC")


@pytest.fixture
def data(run: Run, data_dir: Path) -> Path:
    """A data directory with a webhook, and with the markets that its bridge has read."""
    assert run("webhook", "create", "btc-trend").code == 0
    with Database.open(data_dir).transaction() as connection:
        registry.save_markets(connection, dict.fromkeys(MARKETS, Decimal("0.1")), now=datetime.now(UTC))
        journal.append(connection, "of_its_own", now=datetime.now(UTC))
    return data_dir


@pytest.mark.parametrize(
    ("command", "code", "hint"),
    [
        (("logs", "--webhook", "btc-trnd"), 3, "did you mean btc-trend?"),
        (("orders", "--webhook", "BTC-Trend"), 3, "did you mean btc-trend?"),
        (("stats", "--webhook", "btc-trnd"), 3, "did you mean btc-trend?"),
        (("risk", "show", "--webhook", "btc-trnd"), 3, "did you mean btc-trend?"),
        (("webhook", "show", "btc-trnd"), 3, "did you mean btc-trend?"),
        (("logs", "--symbol", "BTX"), 3, "did you mean BTC?"),
        (("logs", "--symbol", "eht"), 3, "did you mean ETH?"),
        (
            ("orders", "--symbol", "BTC1!"),
            2,
            "--symbol: 'BTC1!' is a continuous future of another exchange; write the base (BTC)",
        ),
        (("orders", "--symbol", "SOLL"), 3, "did you mean SOL?"),
        (("orders", "--symbol", "ZZZZZZ"), 3, "the exchange's website lists its markets"),
        (("logs", "--status", "fild"), 2, "did you mean filled?"),
        (("logs", "--status", "nonsense"), 2, "use one of queued"),
        (("orders", "--status", "refused"), 2, "use one of queued"),
        (("logs", "--code", "trading_haltd"), 2, "did you mean trading_halted?"),
        (("history", "list", "--kind", "streamdown"), 2, "did you mean stream_down?"),
        (("explain", "timestamp_stal"), 3, "did you mean timestamp_stale?"),
        (("ordrs",), 2, "did you mean orders?"),
        (("webhook", "creat", "x"), 2, "did you mean create?"),
        (("webhook", "xyzzy"), 2, "see `kekbridge webhook --help`"),
        (("template", "btc-trend", "--kind", "strategi"), 2, "did you mean strategy?"),
        (("export", "fils"), 2, "did you mean fills?"),
        (("docs", "alrts"), 3, "did you mean alerts?"),
        (("webhook", "create", "x", "--allowed-symbols", "BTC,ETHH"), 2, "did you mean ETH?"),
        (("webhook", "edit", "btc-trend", "--allowed-symbols", "SLO"), 2, "did you mean SOL?"),
    ],
)
def test_a_wrong_word_is_an_error(run: Run, data: Path, command: tuple[str, ...], code: int, hint: str) -> None:
    """One line with the nearest name and the documented exit code: 3 for what does not exist, 2 for wrong usage."""
    done = run(*command)
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1), done
    assert hint in done.err
    assert "Value error" not in done.err


@pytest.mark.parametrize(
    "command",
    [
        ("logs", "--webhook", "btc-trend", "--status", "FILLED", "--code", "trading_halted", "--symbol", "sol"),
        ("logs", "--code", "orderly:-1102"),
        ("logs", "--status", "duplicate"),
        ("orders", "--webhook", "btc-trend", "--status", "partially_filled", "--symbol", "PERP_ETH_USDC"),
        ("history", "list", "--kind", "stream-down", "--kind", "order_filled"),
        ("history", "list", "--kind", "of_its_own"),
        ("history", "list", "--kind", "stream_back", "--trouble"),
    ],
)
def test_a_right_word_that_matches_nothing_is_no_error(run: Run, data: Path, command: tuple[str, ...]) -> None:
    """Exit code 0; what is printed names no start of use, since there may be other entries."""
    done = run(*command)
    assert done.code == 0
    assert "kekbridge serve" not in done.err


def test_a_deleted_webhook_without_alerts_is_unknown(run: Run, data: Path) -> None:
    """What has left nothing behind cannot be filtered for."""
    assert run("webhook", "delete", "btc-trend", "--yes").code == 0
    assert run("logs", "--webhook", "btc-trend").code == 3


def test_markets_are_not_checked_before_a_bridge_has_read_them(run: Run) -> None:
    """Without the exchange's list nothing can be wrong."""
    assert run("webhook", "create", "w", "--allowed-symbols", "NEWCOIN").code == 0
    assert run("orders", "--symbol", "NEWCOIN").code == 0


def complete(data_dir: Path, *words: str) -> list[str]:
    """What the shell is offered for the last word."""
    environment = {
        **clean_environment(),
        "KEKBRIDGE_DATA_DIR": str(data_dir),
        "_KEKBRIDGE_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("kekbridge", *words)),
        "COMP_CWORD": str(len(words)),
    }
    done = run_forked(environment=environment)
    assert done.stderr == ""
    return done.stdout.split()


def test_the_shell_is_offered_what_exists(data: Path) -> None:
    """Names, statuses, codes, markets, commands and documents; nothing for an unknown command."""
    assert complete(data, "webhook", "show", "b") == ["btc-trend"]
    assert complete(data, "logs", "--symbol", "s") == ["sol"]
    assert complete(data, "webhook", "create", "x", "--allowed-symbols", "ETH,B") == ["ETH,BTC"]
    assert complete(data, "logs", "--status", "part") == ["partially_filled"]
    assert complete(data, "explain", "timestamp_s") == ["timestamp_stale"]
    assert complete(data, "exits") == ["exits-only"]
    assert complete(data, "docs", "internals/a") == ["internals/architecture"]
    assert complete(data, "ordrs", "x") == []


def test_completion_without_data_offers_nothing_and_creates_nothing(tmp_path: Path) -> None:
    """A shell asks on every Tab: no error, no directory."""
    assert complete(tmp_path / "none", "webhook", "show", "") == []
    assert list(tmp_path.iterdir()) == []
