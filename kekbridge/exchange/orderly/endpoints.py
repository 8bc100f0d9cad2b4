"""Where the venues are: Orderly's published addresses, and how a given address leads to its streams. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from kekbridge import errors


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a venue listens; the stream addresses are without the account id."""

    rest: str
    ws_public: str
    ws_private: str


ADDRESSES: Final = {
    "testnet": Addresses(
        "https://testnet-api.orderly.org",
        "wss://testnet-ws-evm.orderly.org/ws/stream",
        "wss://testnet-ws-private-evm.orderly.org/v2/ws/private/stream",
    ),
    "live": Addresses(
        "https://api.orderly.org",
        "wss://ws-evm.orderly.org/ws/stream",
        "wss://ws-private-evm.orderly.org/v2/ws/private/stream",
    ),
}
"""Orderly's published addresses (docs/internals/orderly.md section 1); the paper exchange tells its own."""


def addresses_of(name: str, base_url: str, ws_public_url: str, ws_private_url: str) -> Addresses:
    """The addresses to use: what is given, else the published ones of `name`, else the streams on the REST address's own port."""
    known = ADDRESSES.get(name)
    rest = (base_url or (known.rest if known else "")).rstrip("/")
    parts = urlsplit(rest)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise errors.ConfigError(
            f"exchange.base_url is {rest!r}, expected an address like https://api.orderly.org",
            field="exchange.base_url",
        )
    published = next((one for one in ADDRESSES.values() if one.rest == rest), None)
    socket = f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.netloc}"
    return Addresses(
        rest,
        (ws_public_url or (published.ws_public if published else f"{socket}/ws/stream")).rstrip("/"),
        (ws_private_url or (published.ws_private if published else f"{socket}/v2/ws/private/stream")).rstrip("/"),
    )
