"""`kekbridge vault`: which vault, why, names only; and a move after which everything still opens."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from kekbridge.store.lock import DaemonLock


@pytest.fixture
def passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A passphrase as a credential, and nobody at the terminal."""
    file = tmp_path / "secrets" / "vault-passphrase"
    file.parent.mkdir(mode=0o700)
    file.write_text("five random words are enough\n")
    file.chmod(0o600)
    monkeypatch.setenv("KEKBRIDGE_VAULT_SECRETS_DIR", str(file.parent))
    monkeypatch.delenv("KEKBRIDGE_VAULT_BACKEND", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))


def test_status_says_which_and_why(run: Any) -> None:
    """The vault's word, where it is, why it was chosen, and that it is not encrypted."""
    run("webhook", "create", "main")
    shown = run("vault", "status", "--json").data
    assert shown["vault"] == "key_file"
    assert shown["isEncrypted"] is False
    assert shown["names"] == ["master-key"]
    assert 'vault.backend = "key_file"' in shown["description"]
    assert "paper only" in run("vault", "status").out


def test_status_before_anything_exists(run: Any, data_dir: Path) -> None:
    """Looking makes no database and no key."""
    assert run("vault", "status", "--json").data["names"] == []
    assert not (data_dir / "kekbridge.db").exists()
    assert not list(data_dir.rglob("master-key"))


def test_move_takes_everything_along(
    run: Any, data_dir: Path, passphrase: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the move the old vault is empty, the new one is found by itself, and the webhook's secret still opens."""
    monkeypatch.setenv("KEKBRIDGE_VAULT_BACKEND", "key_file")
    made = run("webhook", "create", "main", "--json").data
    monkeypatch.delenv("KEKBRIDGE_VAULT_BACKEND")
    moved = run("vault", "move", "--to", "file", "--yes", "--json").data
    assert moved == {"from": "key_file", "to": "file", "names": ["master-key"]}
    assert not list((data_dir / "vault").iterdir())
    shown = run("vault", "status", "--json").data
    assert (shown["vault"], shown["isEncrypted"], shown["names"]) == ("file", True, ["master-key"])
    assert run("webhook", "show", "main", "--secret", "--json").data["apiSecret"] == made["apiSecret"]


def test_move_names_the_setting_that_would_look_elsewhere(
    run: Any, passphrase: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configured backend wins over what the data directory remembers: the move says what to change."""
    monkeypatch.setenv("KEKBRIDGE_VAULT_BACKEND", "key_file")
    run("webhook", "create", "main")
    assert 'backend = "file"' in run("vault", "move", "--to", "file", "--yes").err


def test_move_refuses_where_it_could_do_harm(run: Any, data_dir: Path, passphrase: None) -> None:
    """Not while the bridge runs, not onto itself, not without an answer; nothing is changed."""
    run("webhook", "create", "main")
    before = run("vault", "status", "--json").data
    assert run("vault", "move", "--to", before["vault"]).code == 2
    other = "key_file" if before["vault"] == "file" else "file"
    assert run("vault", "move", "--to", other).code == 1
    with DaemonLock(data_dir):
        assert run("vault", "move", "--to", other, "--yes").code == 4
    assert run("vault", "status", "--json").data == before
