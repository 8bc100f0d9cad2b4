"""A proxy between the bridge and the paper exchange with faults that belong to the network, which the exchange itself cannot make.

`FaultProxy` runs in a thread of its own, so it goes on while a test blocks. `arm` and `clear` may be called from any thread.

| fault of a request | effect |
| --- | --- |
| cut_request | half of the request reaches the exchange, then both connections are cut |
| cut_before | the request is read and not forwarded, then the connection is cut |
| cut_after | the request is forwarded and executed, then the connection is cut without a byte of the response |
| cut_inside | the same, in the middle of the response |
| html | a page of HTML with `status`, `when`: before (not forwarded) or after the request was executed |
| answer | `status`, `headers` and `body` as the response, `when` as above |
| swallow | the request is read, not forwarded and never answered; the connection stays open |
| delay | `delay_s` pass before or after (`when`) the request is executed |
| stale | a GET gets the response that the same request had when the fault was armed; a request without one is forwarded |

| fault of connections | effect |
| --- | --- |
| refuse | new connections are reset |
| deaf | no byte passes in any direction; what waited passes when the fault ends, also from a client that has gone |

| fault of stream messages | effect |
| --- | --- |
| drop_message | the message is lost |
| duplicate_message | it comes twice |
| reorder_message | it comes after the next one, or after HOLD_S if there is none |
| delay_message | it and those behind it come `delay_s` later |
| cut_stream | the stream is cut instead |

`half_open` is an event: the connections of this moment lose their exchange, and do not learn of it, or only some seconds later.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

OF_REQUESTS: Final = frozenset(
    {"cut_request", "cut_before", "cut_after", "cut_inside", "html", "answer", "swallow", "delay", "stale"}
)
OF_CONNECTIONS: Final = frozenset({"refuse", "deaf"})
OF_MESSAGES: Final = frozenset({"drop_message", "duplicate_message", "reorder_message", "delay_message", "cut_stream"})
KINDS: Final = OF_REQUESTS | OF_CONNECTIONS | OF_MESSAGES

#: How long `reorder_message` holds a message back if no other follows.
HOLD_S: Final = 0.25
_GATE_S = 0.005
_LIMIT = 16 << 20
_TEXT = 1  # opcode of a text frame
_PAGE = b"<!DOCTYPE html><html><head><title>%d</title></head><body><h1>Error %d</h1><p>Ray ID: 8f3c</p></body></html>"


@dataclass(slots=True, kw_only=True)
class ProxyFault:
    """One armed fault. Without `count`, `probability` and `seconds` it applies every time until cleared."""

    #: One of KINDS.
    kind: str
    #: HTTP method that it applies to; None: any.
    method: str | None = None
    #: Beginning of the request path that it applies to.
    path: str = ""
    #: Stream topic that it applies to; None: any.
    topic: str | None = None
    #: How many more times it applies; None: no limit.
    count: int | None = None
    #: Probability that it applies, 0 to 1.
    probability: float = 1.0
    #: How long it lasts, seconds; None: until cleared.
    seconds: float | None = None
    #: Whether it applies "before" or "after" the request is executed.
    when: str = "before"
    #: Delay in seconds.
    delay_s: float = 0.0
    #: HTTP status of the response.
    status: int = 502
    #: Headers of the response beside its length.
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Body of the response of `answer`.
    body: bytes = b""
    #: Seed of `probability`.
    seed: int = 0
    _rng: random.Random = field(init=False, repr=False)
    _ends_at: float = field(init=False, repr=False, default=float("inf"))
    _responses: dict[str, bytes] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"found fault {self.kind!r}, expected one of {', '.join(sorted(KINDS))}")
        if self.when not in ("before", "after"):
            raise ValueError(f"found when={self.when!r}, expected before or after")
        self._rng = random.Random(self.seed)
        if self.seconds is not None:
            self._ends_at = time.monotonic() + self.seconds

    @property
    def is_over(self) -> bool:
        return self.count == 0 or time.monotonic() >= self._ends_at

    def hit(self) -> bool:
        """Decide whether it applies this time, and count that."""
        if self.is_over or self._rng.random() >= self.probability:
            return False
        if self.count is not None:
            self.count -= 1
        return True

    def remember(self, responses: Mapping[str, bytes]) -> None:
        """Keep the responses that `stale` repeats."""
        self._responses = dict(responses)

    def stale_response(self, target: str) -> bytes | None:
        """The remembered response to a target, with the present time as its timestamp: the exchange is behind, not its clock."""
        found = self._responses.get(target)
        now = str(time.time_ns() // 1_000_000).encode()
        return None if found is None else re.sub(rb'("timestamp":\s*)\d{13}', rb"\g<1>" + now, found, count=1)


@dataclass(slots=True)
class _HttpMessage:
    """A request or a response as its bytes."""

    head: bytes
    body: bytes

    @property
    def raw(self) -> bytes:
        return self.head + self.body

    @property
    def words(self) -> list[str]:
        """Words of the first line: method and target, or version and status."""
        return self.head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")


@dataclass(eq=False)
class _Link:
    """One connection of the client with its own connection to the exchange."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    task: asyncio.Task[None]
    upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    is_idle: bool = True
    is_stream: bool = False
    is_half_open: bool = False
    #: A frame that `reorder_message` holds back.
    held: bytes | None = None

    def release(self, frame: bytes) -> None:
        """Write the frame that was held back, unless that is done."""
        if self.held is frame:
            self.held = None
            self.writer.write(frame)

    def abort(self) -> None:
        self.writer.transport.abort()
        self.abort_upstream()

    def abort_upstream(self) -> None:
        if self.upstream is not None:
            self.upstream[1].transport.abort()


