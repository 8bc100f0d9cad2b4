"""Formatted values, safe text, redacted secrets, JSON, used fractions of limits."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.formatting import (
    age,
    amount,
    clip_words,
    clock,
    duration,
    escape_unprintable,
    market,
    money,
    nearest,
    redact_credentials,
    redact_secrets,
    rounded,
    sanitize,
    to_jsonable,
    to_text,
    used_share,
)
from kekbridge.model import Mark, Mode, StrategyHistory

NOW = datetime(2026, 11, 22, 16, 8, 6, tzinfo=UTC)


def is_unsafe(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("301.8400000000000000000000005", "301.84"),
        ("-1234567.891", "-1,234,567.891"),
        ("0.00000000499", "0"),
        ("-0.000000001", "0"),
        ("1E+3", "1,000"),
    ],
)
def test_money_is_rounded_for_reading(value: str, text: str) -> None:
    """At most eight decimals, thousands separators, no trailing zeros, no negative zero."""
    assert money(Decimal(value)) == text
    assert money(None) == "-"


@pytest.mark.parametrize(
    ("typed", "near"),
    [("eht", "ETH"), ("BTX", "BTC"), ("SLO", "SOL"), ("ETHH", "ETH"), ("FTE", "FET"), ("ZZZZ", None), ("", None)],
)
def test_the_nearest_name(typed: str, near: str | None) -> None:
    """Two neighbouring letters in the wrong order are nearer than any other mistake: `eht` is ETH, not FET."""
    assert nearest(typed, ["FET", "HYPE", "ETH", "BTC", "SOL"]) == ([] if near is None else [near])


@pytest.mark.parametrize(
    ("value", "shown"), [("486.5500000000000000000000005", "486.55"), ("-3E-9", "0"), ("1E+3", "1000")]
)
def test_computed_amounts_have_at_most_eight_decimals(value: str, shown: str) -> None:
    """Half of a product's digits say nothing."""
    assert (amount(rounded(Decimal(value))), rounded(None)) == (shown, None)


@pytest.mark.parametrize(
    ("used", "limit", "share"),
    [
        ("1,500.00 USDC", "20,000.00 USDC", "0.075"),
        ("0.57x", "10x", "0.057"),
        ("4 and 1 exits", "1,000", "0.004"),
        ("closed", "Mon-Fri", None),
        ("1", "0", None),
        ("", "5", None),
    ],
)
def test_used_share_of_a_limit(used: str, limit: str, share: str | None) -> None:
    """From the leading numbers; None if there are none."""
    assert used_share(used, limit) == (None if share is None else Decimal(share))


@pytest.mark.parametrize(
    ("text", "longest", "shown"),
    [
        ("read up to 10:30", 16, "read up to 10:30"),
        ("read up to 10:30 UTC", 16, "read up to…"),
        ("read up to 10:30 UTC", 17, "read up to 10:30…"),
        ("lost: BTC, ETH, SOL", 13, "lost: BTC…"),
        ("x" * 30, 10, "x" * 9 + "…"),
        ("no " + "x" * 30, 10, "no " + "x" * 6 + "…"),
    ],
)
def test_a_sentence_is_cut_between_words(text: str, longest: int, shown: str) -> None:
    """Half a date or amount reads as another one; a word without an end is cut all the same, and the cut is visible."""
    assert clip_words(text, longest) == shown


@given(st.text(), st.integers(min_value=2, max_value=30))
def test_a_cut_text_is_within_its_limit(text: str, longest: int) -> None:
    """For any text."""
    assert len(clip_words(text, longest)) <= longest


def test_escaping_leaves_ordinary_text_alone() -> None:
    """Letters of any script, accents and symbols stay; control characters become escapes."""
    assert escape_unprintable("größer ≥ 5 % 日本 ✓") == "größer ≥ 5 % 日本 ✓"
    assert escape_unprintable("a\x1b]0;title\x07\n") == r"a\x1b]0;title\x07\x0a"


def test_sanitized_text_is_one_printable_line() -> None:
    """Whitespace of any kind becomes a space; control, direction and invisible characters are removed."""
    assert sanitize("a\r\nb\tc\u00a0d \x1b[2J\u202e\u200b\ud800e") == "a b c d [2Je"
    assert sanitize("größer ≥ 5 % 日本 ✓") == "größer ≥ 5 % 日本 ✓"


