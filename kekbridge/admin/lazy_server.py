"""Lazy admin server: the socket is bound at start, the server is imported and built on the first connection.

The pages of most bridges are opened rarely and should cost no memory before. Connections wait in the socket's backlog meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final, Protocol

from kekbridge.admin import auth
from kekbridge.errors import ConfigError
from kekbridge.log import get_logger

log = get_logger("kekbridge.admin")

_BACKLOG: Final = 128
# What a browser on this machine opens for a listener on every address.
_LOOPBACK_OF: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared only


class AdminListener(Protocol):
    """The server that is loaded on the first connection."""

    async def start(self, listening: socket.socket) -> None:
        """Serve connections of this listening socket."""
        ...

    async def close(self) -> None:
        """Stop serving."""
        ...


class LazyAdminServer:
    """The admin socket of one daemon. Call `open` until it returns a URL, then `close`."""

    def __init__(
        self, *, host: str, port: int, in_container: bool = False, load: Callable[[], Callable[[], AdminListener]]
    ) -> None:
        """`load` runs in a thread: it imports the server and returns its factory, which runs on the loop.

        Raises ConfigError for a host that is not loopback, unless `in_container`.
        """
        auth.check_loopback(host, in_container=in_container)
        self._host, self._port = host, port
        self._load = load
        self._socket: socket.socket | None = None
        self._listener: AdminListener | None = None
        self._loading: asyncio.Task[None] | None = None

    def open(self) -> str | None:
        """Listen, and return the URL; None if the port is in use. Raises ConfigError if the host cannot be used.

        No other port is taken instead: a bookmark or an SSH tunnel would lead to whatever program uses the configured one.
        """
        try:
            listening = self._bind(self._port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return None
            raise ConfigError(f"cannot listen on admin.host {self._host}: {error.strerror}") from None
        self._socket = listening
        asyncio.get_running_loop().add_reader(listening, self._on_first_connection, listening)
        host, port = listening.getsockname()[:2]
        host = _LOOPBACK_OF.get(host, host)
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def close(self) -> None:
        """Close the socket and the server, if it was loaded."""
        if self._loading is not None:
            await asyncio.wait([self._loading])  # an import cannot be cancelled
        elif self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
        if self._listener is not None:
            await self._listener.close()
        if self._socket is not None:
            self._socket.close()

    def _bind(self, port: int) -> socket.socket:
        found = socket.getaddrinfo(self._host, port, type=socket.SOCK_STREAM)
        # "localhost" has two addresses; prefer IPv4, the one that people type.
        family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        listening = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
        listening.settimeout(0)
        return listening

    def _on_first_connection(self, listening: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(listening)
        self._loading = asyncio.create_task(self._load_and_serve(listening))

    async def _load_and_serve(self, listening: socket.socket) -> None:
        try:
            factory = await asyncio.to_thread(self._load)
            listener = factory()
            await listener.start(listening)
        except Exception:
            log.exception("admin_failed")  # the pages are lost, trading goes on
            listening.close()
            self._socket = None
            return
        self._listener = listener
