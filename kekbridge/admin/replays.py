"""A request that is sent again under the same Idempotency-Key gets the first one's result, and nothing is done twice.

In memory, for an hour: a script that lost an answer asks again at once. A failed request is forgotten, so that it can be repeated.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from aiohttp import web

from kekbridge.errors import ConfigError

HEADER: Final = "Idempotency-Key"
_KEPT_FOR: Final = timedelta(hours=1)
_MOST: Final = 256
_LONGEST_KEY: Final = 200


@dataclass(frozen=True, slots=True)
class _Kept:
    """One request under a key."""

    #: Hash of method, path and body.
    content: str
    #: Its result, perhaps not there yet.
    result: asyncio.Task[Any]
    #: When it was received, UTC.
    at: datetime


class Replays:
    """The requests with a key of one listener."""

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
        kept = self._kept.get(key)
        if kept is not None and kept.content != content:
            text = f"{HEADER}: another request was sent with this key; use a new one for each request"
            raise ConfigError(text, code="key_reused", field=HEADER)
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
        self._kept = {key: kept for key, kept in self._kept.items() if kept.at > oldest}
        while len(self._kept) >= _MOST:
            del self._kept[next(iter(self._kept))]


async def _run(action: Callable[[], Awaitable[Any]]) -> Any:
    return await action()
