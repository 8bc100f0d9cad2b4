"""The transport against servers that misbehave: what provably never left, what may have arrived, and the exact bytes."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import base58
import pytest
from nacl.signing import VerifyKey

from kekbridge import __version__
from kekbridge.exchange.orderly.rate_limiter import Endpoint, Rate, RateLimiter
from kekbridge.exchange.orderly.replies import HttpReply, NoReply, NotSent
from kekbridge.exchange.orderly.signing import Signer
from kekbridge.exchange.orderly.transport import Transport

SIGNER = Signer(
    "0x1486549202a0f260571dee401599c58ec79b04953008749ff2ab32576130bd83",
    "ed25519:4wBqpZM9xaSheZzJSMawUKKwhdpChKbZ5eu5ky4Vigw",
)
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
YES = b'{"success":true,"timestamp":1790000000123,"data":{"order_id":1}}'


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Server:
    """A raw TCP server: keeps what it was sent, answers as told."""

    def __init__(self, reply: Handler | None = None) -> None:
        self._reply = reply
        self.requests: list[bytes] = []
        self.connections = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (
                        int(line.split(b":")[1])
                        for line in head.lower().split(b"\r\n")
                        if line.startswith(b"content-length")
                    ),
                    0,
                )
                self.requests.append(head + await reader.readexactly(length))
                if self._reply is None:
                    writer.write(answer(YES))
                    await writer.drain()
                else:
                    await self._reply(reader, writer)
                    if writer.is_closing():
                        return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away
        finally:
            writer.close()


@asynccontextmanager
async def serving(reply: Handler | None = None) -> AsyncIterator[Server]:
    server = Server(reply)
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


@asynccontextmanager
async def wired(url: str, timeout_s: float = 5.0) -> AsyncIterator[Transport]:
    wire = Transport(url, SIGNER, timeout_s=timeout_s)
    await wire.open()
    try:
        yield wire
    finally:
        await wire.close()


def sends(data: bytes, *, then_close: bool = True) -> Handler:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if then_close:
            writer.close()

    return reply


async def test_exact_bytes_signed_and_sent() -> None:
    """Path and body arrive byte for byte as signed; no percent-encoding, no second serialisation; plain user agent."""
    body = b'{"symbol":"PERP_ETH_USDC","order_quantity":"0.5"}'
    async with serving() as server, wired(server.url) as wire:
        await wire.send("POST", "/v1/order", body=body, recv_window_ms=5000)
        await wire.send("DELETE", "/v1/batch-order?order_ids=1,2")
        await wire.send("GET", "/v1/get_orderly_key?orderly_key=ed25519:abc", is_signed=False)
    post, delete, public = server.requests
    assert post.startswith(b"POST /v1/order HTTP/1.1\r\n")
    assert post.endswith(b"\r\n\r\n" + body)
    assert delete.startswith(b"DELETE /v1/batch-order?order_ids=1,2 HTTP/1.1\r\n")
    assert public.startswith(b"GET /v1/get_orderly_key?orderly_key=ed25519:abc HTTP/1.1\r\n")
    assert b"orderly-signature" not in public.lower()
    for request, method, path, sent in (
        (post, "POST", "/v1/order", body),
        (delete, "DELETE", "/v1/batch-order?order_ids=1,2", b""),
    ):
        headers = headers_of(request)
        assert headers["user-agent"] == f"kekbridge/{__version__}"
        message = f"{headers['orderly-timestamp']}{method}{path}".encode() + sent
        key = VerifyKey(base58.b58decode(headers["orderly-key"].removeprefix("ed25519:")))
        key.verify(message, base64.urlsafe_b64decode(headers["orderly-signature"]))
    assert headers_of(post)["x-recv-window"] == "5000"
    assert headers_of(post)["content-type"] == "application/json"
    assert "x-recv-window" not in headers_of(delete)
    assert headers_of(delete)["content-type"] == "application/x-www-form-urlencoded"


def headers_of(request: bytes) -> dict[str, str]:
    lines = request.split(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def test_one_warm_connection() -> None:
    """Requests one after another share a connection."""
    async with serving() as server, wired(server.url) as wire:
        for _ in range(5):
            await wire.send("GET", "/v1/positions")
    assert server.connections == 1


async def test_connection_refused_is_not_sent() -> None:
    """Nobody listens: proof that nothing left."""
    async with serving() as server:
        url = server.url
    async with wired(url) as wire:
        assert isinstance(await wire.send("POST", "/v1/order", body=b"{}"), NotSent)


async def test_unknown_host_is_not_sent() -> None:
    """No address: proof that nothing left."""
    async with wired("http://kekbridge.invalid") as wire:
        assert isinstance(await wire.send("POST", "/v1/order", body=b"{}"), NotSent)


async def test_not_open_is_not_sent() -> None:
    """A transport that is not open (or is closed) sends nothing and says so."""
    wire = Transport("http://127.0.0.1:9", SIGNER, timeout_s=1)
    assert isinstance(await wire.send("POST", "/v1/order", body=b"{}"), NotSent)


@pytest.mark.parametrize(
    "reply",
    [
        sends(b""),
        sends(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"),
        sends(b"HTTP/1.1 200"),
        sends(b"\x00\x01\x02\x03 nonsense\r\n\r\n"),
        sends(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"),
    ],
    ids=["closed", "cut inside the answer", "cut inside the head", "not HTTP", "broken gzip"],
)
async def test_cut_answers_are_no_answer(reply: Handler) -> None:
    """After the first byte has left, whatever goes wrong proves nothing."""
    async with serving(reply) as server, wired(server.url) as wire:
        assert isinstance(await wire.send("POST", "/v1/order", body=b"{}"), NoReply)
        assert len(server.requests) == 1


async def test_timeout_is_no_answer() -> None:
    """A server that takes the request and stays silent."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with serving(silent) as server, wired(server.url, timeout_s=1) as wire:
        assert isinstance(await wire.send("POST", "/v1/order", body=b"{}"), NoReply)


