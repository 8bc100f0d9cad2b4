"""`kekbridge setup`: every step by hand and from a file, left out and repeated; secrets are only in the vault."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kekbridge.cli.setup import STEPS
from kekbridge.config import load_settings
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ORDERLY_SECRET
from tests.cli.conftest import Run
from tests.cli.processes import Served, bare_environment
from tests.cli.terminal import at_terminal
from tests.cli.venues import PASSPHRASE, live_environment, running_venue
from tests.paths import ROOT
from tests.receiver import Receiver
from tests.system.harness import wait_until


@contextmanager
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A notification channel: its apprise URL, and the messages that reached it."""
    with closing(Receiver()) as channel:
        yield channel.url, channel.received


def write_private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_every_step_at_a_terminal(tmp_path: Path) -> None:
    """A person answers, leaves out, mistypes and tries again; settings have comments, the test message arrives, no secret is shown."""
    environment = bare_environment(tmp_path / "data")
    with receiver() as (url, received), at_terminal("setup", environment=environment) as terminal:
        for question, answer in (
            ("1/7  mode", None),
            ("Mode [paper, testnet, live, skip] [paper]: ", "moon"),
            ("found 'moon', expected one of paper, testnet, live, skip", None),
            ("[paper]: ", ""),
            ("Vault (auto takes the first that can be used)", "skip"),
            ("TradingView reaches it through", "prox"),
            ("Its public address", "http://bridge.example.com"),
            ("expected https://", None),
            ("Try this step again?", "y"),
            ("TradingView reaches it through", "tunnel"),
            ("cloudflared tunnel --url http://127.0.0.1:0", None),
            ("Its public address", "https://bridge.example.com"),
            ("Install it as a systemd service", "n"),
            ("5/7  key", None),
            ("Name of the webhook", "btc"),
            ("Markets it may trade", "BTC"),
            ("Largest order in coins", "0.5"),
            ("Largest order in USDC", ""),
            ("Largest traded value a day", "20000"),
            ("Close it for entries", ""),
            ("Refuse entries without a stop loss?", "y"),
            ("(hidden; several with blanks; Enter leaves it out): ", url),
            ("Send a test message now?", "y"),
            ("test message delivered", None),
        ):
            terminal.expect(question)
            if "(hidden" in question:
                wait_until(lambda: not terminal.echoes_input)
            if answer is not None:
                terminal.type(answer)
        code, screen = terminal.end()
    assert code == 0
    assert "kekbridge serve\r\n" in screen
    assert "TOKEN" not in screen
    assert [message["title"] for message in received] == ["[PAPER] test message"]
    config = tmp_path / "data/config.toml"
    settings = load_settings(config, environment={})
    assert (settings.server.public_url, settings.server.behind_proxy) == ("https://bridge.example.com", True)
    assert "# Where orders go:" in config.read_text()


def test_a_passphrase_is_asked_for_once(tmp_path: Path) -> None:
    """Several steps use the vault; a wrong passphrase may be corrected, and the right one is not asked for again."""
    environment = bare_environment(tmp_path / "data") | live_environment(tmp_path, "")
    del environment["KEKBRIDGE_VAULT_SECRETS_DIR"], environment["KEKBRIDGE_EXCHANGE_ACCOUNT_ID"]
    environment["KEKBRIDGE_MODE"] = "paper"
    with receiver() as (url, received), at_terminal("setup", "webhook", "notify", environment=environment) as terminal:

        def type_hidden(text: str) -> None:
            wait_until(lambda: not terminal.echoes_input)
            terminal.type(text)

        for attempt in ("a wrong passphrase", PASSPHRASE):
            terminal.expect("Name of the webhook")
            terminal.type("")
            for question in ("Markets", "Largest order in coins", "Largest order in USDC", "a day in USDC", "loss of"):
                terminal.expect(question)
                terminal.type("")
            terminal.expect("without a stop loss?")
            terminal.type("")
            terminal.expect("Passphrase for")
            type_hidden(attempt)
            if attempt != PASSPHRASE:
                terminal.expect("the passphrase does not open")
                terminal.expect("Try this step again?")
                terminal.type("")
        terminal.expect("(hidden; several with blanks; Enter leaves it out): ")
        type_hidden(url)
        terminal.expect("Send a test message now?")
        terminal.type("")
        code, screen = terminal.end()
    assert (code, "Passphrase" in screen, len(received)) == (0, False, 1)


