"""Base URLs of Orderly's networks, and the stream URLs that belong to a given base URL. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from kekbridge import errors
from kekbridge.connections.hosts import is_loopback


@dataclass(frozen=True, slots=True)
class BaseUrls:
    """Where one network is reached; no trailing slashes."""

    #: REST, without `/v1`.
    rest: str
    #: Public stream, without the account id.
    ws_public: str
    #: Private stream, without the account id.
    ws_private: str


# docs/internals/orderly.md section 1. The paper exchange has no fixed address.
PUBLISHED: Final = {
    "testnet": BaseUrls(
        "https://testnet-api.orderly.org",
        "wss://testnet-ws-evm.orderly.org/ws/stream",
        "wss://testnet-ws-private-evm.orderly.org/v2/ws/private/stream",
    ),
    "live": BaseUrls(
        "https://api.orderly.org",
        "wss://ws-evm.orderly.org/ws/stream",
        "wss://ws-private-evm.orderly.org/v2/ws/private/stream",
    ),
}


def resolve_urls(name: str, base_url: str, ws_public_url: str, ws_private_url: str) -> BaseUrls:
    """Each URL as given, else as published: REST by `name`, streams by the REST URL, else the streams on the REST URL's host and port.

    Empty means not given. Raises ConfigError for a URL that is missing or of another kind, and for an unencrypted one to another machine
    where orders cost money or the key is worth something: everything but paper.
    """
    known = PUBLISHED.get(name)
    rest = (base_url or (known.rest if known else "")).rstrip("/")
    parts = urlsplit(rest)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise errors.ConfigError(
            f"exchange.base_url is {rest!r}, expected an address like https://api.orderly.org",
            field="exchange.base_url",
        )
    published = next((urls for urls in PUBLISHED.values() if urls.rest == rest), None)
    socket = f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.netloc}"
    found = BaseUrls(
        rest,
        (ws_public_url or (published.ws_public if published else f"{socket}/ws/stream")).rstrip("/"),
        (ws_private_url or (published.ws_private if published else f"{socket}/v2/ws/private/stream")).rstrip("/"),
    )
    for setting, url in (("ws_public_url", found.ws_public), ("ws_private_url", found.ws_private)):
        if urlsplit(url).scheme not in ("ws", "wss"):
            raise errors.ConfigError(
                f"exchange.{setting} is {url!r}, expected an address that begins with wss://",
                field=f"exchange.{setting}",
            )
    if name != "paper":
        for setting, url in (
            ("base_url", found.rest),
            ("ws_public_url", found.ws_public),
            ("ws_private_url", found.ws_private),
        ):
            _check_encrypted(setting, url, name)
    return found


def _check_encrypted(setting: str, url: str, name: str) -> None:
    parts = urlsplit(url)
    if parts.scheme in ("http", "ws") and not is_loopback(parts.hostname):
        raise errors.ConfigError(
            f"exchange.{setting} is {url!r}: mode {name} sends orders and signatures only encrypted, or to this machine;"
            f" write {parts.scheme}s:// instead of {parts.scheme}://",
            field=f"exchange.{setting}",
        )
