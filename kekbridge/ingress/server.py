"""An aiohttp server with a bound on open connections, and a shutdown that does not cut a request that is still arriving.

When one connection too many is opened, the oldest idle one is dropped. A connection is busy from when its request is read until its
response is ready; busy ones are never dropped, so a flood of slow or silent connections cannot push out an alert. Parser errors about
input that is not HTTP are logged at debug level.
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
_CHECK_EVERY_S: Final = 0.01


class BoundedConnection(RequestHandler):
    """aiohttp's connection, which also knows whether a shutdown may drop it.

    aiohttp itself considers a connection idle if no request of it has been read, even one that was accepted a moment ago and whose request
    is still in the socket. It then reads no further bytes, so that a request whose body is still arriving is lost, too.
    """

    __slots__ = ("__weakref__", "accepted_at")

    def __init__(self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(manager, loop=loop, **options)
        self.accepted_at = loop.time()

    @property
    def has_sent_request(self) -> bool:
        """True once the head of at least one request has been read."""
        return self._request_count > 0

    @property
    def is_idle(self) -> bool:
        """True while it waits for a request; the same test as that of aiohttp's own timer for idle connections."""
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
            "logger": _ParserErrorLogger("kekbridge.ingress.http"),
        }
        self._max_connections = max_connections
        # From acceptance on, so that a TLS handshake in progress counts; after a failed one the object is garbage-collected.
        self._accepted: WeakSet[BoundedConnection] = WeakSet()
        self._open: dict[RequestHandler, asyncio.Transport] = {}  # oldest first
        self._busy: set[RequestHandler] = set()

    class Busy:
        """Context in which a connection is never dropped for another one."""

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
        """Keep the connection open inside the block, while its request is handled."""
        return self.Busy(self._busy, protocol)

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def __call__(self) -> BoundedConnection:
        """Create the protocol for a connection that was just accepted."""
        connection = BoundedConnection(self, loop=self._loop, **self._options)
        self._accepted.add(connection)
        return connection

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._open[handler] = transport
        if len(self._open) <= self._max_connections:
            return
        # The new connection is the last candidate: it is dropped only if every other one is busy.
        oldest = next((each for each in self._open if each not in self._busy), handler)
        self._open.pop(oldest).abort()  # not close(): that would wait for a peer that does not read

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        self._open.pop(handler, None)
        if isinstance(handler, BoundedConnection):
            self._accepted.discard(handler)
        super().connection_lost(handler, exc)

    async def finish(self, *, longest_s: float) -> None:
        """Wait until every request that is under way or may still arrive is answered, then drop the rest. Call it after the last accept.

        A connection without a request has FIRST_REQUEST_S from its acceptance, so that a silent one does not delay the shutdown; all
        together have `longest_s` seconds. From now on the handler must answer with Connection: close.
        """
        ends_at = self._loop.time() + longest_s
        while True:
            await asyncio.sleep(_CHECK_EVERY_S)  # read first what has arrived
            if not self._drop_idle() or self._loop.time() >= ends_at:
                break
        self.pre_shutdown()
        await self.shutdown(max(ends_at - self._loop.time(), _CHECK_EVERY_S))

    def _drop_idle(self) -> bool:
        """Drop connections that no request will come on; True if others are left."""
        too_old = self._loop.time() - FIRST_REQUEST_S
        is_any_left = False
        for each in list(self._accepted):
            transport = self._open.get(each)
            if transport is not None and transport.is_closing():
                continue  # answered; a peer that does not read its response must not delay the shutdown
            if each.is_idle if each.has_sent_request else each.accepted_at <= too_old:
                each.force_close()
            else:
                is_any_left = True
        return is_any_left


class _ParserErrorLogger(logging.Logger):
    """Logs input that is not HTTP, which any public port gets, as a debug line without a traceback."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.parent = logging.getLogger()

    def exception(self, msg: object, *args: object, **kwargs: Any) -> None:
        error = kwargs.get("exc_info") or sys.exc_info()[1]
        if isinstance(error, HttpProcessingError):
            self.debug("not HTTP: %s", type(error).__name__)
        else:
            super().exception(msg, *args, **kwargs)
