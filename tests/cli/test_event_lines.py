"""Events on a terminal: one line each, within its width, in colour only where that is wanted."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from kekbridge.cli.event_lines import event_printer, format_line
from kekbridge.ops.event_lines import EventLine

AT = datetime(2026, 1, 15, 18, 1, 50, tzinfo=UTC)
BOUGHT = EventLine(
    at=AT, webhook="default", subject="buy 0.001 BTC", what="filled at 65,000", took="33 ms", tone="good"
)


def line(**changes: Any) -> EventLine:
    values: dict[str, Any] = {
        "at": AT,
        "webhook": "default",
        "subject": "buy 1 BTC",
        "what": "denied: " + "too large " * 20,
    }
    return EventLine(**values | changes)


def test_a_short_event_is_one_line() -> None:
    """Time, webhook, order, outcome and how long it took; without colours nothing else."""
    text = format_line(BOUGHT, 80, 7, in_colour=False)
    assert text[8:] == "  default  buy 0.001 BTC  filled at 65,000  33 ms"
    assert format_line(BOUGHT, 80, 7, in_colour=True).endswith("\x1b[32mbuy 0.001 BTC  filled at 65,000  33 ms\x1b[0m")


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_long_event_goes_on_below_its_text(columns: int) -> None:
    """No line is wider than the terminal, no word is cut, and the text stays in its column."""
    first, *more = format_line(line(), columns, 9, in_colour=False).splitlines()
    assert max(map(len, (first, *more))) <= columns
    assert all(text.startswith(" " * 21) and text[21] != " " for text in more)
    assert " ".join((first, *more)).count("too large") + sum(text.endswith("too") for text in (first, *more)) >= 19


def test_hostile_names_and_texts_stay_on_the_line() -> None:
    """What comes from outside cannot move the cursor, colour the screen or begin a line."""
    text = format_line(line(webhook="a\x1b[2J", what="x\r\n\x1b]0;y\x07"), 80, 7, in_colour=False)
    assert "\x1b" not in text
    assert "\r" not in text
    assert text.count("\n") == 0


def test_no_colours_where_they_are_not_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_COLOR and a dumb terminal get plain text; names are aligned with the longest one so far."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    show = event_printer()
    show([BOUGHT])
    assert "\x1b[32m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    show([line(webhook="btc-trend", what="denied: no"), BOUGHT])
    shown = capsys.readouterr().out.splitlines()
    assert "\x1b" not in "".join(shown)
    assert [re.search(r"buy", text).start() for text in shown] == [21, 21]  # type: ignore[union-attr]
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    show([BOUGHT])
    assert "\x1b" not in capsys.readouterr().out
    sys.stdout.flush()
