"""`kekbridge replica prepare` and `seal`: from two empty screens to a standby that is ready for its own key."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kekbridge.config import load_settings
from kekbridge.model import Mode
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ORDERLY_KEY, PAPER_ORDERLY_SECRET
from tests.cli.venues import Venue, running_venue

SEED = PAPER_ORDERLY_SECRET.removeprefix("ed25519:")


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Venue]:
    """A running paper exchange."""
    with running_venue(tmp_path / "venue") as running:
        yield running


@pytest.fixture
def machines(tmp_path: Path, venue: Venue) -> tuple[Path, Path]:
    """The data directories of the machine that trades and of the second one, each with settings and a secrets directory."""
    for number, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir(mode=0o700)
        secrets = tmp_path / f"{name}-secrets"
        secrets.mkdir(mode=0o700)
        (secrets / "master-key").write_bytes(bytes([number + 1]) * 32)
        (secrets / "master-key").chmod(0o600)
        text = f'[vault]\nbackend = "directory"\nsecrets_dir = "{secrets}"\n'
        if name == "one":
            text = (
                f'mode = "testnet"\n{text}[exchange]\naccount_id = "{PAPER_ACCOUNT_ID}"\nbase_url = "{venue.base_url}"\n'
                f'[replica]\nurl = "file://{tmp_path}/replica"\n[risk]\nmax_notional = 5000\n[queue]\nbackoff_s = 2.5\n'
                '[notify]\nlevels = { order_filled = "off" }\n[auth]\nallowed_addresses = ["tradingview"]\n'
            )
        (tmp_path / name / "config.toml").write_text(text)
    return tmp_path / "one", tmp_path / "two"


def test_a_standby_is_prepared(
    run: Any, machines: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One word to the machine that trades, one text back; its settings hold here, the own key waits to be registered, no secret shows."""
    monkeypatch.delenv("KEKBRIDGE_VAULT_BACKEND")
    one, two = (f"--data-dir={path}" for path in machines)
    shown = []

    def ok(*arguments: str, stdin: str = "") -> Any:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        result = run(*arguments)
        assert result.code == 0, result.err
        shown.append(result.out + result.err)
        return result

    ok("keys", "add", one, stdin=PAPER_ORDERLY_SECRET)
    ok("webhook", "create", "main", one)
    word = ok("replica", "prepare", two).out.strip()
    sealed = ok("replica", "seal", word, one).out
    (tmp_path / "standby.txt").write_text(sealed)
    prepared = ok("replica", "prepare", str(tmp_path / "standby.txt"), two, "--yes")
    assert "keys register --mode testnet" in prepared.err
    again = ok("replica", "prepare", "-", two, "--yes", "--json", stdin=sealed).data
    assert again["key"]["state"] == "pending"
    assert again["orderlyKey"] == PAPER_ORDERLY_KEY
    first, second = (load_settings(path / "config.toml", environment={}) for path in machines)
    assert second.mode is Mode.TESTNET
    assert second.vault.secrets_dir.endswith("two-secrets")
    own = {"vault", "replica"}
    assert second.model_dump(exclude=own) == first.model_dump(exclude=own)
    assert second.replica.url not in ("", first.replica.url)
    refused = run("serve", two)
    assert refused.code == 2
    assert "kekbridge takeover" in refused.err
    lacking = run("takeover", "--check", two)
    assert (lacking.code, lacking.out) == (2, "")
    assert "no exchange key of its own" in lacking.err
    plain = b"".join(path.read_bytes() for directory in machines for path in directory.rglob("*") if path.is_file())
    master = (bytes([1]) * 32).hex()
    for secret in (SEED, master):
        assert secret not in "".join(shown)
        assert secret.encode() not in plain


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "No such file"), (b"\xff\xfe", "no plain text"), (b"hello", "not whole"), (b"", "not whole")],
)
def test_a_file_that_holds_something_else(
    run: Any,
    machines: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    content: bytes | None,
    word: str,
) -> None:
    """One line, exit code 2, and nothing is stored."""
    monkeypatch.delenv("KEKBRIDGE_VAULT_BACKEND")
    two = f"--data-dir={machines[1]}"
    assert run("replica", "prepare", two).code == 0
    if content is not None:
        (tmp_path / "standby.txt").write_bytes(content)
    refused = run("replica", "prepare", str(tmp_path / "standby.txt"), two, "--yes")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert word in refused.err
    assert not (machines[1] / "standby.json").exists()
