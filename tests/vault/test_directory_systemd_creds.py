"""systemd credentials: the commands that `install-systemd` prints, run with the real systemd-creds and opened as a vault."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kekbridge.cli.main import run_command
from kekbridge.config import Vault
from kekbridge.exchange.orderly.signing import Signer
from kekbridge.model import Mode
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ORDERLY_KEY, PAPER_ORDERLY_SECRET
from kekbridge.vault import master_key, open_vault, orderly_secret

needs_systemd_creds = pytest.mark.skipif(
    shutil.which("systemd-creds") is None or os.geteuid() != 0,
    reason="needs systemd 250 or later, and root: the host's own key is root's",
)


@needs_systemd_creds
def test_the_printed_commands_create_credentials_that_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Encrypted by the printed commands, decrypted as systemd does at the start: a live vault with master key and Orderly key."""
    assert run_command(["install-systemd", "--directory", str(tmp_path), "--data-dir", str(tmp_path / "data")]) == 0
    printed = capsys.readouterr().out
    store, loaded = tmp_path / "credstore", tmp_path / "loaded"
    for directory in (store, loaded):
        directory.mkdir(mode=0o700)
    lines = [line.strip() for line in printed.splitlines() if "systemd-creds encrypt" in line]
    assert len(lines) == 2
    for line in lines:
        command = line.replace("sudo ", "").replace("/etc/credstore.encrypted", str(store))
        _run(command, typed=PAPER_ORDERLY_SECRET + "\n")
    assert PAPER_ORDERLY_SECRET not in "".join(file.read_text() for file in store.iterdir())
    for sealed in store.iterdir():
        name = sealed.name
        assert re.fullmatch(r"[a-z-]+", name)
        _run(f"systemd-creds decrypt --name={name} {sealed} {loaded / name}")
        (loaded / name).chmod(0o400)  # as in systemd's own directory
    environment = {"HOME": str(tmp_path), "CREDENTIALS_DIRECTORY": str(loaded)}
    vault = open_vault(Vault(), tmp_path / "data", Mode.LIVE, environment=environment)
    assert vault.name == "directory"
    assert len(master_key(vault)) == 32
    secret = vault.get(orderly_secret(PAPER_ACCOUNT_ID))
    assert secret is not None
    assert Signer(PAPER_ACCOUNT_ID, secret.decode()).orderly_key == PAPER_ORDERLY_KEY


def _run(command: str, **more: Any) -> None:
    done = subprocess.run(
        ["sh", "-c", command], input=more.get("typed", ""), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, (command, done.stderr)
