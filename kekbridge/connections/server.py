"""An aiohttp server that accepts its connections itself, within bounds, and whose shutdown does not cut a request that is still arriving.

Caps are applied when a connection is accepted. Until its first byte arrives a connection is only a socket: aiohttp's protocol and the TLS
object are created then. table.py decides which connection is closed at a cap. Serves the public listener, the web pages and the paper
exchange; what they answer is theirs.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import ssl
import sys
from asyncio import sslproto
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Final, cast

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from kekbridge.connections.memory import give_back
from kekbridge.connections.sampling import PERIOD_S, Sampler
from kekbridge.connections.table import ConnectionTable, address_key
from kekbridge.log import get_logger

log = get_logger("kekbridge.connections")

SERVER_NAME: Final = "kekbridge"  # of the Server header; aiohttp's own names its version and Python's

# How long a connection may take from its acceptance to its first request before a stop drops it: as long as TradingView waits in all.
FIRST_REQUEST_S: Final = 3.0
_CHECK_EVERY_S: Final = 0.01

_BACKLOG: Final = 1024
_ACCEPTS_PER_TURN: Final = 32  # a flood of connections leaves room for requests in every turn of the event loop
_HANDSHAKE_TIMEOUT_S: Final = 5.0
_READ_BYTES: Final = 32 * 1024
# asyncio gives each TLS connection a receive buffer of 256 KiB. One TLS record has at most 16 KiB.
_TLS_BUFFER_BYTES: Final = 16 * 1024
# Request bodies that arrive at the same time, in all and from one sender.
_MOST_BODIES: Final = 256
_MOST_BODIES_PER_ADDRESS: Final = 64
_TURN_S: Final = 0.02  # between two requests that wait for their turn
# Connections without a request that an address may have whose requests are being refused.
_MOST_OF_REFUSED: Final = 4

# A flood is over when this many connections were open at once, or were dropped, and only so many are left; memory is then given back.
_FLOOD, _CALM = 128, 16
_CALM_FOR_S: Final = 2.0
_GIVE_BACK_EVERY_S: Final = 60.0

_SPARE_FILES: Final = 256  # database, logs, the exchange's connections
_FEWEST_FILES: Final = 4096  # enough for all listeners of a process with their default caps
_FEW_FILES: Final = "the limit of open files is near"
_ACCEPT_AGAIN_S: Final = 1.0

_PeerHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Peer:
    """One accepted connection: a socket until its first byte arrives, then a protocol."""

    __slots__ = ("accepted_at", "address", "host", "is_open", "opening", "protocol", "socket", "transport")

    def __init__(self, accepted: socket.socket, host: str, address: str | None, accepted_at: float) -> None:
        self.socket = accepted
        self.host = host
        self.address = address
        self.accepted_at = accepted_at
        self.protocol: BoundedConnection | None = None
        self.opening: asyncio.Task[None] | None = None  # creates the transport, and waits for the TLS handshake
        self.is_open = False  # asyncio has the socket now, and closes it
        self.transport: asyncio.Transport | None = (
            None  # aiohttp forgets it when it closes it, although it may stay open until it is read
        )


class BoundedConnection(RequestHandler):
    """aiohttp's connection, which also knows whether a shutdown may drop it.

    aiohttp itself considers a connection idle if no request of it has been read, even one that was accepted a moment ago and whose request
    is still in the socket. It then reads no further bytes, so that a request whose body is still arriving is lost, too.
    """

    __slots__ = ("_server", "peer")

    def __init__(self, server: BoundedServer, peer: Peer, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self.peer = peer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio when the connection is open, after its TLS handshake."""
        # asyncio allocates 256 KiB for each read and then shrinks them; hundreds of readers leave holes in the heap that it keeps.
        transport.max_size = _READ_BYTES  # type: ignore[attr-defined]
        self.peer.transport = cast(asyncio.Transport, transport)
        super().connection_made(transport)

    @property
    def has_sent_request(self) -> bool:
        """True once the head of at least one request has been read."""
        return self._request_count > 0

    @property
    def is_idle(self) -> bool:
        """True while it waits for a request; the same test as that of aiohttp's own timer for idle connections."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def was_left_unused(self) -> bool:
        """True if its peer closed it without a request; False if it was closed here."""
        return self._request_count == 0 and not self._force_close

    def discard(self) -> None:
        """Break the cycle of references of a connection that was never opened: thousands must not wait for the garbage collector."""
        if self.transport is None:
            self._parser = None

    def skip_lingering(self) -> None:
        """Close after the response without reading what is left of the body."""
        self._lingering_time = 0.0

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer input that is not HTTP, and errors of the handler, without the name or version of any software."""
        response: web.StreamResponse
        if isinstance(exc, HttpProcessingError) and not request.writer.output_size:
            response = self._server.answer_bad_request(self.peer)
        else:
            response = super().handle_error(request, status, exc, message)
        response.headers[hdrs.SERVER] = SERVER_NAME
        response.force_close()
        return response


