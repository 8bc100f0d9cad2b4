"""Who may use the admin listener: the holder of the token, from this machine, by a name of this machine.

The token is a file in the data directory that only its owner can read. Browsers get a session cookie for it, and a second secret in each
form, so that another page that the same browser shows can neither read nor change anything.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from kekbridge.errors import ConfigError

TOKEN_FILE: Final = "admin-token"  # noqa: S105 - a file's name
COOKIE: Final = "kekbridge-session"
_SESSION_LIFE: Final = timedelta(hours=12)
_MOST_SESSIONS: Final = 64


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that has shown the token; `form_key` must come back with every form."""

    form_key: str
    ends_at: datetime


SESSION: Final = web.RequestKey("session", Session)


def read_token(data_dir: Path) -> str | None:
    """The token of this data directory; None before the first start."""
    try:
        return (data_dir / TOKEN_FILE).read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None


def make_token(data_dir: Path) -> str:
    """The token of this data directory, made when there is none. Raises ConfigError when the file cannot be used."""
    try:
        known = read_token(data_dir)
        if known is not None:
            return known
        token = secrets.token_urlsafe(32)
        file = os.open(data_dir / TOKEN_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(file, "w", encoding="ascii") as opened:
            opened.write(token + "\n")
        return token
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{data_dir / TOKEN_FILE} cannot be used ({error.__class__.__name__}); let its owner read and write it"
        ) from None


def check_loopback(host: str) -> None:
    """Raise ConfigError for an address that others could reach."""
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ConfigError(
            f"admin.host: found {host}, expected a loopback address such as 127.0.0.1; use an SSH tunnel from elsewhere"
        )


def is_our_name(authority: str) -> bool:
    """Whether a Host header names this machine: a foreign name that resolves to it is a page trying to read what is here."""
    try:
        name = urlsplit(f"//{authority}").hostname
    except ValueError:
        return False
    if name is None:
        return False
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


class Sessions:
    """The browsers that are logged in; kept in memory, so that a restart ends all of them."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._open: dict[str, Session] = {}

    def is_token(self, given: str) -> bool:
        """Compared in constant time."""
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token.encode())

    def begin(self, now: datetime) -> str:
        """A new session's cookie."""
        self._open = {name: one for name, one in self._open.items() if one.ends_at > now}
        while len(self._open) >= _MOST_SESSIONS:
            del self._open[next(iter(self._open))]
        name = secrets.token_urlsafe(32)
        self._open[name] = Session(secrets.token_urlsafe(32), now + _SESSION_LIFE)
        return name

    def find(self, cookie: str | None, now: datetime) -> Session | None:
        found = self._open.get(cookie or "")
        return found if found is not None and found.ends_at > now else None

    def end(self, cookie: str | None) -> None:
        self._open.pop(cookie or "", None)
