"""`kekbridge vault move` to a real gnome-keyring on a D-Bus session of its own, and back into the encrypted file."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.skipif(
    not (shutil.which("gnome-keyring-daemon") and shutil.which("dbus-run-session")) and not os.environ.get("CI"),
    reason="needs gnome-keyring and dbus (apt-get install gnome-keyring dbus)",
)

STEPS = (
    "vault status",
    "vault move --to keyring --yes",
    "vault status",
    "webhook show main --secret",
    "vault move --to file --yes",
    "vault status",
    "webhook show main --secret",
)


def at_a_desk(tmp_path: Path, commands: list[str]) -> list[tuple[int, Any, str]]:
    """Run commands one after the other in one desktop session with an unlocked keyring: exit code, JSON and stderr of each."""
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
    kekbridge = f"{shlex.quote(sys.executable)} -m kekbridge"
    lines = ["printf test | gnome-keyring-daemon --unlock --components=secrets >/dev/null 2>&1"]
    for number, command in enumerate(commands):
        files = " ".join(f"{stream}>{shlex.quote(str(tmp_path / f'{number}.{stream}'))}" for stream in ("1", "2"))
        lines.append(f"{kekbridge} {command} --json {files}; echo $? >{shlex.quote(str(tmp_path / f'{number}.code'))}")
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


def test_everything_moves_into_the_keyring_and_back(tmp_path: Path) -> None:
    """The encrypted file is emptied, the keyring holds the key and the webhook still opens; the same the other way round."""
    first, *rest = at_a_desk(
        tmp_path,
        ["vault status", "webhook create main", "vault move --to file --yes", *STEPS],
    )
    assert first[1]["vault"] == "keyring"  # a desktop's own choice
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
