"""The order line against servers that misbehave: what is written at once, what provably never left, what may have arrived."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import gzip
import os
import queue
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import VerifyKey

from kekbridge.exchange.base import Unknown
from kekbridge.exchange.orderly import classify
from kekbridge.exchange.orderly.order_line import OrderLine, _LineConnection
from kekbridge.exchange.orderly.parsing import milliseconds
from kekbridge.exchange.orderly.rate_limiter import Endpoint, Rate, RateLimiter
from kekbridge.exchange.orderly.replies import HttpReply, NoReply, NotSent, TransportResult
from kekbridge.exchange.orderly.transport import IDLE_S, MAX_REPLY_BYTES, ClockOffset, Transport
from tests.exchange.orderly.raw_server import SIGNER, YES, Handler, answer, headers_of, sends, serving
from tests.paths import DATA
from tests.waiting import DEADLINE_S, until

CERTIFICATES = DATA / "tls"  # self-signed, for tests only
PATH = "/v1/order"
BODY = b'{"symbol":"PERP_ETH_USDC","order_quantity":"0.5"}'
ONE_SPARE, TWO_SPARE = 1, 2
MOST, MOST_FOR_ENTRIES = 32, 28


class Clock:
    """Wall clock of a line; stands still once `now` is set."""

    def __init__(self) -> None:
        self.now: datetime | None = None

    def __call__(self) -> datetime:
        return self.now or datetime.now(UTC)


class LoopClock:
    """The running loop's monotonic time, which a test may move forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead_s = 0.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: time.monotonic() + self._ahead_s)

    def jump(self, seconds: float) -> None:
        self._ahead_s += seconds


class SentOrder:
    """One request that was given to a line, and its result."""

    def __init__(self, line: OrderLine, body: bytes = BODY, **options: Any) -> None:
        permit = RateLimiter({Endpoint.ORDER_CREATE: Rate(1, 1000)}).try_acquire(Endpoint.ORDER_CREATE)
        assert permit is not None
        self.permit = permit
        self.results: list[TransportResult] = []
        self.signed_at: datetime | None = None
        options.setdefault("expires_at", datetime.max.replace(tzinfo=UTC))
        line.send(PATH, body, permit, self._on_result, **options)
        #: True if the request was written before `send` returned.
        self.was_written_at_once = permit.sent_at is not None

    def _on_result(self, result: TransportResult, signed_at: datetime | None) -> None:
        self.results.append(result)
        self.signed_at = signed_at

    async def result(self) -> TransportResult:
        await until(lambda: bool(self.results))
        (result,) = self.results
        return result


@asynccontextmanager
async def opened(
    url: str, *, is_warm: bool = False, timeout_s: float = DEADLINE_S, clock: Callable[[], datetime] | None = None
) -> AsyncIterator[OrderLine]:
    """An open line; `is_warm`: its spare connections are open."""
    line = OrderLine(url, SIGNER, ClockOffset(), timeout_s=timeout_s, recv_window_ms=5000, clock=clock or Clock())
    line.open()
    try:
        if is_warm:
            line.keep_warm()
            await until(lambda: len(line._idle) == TWO_SPARE)
        yield line
    finally:
        await line.close()


