"""Order line: kept-alive connections for the requests that create orders, written without a turn of the event loop.

`OrderLine.send` signs a request and writes its bytes before it returns if a connection is free, which is the case unless orders come in
a burst: one or two connections are kept open for the next order. Never sends a request twice, never raises for the network.
Where HTTP is concerned it is as strict as can be: only a reply whose length is stated, by itself or in chunks, and behind which nothing
follows, is a reply; everything else that comes after the first byte was written is a NoReply.
Rules: docs/internals/orderly.md sections 1 and 2, docs/internals/reliability.md sections 8.1 and 8.11.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, cast

import httptools
from aiohappyeyeballs import start_connection
from yarl import URL

from kekbridge.exchange.orderly.parsing import milliseconds
from kekbridge.exchange.orderly.rate_limiter import WindowPermit
from kekbridge.exchange.orderly.replies import NoReply, NotSent, TransportResult, read_reply
from kekbridge.exchange.orderly.signing import Signer
from kekbridge.exchange.orderly.transport import IDLE_S, MAX_REPLY_BYTES, USER_AGENT, ClockOffset
from kekbridge.failpoints import hit_soon
from kekbridge.log import get_logger

log = get_logger("kekbridge.exchange.orderly.order_line")

# A spare connection that was idle for so long gets a successor, before IDLE_S ends it.
_RENEW_S: Final = IDLE_S - 5.0
# Connections kept open for the next orders; one is enough for an account that has sent none for _QUIET_S.
_SPARE: Final = 2
_QUIET_S: Final = 600.0
# Connections at most, and how many of them only exits may use: a hanging exchange must not hold an exit behind entries.
_MAX_CONNECTIONS: Final = 32
_KEPT_FOR_EXITS: Final = 4
# How often idle connections are looked at.
_TEND_S: Final = 5.0
# Delay before a spare connection that failed or was closed by the exchange is replaced; doubles each time. Orders do not wait for it.
_FIRST_DELAY_S: Final = 1.0
_MAX_DELAY_S: Final = 30.0
# When to try the next address of the host as well (RFC 8305); aiohttp has the same.
_HAPPY_EYEBALLS_S: Final = 0.25
_MAX_HEAD_BYTES: Final = 64 * 1024
_FINAL_STATUS: Final = 200  # below: interim replies, which another one follows

#: Gets the result of a request and when it was signed (UTC); None if nothing was written.
OnResult = Callable[[TransportResult, datetime | None], None]


@dataclass(slots=True, eq=False)
class _OrderRequest:
    """One request, from `send` until its result."""

    path: str
    body: bytes
    permit: WindowPermit
    on_result: OnResult
    expires_at: datetime
    is_urgent: bool
    is_cancelled: Callable[[], bool]
    timer: asyncio.TimerHandle | None = None
    #: Set right before the first byte is written.
    signed_at: datetime | None = None
    connection: _LineConnection | None = None


@dataclass(slots=True)
class _Response:
    """One HTTP response as far as it was read; header names in lower case."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)

    def text_header(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


class OrderLine:
    """Connections to one REST address under one key. `open` before use (in a running event loop), `close` at the end.

    A connection carries one request at a time. Timeouts run from `send` on and include connecting. `offset` is applied to signatures,
    as they are written, and learned from replies; `clock` returns the time in UTC.
    """

    def __init__(
        self,
        base_url: str,
        signer: Signer,
        offset: ClockOffset,
        *,
        timeout_s: float,
        recv_window_ms: int,
        clock: Callable[[], datetime],
    ) -> None:
        url = URL(base_url)
        self._host, self._port, self._is_tls = url.raw_host or "", url.port or 0, url.scheme == "https"
        self._target_prefix = url.raw_path.rstrip("/")
        self._fixed_headers = (
            f" HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\nUser-Agent: {USER_AGENT}\r\nAccept: application/json\r\n"
            f"Accept-Encoding: identity\r\nx-recv-window: {recv_window_ms}\r\n"
        )
        self._signer = signer
        self._offset = offset
        self._timeout_s = timeout_s
        self._clock = clock
        self._ssl_context: ssl.SSLContext | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_warm = False
        self._connections: set[_LineConnection] = set()  # until `connection_lost`
        self._idle: list[_LineConnection] = []  # by the time since when they are
        self._connecting: set[asyncio.Task[None]] = set()
        self._waiting: deque[_OrderRequest] = deque()  # nothing of them is written
        self._failures = 0
        self._retry_at = float("-inf")
        self._used_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._all_lost = asyncio.Event()

    # ------------------------------------------------------------------------------------------------------ open, close

    def open(self) -> None:
        """Allow `send`; connects nothing yet."""
        if self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        if self._is_tls:
            # As aiohttp's default: the system's certificates (or SSL_CERT_FILE), host name checked. Proxies of the environment are
            # ignored here as there.
            self._ssl_context = ssl.create_default_context()
            self._ssl_context.set_alpn_protocols(["http/1.1"])
        self._schedule(_TEND_S)

    def keep_warm(self) -> None:
        """Connect in the background, and keep connections open for the next orders until `close`. After `open`."""
        self._is_warm = True
        self._used_at = asyncio.get_running_loop().time()
        self._tend()

    async def close(self) -> None:
        """Close every connection. Requests in flight end as NoReply, those that wait for a connection as NotSent."""
        self._loop, self._is_warm = None, False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            self._finish(self._waiting.popleft(), NotSent("the connection to the exchange was closed"))
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        self._idle.clear()
        for connection in tuple(self._connections):
            connection.fail("the connection to the exchange was closed")
        while self._connections:
            self._all_lost.clear()
            await self._all_lost.wait()

    # ------------------------------------------------------------------------------------------------------------- send

    def send(
        self,
        path: str,
        body: bytes,
        permit: WindowPermit,
        on_result: OnResult,
        *,
        expires_at: datetime,
        is_urgent: bool = False,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Sign and POST a JSON body to `path` once: at once if a connection is free, else as soon as one is.

        `permit` is marked as sent when the first byte is written, and released if nothing was sent. `on_result` is called once, before
        this returns only if the line is not open. Urgent requests overtake those that wait, and some connections are kept for them.
        A request that waited for a connection is not written after `expires_at` (UTC), nor if `is_cancelled` returns True by then; of
        the latter `on_result` does not hear.
        """
        request = _OrderRequest(path, body, permit, on_result, expires_at, is_urgent, is_cancelled)
        loop = self._loop
        if loop is None:
            self._finish(request, NotSent("the connection to the exchange is not open"))
            return
        connection = self._take(is_urgent=is_urgent)
        if connection is not None:
            self._write(connection, request)
        else:
            self._waiting.append(request)
        request.timer = loop.call_later(self._timeout_s, self._on_timeout, request)
        self._used_at = loop.time()
        if self._waiting:
            self._tend()
        elif len(self._idle) < _SPARE:
            loop.call_soon(self._tend)

    def _take(self, *, is_urgent: bool) -> _LineConnection | None:
        """A connection that may be written to, the one used last; None if there is none."""
        in_flight = len(self._connections) - len(self._idle)
        if in_flight >= _MAX_CONNECTIONS - (0 if is_urgent else _KEPT_FOR_EXITS):
            return None
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable and now - connection.idle_since < IDLE_S:
                return connection
            connection.abort()
        return None

    def _write(self, connection: _LineConnection, request: _OrderRequest) -> None:
        request.signed_at = signed_at = self._clock()
        request.connection = connection
        signed = self._signer.sign_request(
            self._offset.correct(milliseconds(signed_at)), "POST", request.path, request.body
        )
        headers = "".join([f"{name}: {value}\r\n" for name, value in signed.items()])
        head = f"POST {self._target_prefix}{request.path}{self._fixed_headers}{headers}Content-Length: {len(request.body)}\r\n\r\n"
        connection.write(request, head.encode("ascii") + request.body)
        request.permit.mark_sent()
        hit_soon("W5")

    def _on_timeout(self, request: _OrderRequest) -> None:
        if request.connection is not None:
            request.connection.fail(f"no reply within {self._timeout_s:g} s")
        else:
            self._waiting.remove(request)
            self._finish(request, NotSent(f"no connection within {self._timeout_s:g} s"))

    def _finish(self, request: _OrderRequest, result: TransportResult, exchange_ms: int | None = None) -> None:
        """Settle the permit and pass the result on."""
        if request.timer is not None:
            request.timer.cancel()
        if request.signed_at is not None:
            request.permit.mark_answered(exchange_ms)
        else:
            request.permit.release()
        request.on_result(result, request.signed_at)

    # ------------------------------------------------------------------------------------------------- requests that wait

    def _serve(self) -> None:
        """Write the requests that wait, urgent ones first, as far as connections are free."""
        while self._waiting:
            request = next((each for each in self._waiting if each.is_urgent), self._waiting[0])
            if request.is_cancelled():
                self._waiting.remove(request)
                request.permit.release()
                if request.timer is not None:
                    request.timer.cancel()
                continue
            if self._clock() > request.expires_at:
                self._waiting.remove(request)
                self._finish(request, NotSent("the order expired while it waited for a connection"))
                continue
            connection = self._take(is_urgent=request.is_urgent)
            if connection is None:
                return
            self._waiting.remove(request)
            self._write(connection, request)

    # ------------------------------------------------------------------------------------------------------ connections

    def _tend(self) -> None:
        """Close connections that were idle for too long, open what is missing, and set the timer for the next look."""
        loop = self._loop
        if loop is None:
            return
        now = loop.time()
        while self._idle and now - self._idle[0].idle_since >= IDLE_S:
            self._idle.pop(0).abort()
            self._failures = 0  # the exchange does not close what it accepts
        missing = len(self._waiting) - len(self._connecting)
        if self._is_warm and now >= self._retry_at:
            spare = _SPARE if now - self._used_at < _QUIET_S else 1
            missing += max(0, spare - sum(now - each.idle_since < _RENEW_S for each in self._idle))
        room = _MAX_CONNECTIONS - len(self._connections) - len(self._connecting)
        for _ in range(min(missing, room)):
            task = loop.create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
        self._schedule(_TEND_S)

    def _schedule(self, delay_s: float) -> None:
        """Call `_tend` after a delay, or when it is due already, whichever comes first."""
        loop = self._loop
        if loop is None:
            return
        due = loop.time() + delay_s
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._tend()

    async def _connect(self) -> None:
        """Open one connection, for a request that waits or as a spare one."""
        loop = asyncio.get_running_loop()
        failure = "the exchange closed the connection before a request was sent"
        try:
            async with asyncio.timeout(self._timeout_s):
                addresses = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
                # Not asyncio's own race of addresses, which leaves a socket open if it is cancelled as one connects.
                connected = await start_connection(addresses, happy_eyeballs_delay=_HAPPY_EYEBALLS_S)
                _, connection = await loop.create_connection(
                    lambda: _LineConnection(self),
                    sock=connected,
                    ssl=self._ssl_context,
                    server_hostname=self._host.rstrip(".") if self._ssl_context is not None else None,
                )
            is_connected = connection.is_usable
        except TimeoutError:
            failure, is_connected = f"no connection within {self._timeout_s:g} s", False
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be encoded
            failure, is_connected = f"{type(error).__name__}: {error}", False
        self._connecting.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        if is_connected:
            self._put_idle(connection)
        else:
            self._on_connect_failed(failure)
        self._tend()

    def _put_idle(self, connection: _LineConnection) -> None:
        """A connection is free: for a request that waits, or for the next one."""
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)
        self._serve()

    def _on_connect_failed(self, reason: str) -> None:
        if self._failures == 0:
            log.warning("order_connection_failed", error=reason)
        self._back_off()
        # Each request that waits has a connection under way, unless there are too many: this one's was the one that failed.
        if len(self._waiting) > len(self._connecting):
            self._finish(self._waiting.popleft(), NotSent(reason))

    def _back_off(self) -> None:
        """The exchange refused or closed a connection: open the next spare one after a delay."""
        loop = self._loop
        if loop is None:
            return
        # Jitter: after an outage of the exchange, clients must not all reconnect in the same instant.
        delay_s = min(_FIRST_DELAY_S * 2 ** min(self._failures, 10), _MAX_DELAY_S) * (0.5 + random.random() / 2)
        self._failures += 1
        self._retry_at = loop.time() + delay_s
        self._schedule(delay_s)

    # -------------------------------------------------------------------------------- called by the connections

    def _on_made(self, connection: _LineConnection) -> None:
        self._connections.add(connection)

    def _on_reply(self, connection: _LineConnection, request: _OrderRequest, message: _Response) -> None:
        """A complete reply; the connection is free if it is still usable."""
        self._failures, self._retry_at = 0, float("-inf")
        if connection.is_usable:
            self._put_idle(connection)
        else:
            self._schedule(0.0)
        received_ms = milliseconds(self._clock())
        reply = read_reply(message.status, b"".join(message.chunks), retry_after=message.text_header(b"retry-after"))
        if request.signed_at is not None:
            sent_ms = milliseconds(request.signed_at)
            self._offset.learn(reply, message.text_header(b"date"), sent_ms=sent_ms, received_ms=received_ms)
        self._finish(request, reply, reply.timestamp_ms)

    def _on_broken(self, request: _OrderRequest, reason: str) -> None:
        """A request was written, and no complete reply will come."""
        self._back_off()
        self._finish(request, NoReply(reason))

    def _on_lost(self, connection: _LineConnection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
            self._back_off()
        self._all_lost.set()
        self._serve()
        self._schedule(0.0)


class _LineConnection(asyncio.Protocol):
    """One connection: writes a request, reads its reply, reports both ends to the line."""

    def __init__(self, line: OrderLine) -> None:
        self._line = line
        self._transport: asyncio.Transport  # set by `connection_made`, before anything else is called
        self._parser = httptools.HttpResponseParser(self)
        self._request: _OrderRequest | None = None
        self._message = _Response()
        self._received = 0
        self._has_head = False
        self._is_complete = False
        self._is_kept_alive = False
        self._has_excess = False
        #: Loop time since when it waits for a request.
        self.idle_since = 0.0

    @property
    def is_usable(self) -> bool:
        """Open, and no request in flight."""
        return self._request is None and not self._transport.is_closing()

    def write(self, request: _OrderRequest, data: bytes) -> None:
        """Hand the whole request to the socket, now."""
        self._request = request
        self._message = _Response()
        self._received = 0
        self._has_head = self._is_complete = self._is_kept_alive = self._has_excess = False
        self._transport.write(data)

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def fail(self, reason: str) -> None:
        """Close the connection; a request in flight gets no reply."""
        self.abort()
        request, self._request = self._request, None
        if request is not None:
            self._line._on_broken(request, reason)

    # ----------------------------------------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._line._on_made(self)

    def data_received(self, data: bytes) -> None:
        request = self._request
        if request is None:
            self.abort()  # nothing was asked: whatever comes would be taken for the reply to the next request
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            what = "data follows the reply" if self._is_complete else "the reply is not HTTP/1.1"
            self.fail(f"{what}: {error}")
            return
        if self._has_excess:
            self.fail("a second reply follows the first")
        elif self._received > (MAX_REPLY_BYTES if self._has_head else _MAX_HEAD_BYTES):
            self.fail("the reply is too big")
        elif self._is_complete:
            if not self._is_kept_alive:
                self.abort()
            self._request = None
            self._line._on_reply(self, request, self._message)

    def eof_received(self) -> None:
        self.fail("the connection was closed before the reply was complete")

    def connection_lost(self, error: Exception | None) -> None:
        self.fail("the connection was lost" + (f": {type(error).__name__}: {error}" if error else ""))
        self._line._on_lost(self)

    # --------------------------------------------------------------------------------- httptools.HttpResponseParser

    def on_message_begin(self) -> None:
        self._has_excess = self._is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:  # else it is a trailer
            self._message.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._has_head = self._parser.get_status_code() >= _FINAL_STATUS

    def on_body(self, body: bytes) -> None:
        self._message.chunks.append(body)

    def on_message_complete(self) -> None:
        if not self._has_head:
            self._message.headers.clear()  # an interim reply: the real one follows
            return
        self._message.status = self._parser.get_status_code()
        self._is_kept_alive = self._parser.should_keep_alive()
        self._is_complete = True
