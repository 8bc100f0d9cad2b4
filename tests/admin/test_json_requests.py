"""Strict JSON bodies: nothing is repaired, and every number keeps its digits."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kekbridge.admin.json_requests import parse_json, refusal
from kekbridge.alerts.numbers import NumberText
from kekbridge.errors import ConfigError, Unreadable

_TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=5)
_VALUES = st.none() | st.booleans() | _TEXTS | st.integers() | st.lists(st.integers(), max_size=2)


@settings(max_examples=50)
@given(st.dictionaries(_TEXTS, _VALUES, max_size=3))
def test_what_a_serializer_writes_is_read(document: dict[str, Any]) -> None:
    """Every JSON object of a usual serializer is read as it is, numbers as the text of their digits."""
    read = parse_json(json.dumps(document).encode())
    assert read == json.loads(json.dumps(document), parse_int=NumberText)


@given(st.binary(max_size=200))
def test_no_body_raises_anything_else(body: bytes) -> None:
    """Arbitrary bytes are an object or Unreadable, never another exception."""
    with suppress(Unreadable):
        assert isinstance(parse_json(body), dict)


def test_the_place_of_an_error_is_named() -> None:
    """Line and column of a syntax error; the name that occurs twice."""
    with pytest.raises(Unreadable, match="line 2, column 1"):
        parse_json(b'{"a":1,\n}')
    with pytest.raises(Unreadable, match="'a' occurs twice") as caught:
        parse_json(b'{"a":1,"a":2}')
    assert caught.value.field == "a"


@pytest.mark.parametrize(
    ("text", "status", "code", "field"),
    [("size: found 1", 422, "field_invalid", "size"), ("no account is known", 409, "not_possible", None)],
)
def test_an_operators_error_has_a_code(text: str, status: int, code: str, field: str | None) -> None:
    """One that begins with a field's name is about this field; any other is `not_possible`."""
    answer = refusal(ConfigError(text))
    assert answer.text is not None
    body = json.loads(answer.text)
    assert (answer.status, body["code"], body["field"]) == (status, code, field)
