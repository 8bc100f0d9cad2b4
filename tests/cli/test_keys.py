"""`kekbridge keys`: secrets go from stdin to the vault and nowhere else; registering, restricting and removing reach the exchange."""

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
from eth_account import Account
from eth_account.messages import encode_typed_data
from nacl.pwhash import argon2id

from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ADDRESS, PAPER_ORDERLY_KEY, PAPER_ORDERLY_SECRET
from kekbridge.vault.base import SEALED_FILE
from kekbridge.vault.passphrase import PassphraseVault
from tests.cli.processes import DEADLINE_S, KEKBRIDGE, bare_environment, starting
from tests.cli.venues import Venue, running_venue
from tests.system.harness import WEBHOOK_PATH, call, timestamp

WALLET_KEY = "01" * 32  # the documented test wallet, whose account the paper exchange has
OTHER_SECRET = "ed25519:4wBqpZM9xaSheZzJSMawUKKwhdpChKbZ5eu5ky4Vigw"
OTHER_KEY = "ed25519:9C6hybhQ6Aycep9jaUnP6uL9ZYvDjUp1aSkFWPUFJtpj"

PASSPHRASE = "five random words are enough"

Type = Callable[[str], None]


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    with running_venue(tmp_path / "venue") as running:
        yield running


def live(tmp_path: Path, base_url: str) -> dict[str, str]:
    """Live mode at that address, with an encrypted vault whose passphrase a credential tells.

    The vault is made here, at the least cost that argon2id has: what a passphrase costs is tests/vault's subject.
    """
    secrets = tmp_path / "secrets"
    secrets.mkdir(mode=0o700, exist_ok=True)
    passphrase = secrets / "vault-passphrase"
    passphrase.write_text(PASSPHRASE + "\n")
    passphrase.chmod(0o600)
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700, exist_ok=True)
    PassphraseVault.create(
        data_dir / SEALED_FILE, PASSPHRASE, operations=argon2id.OPSLIMIT_MIN, memory=argon2id.MEMLIMIT_MIN
    )
    return {
        "KEKBRIDGE_MODE": "live",
        "KEKBRIDGE_EXCHANGE_BASE_URL": base_url,
        "KEKBRIDGE_EXCHANGE_ACCOUNT_ID": PAPER_ACCOUNT_ID,
        "KEKBRIDGE_VAULT_BACKEND": "file",
        "KEKBRIDGE_VAULT_SECRETS_DIR": str(secrets),
    }


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Type:
    """Put text on stdin, as a pipe does."""

    def put(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))

    return put


@pytest.fixture
def at_venue(run: Any, venue: Venue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: Type) -> Any:
    """`run`, in live mode at the test's exchange."""
    for name, value in live(tmp_path, venue.base_url).items():
        monkeypatch.setenv(name, value)
    typed("")
    return run


def test_add_keeps_the_key_that_the_exchange_knows(at_venue: Any, typed: Type, data_dir: Path) -> None:
    """The secret comes from stdin; the public key, scopes and expiry are shown; what is kept signs (`check`)."""
    typed(PAPER_ORDERLY_SECRET + "\n")
    added = at_venue("keys", "add", "--json").data
    assert added["orderlyKey"] == PAPER_ORDERLY_KEY
    assert added["vault"] == "file"
    assert {check["name"]: check["level"] for check in added["checks"]}["scopes"] == "ok"
    assert at_venue("keys", "check").code == 0
    assert at_venue("vault", "status", "--json").data["names"] == [f"orderly-secret:{PAPER_ACCOUNT_ID}"]
    seed = PAPER_ORDERLY_SECRET.removeprefix("ed25519:").encode()
    assert not any(seed in file.read_bytes() for file in data_dir.rglob("*") if file.is_file())


