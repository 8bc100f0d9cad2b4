"""Lazy admin server: bound at start, loaded on the first connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import aiohttp
import pytest
from aiohttp import web

from kekbridge.admin.lazy_server import LazyAdminServer
from kekbridge.errors import ConfigError
from tests.system.harness import free_port


class Server:
    """A server that answers every request."""

    def __init__(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._answer))

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        return web.Response(text=f"served {request.path}")

    async def start(self, listening: socket.socket) -> None:
        await self._runner.setup()
        await web.SockSite(self._runner, listening).start()

    async def close(self) -> None:
        await self._runner.cleanup()


class Loader:
    """Counts how often the server is loaded."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Callable[[], Server]:
        self.count += 1
        return Server


def _opened(lazy: LazyAdminServer) -> str:
    url = lazy.open()
    assert url is not None
    return url


async def _get(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.text()


async def test_the_server_is_loaded_on_the_first_connection() -> None:
    """Nothing is loaded before; requests that arrive while it loads are answered, and it is loaded once."""
    loader = Loader()
    lazy = LazyAdminServer(host="127.0.0.1", port=0, load=loader)
    url = _opened(lazy)
    try:
        await asyncio.sleep(0)
        assert loader.count == 0
        answers = await asyncio.gather(*(_get(f"{url}/{number}") for number in range(5)))
        assert answers == [f"served /{number}" for number in range(5)]
        assert loader.count == 1
    finally:
        await lazy.close()
    with pytest.raises(aiohttp.ClientError):
        await _get(url)


async def test_an_unused_socket_is_closed() -> None:
    """Without any connection it closes, and its port is free again."""
    loader = Loader()
    port = free_port()  # the system assigns it to no other connection meanwhile
    lazy = LazyAdminServer(host="127.0.0.1", port=port, load=loader)
    assert _opened(lazy).endswith(f":{port}")
    await lazy.close()
    with socket.create_server(("127.0.0.1", port)):
        assert loader.count == 0


async def test_localhost_is_ipv4() -> None:
    """A machine may resolve it to IPv6 first; the printed and served address is 127.0.0.1."""
    lazy = LazyAdminServer(host="localhost", port=0, load=Loader())
    url = _opened(lazy)
    try:
        assert url.startswith("http://127.0.0.1:")
        assert await _get(url) == "served /"
    finally:
        await lazy.close()


async def test_a_port_in_use_is_not_replaced() -> None:
    """No other port is taken silently; `open` works as soon as the port is free."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        lazy = LazyAdminServer(host="127.0.0.1", port=port, load=Loader())
        assert lazy.open() is None
    url = lazy.open()
    try:
        assert url == f"http://127.0.0.1:{port}"
        assert await _get(url) == "served /"
    finally:
        await lazy.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.com"])  # noqa: S104 - refused
def test_other_hosts_are_refused(host: str) -> None:
    """Only loopback addresses are accepted."""
    with pytest.raises(ConfigError, match="expected a loopback address"):
        LazyAdminServer(host=host, port=0, load=Loader())


async def test_a_server_that_cannot_be_loaded_closes_its_socket() -> None:
    """The connection is closed instead of left waiting, and `close` still works."""

    def fail() -> Callable[[], Server]:
        raise ImportError("incomplete installation")

    lazy = LazyAdminServer(host="127.0.0.1", port=0, load=fail)
    url = _opened(lazy)
    with pytest.raises(aiohttp.ClientError):
        await _get(url)
    await lazy.close()
