"""A request that is sent again gets the first one's result, and nothing is done twice.

Scripts name a request by an Idempotency-Key, forms that move money by a hidden field: a double click, "back" and a page that is loaded
again send a form twice. In memory, for an hour: a script that lost an answer asks again at once, and an older form is refused. A failed
request is forgotten, so that it can be repeated.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from aiohttp import web

from kekbridge.errors import ConfigError

HEADER: Final = "Idempotency-Key"
#: Hidden field of a form that is done once.
FORM_FIELD: Final = "once"
_KEPT_FOR: Final = timedelta(hours=1)
_MOST: Final = 4096
_LONGEST_KEY: Final = 200
_LONGEST_TIME: Final = 16


@dataclass(frozen=True, slots=True)
class _Kept:
    """One request under a key."""

    #: Hash of method, path and body, or of a form's entries.
    content: str
    #: Its result, perhaps not there yet.
    result: asyncio.Task[Any]
    #: When it was received, UTC.
    at: datetime


class Replays:
    """The requests with a key, of scripts or of one page's forms."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    async def run(self, request: web.Request, action: Callable[[], Awaitable[Any]]) -> Any:
        """The result of `action`, or of the first request with the same key. Raises ConfigError for a key with other content."""
        key = request.headers.get(HEADER)
        if key is None:
            return await action()
        if not 0 < len(key) <= _LONGEST_KEY or not key.isprintable():
            text = f"{HEADER}: found {len(key)} characters, expected 1 to {_LONGEST_KEY} that can be printed"
            raise ConfigError(text, code="field_invalid", field=HEADER)
        body = await request.read()
        content = hashlib.sha256(f"{request.method} {request.path_qs}\n".encode() + body).hexdigest()
        if self._is_other(key, content):
            text = f"{HEADER}: another request was sent with this key; use a new one for each request"
            raise ConfigError(text, code="key_reused", field=HEADER)
        return await self._once(key, content, action)

    def form_key(self) -> str:
        """A value of FORM_FIELD for a form that is shown now."""
        return f"{self._clock().timestamp():.0f}.{secrets.token_urlsafe(12)}"

    async def run_form(self, form: Mapping[str, object], action: Callable[[], Awaitable[Any]]) -> tuple[Any, bool]:
        """The result of `action`, and whether this very form was sent before, whose result it then is; without the field always new.

        Raises ConfigError for a form that was shown more than an hour ago, or was sent with other entries.
        """
        key = str(form.get(FORM_FIELD, ""))
        if not key:
            return await action(), False
        shown_at = key.partition(".")[0]
        oldest = (self._clock() - _KEPT_FOR).timestamp()
        if not (shown_at.isascii() and shown_at.isdigit() and len(shown_at) < _LONGEST_TIME and int(shown_at) > oldest):
            raise ConfigError("this form was opened more than an hour ago, nothing was done; open it again")
        content = hashlib.sha256(repr(sorted((name, str(value)) for name, value in form.items())).encode()).hexdigest()
        if self._is_other(key, content):
            raise ConfigError("this form was sent before with other entries, nothing was done; open it again")
        is_repeated = key in self._kept
        return await self._once(key, content, action), is_repeated

    def _is_other(self, key: str, content: str) -> bool:
        kept = self._kept.get(key)
        return kept is not None and kept.content != content

    async def _once(self, key: str, content: str, action: Callable[[], Awaitable[Any]]) -> Any:
        kept = self._kept.get(key)
        if kept is None:
            self._forget_old()
            kept = self._kept[key] = _Kept(content, asyncio.ensure_future(_run(action)), self._clock())
            kept.result.add_done_callback(lambda ended: self._forget_failed(key, ended))
        return await asyncio.shield(kept.result)

    def _forget_failed(self, key: str, ended: asyncio.Task[Any]) -> None:
        kept = self._kept.get(key)
        if kept is not None and kept.result is ended and (ended.cancelled() or ended.exception() is not None):
            del self._kept[key]

    def _forget_old(self) -> None:
        oldest = self._clock() - _KEPT_FOR
        while self._kept:
            key, kept = next(iter(self._kept.items()))  # the oldest
            if kept.at > oldest and len(self._kept) < _MOST:
                return
            del self._kept[key]


async def _run(action: Callable[[], Awaitable[Any]]) -> Any:
    return await action()
