"""Keeps the number of open connections within bounds: when one too many arrives, the oldest that does no work goes.

A connection works from the moment its request is read until its answer is ready; those are never dropped, so a flood of slow or silent
connections cannot push out an alert. Also quiets the HTTP parser's complaints about junk.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler


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
        super().__init__(
            handler,
            keepalive_timeout=keepalive_timeout,  # also cuts connections that never send and headers that never end
            lingering_time=lingering_time,
            access_log=None,  # its lines would hold the request line
            auto_decompress=False,  # compressed bodies are refused, so nothing may unpack them first
            logger=_JunkLogger("kekbridge.ingress.http"),
        )
        self._max_connections = max_connections
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
        super().connection_lost(handler, exc)


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
