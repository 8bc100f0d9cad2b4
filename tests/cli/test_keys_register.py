"""`keys register` on a terminal asks how to sign, repeats a question after an error and hides the key; elsewhere it needs an option."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ADDRESS
from tests.cli.processes import KEKBRIDGE, bare_environment
from tests.cli.terminal import at_terminal
from tests.cli.venues import live_environment, running_venue
from tests.eth_wallet import signature
from tests.system.forked import run_forked

WALLET_KEY = "01" * 32


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Live mode at a running paper exchange, with a key that is not registered yet."""
    with running_venue(tmp_path / "venue") as venue:
        variables = bare_environment(tmp_path / "data") | live_environment(tmp_path, venue.base_url)
        assert run_forked("keys", "generate", environment=variables).returncode == 0
        yield variables


def test_pasting_a_wallets_signature(environment: dict[str, str]) -> None:
    """Choice 1: asks for the address, prints the message, reads the signature; each question is repeated after an error."""
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
        match = re.search(r"^\{.*\}\r?$", printed, re.MULTILINE)
        assert match is not None
        message = json.loads(match[0])
        terminal.type(signature(message, "02" * 32))
        terminal.expect("try again")
        terminal.expect(f"by {PAPER_ADDRESS}: ")
        terminal.type(signature(message, WALLET_KEY))
        code, screen = terminal.end()
    assert code == 0, screen
    assert PAPER_ACCOUNT_ID in screen
    assert "read, trading" in screen


def test_signing_with_a_hidden_key(environment: dict[str, str]) -> None:
    """Choice 2: the wallet's key is typed at a hidden prompt, repeated after a typing error, and never on the screen."""
    with at_terminal("keys", "register", environment=environment) as terminal:
        seen = terminal.expect("1 or 2: ")
        terminal.type("2")
        seen += terminal.expect("Private key of the wallet (not stored): ")
        assert not terminal.echoes_input
        terminal.type(WALLET_KEY[:-2])
        seen += terminal.expect("nothing was signed; try")
        seen += terminal.expect("(not stored): ")
        terminal.type(WALLET_KEY)
        code, rest = terminal.end()
    assert code == 0, rest
    assert PAPER_ACCOUNT_ID in rest
    assert WALLET_KEY[:-2] not in seen + rest


def test_three_errors_end_the_command(environment: dict[str, str]) -> None:
    """The third wrong answer is exit code 2, and nothing was sent."""
    with at_terminal("keys", "register", "--sign", environment=environment) as terminal:
        for _ in range(3):
            terminal.expect("(not stored): ")
            terminal.type("no key")
        code, screen = terminal.end()
    assert code == 2
    assert screen.count("nothing was signed") >= 1


def test_without_a_terminal_an_option_is_required(environment: dict[str, str]) -> None:
    """A script must choose --wallet or --sign; both at once are refused too."""
    for extra in ((), ("--sign", "--wallet", PAPER_ADDRESS)):
        done = run_forked("keys", "register", *extra, environment=environment)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert "--wallet" in done.stderr


def test_a_wallet_of_the_browser_registers_the_first_key(tmp_path: Path) -> None:
    """Without a bridge: the link opens a page once, its signatures end the command, and the key is in the vault."""
    with running_venue(tmp_path / "venue", registered=False) as venue:
        variables = bare_environment(tmp_path / "data") | live_environment(tmp_path, venue.base_url)
        command = [*KEKBRIDGE, "keys", "register", "--browser", "--json"]
        with subprocess.Popen(command, env=variables, stdout=PIPE, stderr=PIPE, text=True) as process:
            assert process.stderr is not None
            link = next(found[0] for line in process.stderr if (found := re.search(r"http://\S+", line)))
            opener = build_opener(HTTPCookieProcessor())
            (form_key,) = re.findall(r'name="key" value="([\w-]+)"', opener.open(link).read().decode())

            def post(what: str, *fields: tuple[str, str]) -> dict[str, Any]:
                body = urlencode([("key", form_key), *fields]).encode()
                found: dict[str, Any] = json.load(opener.open(f"{link.partition('?')[0]}keys/wallet/{what}", body))
                return found

            ready = post("prepare", ("wallet", PAPER_ADDRESS))
            typed = [json.loads(each["typed"]) for each in ready["messages"]]
            assert {each["domain"]["chainId"] for each in typed} == {42161}
            post(
                "register",
                ("attempt", ready["attempt"]),
                *(("signature", signature(each, WALLET_KEY)) for each in typed),
            )
            printed, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert json.loads(printed)["accountId"] == PAPER_ACCOUNT_ID
        assert venue.key(json.loads(printed)["orderlyKey"]).scope == "read,trading"
        assert run_forked("keys", "check", environment=variables).returncode == 0
