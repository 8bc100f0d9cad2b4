"""Bounds of the JSON parser: nesting, size, text."""

from __future__ import annotations

import sys

import pytest

from kekbridge.alerts.json_reader import read_document
from kekbridge.errors import Unreadable


def test_deep_nesting_is_refused_under_a_raised_recursion_limit() -> None:
    """It is refused before parsing: with a high recursion limit 65,000 brackets would crash the process."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        with pytest.raises(Unreadable) as caught:
            read_document(b"[" * 65_000)
    finally:
        sys.setrecursionlimit(limit)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("inner", ["1", '"x"', "[[[[[[[[[", ""])
def test_a_message_has_at_most_eleven_levels_around_a_value(inner: str) -> None:
    """Brackets inside texts do not count."""
    value = f'"{inner}"' if inner.startswith("[") else inner
    depth = 11 if value else 12  # the innermost may be empty
    read_document(f"{'[' * depth}{value}{']' * depth}".encode())
    with pytest.raises(Unreadable, match="nested too deeply"):
        read_document(f"{'[' * (depth + 1)}{value}{']' * (depth + 1)}".encode())


@pytest.mark.parametrize("body", ['{"a":"\\ud800"}', '{"\\udfff":1}', '[{"a":["x\\ud83d"]}]'])
def test_a_lone_surrogate_is_refused(body: str) -> None:
    """Only an escape can contain one: the body itself is UTF-8. A surrogate pair is a character."""
    with pytest.raises(Unreadable) as caught:
        read_document(body.encode())
    assert caught.value.code == "invalid_encoding"
    assert read_document(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}


@pytest.mark.parametrize("unit", ['"",', "1,", '"a",', '{"a":1},{"a":2,"b":3,"c":4},'])
def test_thousands_of_values_are_refused_before_parsing(unit: str) -> None:
    """Many small values are the costliest 64 KiB: more than 4,000 commas are refused before parsing."""
    whole = '{"x":[' + unit * (60_000 // len(unit)) + "1]}"
    with pytest.raises(Unreadable, match="commas") as caught:
        read_document(whole.encode())
    assert caught.value.code == "invalid_json"
    assert len(read_document(b'{"x":[' + b"1," * 4000 + b"1]}")["x"]) == 4001  # type: ignore[call-overload]


def test_a_long_field_name_is_refused() -> None:
    """The message shows the beginning of the name, with control characters escaped."""
    with pytest.raises(Unreadable, match="65,000 characters") as caught:
        read_document(b'{"\\u001b[2J' + b"q" * 64_996 + b'":1}')
    assert len(caught.value.message) < 200
    assert "\x1b" not in caught.value.message


def test_an_object_with_too_many_fields_is_refused() -> None:
    """Each field costs time on the event loop, and no alert has that many."""
    body = "{" + ",".join(f'"k{number}":1' for number in range(257)) + "}"
    with pytest.raises(Unreadable, match="257 fields"):
        read_document(body.encode())