def test_add_refuses_what_would_not_trade(at_venue: Any, typed: Type) -> None:
    """A key that the exchange does not know is not kept, unless that is asked for."""
    typed(OTHER_SECRET)
    refused = at_venue("keys", "add")
    assert refused.code == 2
    assert "does not know" in refused.err
    assert OTHER_SECRET.removeprefix("ed25519:") not in refused.err + refused.out
    assert at_venue("keys", "check").code == 3
    typed(OTHER_SECRET)
    assert at_venue("keys", "add", "--force", "--json").data["orderlyKey"] == OTHER_KEY
    assert at_venue("keys", "check").code == 1


def test_add_works_while_the_exchange_is_away(at_venue: Any, typed: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be checked is kept and said so: the network may be down while a server is set up."""
    monkeypatch.setenv("KEKBRIDGE_EXCHANGE_BASE_URL", "http://127.0.0.1:9")
    typed(PAPER_ORDERLY_SECRET)
    added = at_venue("keys", "add", "--json").data
    assert [(check["name"], check["level"]) for check in added["checks"]] == [("exchange", "broken")]


@pytest.mark.parametrize("text", ["", "ed25519:0OIl", "ed25519:abc", "0x" + "11" * 32])
def test_add_names_what_is_wrong_and_never_quotes_it(at_venue: Any, typed: Type, text: str) -> None:
    """An unreadable secret is one line without the secret."""
    typed(text)
    refused = at_venue("keys", "add")
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert not text or text.removeprefix("ed25519:") not in refused.err


def test_paper_mode_needs_no_key(run: Any) -> None:
    """Somebody who has not gone live is told how, not given an error of the exchange."""
    refused = run("keys", "add")
    assert refused.code == 2
    assert "--mode live" in refused.err


def test_no_account_is_named(at_venue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an account id nothing is asked of anybody."""
    monkeypatch.setenv("KEKBRIDGE_EXCHANGE_ACCOUNT_ID", "")
    refused = at_venue("keys", "list")
    assert refused.code == 2
    assert "exchange.account_id" in refused.err


def test_generate_and_register_with_a_wallet_key(at_venue: Any, typed: Type, venue: Venue) -> None:
    """A new key, added by the wallet: at the exchange with read,trading and a year, in the vault under its account."""
    made = at_venue("keys", "generate", "--json").data["orderlyKey"]
    assert venue.key(made) is None
    typed(WALLET_KEY)
    registered = at_venue("keys", "register", "--sign", "--json").data
    assert registered["accountId"] == PAPER_ACCOUNT_ID
    assert registered["wallet"] == PAPER_ADDRESS
    assert registered["brokerId"] == "kek_ai"
    assert registered["orderlyKey"] == made
    assert registered["scopes"] == ["read", "trading"]
    left = datetime.fromisoformat(registered["expiresAt"]) - datetime.now(UTC)
    assert timedelta(days=364) < left <= timedelta(days=365, minutes=1)
    assert at_venue("keys", "check").code == 0
    assert at_venue("keys", "register", "--sign").code == 3  # nothing is pending any more
    here = {key["orderlyKey"]: key["isHere"] for key in at_venue("keys", "list", "--json").data}
    assert here == {PAPER_ORDERLY_KEY: False, made: True}


def test_the_wallets_key_is_kept_nowhere(at_venue: Any, typed: Type, data_dir: Path) -> None:
    """Not on the screen, not in any file."""
    at_venue("keys", "generate")
    typed(WALLET_KEY)
    result = at_venue("keys", "register", "--sign", "--days", "30")
    assert result.code == 0
    assert WALLET_KEY not in result.out + result.err
    files = [file.read_bytes() for file in data_dir.rglob("*") if file.is_file()]
    assert not any(WALLET_KEY.encode() in content or bytes.fromhex(WALLET_KEY) in content for content in files)


def test_asset_scope_must_be_asked_for(at_venue: Any, typed: Type, venue: Venue) -> None:
    """Scopes are read and trading unless said otherwise; a key that could not trade is refused here."""
    made = at_venue("keys", "generate", "--json").data["orderlyKey"]
    for scope in ("read", "trading", "read,trading,everything", ""):
        assert at_venue("keys", "register", "--sign", "--scope", scope).code == 2
    typed(WALLET_KEY)
    assert at_venue("keys", "register", "--sign", "--scope", "asset,trading,read").code == 0
    assert venue.key(made).scope == "read,trading,asset"


def test_a_year_is_the_longest(at_venue: Any) -> None:
    """The exchange takes 365 days at most; more is refused before anything is signed."""
    at_venue("keys", "generate")
    assert at_venue("keys", "register", "--sign", "--days", "366").code == 2


def signed_elsewhere(environment: dict[str, str], answer: Callable[[dict[str, Any]], str]) -> tuple[int, str, str]:
    """`keys register --wallet`, with every message that it prints signed by `answer`, as a wallet's window would."""
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
                process.stdin.write(answer(message) + "\n")
                process.stdin.flush()
        errors = process.stderr.read()
        return process.wait(DEADLINE_S), printed, errors
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


def by_wallet(message: dict[str, Any]) -> str:
    signed = Account.sign_message(encode_typed_data(full_message=message), private_key="0x" + WALLET_KEY)
    return "0x" + bytes(signed.signature).hex()


def test_signing_in_a_wallet_registers_a_new_account_and_its_key(tmp_path: Path) -> None:
    """Two messages for a wallet that was never here: first the account, then the key; the signatures come back on stdin."""
    with running_venue(tmp_path / "venue", registered=False) as venue:
        environment = bare_environment(tmp_path / "data") | live(tmp_path, venue.base_url)
        made = subprocess.run(
            [*KEKBRIDGE, "keys", "generate"], env=environment, capture_output=True, timeout=DEADLINE_S, check=False
        )
        assert made.returncode == 0
        kinds: list[str] = []

        def sign(message: dict[str, Any]) -> str:
            kinds.append(message["primaryType"])
            return by_wallet(message)

        code, printed, errors = signed_elsewhere(environment, sign)
        assert code == 0, errors
        assert kinds == ["Registration", "AddOrderlyKey"]
        registered = json.loads(printed.splitlines()[-1])
        assert registered["accountId"] == PAPER_ACCOUNT_ID
        assert venue.key(registered["orderlyKey"]).scope == "read,trading"


def test_another_wallets_signature_is_not_sent(tmp_path: Path) -> None:
    """A signature that does not belong to the named wallet is refused here, with the wallet it is of; the key stays pending."""
    with running_venue(tmp_path / "venue") as venue:
        environment = bare_environment(tmp_path / "data") | live(tmp_path, venue.base_url)
        subprocess.run([*KEKBRIDGE, "keys", "generate"], env=environment, capture_output=True, check=True)

        def sign_other(message: dict[str, Any]) -> str:
            signed = Account.sign_message(encode_typed_data(full_message=message), private_key="0x" + "02" * 32)
            return "0x" + bytes(signed.signature).hex()

        code, _, errors = signed_elsewhere(environment, sign_other)
        assert code == 2
        assert "nothing was sent" in errors
        assert signed_elsewhere(environment, by_wallet)[0] == 0


def test_restrict_ip_and_back(at_venue: Any, typed: Type, venue: Venue) -> None:
    """The rule is set at the exchange: to the address it sees us at, to named ones, and away again."""
    typed(PAPER_ORDERLY_SECRET)
    at_venue("keys", "add")
    assert at_venue("keys", "restrict-ip", "--here", "--json").data["addresses"] == ["127.0.0.1"]
    assert venue.key(PAPER_ORDERLY_KEY).ip_list == "127.0.0.1"
    at_venue("keys", "restrict-ip", "203.0.113.7", "203.0.113.8 - 203.0.113.9")
    assert venue.key(PAPER_ORDERLY_KEY).ip_list == "203.0.113.7,203.0.113.8-203.0.113.9"
    (row,) = at_venue("keys", "list", "--json").data
    assert row["addresses"] == ["203.0.113.7", "203.0.113.8-203.0.113.9"]
    assert "203.0.113.7" in at_venue("keys", "list").out
    at_venue("keys", "restrict-ip", "--any")
    assert venue.key(PAPER_ORDERLY_KEY).ip_status == "ALLOW_ALL_IPS"
    for wrong in ((), ("nowhere",), ("--here", "--any"), ("203.0.113.7", "--here")):
        assert at_venue("keys", "restrict-ip", *wrong).code == 2


def test_remove_ends_the_key_here_and_there(at_venue: Any, typed: Type, venue: Venue) -> None:
    """After `remove` the exchange refuses the key and the vault has forgotten it."""
    typed(PAPER_ORDERLY_SECRET)
    at_venue("keys", "add")
    assert at_venue("keys", "remove", "--yes", "--json").data == {
        "orderlyKey": PAPER_ORDERLY_KEY,
        "removedAtExchange": True,
        "removedHere": True,
    }
    assert venue.key(PAPER_ORDERLY_KEY).status == "REMOVED"
    assert at_venue("vault", "status", "--json").data["names"] == []
    assert at_venue("keys", "list").code == 3


def test_remove_asks_and_can_stay_local(at_venue: Any, typed: Type, venue: Venue) -> None:
    """Without --yes and without an answer nothing happens; --local leaves the exchange alone."""
    typed(PAPER_ORDERLY_SECRET)
    at_venue("keys", "add")
    assert at_venue("keys", "remove").code == 1
    assert venue.key(PAPER_ORDERLY_KEY).status == "ACTIVE"
    assert at_venue("keys", "check").code == 0
    assert at_venue("keys", "remove", "--local", "--yes").code == 0
    assert venue.key(PAPER_ORDERLY_KEY).status == "ACTIVE"


def test_a_refusal_is_told_in_the_exchanges_words(at_venue: Any, typed: Type) -> None:
    """A broker that does not exist is exit code 1 with the exchange's code and what it means."""
    at_venue("keys", "generate")
    typed(WALLET_KEY)
    refused = at_venue("keys", "register", "--sign", "--broker", "nobody")
    assert refused.code == 1
    assert "code 15" in refused.err
    assert "no such broker" in refused.err


@pytest.mark.parametrize("mode", ["live", "testnet"])
def test_serve_trades_with_the_key(tmp_path: Path, mode: str) -> None:
    """Live and testnet run the whole way with the key from the vault: an alert becomes a fill at the exchange that base_url names."""
    with running_venue(tmp_path / "venue") as venue:
        environment = bare_environment(tmp_path / "data") | live(tmp_path, venue.base_url) | {"KEKBRIDGE_MODE": mode}
        with starting(environment) as start:
            refused = start("serve")
            assert refused.process.wait(DEADLINE_S) == 2
            added = subprocess.run(
                [*KEKBRIDGE, "keys", "add"],
                env=environment,
                input=PAPER_ORDERLY_SECRET,
                capture_output=True,
                text=True,
                timeout=DEADLINE_S,
                check=False,
            )
            assert added.returncode == 0, added.stderr
            bridge = start("serve", "--json")
            started = json.loads(bridge.line(lambda text: text.startswith("{")))
            assert started["mode"] == mode
            assert "webhook" not in started
            webhook = bridge.data("webhook", "create", "first", "--no-require-signature")
            assert webhook["apiKey"].startswith("wh_live_" if mode == "live" else "wh_test_")
            order = {"apiKey": webhook["apiKey"], "action": "buy", "symbol": "BTCUSDT.P", "quantity": "0.01"}
            answer = call(started["url"] + WEBHOOK_PATH, order | {"timestamp": timestamp()})
            assert answer["status"] == "filled", answer
            assert bridge.stop() == 0
            assert PAPER_ORDERLY_SECRET.removeprefix("ed25519:") not in repr((bridge.printed, bridge.log))
