"""The operator's door: open from the start, furnished at the first knock."""

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


class Hall:
    """A listener that answers everything."""

    def __init__(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._answer))

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        return web.Response(text=f"come in by {request.path}")

    async def start(self, listening: socket.socket) -> None:
        await self._runner.setup()
        await web.SockSite(self._runner, listening).start()

    async def close(self) -> None:
        await self._runner.cleanup()


class Loads:
    """How often the hall was furnished."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Callable[[], Hall]:
        self.count += 1
        return Hall


async def _ask(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.text()


async def test_listener_is_made_at_the_first_knock() -> None:
    """Nothing is loaded before somebody comes; all who come while it loads are answered, and it is loaded once."""
    loads = Loads()
    door = LazyAdminServer(host="127.0.0.1", port=0, load=loads)
    url = door.open()
    try:
        await asyncio.sleep(0)
        assert loads.count == 0
        answers = await asyncio.gather(*(_ask(f"{url}/{number}") for number in range(5)))
        assert answers == [f"come in by /{number}" for number in range(5)]
        assert loads.count == 1
    finally:
        await door.close()
    with pytest.raises(aiohttp.ClientError):
        await _ask(url)


async def test_door_nobody_came_to_is_closed() -> None:
    """A bridge that nobody looked at stops like any other, and its port is free again."""
    loads = Loads()
    port = free_port()  # the system gives it to no other connection meanwhile
    door = LazyAdminServer(host="127.0.0.1", port=port, load=loads)
    assert door.open().endswith(f":{port}")
    await door.close()
    with socket.create_server(("127.0.0.1", port)):
        assert loads.count == 0


async def test_localhost_is_the_address_that_people_type() -> None:
    """It may be IPv6 first on a machine; what is printed, and what the page is looked for at, is 127.0.0.1."""
    door = LazyAdminServer(host="localhost", port=0, load=Loads())
    url = door.open()
    try:
        assert url.startswith("http://127.0.0.1:")
        assert await _ask(url) == "come in by /"
    finally:
        await door.close()


async def test_taken_port_is_left_for_a_free_one() -> None:
    """Two bridges on one machine both have their page."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        door = LazyAdminServer(host="127.0.0.1", port=other.getsockname()[1], load=Loads())
        url = door.open()
        try:
            assert await _ask(url) == "come in by /"
        finally:
            await door.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.com"])  # noqa: S104 - refused
def test_other_hosts_are_refused(host: str) -> None:
    """The page is for this machine only."""
    with pytest.raises(ConfigError, match="expected a loopback address"):
        LazyAdminServer(host=host, port=0, load=Loads())


async def test_page_that_cannot_be_made_hurts_nobody() -> None:
    """Whoever knocks is cut off instead of left waiting, and the door can still be closed."""

    def fail() -> Callable[[], Hall]:
        raise ImportError("half an installation")

    door = LazyAdminServer(host="127.0.0.1", port=0, load=fail)
    url = door.open()
    with pytest.raises(aiohttp.ClientError):
        await _ask(url)
    await door.close()
