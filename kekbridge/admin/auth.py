"""Authentication for the admin listener: a token, from this machine only, under a host name of this machine.

The token is a file in the data directory that only its owner can read. Browsers exchange it for a session cookie and get a second secret
in each form, so that another page open in the same browser can neither read nor change anything.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from aiohttp import web

from kekbridge.connections.hosts import is_loopback
from kekbridge.errors import ConfigError
from kekbridge.ops.web_token import WebToken

COOKIE: Final = "kekbridge-session"
_SESSION_LIFE: Final = timedelta(hours=12)
_MAX_SESSIONS: Final = 64


@dataclass(frozen=True, slots=True)
class Session:
    """A logged-in browser."""

    #: Secret that every form of the session must return.
    form_key: str
    #: Expiry, UTC.
    ends_at: datetime


SESSION: Final = web.RequestKey("session", Session)
#: Sequence of the journal's last row when the request of a page arrived: what is written later, the page may not show.
SINCE: Final = web.RequestKey("since", int)


def check_loopback(host: str, *, in_container: bool = False) -> None:
    """Raise ConfigError for an address that other machines could reach. `in_container`: the container's host decides who reaches it."""
    if not in_container and not is_loopback(host):
        raise ConfigError(
            f"admin.host: found {host}, expected a loopback address such as 127.0.0.1; use an SSH tunnel from elsewhere"
        )


class Sessions:
    """Sessions of logged-in browsers: at most 64, for 12 hours. In memory, so that a restart ends them; a new token ends them, too."""

    def __init__(self, token: WebToken) -> None:
        self._token = token
        self._current = token.current()
        self._open: dict[str, Session] = {}

    def is_token(self, given: str) -> bool:
        """Compare with the token in constant time."""
        self._end_sessions_of_older_token()
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._current.encode())

    def _end_sessions_of_older_token(self) -> None:
        current = self._token.current()
        if current != self._current:
            self._current = current
            self._open.clear()

    def begin(self, now: datetime) -> str:
        """Start a session; return its cookie."""
        self._open = {cookie: one for cookie, one in self._open.items() if one.ends_at > now}
        while len(self._open) >= _MAX_SESSIONS:
            del self._open[next(iter(self._open))]
        cookie = secrets.token_urlsafe(32)
        self._open[cookie] = Session(secrets.token_urlsafe(32), now + _SESSION_LIFE)
        return cookie

    def find(self, cookie: str | None, now: datetime) -> Session | None:
        """The session of a cookie; None if unknown or expired."""
        self._end_sessions_of_older_token()
        found = self._open.get(cookie or "")
        return found if found is not None and found.ends_at > now else None

    def end(self, cookie: str | None) -> None:
        """End the session of a cookie, if there is one."""
        self._open.pop(cookie or "", None)
