"""Names and addresses of this machine, and requests that pages in its browser send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.connections.hosts import is_foreign_origin, is_loopback, is_our_name


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *(
            (host, True)
            for host in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "::ffff:127.0.0.1", "localhost", "LOCALHOST")
        ),
        *((host, False) for host in ("", None, "10.0.0.1", "::", "::ffff:10.0.0.1", "localhost.example", "fe80::1%lo")),
    ],
)
def test_loopback(host: str | None, expected: bool) -> None:
    """An address that is not this machine's never counts, however it is written."""
    assert is_loopback(host) is expected


def test_our_names() -> None:
    """Host headers of this machine; a foreign name that resolves to it is none."""
    assert all(map(is_our_name, ("127.0.0.1:8081", "localhost", "[::1]:9", "LOCALHOST:1")))
    assert not any(map(is_our_name, ("", "evil.example", "127.0.0.1.evil.example", "10.0.0.1:80", "[::", "0.0.0.0")))  # noqa: S104


@pytest.mark.parametrize(
    ("origin", "foreign"),
    [
        (None, False),
        ("http://127.0.0.1:8081", False),
        ("http://127.0.0.1:8082", True),
        ("http://evil.example", True),
        ("null", True),
        ("", True),
        ("http://[::", True),
    ],
)
def test_origins(origin: str | None, foreign: bool) -> None:
    """Only this listener's own pages, or what is no browser and sends none."""
    assert is_foreign_origin(origin, "127.0.0.1:8081") is foreign


@given(st.text(), st.text())
def test_no_text_raises(first: str, second: str) -> None:
    """Headers are whatever a peer sends."""
    assert is_our_name(first) in (True, False)
    assert is_foreign_origin(first, second) in (True, False)
    assert is_loopback(first) in (True, False)
