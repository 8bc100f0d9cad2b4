"""Output: no control characters or markup from outside text, exact numbers, short times."""

from __future__ import annotations

import json
import sys
import unicodedata
from datetime import UTC, datetime

import pytest

from kekbridge.cli import render

NOW = datetime(2026, 11, 22, 16, 8, 6, tzinfo=UTC)
# Attacks on a reader of the log: clear the screen, rename the window, hide or reverse text, fake a line.
HOSTILE = "\x1b[2J\x1b]0;pwned\x07[/][bold]buy[/bold]\u202egnol\u200b\u2066\x9b31m\r\nfake line\ud800"


def is_unsafe(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def test_markup_is_plain_text_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    """`[/]` in an alert is neither an error nor a style, and `[bold]` is printed: in tables, pairs, headings and log lines."""
    render.table([render.Column("A"), render.Column("B", is_status=True)], [(HOSTILE, HOSTILE)])
    render.pairs([("name", HOSTILE)])
    render.heading(HOSTILE)
    render.paragraph(HOSTILE)
    render.lines({"A": 3, "STATUS": 3}, [render.Line((HOSTILE, HOSTILE), HOSTILE)])
    render.note(HOSTILE)
    out, err = capsys.readouterr()
    for text in (out, err):
        assert "[/][bold]buy[/bold]" in text
        assert not any(is_unsafe(character) for character in text if character != "\n")


def test_json_is_ascii_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts get the exact value; a terminal that shows the JSON gets no control character."""
    render.as_json({"text": HOSTILE})
    out = capsys.readouterr().out
    assert out.isascii()
    assert out.count("\n") == 1
    assert json.loads(out)["text"] == HOSTILE


def test_a_pipe_gets_whole_rows_without_colour_or_padding(capsys: pytest.CaptureFixture[str]) -> None:
    """grep and awk see one row per line: no wrapping at 80, no trailing blanks, no escape sequence."""
    render.table([render.Column("STATUS", is_status=True), render.Column("WHY", shrinks=True)], [("filled", "x" * 150)])
    out = capsys.readouterr().out
    assert "x" * 150 in out
    assert "\x1b" not in out
    assert all(line == line.rstrip() for line in out.splitlines())


def test_notes_and_events_wrap_between_words_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is wider than the terminal unless one word is, and no word is cut; in a pipe each is one line."""
    monkeypatch.setenv("COLUMNS", "40")
    text = "btc-trend takes no entries.  Fix:  `kekbridge resume --webhook btc-trend`, or wait " + "x" * 60
    render.note(text)
    render.hanging("13:40:41  ", text)
    out, err = capsys.readouterr()
    assert (err, out) == (f"{text}\n", f"13:40:41  {text}\n")
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    render.note(text)
    render.hanging("13:40:41  ", text)
    out, err = capsys.readouterr()
    for shown in (err.splitlines(), out.splitlines()):
        assert len(shown) > 2
        assert [line for line in shown if len(line) > 40 and "x" * 60 not in line] == []
        assert " ".join(" ".join(shown).split()).endswith(" ".join(text.split()))
    assert all(line.startswith(" " * 10) for line in out.splitlines()[1:])
