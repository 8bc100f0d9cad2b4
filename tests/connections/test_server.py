"""Connections are bounded from their acceptance on: what a peer does before it sends a request costs next to nothing."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
import ssl
import subprocess
import sys
import weakref
from asyncio import sslproto
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from kekbridge.connections.server import AppServer, BoundedConnection, BoundedServer, bind
from tests.ingress.listening import Reply
from tests.paths import DATA
from tests.waiting import until

REQUEST = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"


class Served:
    """A running server, and the requests that it has handled."""

    def __init__(self, server: BoundedServer, port: int, handled: list[bytes]) -> None:
        self.server = server
        self.port = port
        self.handled = handled

    async def connect(
        self, stack: AsyncExitStack, *, source: str = "127.0.0.1", start: bytes = b""
    ) -> asyncio.StreamReader:
        """Open a connection that lives as long as the stack."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(source, 0))
        stack.callback(writer.close)
        writer.write(start)
        return reader


@asynccontextmanager
async def serving(
    answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] | None = None, **options: Any
) -> AsyncIterator[Served]:
    """Run a server whose handler reads the body, unless `answer` is given."""
    handled: list[bytes] = []

    async def record(request: web.BaseRequest) -> web.StreamResponse:
        handled.append(await request.read())
        return web.Response(text="ok", headers={"Server": "test"})

    given = {"most_connections": 100, "keepalive_timeout": 60.0, "lingering_time": 1.0, **options}
    server = BoundedServer(answer or record, **given)
    sockets = await bind("127.0.0.1", 0)
    port = int(sockets[0].getsockname()[1])
    server.listen(sockets)
    try:
        yield Served(server, port, handled)
    finally:
        server.stop_accepting()
        await server.finish(longest_s=1.0)


@pytest.fixture
def tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(DATA / "tls" / "first.pem", DATA / "tls" / "first.key")
    return context


def client_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def alive(kind: type, besides: Sequence[Any] = ()) -> list[Any]:
    gc.collect()
    known = {id(each) for each in besides}
    return [each for each in gc.get_objects() if type(each) is kind and id(each) not in known]


# ------------------------------------------------------------------------------------------------------------ at accept


async def test_a_silent_connection_is_only_a_socket(tls: ssl.SSLContext) -> None:
    """No TLS object and no HTTP parser exists before the first byte: asyncio's cost some 300 KiB for each connection."""
    before = alive(sslproto.SSLProtocol) + alive(BoundedConnection)  # of earlier tests
    async with serving(ssl_context=tls) as served, AsyncExitStack() as stack:
        for _ in range(50):
            await served.connect(stack)
        await until(lambda: served.server.open_connections == 50)
        assert alive(sslproto.SSLProtocol, before) + alive(BoundedConnection, before) == []


async def test_a_tls_connection_has_a_small_buffer(tls: ssl.SSLContext) -> None:
    """asyncio's own has 256 KiB for each connection, from its first byte on."""
    before = alive(sslproto.SSLProtocol)
    async with serving(ssl_context=tls) as served, AsyncExitStack() as stack:
        await served.connect(stack, start=b"\x16")
        await until(lambda: bool(alive(sslproto.SSLProtocol, before)))
        assert [len(each._ssl_buffer) for each in alive(sslproto.SSLProtocol, before)] == [16 * 1024]


async def test_a_request_over_tls_is_answered(tls: ssl.SSLContext) -> None:
    """The handshake begins with the bytes that were only looked at."""
    async with serving(ssl_context=tls) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=client_tls())
        writer.write(REQUEST.replace(b"Host", b"Connection: close\r\nHost"))
        assert Reply(await reader.read()).status == 200
        writer.close()
        assert served.handled == [b"hi"]


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
async def test_the_newest_connection_is_served_at_every_cap(source: str) -> None:
    """From the attacker's address and from another one, while the attacker holds all that he may have."""
    async with serving(most_connections=12, most_per_address=8) as served, AsyncExitStack() as stack:
        for number in range(30):
            await served.connect(stack, start=(b"", b"P", b"POST / HTTP/1.1\r\nX-A: ")[number % 3])
        await until(lambda: served.server.open_connections == 8)
        reader = await served.connect(stack, source=source, start=REQUEST)
        assert Reply(await reader.readuntil(b"ok")).status == 200
        assert served.server.open_connections <= 9