def once(handler: Handler) -> Handler:
    """Answer the first request like this, all others that the order was accepted."""
    is_first = True

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            await handler(reader, writer)
        else:
            writer.write(answer(YES))

    return reply


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Wait until the client closes the connection."""
    await reader.read(1)
    writer.close()


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """RST instead of a reply."""
    reset_on_close(writer.get_extra_info("socket"))
    writer.transport.abort()


def reset_on_close(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# ----------------------------------------------------------------------------------------------------- written at once


class BlockingPeer:
    """A server in a thread, so that what it receives arrived without this thread's event loop doing anything."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http{'s' if context else ''}://127.0.0.1:{self._listener.getsockname()[1]}"
        self.received: queue.Queue[tuple[socket.socket, bytes]] = queue.Queue()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._reading: list[threading.Thread] = []
        self._accepting.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                thread = threading.Thread(target=self._read, args=(connection,), daemon=True)
                self._reading.append(thread)
                thread.start()

    def _read(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:  # the client goes away
            stack.enter_context(connection)
            if self._context is not None:
                connection = stack.enter_context(self._context.wrap_socket(connection, server_side=True))
            while data := connection.recv(65536):
                self.received.put((connection, data))

    def close(self) -> None:
        """After the client has closed its connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        for thread in self._reading:
            thread.join()


@pytest.fixture(params=["plain", "tls"])
def peer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlockingPeer]:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "first.pem"))
    peer = BlockingPeer(server_context() if request.param == "tls" else None)
    yield peer
    peer.close()


def server_context(name: str = "first") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATES / f"{name}.pem", CERTIFICATES / f"{name}.key")
    return context


async def test_a_request_leaves_before_send_returns(peer: BlockingPeer) -> None:
    """On a warm connection the whole request is with the exchange although the event loop has not had a turn, with TLS as without."""
    async with opened(peer.url, is_warm=True) as line:
        sent = SentOrder(line)
        connection, request = peer.received.get(timeout=DEADLINE_S)  # blocks this thread, and with it the event loop
        assert request.startswith(b"POST /v1/order HTTP/1.1\r\n")
        assert request.endswith(b"\r\n\r\n" + BODY)
        connection.sendall(answer(YES))
        result = await sent.result()
        assert isinstance(result, HttpReply)
        assert result.data == {"order_id": 1}


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
async def test_a_request_on_a_connection_whose_end_is_not_noticed_yet_may_have_arrived(is_reset: bool) -> None:
    """The exchange closed the connection in the instant of the send: no reply, and the request is not sent a second time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with opened(f"http://127.0.0.1:{listener.getsockname()[1]}", is_warm=True) as line:
            for _ in range(TWO_SPARE):
                connection, _ = listener.accept()
                if is_reset:
                    reset_on_close(connection)
                connection.close()
            sent = SentOrder(line)
            assert sent.was_written_at_once
            assert isinstance(await sent.result(), NoReply)
            listener.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                while True:  # spare connections that replace the lost ones
                    replacement, _ = listener.accept()
                    with replacement:
                        replacement.settimeout(0.0)
                        with pytest.raises(BlockingIOError):
                            replacement.recv(1)


async def test_exact_bytes_signed_and_sent() -> None:
    """The headers that the exchange accepts from the transport, with the receive window; the signature covers the very bytes sent."""
    async with serving() as server:
        async with opened(server.url) as line:
            await SentOrder(line).result()
        transport = Transport(server.url, SIGNER, timeout_s=5)
        await transport.open()
        await transport.send("POST", PATH, body=BODY)
        await transport.close()
    request, by_transport = server.requests
    headers, expected = headers_of(request), headers_of(by_transport)
    changing = {"orderly-timestamp", "orderly-signature", "accept-encoding", "x-recv-window"}
    assert headers.keys() == expected.keys() | {"x-recv-window"}
    assert {name: headers[name] for name in headers.keys() - changing} == {
        name: expected[name] for name in expected.keys() - changing
    }
    assert headers["x-recv-window"] == "5000"
    key = VerifyKey(base58.b58decode(headers["orderly-key"].removeprefix("ed25519:")))
    message = f"{headers['orderly-timestamp']}POST{PATH}".encode() + BODY
    key.verify(message, base64.urlsafe_b64decode(headers["orderly-signature"]))


async def test_a_path_of_the_base_url_precedes_the_signed_path() -> None:
    """As with the transport: the prefix is requested, and not signed."""
    async with serving() as server, opened(f"{server.url}/relay/") as line:
        await SentOrder(line).result()
    headers = headers_of(server.requests[0])
    assert server.requests[0].startswith(b"POST /relay/v1/order HTTP/1.1\r\n")
    key = VerifyKey(base58.b58decode(headers["orderly-key"].removeprefix("ed25519:")))
    message = f"{headers['orderly-timestamp']}POST{PATH}".encode() + BODY
    key.verify(message, base64.urlsafe_b64decode(headers["orderly-signature"]))


# ---------------------------------------------------------------------------------------------------------- replies

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(YES), YES)


