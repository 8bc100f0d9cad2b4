"""`keys register` at a terminal: it asks who signs, mends slips, hides the key; off a terminal it refuses in one line."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from nacl.pwhash import argon2id

from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ADDRESS
from kekbridge.vault.base import SEALED_FILE
from kekbridge.vault.passphrase import PassphraseVault
from tests.cli.processes import DEADLINE_S, KEKBRIDGE, bare_environment
from tests.cli.terminal import at_terminal
from tests.cli.venues import running_venue

WALLET_KEY = "01" * 32
PASSPHRASE = "five random words are enough"


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Live mode at a venue that runs, a vault that costs little to open, and a key that waits to be registered."""
    with running_venue(tmp_path / "venue") as venue:
        secrets, data_dir = tmp_path / "secrets", tmp_path / "data"
        for directory in (secrets, data_dir):
            directory.mkdir(mode=0o700)
        passphrase = secrets / "vault-passphrase"
        passphrase.write_text(PASSPHRASE)
        passphrase.chmod(0o600)
        PassphraseVault.create(
            data_dir / SEALED_FILE, PASSPHRASE, operations=argon2id.OPSLIMIT_MIN, memory=argon2id.MEMLIMIT_MIN
        )
        variables = bare_environment(data_dir) | {
            "KEKBRIDGE_MODE": "live",
            "KEKBRIDGE_EXCHANGE_BASE_URL": venue.base_url,
            "KEKBRIDGE_EXCHANGE_ACCOUNT_ID": PAPER_ACCOUNT_ID,
            "KEKBRIDGE_VAULT_BACKEND": "file",
            "KEKBRIDGE_VAULT_SECRETS_DIR": str(secrets),
        }
        subprocess.run([*KEKBRIDGE, "keys", "generate"], env=variables, capture_output=True, check=True)
        yield variables


def signature(message: dict[str, Any], key: str) -> str:
    signed = Account.sign_message(encode_typed_data(full_message=message), private_key="0x" + key)
    return "0x" + bytes(signed.signature).hex()


def test_pasting_a_wallets_signature(environment: dict[str, str]) -> None:
    """1: the address is asked for, the message printed, the signature pasted; a slip at each question is asked again."""
    with at_terminal("keys", "register", environment=environment) as terminal:
        terminal.expect("1 or 2: ")
        terminal.type("yes")
        terminal.expect("expected 1 or 2; try again")
        terminal.expect("1 or 2: ")
        terminal.type("1")
        terminal.expect("Address of the wallet (0x…): ")
        terminal.type("0x123")
        terminal.expect("40 hex digits; try again")
        terminal.type(PAPER_ADDRESS)
        printed = terminal.expect(f"Signature of AddOrderlyKey by {PAPER_ADDRESS}: ")
        found = re.search(r"^\{.*\}\r?$", printed, re.MULTILINE)
        assert found is not None
        message = json.loads(found[0])
        terminal.type(signature(message, "02" * 32))
        terminal.expect("try again")
        terminal.expect(f"by {PAPER_ADDRESS}: ")
        terminal.type(signature(message, WALLET_KEY))
        code, screen = terminal.end()
    assert code == 0, screen
    assert PAPER_ACCOUNT_ID in screen
    assert "read, trading" in screen


def test_signing_with_a_hidden_key(environment: dict[str, str]) -> None:
    """2: the wallet's key is typed unseen, a mistyped one is asked again, and it is nowhere on the screen."""
    with at_terminal("keys", "register", environment=environment) as terminal:
        seen = terminal.expect("1 or 2: ")
        terminal.type("2")
        seen += terminal.expect("Private key of the wallet (not kept): ")
        assert not terminal.shows_what_is_typed
        terminal.type(WALLET_KEY[:-2])
        seen += terminal.expect("nothing was signed; try again")
        seen += terminal.expect("(not kept): ")
        terminal.type(WALLET_KEY)
        code, rest = terminal.end()
    assert code == 0, rest
    assert PAPER_ACCOUNT_ID in rest
    assert WALLET_KEY[:-2] not in seen + rest


def test_three_slips_end_it(environment: dict[str, str]) -> None:
    """Nobody is asked for ever: the third wrong answer is exit code 2, and nothing was sent."""
    with at_terminal("keys", "register", "--sign", environment=environment) as terminal:
        for _ in range(3):
            terminal.expect("(not kept): ")
            terminal.type("no key")
        code, screen = terminal.end()
    assert code == 2
    assert screen.count("nothing was signed") >= 1


def test_off_a_terminal_it_is_one_line(environment: dict[str, str]) -> None:
    """A script must say who signs; both at once is refused too."""
    for extra in ((), ("--sign", "--wallet", PAPER_ADDRESS)):
        done = subprocess.run(
            [*KEKBRIDGE, "keys", "register", *extra],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert "--wallet" in done.stderr