async def test_one_address_leaves_room_for_others() -> None:
    """The cap of an address closes its own oldest connections, never those of another."""
    async with serving(most_connections=100, most_per_address=8) as served, AsyncExitStack() as stack:
        quiet = await served.connect(stack, source="127.0.0.2")
        await until(lambda: served.server.open_connections == 1)
        oldest = await served.connect(stack)
        for _ in range(20):
            await served.connect(stack)
        assert await oldest.read() == b""
        await until(lambda: served.server.open_connections == 9)
        assert not quiet.at_eof()


async def test_a_proxy_has_no_cap_of_its_own() -> None:
    """All senders behind it have its address."""
    async with (
        serving(most_connections=40, most_per_address=8, is_exempt=lambda host: host == "127.0.0.1") as served,
        AsyncExitStack() as stack,
    ):
        for _ in range(30):
            await served.connect(stack)
        await until(lambda: served.server.open_connections == 30)


async def test_an_address_that_is_refused_has_few_connections() -> None:
    """Those beyond are closed unread; other addresses are served."""
    async with serving(is_refused=lambda host: host == "127.0.0.1") as served, AsyncExitStack() as stack:
        readers = [await served.connect(stack) for _ in range(20)]
        await until(lambda: sum(reader.at_eof() or reader.exception() is not None for reader in readers) == 16)
        assert served.server.open_connections == 4
        other = await served.connect(stack, source="127.0.0.2", start=REQUEST)
        assert Reply(await other.readuntil(b"ok")).status == 200


async def test_a_connection_without_a_byte_is_closed_after_a_while(tls: ssl.SSLContext) -> None:
    """Silent ones by the idle time, also before their TLS handshake."""
    async with serving(ssl_context=tls, keepalive_timeout=0.2) as served, AsyncExitStack() as stack:
        for reader in [await served.connect(stack) for _ in range(5)]:
            assert await reader.read() == b""
        assert served.server.open_connections == 0


async def test_a_handshake_that_does_not_go_on_is_closed_after_a_while(tls: ssl.SSLContext) -> None:
    """Its time is bounded like that of a head."""
    async with serving(ssl_context=tls, keepalive_timeout=0.2) as served, AsyncExitStack() as stack:
        for reader in [await served.connect(stack, start=b"\x16\x03\x01") for _ in range(5)]:
            assert await reader.read() == b""
        assert served.server.open_connections == 0


async def test_plain_bytes_on_a_tls_port_close_the_connection(tls: ssl.SSLContext) -> None:
    """And the next peer is served."""
    async with serving(ssl_context=tls) as served, AsyncExitStack() as stack:
        reader = await served.connect(stack, start=REQUEST)
        received = await reader.read()
        assert b"HTTP" not in received
        await until(lambda: served.server.open_connections == 0)
        assert served.handled == []


async def test_a_peer_that_leaves_after_its_handshake_is_reported(tls: ssl.SSLContext) -> None:
    """Handshakes cost the most time; silent connections and those that are closed here are not reported."""
    left: list[str] = []
    async with (
        serving(ssl_context=tls, most_connections=8, on_abandoned=lambda peer: left.append(peer.host)) as served,
        AsyncExitStack() as stack,
    ):
        for _ in range(20):
            await served.connect(stack, start=b"\x16")
        await until(lambda: served.server.open_connections == 8)
        for _ in range(3):
            _, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=client_tls())
            writer.close()
        await until(lambda: len(left) == 3)
        assert left == ["127.0.0.1"] * 3


# ----------------------------------------------------------------------------------------------------------- busy server


