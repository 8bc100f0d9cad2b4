"""JSON encoding and decoding, and parsing of client input."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.paper import codec

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.decimals(allow_nan=False, allow_infinity=False, places=12),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_encoding_is_exact_json(value: object) -> None:
    """Encoded JSON reads back as the same value, Decimals to the last digit."""
    text = codec.encode(value)
    assert json.loads(text, parse_float=Decimal) == value


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12))
def test_format_decimal_is_exact_without_exponent(value: Decimal) -> None:
    """format_decimal has no exponent, no trailing zeros and keeps every digit."""
    text = codec.format_decimal(value)
    assert "e" not in text.lower()
    assert Decimal(text) == value
    assert not ("." in text and text.endswith("0"))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [(1, 1), ("1", 1), ("1e-05", "0.00001"), (Decimal("1E-5"), "0.00001"), (" 2.50 ", "2.5"), (None, None), ("", None)],
    ids=range(7),
)
def test_numbers_as_clients_send_them(raw: object, expected: object) -> None:
    """JSON numbers, numbers as text and exponents are accepted; None and "" mean not given."""
    assert codec.parse_number(raw, "x") == (None if expected is None else Decimal(str(expected)))


@pytest.mark.parametrize(
    "raw", [True, "abc", "NaN", "Infinity", "1e400", "1_000", [1], {}, "9" * 65, "١"], ids=range(10)
)
def test_invalid_numbers_are_rejected(raw: object) -> None:
    """Anything that is not a finite number of ordinary size is rejected with -1005."""
    with pytest.raises(codec.ApiError) as caught:
        codec.parse_number(raw, "x")
    assert caught.value.code == -1005


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"a":NaN}', b"\xff", b"[" * 100_000, b'"x"'], ids=range(6))
def test_invalid_bodies_are_rejected(body: bytes) -> None:
    """A body that is not a JSON object is rejected with an ApiError."""
    with pytest.raises(codec.ApiError):
        codec.decode_object(body)
