"""`kekbridge keys`: secrets go only from stdin to the vault; register, restrict-ip and remove act on the exchange."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ADDRESS, PAPER_ORDERLY_KEY, PAPER_ORDERLY_SECRET
from tests import eth_wallet
from tests.cli.processes import DEADLINE_S, KEKBRIDGE, bare_environment, starting
from tests.cli.venues import Venue, live_environment, running_venue
from tests.system.forked import run_forked
from tests.system.harness import WEBHOOK_PATH, call, timestamp

WALLET_KEY = "01" * 32  # the documented test wallet; the paper exchange has its account
OTHER_SECRET = "ed25519:4wBqpZM9xaSheZzJSMawUKKwhdpChKbZ5eu5ky4Vigw"
OTHER_KEY = "ed25519:9C6hybhQ6Aycep9jaUnP6uL9ZYvDjUp1aSkFWPUFJtpj"

SetStdin = Callable[[str], None]


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    """A running paper exchange."""
    with running_venue(tmp_path / "venue") as running:
        yield running


@pytest.fixture
def set_stdin(monkeypatch: pytest.MonkeyPatch) -> SetStdin:
    """Function that puts text on stdin, as a pipe does."""

    def put(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))

    return put


@pytest.fixture
def run_live(run: Any, venue: Venue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_stdin: SetStdin) -> Any:
    """`run` in live mode at the test's exchange."""
    for name, value in live_environment(tmp_path, venue.base_url).items():
        monkeypatch.setenv(name, value)
    set_stdin("")
    return run


def test_add_stores_a_key_that_the_exchange_accepts(run_live: Any, set_stdin: SetStdin, data_dir: Path) -> None:
    """The secret is read from stdin; public key, scopes and expiry are shown; the stored key signs (`check`)."""
    set_stdin(PAPER_ORDERLY_SECRET + "\n")
    added = run_live("keys", "add", "--json").data
    assert added["orderlyKey"] == PAPER_ORDERLY_KEY
    assert added["vault"] == "file"
    assert {check["name"]: check["level"] for check in added["checks"]}["scopes"] == "ok"
    assert run_live("keys", "check").code == 0
    assert run_live("vault", "status", "--json").data["names"] == ["master-key", f"orderly-secret:{PAPER_ACCOUNT_ID}"]
    seed = PAPER_ORDERLY_SECRET.removeprefix("ed25519:").encode()
    assert not any(seed in file.read_bytes() for file in data_dir.rglob("*") if file.is_file())


def test_add_refuses_a_key_that_cannot_trade(run_live: Any, set_stdin: SetStdin) -> None:
    """A key unknown to the exchange is not stored, except with --force."""
    set_stdin(OTHER_SECRET)
    refused = run_live("keys", "add")
    assert refused.code == 2
    assert "does not know" in refused.err
    assert OTHER_SECRET.removeprefix("ed25519:") not in refused.err + refused.out
    assert run_live("keys", "check").code == 3
    set_stdin(OTHER_SECRET)
    assert run_live("keys", "add", "--force", "--json").data["orderlyKey"] == OTHER_KEY
    assert run_live("keys", "check").code == 1


