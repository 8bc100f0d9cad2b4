"""`kekbridge notify`: URLs go from stdin to the vault and are never printed."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from kekbridge.model.notifications import MESSAGES


def test_urls_are_stored_and_never_shown(run: Any, monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    """Read from stdin, listed by kind; an unreachable channel fails `notify test`; an invalid line is named, not quoted."""
    assert run("notify", "test").code == 2
    monkeypatch.setattr(sys, "stdin", io.StringIO("json://127.0.0.1:1/TOKEN\n"))
    stored = run("notify", "set")
    listed = run("notify", "channels", "--json")
    tested = run("notify", "test", "--json")
    assert (stored.code, listed.code, tested.code) == (0, 0, 1)
    assert list(tested.data.values()) == [False]
    assert listed.data == list(tested.data)
    monkeypatch.setattr(sys, "stdin", io.StringIO("json://127.0.0.1:1/TOKEN\nnonsense TOKEN\n"))
    wrong = run("notify", "set")
    assert wrong.code == 2
    assert "line 2" in wrong.err
    for done in (stored, listed, tested, wrong):
        assert "TOKEN" not in done.out + done.err


def test_events_are_listed_with_the_texts_in_force(run: Any, data_dir: Path) -> None:
    """Every event with its fields; custom texts and muted events are marked."""
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