async def test_bodies_that_never_end_do_not_keep_others_out() -> None:
    """The oldest body is dropped for a new connection when every connection has sent a head."""
    async with (
        serving(most_connections=8, body_timeout_s=60.0) as served,
        AsyncExitStack() as stack,
    ):
        for _ in range(30):
            await served.connect(stack, start=b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nslow")
        await until(lambda: served.server.open_connections == 8)
        reader = await served.connect(stack, start=REQUEST)
        assert Reply(await reader.readuntil(b"ok")).status == 200
        assert served.handled == [b"hi"]


async def test_a_slow_body_is_cut() -> None:
    """An application's handler would wait for it for ever."""
    async with serving(body_timeout_s=0.2) as served, AsyncExitStack() as stack:
        reader = await served.connect(stack, start=b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nslow")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        assert served.handled == []


async def test_connections_are_reset_only_while_they_wait() -> None:
    """One that is handled survives any number of new ones, which wait until there is room."""
    may_answer = asyncio.Event()

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        await may_answer.wait()
        return web.Response(text="ok")

    async with serving(answer, most_connections=8) as served, AsyncExitStack() as stack:
        handled = [await served.connect(stack, start=REQUEST) for _ in range(8)]
        await until(lambda: served.server.open_connections == 8)
        late = [await served.connect(stack, start=REQUEST) for _ in range(8)]
        may_answer.set()
        for reader in (*handled, *late):
            assert Reply(await reader.readuntil(b"ok")).status == 200


async def test_a_connection_that_is_closed_but_not_read_can_be_dropped() -> None:
    """aiohttp closes it when idle, and asyncio keeps its socket until all is written: a peer must not hold files by never reading."""

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"x" * 48_000)

    async with serving(answer, most_connections=8, keepalive_timeout=0.3) as served, AsyncExitStack() as stack:
        unread = socket.create_connection(("127.0.0.1", served.port))
        stack.callback(unread.close)
        await until(lambda: served.server.open_connections == 1)
        (peer,) = served.server._table
        while peer.transport is None or not peer.transport.get_write_buffer_size():
            unread.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.sleep(0.005)
        transport = peer.transport
        await until(transport.is_closing)
        assert transport.get_extra_info("socket").fileno() >= 0, "the socket is open as long as something is unread"
        for _ in range(8):
            await served.connect(stack, start=b"P")
        await until(lambda: transport.get_extra_info("socket").fileno() < 0)


async def test_nothing_names_a_version() -> None:
    """Neither the answer to what is not HTTP nor that to a failed handler."""

    async def fail(_request: web.BaseRequest) -> web.StreamResponse:
        raise ValueError("secret detail")

    async with serving(fail) as served, AsyncExitStack() as stack:
        for start, status in ((b"GET\r\n\r\n", 400), (REQUEST, 500)):
            raw = await (await served.connect(stack, start=start)).read()
            assert Reply(raw).status == status
            assert Reply(raw).headers["server"] == "kekbridge"
            assert not any(name in raw.lower() for name in (b"aiohttp", b"python", b"3.1"))
            assert b"secret detail" not in raw


async def test_turns_follow_each_other_and_end_with_the_connection() -> None:
    """Requests that wait for their turn get it one by one; one whose connection is closed meanwhile does not keep its memory."""
    order: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        server: BoundedServer = request.protocol._server  # type: ignore[attr-defined]
        try:
            await server.wait_for_turn(request)
        except ConnectionError:
            order.append("gone")
            raise
        order.append(request.path)
        return web.Response(text="ok")

    async with serving(answer) as served, AsyncExitStack() as stack:
        leaving = []
        for number in range(12):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            stack.callback(writer.close)
            writer.write(f"GET /{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            leaving.append((reader, writer))
        await until(lambda: order[:1] == ["/0"])
        leaving[11][1].transport.abort()
        for reader, _ in leaving[:11]:
            assert Reply(await reader.readuntil(b"ok")).status == 200
        await until(lambda: len(order) == 12)
        assert [each for each in order if each != "gone"] == [f"/{number}" for number in range(11)]


class _Body(bytearray):
    """A body, as a handler collects it."""


@pytest.mark.parametrize("raises", [False, True])
async def test_a_body_that_breaks_off_is_freed_at_once(raises: bool) -> None:
    """What has arrived of it must not wait for the garbage collector: slow bodies on connections that come again would fill the memory."""
    collected: list[weakref.ref[_Body]] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        body = _Body()
        collected.append(weakref.ref(body))
        try:
            async for chunk in request.content.iter_any():
                body += chunk
        except ConnectionError:
            if raises:
                raise
        return web.Response(text="ok")

    gc.disable()
    try:
        async with serving(answer, body_timeout_s=60.0) as served:
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n{{{")
            await until(lambda: bool(collected and collected[0]()))
            writer.transport.abort()
            await until(lambda: served.server.open_connections == 0)
            await until(lambda: collected[0]() is None, deadline_s=5.0)
    finally:
        gc.enable()


# -------------------------------------------------------------------------------------------------------------- app, files


async def test_an_application_is_served_without_the_names_of_its_libraries() -> None:
    """Redirects, errors and web sockets included."""
    app = web.Application()

    async def stream(request: web.Request) -> web.StreamResponse:
        opened = web.WebSocketResponse()
        await opened.prepare(request)
        return opened

    async def redirect(_request: web.Request) -> web.StreamResponse:
        raise web.HTTPSeeOther("/elsewhere")

    app.router.add_get("/stream", stream)
    app.router.add_get("/away", redirect)
    server = AppServer(app, most_connections=10, keepalive_timeout=5.0, lingering_time=1.0, body_timeout_s=5.0)
    sockets = await bind("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]
    await server.start(sockets)
    upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
    try:
        for path, status, more in (("/stream", 101, upgrade), ("/away", 303, ""), ("/nothing", 404, "")):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode())
            reply = Reply(await reader.readuntil(b"\r\n\r\n"))
            assert (reply.status, reply.headers["server"]) == (status, "kekbridge")
            writer.close()
    finally:
        await server.close(longest_s=1.0)
        await server.close(longest_s=1.0)


FEW_FILES = """
import asyncio, os, resource, socket, sys
from aiohttp import web
from kekbridge.connections.server import BoundedServer, bind
from kekbridge.log import configure

configure("warning")
resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))

async def answer(request):
    return web.Response(text=str(len(os.listdir("/proc/self/fd"))))

async def main():
    server = BoundedServer(answer, most_connections=1000, keepalive_timeout=60, lingering_time=1)
    sockets = await bind("127.0.0.1", 0)
    print(sockets[0].getsockname()[1], flush=True)
    server.listen(sockets)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and the numbering of files are Linux's")
def test_files_are_left_for_the_database() -> None:
    """Short of the limit of open files old connections are closed for new ones; the daemon can still open its own files."""
    with subprocess.Popen(
        [sys.executable, "-c", FEW_FILES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdin is not None
        port = int(process.stdout.readline())
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
        with socket.create_connection(("127.0.0.1", port)) as asking:
            asking.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            asking.settimeout(60)
            raw = b"".join(iter(lambda: asking.recv(4096), b""))
        for each in held:
            each.close()
        process.stdin.close()
        said = process.stderr.read()
    assert int(raw.rpartition(b"\r\n")[2]) <= 80 - 80 // 4 + 4
    assert said.count("the limit of open files is near") == 1


RAISED = """
import resource
from kekbridge.connections.server import _reserve_files
resource.setrlimit(resource.RLIMIT_NOFILE, (300, {hard}))
print(_reserve_files(500), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_the_limit_of_open_files_is_raised_for_the_connections() -> None:
    """Most systems start with 1024, which is fewer than the default cap needs."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    for most, expected in ((enough, enough), (400, 400)):
        done = subprocess.run(
            [sys.executable, "-c", RAISED.format(hard=most)], capture_output=True, text=True, check=True
        )
        reserved, soft = map(int, done.stdout.split())
        assert soft == expected
        assert reserved == soft - min(256, soft // 4)