async def test_create_is_never_sent_twice_on_a_dead_connection() -> None:
    """A pooled connection that dies under a POST: one request arrives, outcome unknown (docs/internals/reliability.md section 8.1)."""
    answered = 0

    async def once_then_cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        answered += 1
        if answered == 1:
            writer.write(answer(YES))
            await writer.drain()
        else:
            writer.close()

    async with serving(once_then_cut) as server, wired(server.url) as wire:
        assert isinstance(await wire.send("GET", "/v1/positions"), HttpReply)
        assert isinstance(await wire.send("POST", "/v1/order", body=b"{}"), NoReply)
    assert sum(request.startswith(b"POST") for request in server.requests) == 1


async def test_redirects_are_not_followed() -> None:
    """A redirect would take a signed order to a second place."""
    async with serving() as other:
        target = f"Location: {other.url}/v1/order"
        async with serving(sends(answer(b"", "307 Temporary Redirect", target))) as server, wired(server.url) as wire:
            reply = await wire.send("POST", "/v1/order", body=b"{}")
        assert isinstance(reply, HttpReply)
        assert reply.status == 307
        assert other.requests == []


async def test_paths_that_would_be_encoded_are_refused() -> None:
    """Characters that clients and server encode differently never get into a signed path (section 2)."""
    async with wired("http://127.0.0.1:9") as wire:
        for path in ("/v1/order?x=a b", "/v1/order?x=ä", "/v1/order?x=a%20b", "/v1/order?x=a+b"):
            with pytest.raises(ValueError):
                await wire.send("GET", path)


async def test_html_is_a_reply_that_is_no_json() -> None:
    """A page of the front is an answer of somebody, not of the exchange."""
    async with serving(sends(answer(b"<html>no</html>", "403 Forbidden"))) as server, wired(server.url) as wire:
        reply = await wire.send("GET", "/v1/positions")
    assert isinstance(reply, HttpReply)
    assert (reply.status, reply.is_json) == (403, False)


async def test_clock_difference_is_learnt_and_applied() -> None:
    """Answers of an exchange whose clock is far off correct the next signature."""
    async with serving() as server, wired(server.url) as wire:
        await wire.send("GET", "/v1/positions")
        await wire.send("GET", "/v1/positions")
    assert abs(int(headers_of(server.requests[1])["orderly-timestamp"]) - 1790000000123) < 10_000


async def test_clock_is_learnt_from_the_date_header() -> None:
    """A refusal without a timestamp still tells the time in its Date header."""
    refusal = answer(b'{"success":false,"code":-1001}', "401 Unauthorized", "Date: Mon, 21 Sep 2026 14:13:20 GMT")
    async with serving(sends(refusal, then_close=False)) as server, wired(server.url) as wire:
        await wire.send("GET", "/v1/positions")
        assert abs(wire.signing_time_ms() - 1790000000000) < 10_000


@pytest.mark.parametrize("is_up", [True, False])
async def test_ticket_counts_what_left(is_up: bool) -> None:
    """The place in the rate window is used up by what left, and given back by what did not."""
    pacer = RateLimiter({Endpoint.ORDER_CREATE: Rate(1, 1000)})
    async with serving() as server:
        url = server.url if is_up else "http://127.0.0.1:9"
        async with wired(url) as wire:
            ticket = await pacer.acquire(Endpoint.ORDER_CREATE)
            await wire.send("POST", "/v1/order", body=b"{}", ticket=ticket)
            assert (ticket.at is not None) is is_up
    next_one = asyncio.create_task(pacer.acquire(Endpoint.ORDER_CREATE))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert next_one.done() is not is_up
    await pacer.close()
    await asyncio.gather(next_one, return_exceptions=True)
