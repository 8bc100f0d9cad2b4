"""The token of the web pages: one file, and who may read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kekbridge.errors import ConfigError
from kekbridge.ops.web_token import TOKEN_FILE, WebToken, read_token, rotate_token


def test_the_token_is_created_once(tmp_path: Path) -> None:
    """A restart keeps it, so that bookmarks and scrapers still work; only its owner can read the file."""
    assert read_token(tmp_path) is None
    first = WebToken(tmp_path).current()
    assert WebToken(tmp_path).current() == first == read_token(tmp_path)
    assert (tmp_path / TOKEN_FILE).stat().st_mode & 0o777 == 0o600


def test_a_new_token_is_seen_at_once(tmp_path: Path) -> None:
    """The file decides, also when another process replaced it; while it is missing, the last token stays in force."""
    token = WebToken(tmp_path)
    replaced = rotate_token(tmp_path)
    assert token.current() == replaced
    (tmp_path / TOKEN_FILE).unlink()
    assert token.current() == replaced
    assert rotate_token(tmp_path) == token.current() != replaced


def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    """A start says what to do with it, and a running daemon keeps the last token."""
    token = WebToken(tmp_path)
    before = token.current()
    (tmp_path / TOKEN_FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be used"):
        WebToken(tmp_path)
    assert token.current() == before