def test_add_works_while_the_exchange_is_unreachable(
    run_live: Any, set_stdin: SetStdin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that cannot be checked is stored with a broken check: the network may be down during set-up."""
    monkeypatch.setenv("KEKBRIDGE_EXCHANGE_BASE_URL", "http://127.0.0.1:9")
    set_stdin(PAPER_ORDERLY_SECRET)
    added = run_live("keys", "add", "--json").data
    assert [(check["name"], check["level"]) for check in added["checks"]] == [("exchange", "broken")]


@pytest.mark.parametrize("text", ["", "ed25519:0OIl", "ed25519:abc", "0x" + "11" * 32])
def test_add_names_the_error_and_never_quotes_the_secret(run_live: Any, set_stdin: SetStdin, text: str) -> None:
    """An unreadable secret is one line that does not contain it."""
    set_stdin(text)
    refused = run_live("keys", "add")
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert not text or text.removeprefix("ed25519:") not in refused.err


def test_paper_mode_needs_no_key(run: Any) -> None:
    """In paper mode the error explains how to choose a venue."""
    refused = run("keys", "add")
    assert refused.code == 2
    assert "--mode live" in refused.err


def test_without_an_account_nothing_is_sent(run_live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an account id the command ends with the setting's name."""
    monkeypatch.setenv("KEKBRIDGE_EXCHANGE_ACCOUNT_ID", "")
    refused = run_live("keys", "list")
    assert refused.code == 2
    assert "exchange.account_id" in refused.err


def test_generate_and_register_with_a_wallet_key(run_live: Any, set_stdin: SetStdin, venue: Venue) -> None:
    """The new key is at the exchange with read,trading for a year, and in the vault under its account."""
    generated = run_live("keys", "generate", "--json").data["orderlyKey"]
    assert venue.key(generated) is None
    set_stdin(WALLET_KEY)
    registered = run_live("keys", "register", "--sign", "--json").data
    assert registered["accountId"] == PAPER_ACCOUNT_ID
    assert registered["wallet"] == PAPER_ADDRESS
    assert registered["brokerId"] == "kek_ai"
    assert registered["orderlyKey"] == generated
    assert registered["scopes"] == ["read", "trading"]
    lifetime = datetime.fromisoformat(registered["expiresAt"]) - datetime.now(UTC)
    assert timedelta(days=364) < lifetime <= timedelta(days=365, minutes=1)
    assert run_live("keys", "check").code == 0
    assert run_live("keys", "register", "--sign").code == 3  # no pending key is left
    here = {key["orderlyKey"]: key["isHere"] for key in run_live("keys", "list", "--json").data}
    assert here == {PAPER_ORDERLY_KEY: False, generated: True}


def test_after_generate_the_advice_is_to_register(run_live: Any) -> None:
    """Until then a missing key is one to add; a generated one must not be made again."""
    assert "`kekbridge keys add`" in run_live("keys", "check").err
    assert "kekbridge keys register --mode" in run_live("keys", "generate").err
    for command in ("check", "list"):
        missing = run_live("keys", command)
        assert missing.code == 3
        assert "register the one that was generated with `kekbridge keys register`" in missing.err


def test_the_wallets_key_is_never_stored(run_live: Any, set_stdin: SetStdin, data_dir: Path) -> None:
    """It is neither on the screen nor in any file."""
    run_live("keys", "generate")
    set_stdin(WALLET_KEY)
    result = run_live("keys", "register", "--sign", "--days", "30")
    assert result.code == 0
    assert WALLET_KEY not in result.out + result.err
    files = [file.read_bytes() for file in data_dir.rglob("*") if file.is_file()]
    assert not any(WALLET_KEY.encode() in content or bytes.fromhex(WALLET_KEY) in content for content in files)


def test_asset_scope_must_be_requested(run_live: Any, set_stdin: SetStdin, venue: Venue) -> None:
    """Default scopes are read and trading; a key without them is refused."""
    generated = run_live("keys", "generate", "--json").data["orderlyKey"]
    for scope in ("read", "trading", "read,trading,everything", ""):
        assert run_live("keys", "register", "--sign", "--scope", scope).code == 2
    set_stdin(WALLET_KEY)
    assert run_live("keys", "register", "--sign", "--scope", "asset,trading,read").code == 0
    assert venue.key(generated).scope == "read,trading,asset"


def test_a_key_lasts_at_most_a_year(run_live: Any) -> None:
    """The exchange accepts at most 365 days; more is refused before anything is signed."""
    run_live("keys", "generate")
    assert run_live("keys", "register", "--sign", "--days", "366").code == 2


def register_with_wallet(environment: dict[str, str], sign: Callable[[dict[str, Any]], str]) -> tuple[int, str, str]:
    """Run `keys register --wallet` and enter what `sign` returns for every message; return exit code, stdout, stderr."""
    process = subprocess.Popen(
        [*KEKBRIDGE, "keys", "register", "--wallet", PAPER_ADDRESS, "--json"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    printed = ""
    try:
        for line in process.stdout:
            printed += line
            message = json.loads(line)
            if "primaryType" in message:
                process.stdin.write(sign(message) + "\n")
                process.stdin.flush()
        errors = process.stderr.read()
        return process.wait(DEADLINE_S), printed, errors
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


def sign_in_wallet(message: dict[str, Any]) -> str:
    """Sign typed data with the test wallet's key."""
    return eth_wallet.signature(message, WALLET_KEY)


def test_signing_in_a_wallet_registers_a_new_account_and_its_key(tmp_path: Path) -> None:
    """A wallet without an account signs two messages: account first, then key; the signatures are read from stdin."""
    with running_venue(tmp_path / "venue", registered=False) as venue:
        environment = bare_environment(tmp_path / "data") | live_environment(tmp_path, venue.base_url)
        assert run_forked("keys", "generate", environment=environment).returncode == 0
        kinds: list[str] = []

        def sign(message: dict[str, Any]) -> str:
            kinds.append(message["primaryType"])
            return sign_in_wallet(message)

        code, printed, errors = register_with_wallet(environment, sign)
        assert code == 0, errors
        assert kinds == ["Registration", "AddOrderlyKey"]
        registered = json.loads(printed.splitlines()[-1])
        assert registered["accountId"] == PAPER_ACCOUNT_ID
        assert venue.key(registered["orderlyKey"]).scope == "read,trading"


def test_another_wallets_signature_is_not_sent(tmp_path: Path) -> None:
    """A signature by another wallet is refused before sending, with its address; the key stays pending."""
    with running_venue(tmp_path / "venue") as venue:
        environment = bare_environment(tmp_path / "data") | live_environment(tmp_path, venue.base_url)
        assert run_forked("keys", "generate", environment=environment).returncode == 0

        def sign_other(message: dict[str, Any]) -> str:
            return eth_wallet.signature(message, "02" * 32)

        code, _, errors = register_with_wallet(environment, sign_other)
        assert code == 2
        assert "nothing was sent" in errors
        assert register_with_wallet(environment, sign_in_wallet)[0] == 0


def test_restrict_ip_and_remove_the_restriction(run_live: Any, set_stdin: SetStdin, venue: Venue) -> None:
    """The restriction at the exchange is set to this machine's address, to given ones, and removed."""
    set_stdin(PAPER_ORDERLY_SECRET)
    run_live("keys", "add")
    assert run_live("keys", "restrict-ip", "--here", "--json").data["addresses"] == ["127.0.0.1"]
    assert venue.key(PAPER_ORDERLY_KEY).ip_list == "127.0.0.1"
    run_live("keys", "restrict-ip", "203.0.113.7", "203.0.113.8 - 203.0.113.9")
    assert venue.key(PAPER_ORDERLY_KEY).ip_list == "203.0.113.7,203.0.113.8-203.0.113.9"
    (row,) = run_live("keys", "list", "--json").data
    assert row["addresses"] == ["203.0.113.7", "203.0.113.8-203.0.113.9"]
    assert "203.0.113.7" in run_live("keys", "list").out
    run_live("keys", "restrict-ip", "--any")
    assert venue.key(PAPER_ORDERLY_KEY).ip_status == "ALLOW_ALL_IPS"
    for wrong in ((), ("nowhere",), ("--here", "--any"), ("203.0.113.7", "--here")):
        assert run_live("keys", "restrict-ip", *wrong).code == 2


def test_remove_revokes_and_deletes_the_key(run_live: Any, set_stdin: SetStdin, venue: Venue) -> None:
    """After `remove` the key is revoked at the exchange and gone from the vault."""
    set_stdin(PAPER_ORDERLY_SECRET)
    run_live("keys", "add")
    assert run_live("keys", "remove", "--yes", "--json").data == {
        "orderlyKey": PAPER_ORDERLY_KEY,
        "removedAtExchange": True,
        "removedHere": True,
    }
    assert venue.key(PAPER_ORDERLY_KEY).status == "REMOVED"
    assert run_live("vault", "status", "--json").data["names"] == ["master-key"]
    assert run_live("keys", "list").code == 3


def test_remove_asks_and_can_be_local(run_live: Any, set_stdin: SetStdin, venue: Venue) -> None:
    """Without --yes and without an answer nothing changes; --local does not touch the exchange."""
    set_stdin(PAPER_ORDERLY_SECRET)
    run_live("keys", "add")
    assert run_live("keys", "remove").code == 1
    assert venue.key(PAPER_ORDERLY_KEY).status == "ACTIVE"
    assert run_live("keys", "check").code == 0
    assert run_live("keys", "remove", "--local", "--yes").code == 0
    assert venue.key(PAPER_ORDERLY_KEY).status == "ACTIVE"


def test_a_rejection_shows_the_exchanges_code(run_live: Any, set_stdin: SetStdin) -> None:
    """An unknown broker is exit code 1 with the exchange's code and its meaning."""
    run_live("keys", "generate")
    set_stdin(WALLET_KEY)
    refused = run_live("keys", "register", "--sign", "--broker", "nobody")
    assert refused.code == 1
    assert "code 15" in refused.err
    assert "no such broker" in refused.err


@pytest.mark.parametrize("mode", ["live", "testnet"])
def test_serve_trades_with_the_key(tmp_path: Path, mode: str) -> None:
    """In live and testnet mode an alert becomes a fill at the exchange of base_url, signed with the key from the vault."""
    with running_venue(tmp_path / "venue") as venue:
        environment = (
            bare_environment(tmp_path / "data") | live_environment(tmp_path, venue.base_url) | {"KEKBRIDGE_MODE": mode}
        )
        with starting(environment) as start:
            refused = start("serve")
            assert refused.process.wait(DEADLINE_S) == 2
            added = run_forked("keys", "add", environment=environment, stdin=PAPER_ORDERLY_SECRET)
            assert added.returncode == 0, added.stderr
            bridge = start("serve", "--json")
            started = json.loads(bridge.line(lambda text: text.startswith("{")))
            assert started["mode"] == mode
            assert "webhook" not in started
            webhook = bridge.data("webhook", "create", "first", "--no-require-signature")
            assert webhook["apiKey"].startswith("wh_live_" if mode == "live" else "wh_test_")
            order = {"apiKey": webhook["apiKey"], "action": "buy", "symbol": "BTCUSDT.P", "quantity": "0.01"}
            response = call(started["url"] + WEBHOOK_PATH, order | {"timestamp": timestamp()})
            assert response["status"] == "filled", response
            assert bridge.stop() == 0
            assert PAPER_ORDERLY_SECRET.removeprefix("ed25519:") not in repr((bridge.printed, bridge.log))
