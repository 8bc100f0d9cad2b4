"""Keeps the number of open connections within bounds, and lets go of them at a stop without cutting a request that is on its way.

When one connection too many arrives, the oldest that does no work goes. A connection works from the moment its request is read until its
answer is ready; those are never dropped, so a flood of slow or silent connections cannot push out an alert. Also quiets the HTTP parser's
complaints about junk.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final
from weakref import WeakSet

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

# How long a connection may take from its acceptance to its first request before a stop drops it: as long as TradingView waits in all.
FIRST_REQUEST_S: Final = 3.0
_LOOK_AGAIN_S: Final = 0.01


class BoundedConnection(RequestHandler):
    """aiohttp's connection, which also knows whether a stop may drop it.

    aiohttp itself takes a connection for idle when no request of it has been read: also one that was accepted a moment ago and whose
    request is still in the socket. It then reads no further bytes, so that a request whose body is on its way is lost, too.
    """

    __slots__ = ("__weakref__", "accepted_at")

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(manager, loop=loop, **options)
        self.accepted_at = loop.time()

    @property
    def has_asked(self) -> bool:
        """Whether the head of at least one request has been read."""
        return self._request_count > 0

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request; the same test as that of aiohttp's own timer for idle connections."""
        return self._waiter is not None and not self._waiter.done()


class BoundedServer(web.Server):
    """aiohttp's low-level server with a cap on connections."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        max_connections: int,
        keepalive_timeout: float,
        lingering_time: float,
    ) -> None:
        super().__init__(handler)
        self._options: dict[str, Any] = {
            "keepalive_timeout": keepalive_timeout,  # also cuts connections that never send and headers that never end
            "lingering_time": lingering_time,
            "access_log": None,  # its lines would hold the request line
            "auto_decompress": False,  # compressed bodies are refused, so nothing may unpack them first
            "logger": _JunkLogger("kekbridge.ingress.http"),
        }
        self._max_connections = max_connections
        # From the acceptance on, so that a TLS handshake under way counts; one that fails is forgotten with its object.
        self._accepted: WeakSet[BoundedConnection] = WeakSet()
        self._open: dict[RequestHandler, asyncio.Transport] = {}  # oldest first
        self._busy: set[RequestHandler] = set()

    class Busy:
        """Holds a connection open against the cap while its request is worked on."""

        def __init__(self, busy: set[RequestHandler], protocol: RequestHandler) -> None:
            self._set = busy
            self._protocol = protocol

        def __enter__(self) -> None:
            self._set.add(self._protocol)

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
        ) -> None:
            self._set.discard(self._protocol)

    def busy(self, protocol: RequestHandler) -> Busy:
        """A context in which the connection is never dropped for another one."""
        return self.Busy(self._busy, protocol)

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def __call__(self) -> BoundedConnection:
        """The protocol for a connection that was accepted just now."""
        connection = BoundedConnection(self, loop=self._loop, **self._options)
        self._accepted.add(connection)
        return connection

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._open[handler] = transport
        if len(self._open) <= self._max_connections:
            return
        # The newcomer is last in the row: it goes only when everybody else is at work.
        oldest = next((each for each in self._open if each not in self._busy), handler)
        self._open.pop(oldest).abort()  # not close(): that would wait for a peer that does not read

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        self._open.pop(handler, None)
        if isinstance(handler, BoundedConnection):
            self._accepted.discard(handler)
        super().connection_lost(handler, exc)

    async def finish(self, *, longest_s: float) -> None:
        """Let every request that is under way or may still arrive be answered, then drop what is left. Nothing may be accepted any more.

        A connection without a request has FIRST_REQUEST_S from its acceptance, so that one that never asks does not hold the stop; all
        together have `longest_s`. The handler must answer with Connection: close by now.
        """
        ends_at = self._loop.time() + longest_s
        while True:
            await asyncio.sleep(_LOOK_AGAIN_S)  # what has arrived is read first
            if not self._drop_idle() or self._loop.time() >= ends_at:
                break
        self.pre_shutdown()
        await self.shutdown(max(ends_at - self._loop.time(), _LOOK_AGAIN_S))

    def _drop_idle(self) -> bool:
        """Drop connections that nobody will use; whether there are others."""
        too_old = self._loop.time() - FIRST_REQUEST_S
        is_waiting = False
        for each in list(self._accepted):
            transport = self._open.get(each)
            if transport is not None and transport.is_closing():
                continue  # answered; a peer that does not read its answer must not hold the stop
            if each.is_idle if each.has_asked else each.accepted_at <= too_old:
                each.force_close()
            else:
                is_waiting = True
        return is_waiting


class _JunkLogger(logging.Logger):
    """Takes a peer that does not speak HTTP for what it is on a public port: a debug line, not a traceback."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.parent = logging.getLogger()

    def exception(self, msg: object, *args: object, **kwargs: Any) -> None:
        error = kwargs.get("exc_info") or sys.exc_info()[1]
        if isinstance(error, HttpProcessingError):
            self.debug("not HTTP: %s", type(error).__name__)
        else:
            super().exception(msg, *args, **kwargs)
