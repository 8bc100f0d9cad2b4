"""Bodies of replies: exact numbers, and nothing that a body contains raises."""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.exchange.orderly.replies import read_object, read_reply
from tests.exchange.orderly.json_text import to_json

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.text(alphabet=st.characters(exclude_categories=["Cs"]))
    | st.decimals(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet="ab_\u00e9", max_size=4), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.text(alphabet="abc", max_size=3), values))
def test_numbers_are_exact(body: dict[str, Any]) -> None:
    """Every number keeps its digits: integers are int, others Decimal; texts are as written."""
    text = to_json(body)
    expected = json.loads(text, parse_float=Decimal)
    for given_text in (text, text.encode()):
        found = read_object(given_text)
        assert found == expected
        assert repr(found) == repr(expected)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[1]",
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e9999999999999999999}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"\x01"}',
        b'{"a":"\xff"}',
        b'{"a":1}}',
        b"{'a':1}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_json_object_is_no_reply(body: bytes) -> None:
    """A body that is not a JSON object, or has numbers without a value, is no reply; it never raises."""
    assert read_object(body) is None
    assert not read_reply(200, body).is_json


def test_deep_nesting_is_safe_at_any_recursion_limit() -> None:
    """Some libraries raise the recursion limit; as many levels as are read then still fit the stack, more are refused."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        assert read_object('{"a":' + "[" * 7_000 + "]" * 7_000 + "}") is not None
        assert read_object('{"a":' + "[" * 9_000 + "]" * 9_000 + "}") is None
    finally:
        sys.setrecursionlimit(limit)
