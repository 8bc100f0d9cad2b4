"""Formatted amounts, used fractions of limits, hostile text and secrets."""

from __future__ import annotations

from decimal import Decimal

import pytest

from kekbridge.formatting import escape_unprintable, money, redact_credentials, redact_secrets, sanitize, used_share


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