def _plain_bad_request(_peer: Peer) -> web.Response:
    return web.Response(status=400, text="400: not a valid HTTP request\n")


def _never(_host: str) -> bool:
    return False


class BoundedServer(web.Server):
    """aiohttp's low-level server with caps on connections. Call `listen`, then `stop_accepting` and `finish`."""

    def __init__(
        self,
        handler: _PeerHandler,
        *,
        most_connections: int,
        keepalive_timeout: float,
        lingering_time: float,
        most_per_address: int | None = None,
        body_timeout_s: float | None = None,
        ssl_context: ssl.SSLContext | None = None,
        is_exempt: Callable[[str], bool] = _never,
        is_refused: Callable[[str], bool] = _never,
        answer_bad_request: Callable[[Peer], web.Response] = _plain_bad_request,
        on_abandoned: Callable[[Peer], None] | None = None,
        request_factory: Any = None,
        name: str = "listener",
    ) -> None:
        """Caps: `most_connections` in all, `most_per_address` from one address (IPv6: from one /64; None: no such cap).

        `keepalive_timeout`, seconds, also cuts connections that never send and heads that never end. `body_timeout_s`: seconds
        that a body may take (None: the handler sees to that, with `await_body` and `body_arrived`).
        `is_exempt`: addresses without a cap, which are proxies. `is_refused`: addresses whose requests are being refused; they get few
        connections at a time. `answer_bad_request` answers what is not HTTP. `on_abandoned` is called for a TLS connection that its peer
        closed without a request, after it had begun a handshake. `name`: in log lines.
        """
        super().__init__(handler, request_factory=request_factory)
        self._answer = handler
        self.request_handler = self._handle
        self._options: dict[str, Any] = {
            "loop": self._loop,
            "keepalive_timeout": keepalive_timeout,
            "lingering_time": lingering_time,
            "access_log": None,  # its lines would hold the request line
            "auto_decompress": False,  # compressed bodies are refused, so nothing may unpack them first
            "logger": _ParserErrorLogger("kekbridge.ingress.http"),
        }
        self._first_byte_s = keepalive_timeout if ssl_context is None else min(_HANDSHAKE_TIMEOUT_S, keepalive_timeout)
        self._body_timeout_s = body_timeout_s
        self._tls: dict[str, Any] = {}
        if ssl_context is not None:
            handshake_s = min(_HANDSHAKE_TIMEOUT_S, keepalive_timeout)
            self._tls = {
                "ssl": ssl_context,
                "ssl_handshake_timeout": handshake_s,
                "ssl_shutdown_timeout": handshake_s,
            }
            sslproto.SSLProtocol.max_size = (
                _TLS_BUFFER_BYTES  # of the whole process: the exchange's connections have small ones, too
            )
        self._is_exempt = is_exempt
        self._is_refused = is_refused
        self.answer_bad_request = answer_bad_request
        self._on_abandoned = on_abandoned
        self._name = name
        self._most_connections = most_connections
        self._table: ConnectionTable[Peer] = ConnectionTable(
            most=most_connections,
            most_per_address=most_per_address or most_connections,
            most_bodies=_MOST_BODIES,
            most_bodies_per_address=_MOST_BODIES_PER_ADDRESS,
        )
        self._turns: OrderedDict[Peer, asyncio.Future[None]] = OrderedDict()  # requests that wait for their turn
        self._turn_timer: asyncio.Handle | None = None
        self._silent: OrderedDict[Peer, None] = OrderedDict()  # accepted, without a byte yet; oldest first
        self._silent_timer: asyncio.TimerHandle | None = None
        self._listening: tuple[socket.socket, ...] = ()
        self._is_paused = False
        self._most_open = 0  # since memory was given back, as the next one
        self._dropped = 0
        self._calm_timer: asyncio.TimerHandle | None = None
        self._gave_back_at = float("-inf")
        self._first_reserved_file = sys.maxsize
        self._sampler = Sampler()

    @property
    def open_connections(self) -> int:
        return len(self._table)

    # ------------------------------------------------------------------------------------------------------ accepting

    def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Accept the connections of listening sockets, which belong to the server from now on."""
        self._first_reserved_file = _reserve_files(self._most_connections + _SPARE_FILES)
        self._listening = tuple(sockets)
        for each in self._listening:
            each.settimeout(0)
            self._loop.add_reader(each, self._accept, each)

    def stop_accepting(self) -> None:
        """Close the listening sockets. What is in the backlog of an inherited one stays there for the next daemon."""
        for each in self._listening:
            self._loop.remove_reader(each)
            each.close()
        self._listening = ()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            if len(self._table) >= self._table.most and (wait_s := self._table.wait_s(self._loop.time())):
                self._pause("connections are at their cap", again_s=wait_s)
                return
            try:
                accepted, name = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no files or memory left, or the network is down
                self._pause(str(error.strerror), again_s=_ACCEPT_AGAIN_S)
                return
            too_many = accepted.fileno() + 1 - self._first_reserved_file
            self._add(accepted, str(name[0]))
            if too_many > 0 and not self._close_for_files(too_many):
                self._pause(_FEW_FILES, again_s=_ACCEPT_AGAIN_S)
                return

    def _add(self, accepted: socket.socket, host: str) -> None:
        accepted.settimeout(0)
        address = address_key(host)
        if self._is_refused(host) and self._table.unfinished_of(address) >= _MOST_OF_REFUSED:
            accepted.close()
            return
        now = self._loop.time()
        peer = Peer(accepted, host, None if self._is_exempt(host) else address, now)
        victim = self._table.add(peer, peer.address, now)
        if victim is not None:
            self._drop(victim)
        self._most_open = max(self._most_open, len(self._table))
        try:
            has_byte = bool(accepted.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            self._loop.add_reader(accepted, self._on_first_byte, peer)
            self._silent[peer] = None
            if self._silent_timer is None:
                self._silent_timer = self._loop.call_later(self._first_byte_s, self._drop_silent)
        except OSError:
            self._close(peer)
        else:
            self._open(peer) if has_byte else self._close(peer)

    def _on_first_byte(self, peer: Peer) -> None:
        self._loop.remove_reader(peer.socket)
        del self._silent[peer]
        try:
            has_byte = bool(peer.socket.recv(1, socket.MSG_PEEK))
        except OSError:
            has_byte = False
        self._open(peer) if has_byte else self._close(peer)

    def _drop_silent(self) -> None:
        """Close the connections that have sent nothing for too long."""
        self._silent_timer = None
        too_old = self._loop.time() - self._first_byte_s
        while (oldest := next(iter(self._silent), None)) is not None:
            if oldest.accepted_at > too_old:
                self._silent_timer = self._loop.call_at(oldest.accepted_at + self._first_byte_s, self._drop_silent)
                return
            self._table.remove(oldest)
            self._drop(oldest)

    def _open(self, peer: Peer) -> None:
        peer.protocol = BoundedConnection(self, peer, **self._options)
        peer.opening = self._loop.create_task(self._connect(peer, peer.protocol))

    async def _connect(self, peer: Peer, protocol: BoundedConnection) -> None:
        if peer not in self._table:
            peer.socket.close()
            return
        peer.is_open = True
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, peer.socket, **self._tls)
        except OSError as error:  # the handshake failed (SSLError is one), or took too long
            self._forget(peer)
            if not isinstance(error, ConnectionAbortedError):
                self._report_abandoned(peer)
        except asyncio.CancelledError:
            pass  # dropped; the task ends here, since its exception would keep everything of the connection alive
        finally:
            peer.opening = None

    def _close(self, peer: Peer) -> None:
        """Close a socket that has no protocol yet."""
        self._forget(peer)
        peer.socket.close()

    def _drop(self, peer: Peer) -> None:
        """Close a connection that is no longer in the table."""
        self._dropped += 1
        if peer in self._silent:
            del self._silent[peer]
            self._loop.remove_reader(peer.socket)
            peer.socket.close()
        elif peer.opening is not None:
            if peer.is_open:  # else it has not begun, and closes the socket when it does
                peer.opening.cancel()
        elif peer.transport is not None:
            peer.transport.abort()  # not close(): that would wait for a peer that does not read
            self._end_turn(peer)
        self._unlink(peer)

    def _forget(self, peer: Peer) -> None:
        self._table.remove(peer)
        self._unlink(peer)
        if self._is_paused:
            self._resume()
        if max(self._most_open, self._dropped) >= _FLOOD and self._calm_timer is None and len(self._table) <= _CALM:
            due_at = max(self._loop.time() + _CALM_FOR_S, self._gave_back_at + _GIVE_BACK_EVERY_S)
            self._calm_timer = self._loop.call_at(due_at, self._give_back)

    def _give_back(self) -> None:
        """Give the memory of a flood back, unless another one has begun."""
        self._calm_timer = None
        if len(self._table) <= _CALM:
            self._most_open = self._dropped = 0
            self._gave_back_at = self._loop.time()
            give_back()

    def _unlink(self, peer: Peer) -> None:
        peer.transport = None
        if peer.protocol is not None:
            peer.protocol.discard()
            peer.protocol = None

    def _close_for_files(self, count: int) -> bool:
        """Lower the cap for a while and close connections above it, so that files are left for the database; False if too few can be."""
        self._log_limit(_FEW_FILES)
        self._table.most = max(len(self._table) - count, 1)
        self._loop.call_later(PERIOD_S, self._restore_cap)
        while len(self._table) > self._table.most:
            victim = self._table.evict(self._loop.time())
            if victim is None:
                return False
            self._drop(victim)
        return True

    def _restore_cap(self) -> None:
        self._table.most = self._most_connections

    def _pause(self, reason: str, *, again_s: float) -> None:
        """Accept nothing until a connection ends, or for `again_s` seconds: connections wait in the backlog meanwhile."""
        self._log_limit(reason)
        if self._is_paused:
            return
        self._is_paused = True
        for each in self._listening:
            self._loop.remove_reader(each)
        if again_s < inf:
            self._loop.call_later(again_s, self._resume)

    def _resume(self) -> None:
        if not self._is_paused:
            return
        self._is_paused = False
        for each in self._listening:
            self._loop.add_reader(each, self._accept, each)

    def _log_limit(self, reason: str) -> None:
        count = self._sampler.due(reason, self._loop.time())
        if count:
            log.warning("connection_limit", listener=self._name, reason=reason, open=len(self._table), count=count)

    # ------------------------------------------------------------------------------------------------------- requests

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        peer: Peer = request.protocol.peer  # type: ignore[attr-defined]  # every protocol is a BoundedConnection
        self._table.handle(peer)
        try:
            if self._body_timeout_s is not None and not request.content.is_eof():
                return await self._answer_with_body(request, peer, self._body_timeout_s)
            return await self._answer(request)
        finally:
            error = request.content.exception()
            if error is not None:
                # It belongs to the request and refers to the frames that read the body, which would keep what has arrived, and themselves,
                # until the next full collection: thousands of connections with unfinished bodies would fill the memory.
                error.__traceback__ = None
            self._table.answered(peer, self._loop.time())
            if self._is_paused:
                self._resume()

    async def _answer_with_body(self, request: web.BaseRequest, peer: Peer, timeout_s: float) -> web.StreamResponse:
        """Call the handler, which reads the body, and close the connection if the body does not arrive in time."""
        self.await_body(request, None)
        cut = self._loop.call_later(timeout_s, self._drop_slow_body, peer)
        request.content.on_eof(partial(self._table.handle, peer))
        request.content.on_eof(cut.cancel)
        try:
            return await self._answer(request)
        except ConnectionError:
            return web.Response(status=408)  # not delivered: the connection is closed
        finally:
            cut.cancel()

    def _drop_slow_body(self, peer: Peer) -> None:
        self._table.remove(peer)
        self._drop(peer)

    def await_body(self, request: web.BaseRequest, sender: str | None) -> None:
        """The body of this request is about to be read; `sender`: its address, None if unknown. May close another connection."""
        peer: Peer = request.protocol.peer  # type: ignore[attr-defined]
        victim = self._table.await_body(peer, None if sender is None else address_key(sender), self._loop.time())
        if victim is not None:
            self._drop(victim)

    def body_arrived(self, request: web.BaseRequest) -> None:
        """The body is complete: the connection is not closed for another one until the request is answered."""
        self._table.handle(request.protocol.peer)  # type: ignore[attr-defined]

    def release(self, request: web.BaseRequest) -> None:
        """The request will be refused unread: its connection may be closed for another one, and no more of its body is received."""
        protocol: BoundedConnection = request.protocol  # type: ignore[assignment]
        self._table.answered(protocol.peer, self._loop.time())
        protocol.skip_lingering()
        if not request.content.is_eof():
            protocol.pause_reading()
        request.content.read_nowait()

    async def wait_for_turn(self, request: web.BaseRequest) -> None:
        """Let requests that cost much time follow each other slowly, so that others are answered in between.

        Raises ConnectionError if the connection is closed meanwhile.
        """
        peer: Peer = request.protocol.peer  # type: ignore[attr-defined]
        if peer not in self._table:
            raise ConnectionResetError("closed for another connection")
        turn = self._turns[peer] = self._loop.create_future()
        if self._turn_timer is None:
            self._turn_timer = self._loop.call_soon(self._next_turn)
        try:
            await turn
        finally:
            del (
                turn
            )  # its exception refers to this frame, which would keep the request alive until the next full collection

    def _next_turn(self) -> None:
        if not self._turns:
            self._turn_timer = None
            return
        _, turn = self._turns.popitem(last=False)
        turn.set_result(None)
        self._turn_timer = self._loop.call_later(_TURN_S, self._next_turn)

    def _end_turn(self, peer: Peer) -> None:
        turn = self._turns.pop(peer, None)
        if turn is not None:
            turn.set_exception(ConnectionResetError("closed for another connection"))

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Called by aiohttp when a connection is closed."""
        if isinstance(handler, BoundedConnection):
            if handler.peer in self._table and handler.was_left_unused:
                self._report_abandoned(handler.peer)
            self._end_turn(handler.peer)
            self._forget(handler.peer)
        super().connection_lost(handler, exc)

    def _report_abandoned(self, peer: Peer) -> None:
        if self._on_abandoned is not None and self._tls:
            self._on_abandoned(peer)

    # ------------------------------------------------------------------------------------------------------- shutdown

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
        opening = [peer.opening for peer in self._table if peer.opening is not None]
        for peer in list(self._table):
            if peer.protocol is None or peer.opening is not None:
                self._table.remove(peer)
                self._drop(peer)
        if opening:
            await asyncio.wait(opening)
        for timer in (self._silent_timer, self._turn_timer, self._calm_timer):
            if timer is not None:
                timer.cancel()
        self.pre_shutdown()
        await self.shutdown(max(ends_at - self._loop.time(), _CHECK_EVERY_S))

    def _drop_idle(self) -> bool:
        """Drop connections that no request will come on; True if others are left."""
        too_old = self._loop.time() - FIRST_REQUEST_S
        is_any_left = False
        for peer in list(self._table):
            protocol = peer.protocol
            if protocol is None or protocol.transport is None or not protocol.has_sent_request:
                if peer.accepted_at <= too_old:
                    self._table.remove(peer)
                    self._drop(peer)
                else:
                    is_any_left = True
            elif protocol.transport.is_closing():
                continue  # answered; a peer that does not read its response must not delay the shutdown
            elif protocol.is_idle:
                protocol.force_close()
            else:
                is_any_left = True
        return is_any_left