def test_answers_from_a_file_and_again(run: Run, data_dir: Path, tmp_path: Path) -> None:
    """The same answers twice change nothing; other ones edit what is there; what is not answered is left out."""
    answers = tmp_path / "answers.toml"
    with receiver() as (url, received):
        urls = write_private(tmp_path / "urls", url)
        answers.write_text(
            'mode = "paper"\n[address]\nkind = "domain"\ndomain = "bridge.example.com"\n'
            '[webhook]\nname = "btc"\nallowed_symbols = ["BTC"]\nmax_order_size = 0.5\nrequire_stop_loss = true\n'
            f'[notify]\nurls_file = "{urls}"\n'
        )
        done = run("setup", "--answers", str(answers), "--json")
        assert done.code == 0, done.err
        assert list(done.data["steps"]) == list(STEPS)
        assert {step for step, result in done.data["steps"].items() if result == "left out"} == {"vault", "service"}
        assert "TOKEN" not in done.out + done.err
        first = run("webhook", "show", "btc", "--secret", "--json").data
        config = (data_dir / "config.toml").read_text()
        again = run("setup", "--answers", str(answers), "--json").data
        assert again["failed"] is None
        assert (data_dir / "config.toml").read_text() == config
        assert run("webhook", "show", "btc", "--secret", "--json").data == first
        assert len(received) == 2
    assert first["settings"]["limits"]["maxOrderSize"] == "0.5"
    assert first["webhookUrl"].startswith("https://bridge.example.com")
    answers.write_text('[webhook]\nname = "btc"\nmax_order_size = "0.25"\n')
    assert run("setup", "webhook", "--answers", str(answers)).code == 0
    changed = run("webhook", "show", "btc", "--json").data["settings"]["limits"]
    assert (changed["maxOrderSize"], changed["allowedSymbols"]) == ("0.25", ["PERP_BTC_USDC"])
    assert len(run("webhook", "list", "--json").data) == 1


