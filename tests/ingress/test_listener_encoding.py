"""Answers are JSON with every digit of an amount as it is."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.ingress.listener import to_json
from kekbridge.model import OrderStatus


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal("65000.10"), "65000.10"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1E-8"), "0.00000001"),
        (Decimal("-0.5"), "-0.5"),
        (Decimal("9007199254740993.1"), "9007199254740993.1"),
        (OrderStatus.FILLED, '"filled"'),
        (True, "true"),
        (None, "null"),
        (1768473005123, "1768473005123"),
    ],
)
def test_scalars(value: object, expected: str) -> None:
    """Decimals are plain numbers without float noise or exponents, enums their values."""
    assert to_json({"value": value}) == f'{{"value":{expected}}}'


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("Infinity"), float("nan")])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    """NaN in an answer would break the sender's parser."""
    with pytest.raises(ValueError):
        to_json([value])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.decimals(allow_nan=False, allow_infinity=False, places=8, min_value=-(10**12), max_value=10**12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_everything_reads_back(value: object) -> None:
    """Standard JSON, ASCII only, same value; amounts exactly."""

    def exact(item: object) -> object:
        if isinstance(item, int) and not isinstance(item, bool):
            return Decimal(item)
        if isinstance(item, list):
            return [exact(inner) for inner in item]
        if isinstance(item, dict):
            return {key: exact(inner) for key, inner in item.items()}
        return item

    text = to_json(value)
    assert text.isascii()
    assert json.loads(text, parse_float=Decimal, parse_int=Decimal) == exact(value)
