"""`kekbridge notify`: URLs go from stdin to the vault and are never printed."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from kekbridge.model.notifications import MESSAGES


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


def test_events_are_listed_with_the_words_in_force(run: Any, data_dir: Path) -> None:
    """Every event with its names; the trader's own words and what is muted show."""
    data_dir.mkdir(exist_ok=True)
    (data_dir / "config.toml").write_text(
        '[notify]\nmute = ["stream_back"]\n[notify.templates]\norder_filled = "got {side} {symbol}"\n'
    )
    found = {row["event"]: row for row in run("notify", "events", "--json").data}
    assert set(found) == set(MESSAGES)
    assert found["order_filled"]["words"] == "got {side} {symbol}"
    assert "average_price" in found["order_filled"]["names"]
    assert [kind for kind, row in found.items() if row["muted"]] == ["stream_back"]
    listed = run("notify", "events").out
    assert "order_filled (info)\n  got {side} {symbol}\n  also {quantity}" in listed
    assert "stream_back (info, muted)" in listed
