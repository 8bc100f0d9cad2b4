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


@pytest.mark.parametrize("name", ["live", "testnet"])
@pytest.mark.parametrize(
    ("urls", "field"),
    [
        (("http://api.orderly.org", "", ""), "exchange.base_url"),
        (("http://127.0.0.1.example.com", "", ""), "exchange.base_url"),
        (("https://api.orderly.org", "ws://api.orderly.org/ws", ""), "exchange.ws_public_url"),
        (("", "", "ws://10.0.0.1/ws"), "exchange.ws_private_url"),
    ],
)
def test_money_is_never_moved_unencrypted(name: str, urls: tuple[str, str, str], field: str) -> None:
    """Anyone on the way could read the account and, with a changed price, make the bridge trade at a loss."""
    with pytest.raises(errors.ConfigError, match="only encrypted") as caught:
        resolve_urls(name, *urls)
    assert caught.value.field == field


@pytest.mark.parametrize("host", ["127.0.0.1:8090", "localhost:8090", "[::1]:8090"])
def test_unencrypted_is_allowed_on_this_machine(host: str) -> None:
    """A tunnel or a paper exchange on loopback; and everywhere in mode paper, where nothing is at stake."""
    assert resolve_urls("live", f"http://{host}", "", "").ws_private.startswith(f"ws://{host}/")
    assert resolve_urls("paper", "http://exchange.example:8090", "", "").rest == "http://exchange.example:8090"


@pytest.mark.parametrize("url", ["https://stream.example", "stream.example", "ftp://x"])
def test_a_stream_of_another_kind_is_an_error(url: str) -> None:
    """It names the setting."""
    with pytest.raises(errors.ConfigError, match="wss://") as caught:
        resolve_urls("testnet", "", url, "")
    assert caught.value.field == "exchange.ws_public_url"
