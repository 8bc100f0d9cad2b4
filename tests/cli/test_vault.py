"""`kekbridge vault`: which vault is in use, why, names only; after a move everything still opens, also in a real gnome-keyring."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kekbridge.store.lock import DaemonLock
from tests.paths import ROOT
from tests.system.launcher import program_at

needs_keyring = pytest.mark.skipif(
    not (shutil.which("gnome-keyring-daemon") and shutil.which("dbus-run-session")) and not os.environ.get("CI"),
    reason="needs gnome-keyring and dbus (apt-get install gnome-keyring dbus)",
)


@pytest.fixture
def passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A passphrase as a credential, and no terminal."""
    file = tmp_path / "secrets" / "vault-passphrase"
    file.parent.mkdir(mode=0o700)
    file.write_text("five random words are enough\n")
    file.chmod(0o600)
    monkeypatch.setenv("KEKBRIDGE_VAULT_SECRETS_DIR", str(file.parent))
    monkeypatch.delenv("KEKBRIDGE_VAULT_BACKEND", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))


def test_status_shows_the_vault_and_the_reason(run: Any) -> None:
    """The vault's name, location, the reason for its choice, and that it is not encrypted."""
    run("webhook", "create", "main")
    shown = run("vault", "status", "--json").data
    assert shown["vault"] == "key_file"
    assert shown["isEncrypted"] is False
    assert shown["names"] == ["master-key"]
    assert 'vault.backend = "key_file"' in shown["description"]
    assert "paper only" in run("vault", "status").out


def test_status_before_anything_exists(run: Any, data_dir: Path) -> None:
    """`vault status` creates neither a database nor a key."""
    assert run("vault", "status", "--json").data["names"] == []
    assert not (data_dir / "kekbridge.db").exists()
    assert not list(data_dir.rglob("master-key"))


def test_move_moves_everything(run: Any, data_dir: Path, passphrase: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the move the old vault is empty, the new one is found without a setting, and the webhook's secret still opens."""
    monkeypatch.setenv("KEKBRIDGE_VAULT_BACKEND", "key_file")
    created = run("webhook", "create", "main", "--json").data
    monkeypatch.delenv("KEKBRIDGE_VAULT_BACKEND")
    moved = run("vault", "move", "--to", "file", "--yes", "--json").data
    assert moved == {"from": "key_file", "to": "file", "names": ["master-key"]}
    assert not list((data_dir / "vault").iterdir())
    shown = run("vault", "status", "--json").data
    assert (shown["vault"], shown["isEncrypted"], shown["names"]) == ("file", True, ["master-key"])
    assert run("webhook", "show", "main", "--secret", "--json").data["apiSecret"] == created["apiSecret"]


def test_move_names_a_setting_that_contradicts_it(run: Any, passphrase: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configured backend takes precedence over the vault of the data directory: the command says what to change."""
    monkeypatch.setenv("KEKBRIDGE_VAULT_BACKEND", "key_file")
    run("webhook", "create", "main")
    assert 'backend = "file"' in run("vault", "move", "--to", "file", "--yes").err


def test_move_refuses_unsafe_requests(run: Any, data_dir: Path, passphrase: None) -> None:
    """Refused while the bridge runs, to the same vault, and without confirmation; nothing changes."""
    run("webhook", "create", "main")
    before = run("vault", "status", "--json").data
    assert run("vault", "move", "--to", before["vault"]).code == 2
    other = "key_file" if before["vault"] == "file" else "file"
    assert run("vault", "move", "--to", other).code == 1
    with DaemonLock(data_dir):
        assert run("vault", "move", "--to", other, "--yes").code == 4
    assert run("vault", "status", "--json").data == before


STEPS = (
    "vault status",
    "vault move --to keyring --yes",
    "vault status",
    "webhook show main --secret",
    "vault move --to file --yes",
    "vault status",
    "webhook show main --secret",
)


def run_in_desktop_session(tmp_path: Path, commands: list[str]) -> list[tuple[int, Any, str]]:
    """Run commands in one D-Bus session with an unlocked keyring; return exit code, JSON and stderr of each."""
    home, secrets = tmp_path / "home", tmp_path / "secrets"
    home.mkdir(mode=0o700)
    secrets.mkdir(mode=0o700)
    passphrase = secrets / "vault-passphrase"
    passphrase.write_text("five random words are enough\n")
    passphrase.chmod(0o600)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_DATA_HOME": str(home / "share"),
        "XDG_RUNTIME_DIR": str(home),
        "PYTHONPATH": str(ROOT),
        "KEKBRIDGE_DATA_DIR": str(tmp_path / "data"),
        "KEKBRIDGE_VAULT_SECRETS_DIR": str(secrets),
    }
    program = tmp_path / "kekbridge"
    kekbridge = shlex.quote(str(program))
    lines = ["printf test | gnome-keyring-daemon --unlock --components=secrets >/dev/null 2>&1"]
    for number, command in enumerate(commands):
        files = " ".join(f"{stream}>{shlex.quote(str(tmp_path / f'{number}.{stream}'))}" for stream in ("1", "2"))
        lines.append(f"{kekbridge} {command} --json {files}; echo $? >{shlex.quote(str(tmp_path / f'{number}.code'))}")
    with program_at(program):
        done = subprocess.run(
            ["dbus-run-session", "--", "sh", "-c", "\n".join(lines)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    assert done.returncode == 0, done.stderr

    def outcome(number: int) -> tuple[int, Any, str]:
        text = (tmp_path / f"{number}.1").read_text()
        code = int((tmp_path / f"{number}.code").read_text())
        return code, json.loads(text) if text else None, (tmp_path / f"{number}.2").read_text()

    return [outcome(number) for number in range(len(commands))]


@needs_keyring
def test_everything_moves_into_the_keyring_and_back(tmp_path: Path) -> None:
    """After each move the old vault is empty, the new one holds the key, and the webhook's secret still opens."""
    first, *rest = run_in_desktop_session(
        tmp_path,
        ["vault status", "webhook create main", "vault move --to file --yes", *STEPS],
    )
    assert first[1]["vault"] == "keyring"  # the default in a desktop session
    created, into_file, *steps = rest
    secret = created[1]["apiSecret"]
    assert into_file[1] == {"from": "keyring", "to": "file", "names": ["master-key"]}
    for (code, _, error), command in zip(steps, STEPS, strict=True):
        assert code == 0, (command, error)
    in_file, moved, in_keyring, shown, back, again, shown_again = (data for _, data, _ in steps)
    assert (in_file["vault"], in_file["names"]) == ("file", ["master-key"])
    assert moved == {"from": "file", "to": "keyring", "names": ["master-key"]}
    assert (in_keyring["vault"], in_keyring["isEncrypted"], in_keyring["names"]) == ("keyring", True, ["master-key"])
    assert shown["apiSecret"] == secret
    assert back == {"from": "keyring", "to": "file", "names": ["master-key"]}
    assert (again["vault"], again["names"]) == ("file", ["master-key"])
    assert shown_again["apiSecret"] == secret
