"""Where the admin listener is reached: its socket is open from the start, what stands behind it is made at the first knock.

Most bridges are looked at seldom, and nobody should pay for the pages with memory before. Who knocks waits in the socket's backlog.
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


class AdminListener(Protocol):
    """What stands behind the door."""

    async def start(self, listening: socket.socket) -> None: ...

    async def close(self) -> None: ...


class LazyAdminServer:
    """One per daemon: open() once, then close()."""

    def __init__(self, *, host: str, port: int, load: Callable[[], Callable[[], AdminListener]]) -> None:
        """`load` imports what makes the listener, in a thread; what it returns makes it, on the loop.

        Raises ConfigError for a host that is not loopback.
        """
        auth.check_loopback(host)
        self._host, self._port = host, port
        self._load = load
        self._socket: socket.socket | None = None
        self._listener: AdminListener | None = None
        self._opening: asyncio.Task[None] | None = None

    def open(self) -> str:
        """Listen, on a free port when the wanted one is taken; returns the URL. Raises ConfigError when the host cannot be used."""
        try:
            listening = self._bind(self._port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(f"cannot listen on admin.host {self._host}: {error.strerror}") from None
            log.warning("admin_port_taken", wanted=self._port)
            listening = self._bind(0)
        self._socket = listening
        asyncio.get_running_loop().add_reader(listening, self._on_first_connection, listening)
        host, port = listening.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def close(self) -> None:
        if self._opening is not None:
            await asyncio.wait([self._opening])  # an import cannot be cut
        elif self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
        if self._listener is not None:
            await self._listener.close()
        if self._socket is not None:
            self._socket.close()

    def _bind(self, port: int) -> socket.socket:
        found = socket.getaddrinfo(self._host, port, type=socket.SOCK_STREAM)
        # "localhost" has two addresses: the one that people type.
        family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        listening = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
        listening.settimeout(0)
        return listening

    def _on_first_connection(self, listening: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(listening)
        self._opening = asyncio.create_task(self._serve_connection(listening))

    async def _serve_connection(self, listening: socket.socket) -> None:
        try:
            make = await asyncio.to_thread(self._load)
            listener = make()
            await listener.start(listening)
        except Exception:
            log.exception("admin_failed")  # the operator's page is gone, the trading is not
            listening.close()
            self._socket = None
            return
        self._listener = listener
