"""`kekbridge notify`: URLs go from stdin to the vault and are never printed."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest


def test_urls_are_kept_and_never_shown(run: Any, monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    """Entered by stdin, listed by kind; an unreachable channel fails the test command; a wrong line is named, not quoted."""
    assert run("notify", "test").code == 2
    monkeypatch.setattr(sys, "stdin", io.StringIO("json://127.0.0.1:1/TOKEN\n"))
    entered = run("notify", "set")
    listed = run("notify", "channels", "--json")
    tried = run("notify", "test", "--json")
    assert (entered.code, listed.code, tried.code) == (0, 0, 1)
    assert list(tried.data.values()) == [False]
    assert listed.data == list(tried.data)
    monkeypatch.setattr(sys, "stdin", io.StringIO("json://127.0.0.1:1/TOKEN\nnonsense TOKEN\n"))
    wrong = run("notify", "set")
    assert wrong.code == 2
    assert "line 2" in wrong.err
    for done in (entered, listed, tried, wrong):
        assert "TOKEN" not in done.out + done.err
