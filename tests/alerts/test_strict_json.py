"""Strict JSON: what may not even reach the parser."""

from __future__ import annotations

import sys

import pytest

from kekbridge.alerts.strict_json import read_document
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


def test_a_message_of_thousands_of_fields_is_refused() -> None:
    """Each field costs time on the loop that serves everybody: far more than any alert has is no alert."""
    body = "{" + ",".join(f'"k{number}":1' for number in range(257)) + "}"
    with pytest.raises(Unreadable, match="257 fields"):
        read_document(body.encode())