@pytest.mark.parametrize(
    ("reply", "is_kept"),
    [
        (answer(YES), True),
        (CHUNKED + b"\r\n", True),
        (CHUNKED + b"Retry-After: 9\r\n\r\n", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(YES), True),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 3 + answer(YES), True),
        (answer(YES, "200 OK", "Connection: close"), False),
        (answer(YES).replace(b"HTTP/1.1", b"HTTP/1.0"), False),
    ],
    ids=["length", "chunks", "chunks with a trailer", "100 before", "103 before", "connection: close", "HTTP/1.0"],
)
async def test_complete_replies(reply: bytes, is_kept: bool) -> None:
    """However HTTP frames it, a complete reply is read; the connection is used again if it says so."""
    async with serving(sends(reply, then_close=False)) as server, opened(server.url) as line:
        for _ in range(2):
            result = await SentOrder(line).result()
            assert isinstance(result, HttpReply)
            assert (result.status, result.is_json, result.success) == (200, True, True)
            assert result.data == {"order_id": 1}
            assert result.retry_after_s is None, "a trailer is no header"
        assert server.connections == (1 if is_kept else 2)


@pytest.mark.parametrize(
    ("reply", "status", "retry_after_s"),
    [
        (answer(b"<html>bad gateway</html>", "502 Bad Gateway"), 502, None),
        (answer(b"{}", "429 Too Many Requests", "retry-AFTER: 3"), 429, 3.0),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        (answer(gzip.compress(YES), "200 OK", "Content-Encoding: gzip"), 200, None),
        (answer(b"", "307 Temporary Redirect", "Location: http://127.0.0.1:9/v1/order"), 307, None),
    ],
    ids=["HTML 502", "429", "204", "compressed although not asked", "redirect"],
)
async def test_replies_that_are_no_success(reply: bytes, status: int, retry_after_s: float | None) -> None:
    """Status and Retry-After are passed on; a body that is not plain JSON is none; redirects are not followed."""
    async with serving(sends(reply, then_close=False)) as server, opened(server.url) as line:
        result = await SentOrder(line).result()
        assert isinstance(result, HttpReply)
        assert (result.status, result.success, result.retry_after_s) == (status, False, retry_after_s)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [
        sends(b""),
        reset,
        silent,
        sends(b"HTTP/1.1 200"),
        sends(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"),
        sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{"),
        sends(CHUNKED),
        sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnine\r\n{}", then_close=False),
        sends(b"HTTP/1.1 200 OK\r\n\r\n" + YES),
        sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n" + YES),
        sends(answer(YES, "200 OK", "Transfer-Encoding: chunked"), then_close=False),
        sends(answer(YES, "200 OK", "Content-Length: 2"), then_close=False),
        sends(b"\x00\x01\x02\x03 nonsense\r\n\r\n", then_close=False),
        sends(b"<html>no HTTP</html>", then_close=False),
        sends(b"HTTP/1.1 100 Continue\r\n\r\n"),
        sends(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", then_close=False),
        sends(answer(YES) * 2, then_close=False),
        sends(answer(YES) * 3, then_close=False),
        sends(answer(YES) + b"x", then_close=False),
        sends(answer(YES, "200 OK", "Connection: close") + answer(YES)),
    ],
    ids=[
        "closes",
        "resets",
        "never answers",
        "cut inside the head",
        "cut inside the body",
        "cut inside a chunk",
        "cut before the last line",
        "broken chunk size",
        "no length",
        "no length with chunks inside",
        "length and chunks",
        "two lengths",
        "garbage",
        "HTML without HTTP",
        "100 and nothing more",
        "101",
        "two replies",
        "three replies",
        "bytes behind the reply",
        "bytes behind the last reply",
    ],
)
async def test_without_a_complete_reply_the_order_is_unknown(reply: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a byte was written nothing proves that no order exists: sent once, unknown, and the connection is never used again."""
    loop_clock = LoopClock(monkeypatch)
    async with serving(once(reply)) as server, opened(server.url, is_warm=True) as line:
        sent = SentOrder(line)
        assert sent.was_written_at_once
        if reply is silent:
            await until(lambda: bool(server.requests))
            loop_clock.jump(DEADLINE_S)
        result = await sent.result()
        assert isinstance(result, NoReply)
        assert isinstance(classify.create(result), Unknown)
        assert sent.signed_at is not None
        assert isinstance(await SentOrder(line, b"{}").result(), HttpReply)
        assert [request.endswith(BODY) for request in server.requests] == [True, False]


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5000,
        b"HTTP/1.1 200 OK\r\n" + b"X-Filler: " + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\n" + b"X-Filler: xxx\r\n" * 10_000,
        answer(b" " * MAX_REPLY_BYTES + YES),
    ],
    ids=["endless 100", "long header", "many headers", "big body"],
)
async def test_replies_are_bounded(reply: bytes) -> None:
    """64 KiB of head and 16 MiB in all: a reply without an end must not fill the memory. The order is unknown."""
    async with serving(sends(reply, then_close=False)) as server, opened(server.url) as line:
        assert await SentOrder(line).result() == NoReply("the reply is too big")


async def test_data_between_replies_ends_the_connection() -> None:
    """What comes while nothing is asked would be taken for the reply to the next order."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(YES))
        await writer.drain()
        await may_send_more.wait()
        writer.write(answer(b'{"success":true,"timestamp":1790000000123,"data":{"order_id":2}}'))

    may_send_more = asyncio.Event()
    async with serving(once(reply)) as server, opened(server.url) as line:
        await SentOrder(line).result()
        may_send_more.set()
        await until(lambda: not line._connections)
        result = await SentOrder(line).result()
        assert isinstance(result, HttpReply)
        assert result.data == {"order_id": 1}


# -------------------------------------------------------------------------------------------------------- not sent


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://kekbridge.invalid", "http://" + "x" * 70 + ".invalid"])
async def test_without_a_connection_nothing_was_sent(url: str) -> None:
    """Refused, or no address: proof that nothing was sent, and the permit is free again."""
    async with opened(url) as line:
        sent = SentOrder(line)
        assert isinstance(await sent.result(), NotSent)
        assert sent.signed_at is None
        assert sent.permit.sent_at is None
        assert not sent.permit.is_held


async def test_not_open_is_not_sent() -> None:
    """Before `open` and after `close` nothing is sent."""
    async with serving() as server:
        line = OrderLine(server.url, SIGNER, ClockOffset(), timeout_s=1, recv_window_ms=5000, clock=Clock())
        for _ in range(2):
            sent = SentOrder(line)
            assert isinstance(sent.results[0], NotSent)
            assert not sent.permit.is_held
            line.open()
            await line.close()
        assert server.connections == 0


async def test_a_handshake_that_does_not_end_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepted by TCP, silent in TLS: the timeout includes connecting, and proves that nothing was sent."""
    loop_clock = LoopClock(monkeypatch)
    async with serving(silent) as server, opened(server.url.replace("http:", "https:")) as line:
        sent = SentOrder(line)
        await until(lambda: server.connections == 1)
        loop_clock.jump(DEADLINE_S)
        result = await sent.result()
        assert result == NotSent(f"no connection within {DEADLINE_S:g} s")
        assert not sent.permit.is_held


async def test_a_connection_that_was_closed_while_idle_is_never_used() -> None:
    """The exchange closes idle connections: noticed, and the next order goes over a new one, once."""
    async with serving() as server, opened(server.url, is_warm=True) as line:
        server.close_connections()
        await until(lambda: not line._connections)
        assert isinstance(await SentOrder(line).result(), HttpReply)
        assert len(server.requests) == 1


async def test_a_lost_connection_that_cannot_be_replaced_is_not_sent() -> None:
    """The exchange closed the idle connections and went away: proof that nothing was sent."""
    async with contextlib.AsyncExitStack() as stack:
        running = contextlib.AsyncExitStack()
        server = await running.enter_async_context(serving())
        line = await stack.enter_async_context(opened(server.url, is_warm=True))
        await running.aclose()
        await until(lambda: not line._connections)
        assert isinstance(await SentOrder(line).result(), NotSent)
        assert server.requests == []


async def test_an_order_that_expires_while_it_waits_for_a_connection_is_not_sent() -> None:
    """Promise 8 of docs/internals/architecture.md: no order is sent after its allowed age, however long it waited."""
    clock = Clock()
    clock.now = datetime.now(UTC)
    async with serving() as server, opened(server.url, clock=clock) as line:
        sent = SentOrder(line, expires_at=clock.now + timedelta(seconds=1))
        clock.now += timedelta(seconds=2)
        assert isinstance(await sent.result(), NotSent)
        assert isinstance(await SentOrder(line, expires_at=clock.now).result(), HttpReply)
        assert len(server.requests) == 1


async def test_a_request_that_is_cancelled_while_it_waits_is_not_sent() -> None:
    """Nothing is written for a caller that is gone; its permit is free."""
    async with serving() as server, opened(server.url) as line:
        sent = SentOrder(line, is_cancelled=lambda: True)
        assert isinstance(await SentOrder(line, b"{}").result(), HttpReply)
        assert (sent.results, sent.permit.is_held) == ([], False)
        assert [request.endswith(BODY) for request in server.requests] == [False]


async def test_a_request_that_waited_is_signed_when_it_is_written() -> None:
    """Connecting may take longer than the receive window: a signature from before it would be rejected as too old."""
    clock = Clock()
    clock.now = datetime.now(UTC)
    async with serving() as server, opened(server.url, clock=clock) as line:
        sent = SentOrder(line)
        clock.now += timedelta(seconds=4)
        await sent.result()
        assert sent.signed_at == clock.now
        assert headers_of(server.requests[0])["orderly-timestamp"] == str(milliseconds(clock.now))


async def test_clock_offset_is_learned_and_applied() -> None:
    """Replies of an exchange whose clock is far off correct the next signature."""
    async with serving() as server, opened(server.url) as line:
        for _ in range(2):
            await SentOrder(line).result()
    assert abs(int(headers_of(server.requests[1])["orderly-timestamp"]) - 1790000000123) < 10_000


# ------------------------------------------------------------------------------------------------------ connections


async def settled(line: OrderLine) -> None:
    """Let the timers that are due run, and wait until no connection is being opened."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    if line._connecting:
        await asyncio.wait(line._connecting)


async def test_consecutive_requests_share_a_connection() -> None:
    """A new connection costs round trips; one request at a time needs but one, and the spare ones."""
    async with serving() as server, opened(server.url, is_warm=True) as line:
        for _ in range(10):
            sent = SentOrder(line)
            assert sent.was_written_at_once
            await sent.result()
        assert server.connections <= TWO_SPARE + 1


async def test_one_request_at_a_time_on_a_connection() -> None:
    """A second request before the reply to the first would make the replies ambiguous: a burst opens connections instead."""
    is_pipelined = False

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal is_pipelined
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                is_pipelined |= bool(await reader.read(1))
        writer.write(answer(YES))

    async with serving(reply) as server, opened(server.url, is_warm=True) as line:
        orders = [SentOrder(line, b"%d" % number) for number in range(12)]
        assert [order.was_written_at_once for order in orders] == [True] * TWO_SPARE + [False] * 10
        results = [await order.result() for order in orders]
        assert {type(result) for result in results} == {HttpReply}
        assert sorted(int(request.rpartition(b"\r\n")[2]) for request in server.requests) == list(range(12))
        assert not is_pipelined


async def test_a_connection_that_is_given_up_while_it_is_opened_leaves_no_socket() -> None:
    """In whichever turn of the event loop that happens: a socket that is lost stays open at both ends."""
    async with serving() as server:
        for turns in range(60):
            async with opened(server.url) as line:
                line.keep_warm()
                for _ in range(turns):
                    await asyncio.sleep(0)
        gc.collect()  # warns of each socket that was lost
        await until(lambda: not server.open)


async def test_a_hanging_exchange_leaves_room_for_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries use at most 28 of 32 connections: an exit is written at once. Afterwards the connections shrink to the spare ones."""
    loop_clock = LoopClock(monkeypatch)
    may_reply = asyncio.Event()

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await may_reply.wait()
        writer.write(answer(YES))

    async with serving(reply) as server, opened(server.url, is_warm=True) as line:
        entries = [SentOrder(line) for _ in range(40)]
        await until(lambda: len(server.requests) == MOST_FOR_ENTRIES and len(server.open) == MOST)
        await until(lambda: len(line._idle) == MOST - MOST_FOR_ENTRIES)
        exit_ = SentOrder(line, is_urgent=True)
        assert exit_.was_written_at_once
        assert sum(entry.permit.sent_at is not None for entry in entries) == MOST_FOR_ENTRIES
        may_reply.set()
        assert {type(await order.result()) for order in (*entries, exit_)} == {HttpReply}
        assert len(server.requests) == 41
        assert len(server.open) <= MOST
        loop_clock.jump(IDLE_S)
        await until(lambda: len(line._idle) == len(server.open) == TWO_SPARE)
        loop_clock.jump(600)
        await until(lambda: len(line._idle) == len(server.open) == ONE_SPARE)


async def test_exits_overtake_entries_that_wait() -> None:
    """The first connection that is open gets the exit."""
    async with serving() as server, opened(server.url) as line:
        entries = [SentOrder(line) for _ in range(3)]
        exit_ = SentOrder(line, is_urgent=True)
        for order in (*entries, exit_):
            await order.result()
        signed_at = [order.signed_at for order in (exit_, *entries) if order.signed_at is not None]
        assert len(signed_at) == 4
        assert min(signed_at) == exit_.signed_at


async def test_a_connection_that_was_idle_for_too_long_is_never_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exchange is about to close it, or a router has forgotten it: also if no timer had a turn, as after a suspend."""
    loop_clock = LoopClock(monkeypatch)
    async with serving() as server, opened(server.url, is_warm=True) as line:
        idle = tuple(line._idle)
        loop_clock.jump(IDLE_S)
        sent = SentOrder(line)
        assert not sent.was_written_at_once
        assert isinstance(await sent.result(), HttpReply)
        await until(lambda: not line._connections.intersection(idle))
        assert len(server.requests) == 1


async def test_a_connection_is_open_after_an_hour_without_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare connections are renewed before they are too old: two for ten minutes after the last order, then one."""
    loop_clock = LoopClock(monkeypatch)
    async with serving() as server, opened(server.url, is_warm=True) as line:
        for _ in range(3600 // 5):
            loop_clock.jump(5)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert line._idle, "the successor is opened before the old one is closed"
            await settled(line)
        most = TWO_SPARE * (600 / 25 + 1) + 3000 / 25 + 1
        assert server.connections <= most
        assert len(server.open) <= TWO_SPARE
        sent = SentOrder(line)
        assert sent.was_written_at_once
        assert isinstance(await sent.result(), HttpReply)


async def test_spare_connections_back_off_while_the_exchange_refuses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes of an exchange that closes what it accepts: few attempts, and a warm connection soon after it is back."""
    loop_clock = LoopClock(monkeypatch)
    async with serving() as server, opened(server.url, is_warm=True) as line:
        server.is_refusing = True
        server.close_connections()
        await until(lambda: not line._connections)
        before = server.connections
        for _ in range(300):
            loop_clock.jump(2)
            await settled(line)
        assert 5 <= server.connections - before <= TWO_SPARE * (600 / 15 + 7)  # 30 s, halved by jitter
        await until(lambda: not line._connections)  # those of the last attempt are closed, too
        server.is_refusing = False
        loop_clock.jump(30)
        await until(lambda: bool(line._idle))
        assert SentOrder(line).was_written_at_once


async def test_an_order_does_not_wait_for_the_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare connections may wait, an order connects at once."""
    async with serving() as server, opened(server.url, is_warm=True) as line:
        for _ in range(10):
            line._back_off()
        server.close_connections()
        await until(lambda: not line._connections)
        assert isinstance(await SentOrder(line).result(), HttpReply)


async def test_close_ends_every_request() -> None:
    """In flight: no reply. Waiting for a connection: not sent. No connection stays open."""
    async with serving(silent) as server:
        async with opened(server.url, is_warm=True) as line:
            in_flight = [SentOrder(line) for _ in range(TWO_SPARE)]
            waiting = SentOrder(line)
            await line.close()
            assert {type(order.results[0]) for order in in_flight} == {NoReply}
            assert isinstance(waiting.results[0], NotSent)
            assert not waiting.permit.is_held
        await until(lambda: not server.open)


# -------------------------------------------------------------------------------------------------------- TLS, addresses


@pytest.mark.parametrize(
    ("trusted", "host", "is_sent"),
    [("first", "127.0.0.1", True), ("second", "127.0.0.1", False), ("first", "localhost", False)],
    ids=["trusted", "other issuer", "other host"],
)
async def test_tls_is_verified(trusted: str, host: str, is_sent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates are checked against the system's (here SSL_CERT_FILE) and the host name: else nothing is sent. SNI names the host."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / f"{trusted}.pem"))
    names: list[str | None] = []
    context = server_context()
    context.sni_callback = lambda _, name, __: names.append(name)
    async with (
        serving(tls=context) as server,
        opened(server.url.replace("127.0.0.1", host)) as line,
    ):
        result = await SentOrder(line).result()
        assert isinstance(result, HttpReply if is_sent else NotSent)
        assert len(server.requests) == is_sent
        if isinstance(result, NotSent):
            assert "CERTIFICATE_VERIFY_FAILED" in result.reason
    assert names[0] == (None if host == "127.0.0.1" else host)


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port of 127.0.0.1 that answers no attempt to connect: its queue is full, and nobody accepts."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)  # noqa: FBT003
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.parametrize("is_silent", [False, True], ids=["refused", "silent"])
async def test_the_next_address_is_tried(is_silent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose first address refuses or does not answer, such as one of IPv6 without a route, is reached at its second."""
    family = socket.AF_INET if is_silent else socket.AF_INET6
    with silent_port() as port_without_answer:
        first = ("127.0.0.1", port_without_answer) if is_silent else ("::1", 9, 0, 0)

        async def addresses(host: str, port: int, **_: Any) -> list[Any]:
            kind = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            return [(family, *kind, first), (socket.AF_INET, *kind, ("127.0.0.1", port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", addresses)
        async with serving() as server:
            host = f"exchange.invalid:{server.port}"
            async with opened(f"http://{host}") as line:
                assert isinstance(await SentOrder(line).result(), HttpReply)
        assert headers_of(server.requests[0])["host"] == host


# --------------------------------------------------------------------------------------------------------------- crash

SENDS_ONE = """
import asyncio, sys
from tests.exchange.orderly.test_order_line import SentOrder, opened
async def main():
    async with opened(sys.argv[1]) as line:
        SentOrder(line)
        await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_failpoint_w5_kills_once_the_request_is_written() -> None:
    """docs/internals/architecture.md section 9: the process dies after the exchange may have got the order."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "KEKBRIDGE_TEST_CRASH_AT": "W5"}
    async with serving(silent) as server:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", SENDS_ONE, server.url, env=environment)
        assert await process.wait() == -signal.SIGKILL
        await until(lambda: len(server.requests) == 1)


# ---------------------------------------------------------------------------------------------------------------- splits


class MemoryTransport(asyncio.Transport):
    """A connection whose other end is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.is_closed

    def abort(self) -> None:
        self.is_closed = True


def receive(parts: list[bytes], *, then_eof: bool) -> tuple[TransportResult | None, bool]:
    """The result of a request whose reply arrives in these parts, and whether the connection is still open."""

    async def run() -> tuple[TransportResult | None, bool]:
        line = OrderLine("http://x", SIGNER, ClockOffset(), timeout_s=5, recv_window_ms=5000, clock=Clock())
        line.open()
        transport, connection = MemoryTransport(), _LineConnection(line)
        connection.connection_made(transport)
        line._put_idle(connection)
        sent = SentOrder(line)
        assert transport.written.endswith(BODY)
        for part in parts:
            connection.data_received(part)
        if then_eof:
            connection.eof_received()
        is_open = not transport.is_closed
        connection.connection_lost(None)
        await line.close()
        return (sent.results[0] if sent.results else None), is_open

    return asyncio.run(run())


WHOLE = st.sampled_from(
    [
        answer(YES),
        CHUNKED + b"Retry-After: 9\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer(YES),
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + CHUNKED + b"\r\n",
    ]
)


@given(whole=WHOLE, data=st.data())
def test_a_reply_may_arrive_in_any_parts(whole: bytes, data: st.DataObject) -> None:
    """Where the network cuts the bytes makes no difference."""
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=len(whole) - 1)))
    parts = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    result, is_open = receive(parts, then_eof=False)
    assert isinstance(result, HttpReply)
    assert (result.status, result.success, result.data) == (200, True, {"order_id": 1})
    assert is_open


@given(whole=WHOLE, data=st.data())
def test_a_reply_that_is_cut_anywhere_is_none(whole: bytes, data: st.DataObject) -> None:
    """One byte short is no reply, wherever it is cut."""
    cut = data.draw(st.integers(0, len(whole) - 1))
    result, is_open = receive([whole[:cut]], then_eof=True)
    assert isinstance(result, NoReply)
    assert not is_open


@given(whole=WHOLE, behind=st.binary(min_size=1).filter(lambda data: data.strip(b"\r\n") != b""))
def test_a_reply_with_anything_behind_it_is_none(whole: bytes, behind: bytes) -> None:
    """Bytes that nobody asked for: the replies of this connection are ambiguous."""
    result, is_open = receive([whole + behind], then_eof=False)
    assert isinstance(result, NoReply)
    assert not is_open


@given(st.binary(max_size=200))
def test_noise_is_never_a_success(noise: bytes) -> None:
    """Whatever comes instead of HTTP neither raises nor is a reply."""
    result, _ = receive([noise] if noise else [], then_eof=True)
    assert isinstance(result, NoReply)
