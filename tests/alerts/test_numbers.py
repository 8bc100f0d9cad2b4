"""Parsing numbers: exact, strict, bounded."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.alerts.numbers import NumberText, parse_amount, parse_decimal
from kekbridge.alerts.signal import Amount


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "0.01",
        "1250.5",
        "5.",
        "00.10",
        "1800.8000000000002",
        "1e-05",
        "1E+3",
        "2.5e-10",
        "-0.5",
        "0.00045",
        "9" * 40,
    ],
)
def test_plain_numbers_are_exact(text: str) -> None:
    """The Decimal has exactly the digits of the text."""
    assert parse_decimal(text) == Decimal(text)
    assert parse_decimal(NumberText(text)) == Decimal(text)


@pytest.mark.parametrize(
    "value",
    [
        "", " ", " 1", "1 ", "+1", ".5", "1,250.5", "1_000", "$5", "5$", "1.2.3", "١٢", "１２", "²", "½", "NaN", "nan",
        "Infinity", "-inf", "1e400", "1e-400", "1e13", "1e", "e5", "0x10", "1e5.5", "--1", "1%", "9" * 41,
        "0." + "0" * 41, "null", "na", "true", "1\n", "1\x00", True, False, None, [], {}, ["1"], 1, 1.5,
    ],
    ids=lambda value: f"{type(value).__name__} {value!r}"[:40],
)  # fmt: skip
def test_anything_else_is_not_a_number(value: object) -> None:
    """Nothing is repaired; huge exponents and booleans are not numbers (docs/internals/reliability.md section 8.5)."""
    assert parse_decimal(value) is None


def test_percent() -> None:
    """One percent sign directly after the number."""
    assert parse_amount("2%") == Amount(Decimal(2), is_percent=True)
    assert parse_amount("2") == Amount(Decimal(2))
    for text in ("2 %", "%", "2%%", "%2", "1,5%"):
        assert parse_amount(text) is None


@given(st.decimals(allow_nan=False, allow_infinity=False, places=12, min_value=-(10**20), max_value=10**20))
def test_every_written_decimal_is_read_back(number: Decimal) -> None:
    """Round trip of every decimal written without exponent."""
    assert parse_decimal(f"{number:f}") == number


@given(st.text())
def test_any_text_is_a_finite_number_or_none(text: str) -> None:
    """An accepted text is finite, bounded and ASCII."""
    number = parse_decimal(text)
    if number is not None:
        assert number.is_finite()
        assert abs(number) < Decimal(10) ** 53
        assert text.isascii()