@pytest.mark.parametrize(
    ("text", "shortened"),
    [
        ("key wh_live_0123456789abcdef!", "key wh_live_0123…!"),
        ("xwhs_0123456789abcdef", "xwhs_…"),
        ("ed25519:0123456789abcdef", "ed25519:…"),
    ],
)
def test_credentials_are_shortened_to_their_kind(text: str, shortened: str) -> None:
    """By the same patterns in messages and in the log; a shortened one stays as it is."""
    assert redact_credentials(text) == redact_secrets(text) == shortened
    assert redact_credentials(shortened) == redact_secrets(shortened) == shortened


def test_bare_keys_are_redacted_in_the_log_only() -> None:
    """An alert's own ids may look like a key without prefix and stay readable in its stored copy."""
    key = "3yZe7d9sT4L1f8qWmKp2xVbNcRgHjUe5oAiD6QwXzYt"
    assert redact_credentials(key) == key
    assert redact_secrets(f"key {key}") == "key [redacted]"


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_nothing_unsafe_survives(text: str) -> None:
    """No control, direction, invisible or line-breaking character of any text is printed."""
    assert not any(is_unsafe(character) for character in to_text(text))


@given(st.text(st.characters(exclude_categories=("C", "Z"))))
def test_ordinary_text_is_untouched(text: str) -> None:
    """Printable text of any script is printed as it is."""
    assert to_text(text) == (text or "-")


@dataclass(frozen=True, slots=True)
class Sample:
    max_order_size: Decimal
    created_at: datetime
    mode: Mode
    free_names: dict[str, Decimal]
    missing: None = None


def test_json_of_domain_values() -> None:
    """Fields in camelCase, decimals and times as text, keys of mappings as they are."""
    at = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=timezone(timedelta(hours=2)))
    sample = Sample(Decimal("1E-7"), at, Mode.PAPER, {"stop_loss": Decimal("1E+3")})
    assert to_jsonable([sample]) == [
        {
            "maxOrderSize": "0.0000001",
            "createdAt": "2026-01-02T01:04:05.678Z",
            "mode": "paper",
            "freeNames": {"stop_loss": "1000"},
            "missing": None,
        }
    ]


def test_structs_as_json() -> None:
    """A Struct is an object like a dataclass: camelCase names, amounts as plain text."""
    mark = Mark(price=Decimal("1E-8"), at=NOW)
    assert to_jsonable({"mark": mark}) == {"mark": {"price": "0.00000001", "at": "2026-11-22T16:08:06.000Z"}}
    assert to_jsonable(StrategyHistory(start=None, steps=())) == {"start": None, "steps": []}


@given(st.decimals(allow_nan=False, allow_infinity=False, places=8, min_value=-(10**12), max_value=10**12))
def test_amounts_keep_their_value(value: Decimal) -> None:
    """An amount on the screen is the amount: plain notation, without trailing zeros."""
    text = amount(value)
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
    """At most two units."""
    assert duration(seconds) == text


def test_ages_and_clock() -> None:
    """Ages in the past and in the future; the clock shows a date only for other days."""
    assert age(NOW - timedelta(seconds=3), NOW) == "3.0 s ago"
    assert age(NOW + timedelta(minutes=5), NOW) == "in 5 min"
    assert clock(NOW, NOW) == "16:08:06"
    assert clock(NOW - timedelta(days=1), NOW) == "11-21 16:08"


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
def test_values_as_text(value: object, text: str) -> None:
    """An empty value is a dash, booleans are yes and no, lists are comma-separated."""
    assert to_text(value) == text


@pytest.mark.parametrize(
    ("symbol", "name"),
    [("PERP_BTC_USDC", "BTC"), ("BTCUSDT.P", "BTCUSDT.P"), (None, "-"), ("PERP_1000PEPE_USDC", "1000PEPE")],
)
def test_market_names(symbol: str | None, name: str) -> None:
    """A market is shown by its base; unknown symbols stay as they are."""
    assert market(symbol) == name