def test_the_exchange_key_goes_from_its_file_to_the_vault(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checked with the exchange; the account is a setting, the secret is in no file but the sealed one and its own."""
    with running_venue(tmp_path / "venue") as venue:
        environment = live_environment(tmp_path, venue.base_url)
        del environment["KEKBRIDGE_MODE"], environment["KEKBRIDGE_EXCHANGE_ACCOUNT_ID"]
        monkeypatch.delenv("KEKBRIDGE_VAULT_BACKEND")
        del environment["KEKBRIDGE_VAULT_BACKEND"]
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        secret = write_private(tmp_path / "secret", PAPER_ORDERLY_SECRET + "\n")
        answers = tmp_path / "answers.toml"
        answers.write_text(
            f'mode = "live"\nvault = "file"\n[key]\naccount_id = "{PAPER_ACCOUNT_ID}"\nsecret_file = "{secret}"\n'
        )
        done = run("setup", "--answers", str(answers), "--json")
        assert done.code == 0, done.err
        assert done.data["steps"]["key"] == f"{PAPER_ACCOUNT_ID[:10]}…, secret in the vault"
        assert run("keys", "check").code == 0
        seed = PAPER_ORDERLY_SECRET.removeprefix("ed25519:")
        assert seed not in done.out + done.err
        assert not any(seed.encode() in file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file())
        secret.chmod(0o644)
        refused = run("setup", "key", "--answers", str(answers))
        assert (refused.code, "can be read by others; chmod 600" in refused.err) == (1, True)


def test_the_documented_answers_are_read(run: Run, tmp_path: Path) -> None:
    """The example in settings.md has every step, and the first thing it lacks is the file with the secret."""
    text = (
        (ROOT / "kekbridge/docs/settings.md").read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    )
    answers = write_private(tmp_path / "answers.toml", text)
    done = run("setup", "address", "service", "webhook", "--answers", str(answers), "--json")
    assert (done.code, done.data["steps"]["webhook"][:17]) == (0, "btc-trend created")
    assert set(tomllib.loads(text)) == set(STEPS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('mod = "paper"', "'mod' is not a parameter"),
        ('mode = "moon"', "mode: "),
        ('[address]\nkind = "domain"\nport = 3\n', "'port' is not a parameter"),
        ("mode = ", "not valid TOML"),
    ],
)
def test_wrong_answers_change_nothing(run: Run, data_dir: Path, tmp_path: Path, text: str, expected: str) -> None:
    """One line that says what was found, exit code 2, before any step."""
    answers = tmp_path / "answers.toml"
    answers.write_text(text)
    done = run("setup", "--answers", str(answers))
    assert (done.code, done.out, done.err.count("\n"), data_dir.exists()) == (2, "", 1, False)
    assert expected in done.err
    assert run("setup").code == 2  # no terminal
    unknown = run("setup", "webhok", "--answers", str(answers))
    assert (unknown.code, "webhook" in unknown.err) == (2, True)


def test_a_failed_step_ends_a_script(run: Run, data_dir: Path, tmp_path: Path) -> None:
    """Exit code 1 and its name; steps before it stay done, those behind it were not begun."""
    answers = tmp_path / "answers.toml"
    urls = write_private(tmp_path / "urls", "json://127.0.0.1:1/TOKEN\n")
    answers.write_text(f'[webhook]\nname = "btc"\nmax_order_siz = 1\n[notify]\nurls_file = "{urls}"\n')
    done = run("setup", "--answers", str(answers), "--json")
    assert (done.code, done.data["failed"], "notify" in done.data["steps"]) == (1, "webhook", False)
    assert "did you mean" in done.data["steps"]["webhook"]
    answers.write_text('[webhook]\nrequire_stop_loss = "yes"\n')
    done = run("setup", "webhook", "--answers", str(answers))
    assert (done.code, "found 'yes', expected true or false" in done.err) == (1, True)
    answers.write_text(f'[webhook]\nname = "btc"\n[notify]\nurls_file = "{urls}"\n')
    done = run("setup", "--answers", str(answers), "--json")
    assert (done.code, done.data["failed"], "was not delivered" in done.data["steps"]["notify"]) == (1, "notify", True)
    assert [each["name"] for each in run("webhook", "list", "--json").data] == ["btc"]
    assert "TOKEN" not in done.out + done.err


@pytest.mark.skipif(os.geteuid() != 0, reason="root installs the service")
def test_with_a_service_its_vault_is_waited_for(run: Run, root: Path, data_dir: Path, tmp_path: Path) -> None:
    """Settings go where the service can read them; nothing is stored in a vault that it would not read, until it runs."""
    answers = tmp_path / "answers.toml"
    answers.write_text('mode = "paper"\nservice = true\n[webhook]\nname = "btc"\n')
    without = run("setup", "service", "--answers", str(answers), "--json").data["steps"]["service"]
    assert without.startswith("needs root: sudo kekbridge setup service")
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    done = run("setup", "--answers", str(answers), "--json")
    assert done.code == 0, done.err
    assert done.data["configFile"] == str(root / "etc/kekbridge.toml")
    assert done.data["steps"]["webhook"] == "waits for the service to run"
    assert f"--config {root / 'etc/kekbridge.toml'}" in (units / "kekbridge.service").read_text()
    assert [path.name for path in data_dir.iterdir()] == ["config.toml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="root installs the service")
def test_a_live_service_has_its_account_before_it_starts(run: Run, root: Path, tmp_path: Path) -> None:
    """It cannot start without account and key: the account becomes a setting, the key is its credential, and no vault is opened."""
    (root / "etc/systemd/system").mkdir(parents=True)
    secret = write_private(tmp_path / "secret", PAPER_ORDERLY_SECRET)
    answers = tmp_path / "answers.toml"
    answers.write_text(
        f'mode = "live"\nservice = true\n[key]\naccount_id = "{PAPER_ACCOUNT_ID}"\nsecret_file = "{secret}"\n'
    )
    done = run("setup", "--answers", str(answers), "--json")
    assert done.code == 0, done.err
    assert done.data["steps"]["key"].endswith("its key as the credential orderly-secret")
    settings = load_settings(root / "etc/kekbridge.toml", environment={})
    assert (settings.mode.value, settings.exchange.account_id) == ("live", PAPER_ACCOUNT_ID)
    unit = (root / "etc/systemd/system/kekbridge.service").read_text()
    assert "LoadCredentialEncrypted=orderly-secret" in unit
    answers.write_text('mode = "live"\n[key]\naccount_id = "0x12"\n')
    assert "found '0x12', expected 0x and 64 hex digits" in run("setup", "--answers", str(answers)).err


def test_beside_a_running_service_its_vault_is_used(run: Run, service: Served, data_dir: Path, tmp_path: Path) -> None:
    """The webhook is the service's, which accepts its alerts at once."""
    answers = tmp_path / "answers.toml"
    answers.write_text('[webhook]\nname = "btc"\n')
    assert (
        run("setup", "webhook", "--answers", str(answers), "--json").data["steps"]["webhook"].startswith("btc created")
    )
    assert run("webhook", "test", "btc", "--json").data["httpStatus"] == 200
    assert not data_dir.exists()
