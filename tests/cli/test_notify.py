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
    assert "order_filled (info)\n  got {side} {symbol}\n  also {webhook}" in listed
    assert "stream_back (info, muted)" in listed


def test_one_channel_is_added_replaced_and_removed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others stay; a channel is named by its name or the beginning of it; an unknown one is an error that lists them."""

    def typed(text: str, *arguments: str) -> Any:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        return run("notify", *arguments, "--json")

    (first,) = typed("json://127.0.0.1:1/ONE\n", "add").data
    _, second = typed("xml://127.0.0.1:1/TWO\n", "add").data
    assert typed("", "add").code == 2
    assert typed("form://127.0.0.1:1/THREE\n", "edit", first).data[1:] == [second]
    assert [name.partition("-")[0] for name in run("notify", "channels", "--json").data] == ["form", "xml"]
    unknown = run("notify", "remove", "tgram")
    assert unknown.code == 3
    assert second in unknown.err
    assert run("notify", "remove", "xml").out.startswith("channels now: form-")
    assert "THREE" not in unknown.err


def test_levels_and_quiet_hours_are_stored_over_the_settings(run: Any, data_dir: Path) -> None:
    """`default` goes back to the settings; wrong input is one line that says what is expected."""
    data_dir.mkdir(exist_ok=True)
    (data_dir / "config.toml").write_text(
        '[notify]\nquiet_hours = "22:00-07:00"\nzone = "UTC"\nmute = ["stream_back"]\n'
    )
    assert run("notify", "quiet-hours", "--json").data == {"hours": "22:00-07:00", "zone": "UTC"}
    shown = run("notify", "quiet-hours", "23:00-06:30", "--zone", "Europe/Berlin")
    assert shown.out == "quiet hours: 23:00-06:30 (Europe/Berlin)\n"
    assert run("notify", "quiet-hours", "off").out == "no quiet hours\n"
    assert run("notify", "quiet-hours", "default", "--json").data["hours"] == "22:00-07:00"
    assert run("notify", "level", "stream_back", "info", "--json").data == {"event": "stream_back", "level": "info"}
    assert run("notify", "level", "stream_back", "default", "--json").data["level"] == "off"
    for arguments, words in (
        (("quiet-hours", "night"), "two times of day such as 22:00-07:00"),
        (("quiet-hours", "22:00-07:00", "--zone", "Berlin"), "a time zone such as Europe/Berlin"),
        (("level", "order_filed", "off"), "did you mean order_filled?"),
        (("level", "order_filled", "loud"), "off, info, warning, failure, default"),
    ):
        refused = run("notify", *arguments)
        assert refused.code == 2
        assert words in refused.err
