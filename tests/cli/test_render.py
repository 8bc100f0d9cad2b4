"""What reaches the screen: never a control character or markup from outside, exact numbers, short words for times."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.cli import render
from kekbridge.model import Mode

NOW = datetime(2026, 11, 22, 16, 8, 6, tzinfo=UTC)
# What an alert could carry to fool whoever reads the log: clear the screen, rename the window, hide or reverse text, fake a line.
HOSTILE = "\x1b[2J\x1b]0;pwned\x07[/][bold]buy[/bold]\u202egnol\u200b\u2066\x9b31m\r\nfake line\ud800"


def is_unsafe(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_nothing_unsafe_survives(text: str) -> None:
    """Whatever comes from outside: no control, direction, invisible or line-breaking character is printed."""
    assert not any(is_unsafe(character) for character in render.to_text(text))


@given(st.text(st.characters(exclude_categories=("C", "Z"))))
def test_ordinary_text_is_untouched(text: str) -> None:
    """Printable text of any script is printed as it is."""
    assert render.to_text(text) == (text or "-")


def test_markup_is_text_in_every_place(capsys: pytest.CaptureFixture[str]) -> None:
    """`[/]` in an alert is neither an error nor a style, `[bold]` not swallowed: in tables, pairs, headings and log lines."""
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
    """Scripts get the value itself; a terminal that shows the JSON gets no control character."""
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


@dataclass(frozen=True, slots=True)
class Sample:
    max_order_size: Decimal
    created_at: datetime
    mode: Mode
    free_names: dict[str, Decimal]
    missing: None = None


def test_json_of_our_values() -> None:
    """Fields in camelCase, decimals and times as text, keys of mappings as they are."""
    at = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=timezone(timedelta(hours=2)))
    sample = Sample(Decimal("1E-7"), at, Mode.PAPER, {"stop_loss": Decimal("1E+3")})
    assert render.to_jsonable([sample]) == [
        {
            "maxOrderSize": "0.0000001",
            "createdAt": "2026-01-02T01:04:05.678Z",
            "mode": "paper",
            "freeNames": {"stop_loss": "1000"},
            "missing": None,
        }
    ]


@given(st.decimals(allow_nan=False, allow_infinity=False, places=8, min_value=-(10**12), max_value=10**12))
def test_amounts_keep_their_value(value: Decimal) -> None:
    """An amount on the screen is the amount: plain notation, only idle zeros dropped."""
    text = render.amount(value)
    assert Decimal(text) == value
    assert "E" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0124, "12 ms"),
        (4.23, "4.2 s"),
        (59, "59 s"),
        (185, "3 min 5 s"),
        (120, "2 min"),
        (7800, "2 h 10 min"),
        (277_200, "3 d 5 h"),
        (timedelta(days=2), "2 d"),
    ],
)
def test_durations_in_two_units(seconds: float, text: str) -> None:
    """Short enough to read, exact enough to act on."""
    assert render.duration(seconds) == text


def test_ages_and_clock() -> None:
    """How long ago; a clock that is ahead is not hidden; the date only where it is needed."""
    assert render.age(NOW - timedelta(seconds=3), NOW) == "3.0 s ago"
    assert render.age(NOW + timedelta(minutes=5), NOW) == "in 5 min"
    assert render.clock(NOW, NOW) == "16:08:06"
    assert render.clock(NOW - timedelta(days=1), NOW) == "11-21 16:08"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        ((), "-"),
        ({}, "-"),
        (True, "yes"),
        (("a", Decimal("1.50")), "a, 1.5"),
        ({"k": 1}, "k=1"),
    ],
)
def test_plain_words(value: object, text: str) -> None:
    """Nothing is a dash, switches are words, lists are commas."""
    assert render.to_text(value) == text


@pytest.mark.parametrize(
    ("symbol", "name"),
    [("PERP_BTC_USDC", "BTC"), ("BTCUSDT.P", "BTCUSDT.P"), (None, "-"), ("PERP_1000PEPE_USDC", "1000PEPE")],
)
def test_market_names(symbol: str | None, name: str) -> None:
    """Markets by their base, unknown spellings as they came."""
    assert render.market(symbol) == name