class _UpstreamProtocol(asyncio.StreamReaderProtocol):
    """Reports when the exchange closes the connection."""

    def __init__(self, reader: asyncio.StreamReader, on_closed: Callable[[], None]) -> None:
        super().__init__(reader)
        self._on_closed = on_closed

    def eof_received(self) -> bool | None:
        self._on_closed()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._on_closed()


class FaultProxy:
    """Forwards HTTP/1.1 and WebSocket from `port` (0: a free one) to `upstream_port`, both on 127.0.0.1."""

    def __init__(self, upstream_port: int, *, port: int = 0) -> None:
        self.upstream_port = upstream_port
        self.port = port
        #: How many times each kind of fault applied.
        self.hits: Counter[str] = Counter()
        #: What went wrong in the proxy itself; a test expects none.
        self.errors: list[str] = []
        self._faults: list[ProxyFault] = []
        self._lock = threading.Lock()
        self._responses: dict[str, bytes] = {}
        self._links: set[_Link] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # ------------------------------------------------------------------------------------------------------ start, stop

    def start(self) -> str:
        """Listen; return the base URL."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="fault-proxy")
        self._thread.start()
        self._ready.wait()
        if self._loop is None:
            self._thread.join()
            raise OSError(f"the proxy cannot listen on port {self.port}: {self.errors}")
        return self.url

    def stop(self) -> None:
        """Cut every connection and stop. Can be called twice, and without start."""
        if self._thread is None:
            return
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = self._loop = None

    async def _run(self) -> None:
        try:
            server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=_LIMIT)
        except OSError as error:
            self.errors.append(str(error))
            self._ready.set()
            return
        self.port = server.sockets[0].getsockname()[1]
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        await self._stop.wait()
        server.close()
        tasks = [link.task for link in self._links]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ----------------------------------------------------------------------------------------------------------- faults

    def arm(self, *faults: ProxyFault) -> None:
        """Add faults; of several that match a request or message, the first applies."""
        with self._lock:
            for fault in faults:
                fault.remember(self._responses)
            self._faults.extend(faults)

    def clear(self) -> None:
        """End all faults."""
        with self._lock:
            self._faults.clear()

    def half_open(self, *, only_streams: bool = False, seconds: float | None = None) -> int:
        """Take the exchange away from every connection of this moment; return how many. What the client sends there is lost.

        After `seconds` they are reset, as by a router that has forgotten them; None: never.
        """
        loop = self._loop
        if loop is None:
            raise RuntimeError("the proxy is not started")
        return asyncio.run_coroutine_threadsafe(self._half_open(seconds, only_streams=only_streams), loop).result()

    async def _half_open(self, seconds: float | None, *, only_streams: bool) -> int:
        found = [link for link in self._links if not link.is_half_open and (link.is_stream or not only_streams)]
        for link in found:
            link.is_half_open = True
            link.abort_upstream()
            link.task.cancel()
            if seconds is not None:
                asyncio.get_running_loop().call_later(seconds, link.abort)
        self.hits["half_open"] += len(found)
        return len(found)

    def _hit(self, kinds: frozenset[str], matches: Callable[[ProxyFault], bool]) -> ProxyFault | None:
        with self._lock:
            self._faults = [fault for fault in self._faults if not fault.is_over]
            for fault in self._faults:
                if fault.kind in kinds and matches(fault) and fault.hit():
                    self.hits[fault.kind] += 1
                    return fault
        return None

    async def _pass_gate(self) -> None:
        """Wait while the proxy is deaf."""
        if self._is_deaf():
            self.hits["deaf"] += 1
        while self._is_deaf():  # noqa: ASYNC110  armed in another thread, and ends by time
            await asyncio.sleep(_GATE_S)

    def _is_deaf(self) -> bool:
        with self._lock:
            return any(fault.kind == "deaf" and not fault.is_over for fault in self._faults)

    # ------------------------------------------------------------------------------------------------------ connections

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = _Link(reader, writer, task)
        self._links.add(link)
        try:
            await self._serve(link)
        except asyncio.CancelledError:
            if link.is_half_open:
                task.uncancel()
                await self._ignore(link)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # one of the two sides has gone
        except Exception as error:
            self.errors.append(f"{type(error).__name__}: {error}")
        finally:
            link.abort()
            self._links.discard(link)

    async def _ignore(self, link: _Link) -> None:
        """Read and forget until the client closes the connection."""
        with contextlib.suppress(ConnectionError):
            while await link.reader.read(1 << 16):
                pass

    async def _serve(self, link: _Link) -> None:
        if self._hit(frozenset({"refuse"}), lambda _: True):
            return
        while (request := await _read_http(link.reader)) is not None:
            link.is_idle = False
            await self._pass_gate()
            if not await self._forward(link, request):
                return
            link.is_idle = True

    async def _connect(self, link: _Link) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if link.upstream is None:
            loop = asyncio.get_running_loop()
            reader = asyncio.StreamReader(limit=_LIMIT)
            transport, protocol = await loop.create_connection(
                lambda: _UpstreamProtocol(reader, lambda: self._on_upstream_closed(link)),
                "127.0.0.1",
                self.upstream_port,
            )
            link.upstream = (reader, asyncio.StreamWriter(transport, protocol, reader, loop))
        return link.upstream

    def _on_upstream_closed(self, link: _Link) -> None:
        if link.is_idle and not link.is_half_open and not self._is_deaf():
            link.abort()

    # --------------------------------------------------------------------------------------------------------- requests

    async def _forward(self, link: _Link, request: _HttpMessage) -> bool:
        """Forward one request and its response under at most one fault; return whether the connection may be used again."""
        method, target = request.words[:2]
        fault = self._hit(
            OF_REQUESTS,
            lambda one: (
                one.method in (None, method)
                and target.startswith(one.path)
                and (one.kind != "stale" or (method == "GET" and one.stale_response(target) is not None))
            ),
        )
        kind = fault.kind if fault else ""
        is_after = fault is not None and fault.when == "after"
        if fault is not None and not is_after:
            if kind == "cut_before":
                return False
            if kind == "swallow":
                await self._ignore(link)
                return False
            if kind in ("html", "answer"):
                return await self._send(link, _made_up(fault))
            if kind == "stale":
                return await self._send(link, fault.stale_response(target) or b"")
            if kind == "delay":
                await asyncio.sleep(fault.delay_s)
        reader, writer = await self._connect(link)
        if kind == "cut_request":
            writer.write(request.raw[: max(len(request.raw) // 2, 1)])
            await writer.drain()
            return False
        writer.write(_without_extensions(request).raw)
        await writer.drain()
        response = await _read_http(reader, is_response=True)
        if response is None:
            return False
        await self._pass_gate()
        if response.words[1] == "101":
            await self._send(link, response.raw)
            await self._stream(link)
            return False
        if method == "GET" and response.words[1] == "200":
            self._responses[target] = response.raw
        if kind == "cut_after":
            return False
        if kind == "cut_inside":
            await self._send(link, response.raw[: len(response.raw) // 2])
            link.writer.close()  # what was written arrives, unlike with abort
            await link.writer.wait_closed()
            return False
        if fault is not None and is_after:
            if kind in ("html", "answer"):
                return await self._send(link, _made_up(fault))
            if kind == "delay":
                await asyncio.sleep(fault.delay_s)
        return await self._send(link, response.raw) and b"connection: close" not in response.head.lower()

    async def _send(self, link: _Link, content: bytes) -> bool:
        link.writer.write(content)
        await link.writer.drain()
        return True

    # ---------------------------------------------------------------------------------------------------------- streams

    async def _stream(self, link: _Link) -> None:
        """Forward both directions of a WebSocket connection until one side closes it."""
        link.is_stream = True
        pumps = [asyncio.create_task(self._to_exchange(link)), asyncio.create_task(self._to_client(link))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            results = await asyncio.gather(*pumps, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, (ConnectionError, asyncio.IncompleteReadError)):
                raise result

    async def _to_exchange(self, link: _Link) -> None:
        assert link.upstream is not None
        while data := await link.reader.read(1 << 16):
            await self._pass_gate()
            link.upstream[1].write(data)
            await link.upstream[1].drain()

    async def _to_client(self, link: _Link) -> None:
        assert link.upstream is not None
        while True:
            opcode, payload, frame = await _read_frame(link.upstream[0])
            await self._pass_gate()
            topic = _topic(payload) if opcode == _TEXT else None
            fault = None if topic is None else self._message_fault(topic)
            copies = 1
            match fault.kind if fault else None:
                case "cut_stream":
                    return
                case "drop_message":
                    continue
                case "delay_message" if fault:
                    await asyncio.sleep(fault.delay_s)
                case "duplicate_message":
                    copies = 2
                case "reorder_message" if link.held is None:
                    link.held = frame
                    asyncio.get_running_loop().call_later(HOLD_S, link.release, frame)
                    continue
                case _:
                    pass
            link.writer.write(frame * copies)
            if link.held is not None:
                link.release(link.held)
            await link.writer.drain()

    def _message_fault(self, topic: str) -> ProxyFault | None:
        return self._hit(OF_MESSAGES, lambda one: one.topic in (None, topic))


# ------------------------------------------------------------------------------------------------------------ the protocols


async def _read_http(reader: asyncio.StreamReader, *, is_response: bool = False) -> _HttpMessage | None:
    """Read one message whose length is stated, by itself or in chunks; None if the connection ended before it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise
    headers = head.lower()
    if b"transfer-encoding: chunked" in headers:
        return _HttpMessage(head, await _read_chunks(reader))
    length = re.search(rb"\r\ncontent-length: *(\d+)", headers)
    if length is None and is_response and not re.match(rb"HTTP/1\.1 (1..|204|304)", head):
        raise ValueError(f"found a response without a length: {head[:80]!r}")
    return _HttpMessage(head, await reader.readexactly(int(length[1])) if length else b"")


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        parts += [line, await reader.readexactly(size + 2)]
        if size == 0:
            return b"".join(parts)


