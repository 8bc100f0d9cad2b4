"""Base URLs and the stream URLs that belong to them."""

from __future__ import annotations

import pytest

from kekbridge import errors
from kekbridge.exchange.orderly.endpoints import PUBLISHED, resolve_urls


@pytest.mark.parametrize(
    ("name", "base_url", "rest", "private"),
    [
        ("live", "", PUBLISHED["live"].rest, PUBLISHED["live"].ws_private),
        ("testnet", "", PUBLISHED["testnet"].rest, PUBLISHED["testnet"].ws_private),
        ("live", "https://testnet-api.orderly.org/", PUBLISHED["testnet"].rest, PUBLISHED["testnet"].ws_private),
        ("paper", "http://127.0.0.1:8090", "http://127.0.0.1:8090", "ws://127.0.0.1:8090/v2/ws/private/stream"),
        ("live", "https://proxy.example", "https://proxy.example", "wss://proxy.example/v2/ws/private/stream"),
    ],
)
def test_resolve_urls(name: str, base_url: str, rest: str, private: str) -> None:
    """Published URLs by name; any other base URL has the streams on its own host."""
    found = resolve_urls(name, base_url, "", "")
    assert (found.rest, found.ws_private) == (rest, private)


@pytest.mark.parametrize("base_url", ["", "127.0.0.1:8090", "ftp://x"])
def test_invalid_base_url(base_url: str) -> None:
    """A missing or malformed URL is a ConfigError that names the setting."""
    with pytest.raises(errors.ConfigError) as caught:
        resolve_urls("paper", base_url, "", "")
    assert caught.value.field == "exchange.base_url"
