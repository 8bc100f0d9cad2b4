"""Strict JSON: what may not even reach the parser."""

from __future__ import annotations

import sys

import pytest

from kekbridge.alerts.json_reader import read_document
from kekbridge.errors import Unreadable


def test_a_raised_recursion_limit_does_not_let_nesting_through() -> None:
    """Nesting is refused before the parser sees it: under a high recursion limit 65,000 brackets would end the process."""
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
    """However few brackets it takes, and whatever else of them stands in texts."""
    value = f'"{inner}"' if inner.startswith("[") else inner
    most = 11 if value else 12  # the innermost may be empty
    read_document(f"{'[' * most}{value}{']' * most}".encode())
    with pytest.raises(Unreadable, match="nested too deeply"):
        read_document(f"{'[' * (most + 1)}{value}{']' * (most + 1)}".encode())


@pytest.mark.parametrize("body", ['{"a":"\\ud800"}', '{"\\udfff":1}', '[{"a":["x\\ud83d"]}]'])
def test_half_a_character_is_no_text(body: str) -> None:
    """Only an escape can write one: the body itself is UTF-8. Both halves together are a character."""
    with pytest.raises(Unreadable) as caught:
        read_document(body.encode())
    assert caught.value.code == "invalid_encoding"
    assert read_document(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}


@pytest.mark.parametrize("unit", ['"",', "1,", '"a",', '{"a":1},{"a":2,"b":3,"c":4},'])
def test_a_message_of_thousands_of_values_never_reaches_the_parser(unit: str) -> None:
    """The costliest 64 KiB are many small values: they are refused by their commas, whatever they are; 4,000 of them pass."""
    whole = '{"x":[' + unit * (60_000 // len(unit)) + "1]}"
    with pytest.raises(Unreadable, match="commas") as caught:
        read_document(whole.encode())
    assert caught.value.code == "invalid_json"
    assert len(read_document(b'{"x":[' + b"1," * 4000 + b"1]}")["x"]) == 4001  # type: ignore[call-overload]


def test_a_field_with_an_endless_name_is_refused() -> None:
    """The name is told by its beginning, without what a terminal would act on."""
    with pytest.raises(Unreadable, match="65,000 characters") as caught:
        read_document(b'{"\\u001b[2J' + b"q" * 64_996 + b'":1}')
    assert len(caught.value.message) < 200
    assert "\x1b" not in caught.value.message


def test_a_message_of_thousands_of_fields_is_refused() -> None:
    """Each field costs time on the loop that serves everybody: far more than any alert has is no alert."""
    body = "{" + ",".join(f'"k{number}":1' for number in range(257)) + "}"
    with pytest.raises(Unreadable, match="257 fields"):
        read_document(body.encode())