async def _read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Read one frame from the exchange (RFC 6455, unmasked); return its opcode, payload and bytes."""
    head = await reader.readexactly(2)
    size = head[1] & 0x7F
    if head[1] & 0x80:
        raise ValueError("found a masked frame from the exchange")
    extended = await reader.readexactly({126: 2, 127: 8}.get(size, 0))
    payload = await reader.readexactly(int.from_bytes(extended, "big") if extended else size)
    return head[0] & 0x0F, payload, head + extended + payload


def _topic(payload: bytes) -> str | None:
    """The topic of a message; None for pings and replies, which no fault touches."""
    try:
        found = json.loads(payload).get("topic")
    except (ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def _without_extensions(request: _HttpMessage) -> _HttpMessage:
    """A request for a stream without compression, so that its frames can be read."""
    return _HttpMessage(re.sub(rb"(?i)\r\nsec-websocket-extensions:[^\r]*", b"", request.head), request.body)


def _made_up(fault: ProxyFault) -> bytes:
    """The response of `html` or `answer`."""
    is_page = fault.kind == "html"
    body = _PAGE % (fault.status, fault.status) if is_page else fault.body
    headers = {"Content-Type": "text/html" if is_page else "application/json", **fault.headers}
    lines = [f"HTTP/1.1 {fault.status} Fault", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body