class AppServer:
    """Serves an aiohttp application with bounded connections. Call `start` once, then `close`, which may be called again."""

    def __init__(self, app: web.Application, **options: Any) -> None:
        """`options`: see BoundedServer."""
        app.on_response_prepare.append(_name_server)
        self._runner = web.AppRunner(app)
        self._options = options
        self._server: BoundedServer | None = None

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serve the connections of listening sockets, which belong to the server from now on."""
        await self._runner.setup()
        made = self._runner.server
        assert made is not None  # noqa: S101 - it is set up
        self._server = BoundedServer(made.request_handler, request_factory=made.request_factory, **self._options)
        self._server.listen(sockets)

    async def close(self, *, longest_s: float) -> None:
        """Stop serving; requests under way have `longest_s` seconds to finish."""
        if self._server is None:
            return
        self._server.stop_accepting()
        await self._runner.shutdown()
        await self._server.finish(longest_s=longest_s)
        await self._runner.cleanup()
        self._server = None


async def _name_server(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[hdrs.SERVER] = SERVER_NAME


async def bind(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of a host name (empty: every interface). Raises OSError if one cannot be used."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                sockets.append(socket.create_server(address, family=family, backlog=_BACKLOG))
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT or len(found) == 1:  # a machine without IPv6
                    raise
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets


def _reserve_files(needed: int) -> int:
    """Raise the soft limit of open files, 1024 on most systems, to what is needed, as far as the hard limit allows.

    Returns the number of the first file that no connection may have: the kernel gives each new file the lowest free number, so the number
    of an accepted socket tells how many files are open.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(needed, _FEWEST_FILES)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft - min(_SPARE_FILES, soft // 4)


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
