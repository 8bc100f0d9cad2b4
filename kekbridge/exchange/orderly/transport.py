"""Signed HTTP transport for all but order creates: send one request, return one TransportResult. Never retries.

Sends exactly the bytes that were signed, and records the moment the first byte is handed to a connection: that decides between
NotSent and NoReply. Learns the exchange's clock from its replies.
Rules: docs/internals/orderly.md sections 1 and 2, docs/internals/reliability.md section 8.1.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
from aiohttp.connector import Connection
from yarl import URL

from kekbridge import __version__
from kekbridge.exchange.orderly.rate_limiter import WindowPermit
from kekbridge.exchange.orderly.replies import HttpReply, NoReply, NotSent, TransportResult, read_reply
from kekbridge.exchange.orderly.signing import Signer
from kekbridge.failpoints import hit_soon

# Some proxies answer 403 to clients without a plain user agent (section 15, trap 25).
USER_AGENT: Final = f"kekbridge/{__version__}"
# A pooled connection that the other side is about to close costs an order its reply: keep none that was idle for longer.
IDLE_S: Final = 30.0
MAX_REPLY_BYTES: Final = 16 * 1024 * 1024
# Sent unencoded by every client.
_PLAIN_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~/?=&,:")
# A Date header has whole seconds: it serves only to detect a clock that is far off when the body has no timestamp.
_DATE_ERROR_MS: Final = 2_000


def wall_clock_ms() -> int:
    """Unix time in integer milliseconds."""
    return time.time_ns() // 1_000_000


# Smaller offsets are reported but not applied: half of the smallest receive window that can be set is 250 ms away.
APPLIED_FROM_MS: Final = 500
# Our clock is set once so many replies agree: a single one with a bad timestamp must not make every alert too old.
_PROOFS: Final = 2


@dataclass(slots=True)
class ClockOffset:
    """Exchange clock minus ours, as bounds that all recent replies agree on."""

    #: Lower bound, ms.
    low: float = float("-inf")
    #: Upper bound, ms.
    high: float = float("inf")
    #: Sets our clock forward by so many ms; None if it cannot be set, and signatures alone are corrected.
    set_clock: Callable[[int], None] | None = None
    #: By how much our clock has been set so far, ms.
    set_ms: int = 0
    #: Replies of the exchange in a row that agree on the bounds.
    agreeing: int = 0

    def observe(self, *, sent_ms: int, received_ms: int, server_ms: int, is_exchange: bool = True) -> None:
        """Narrow the bounds by one reply: the exchange read its clock between our sending and our receiving.

        `is_exchange` False: the time may be that of a proxy in between, which corrects signatures but never sets our clock.

        Bounds that contradict the known ones mean that a clock was set (or drifted): then only the new ones count.
        """
        if received_ms < sent_ms:
            return  # our clock was set back in between: no measurement
        low, high = float(server_ms - received_ms), float(server_ms + 1 - sent_ms)
        if low > self.high or high < self.low:
            self.low, self.high, self.agreeing = low, high, 0
        else:
            self.low, self.high = max(low, self.low), min(high, self.high)
        self.agreeing = self.agreeing + 1 if is_exchange else 0
        is_wrong = self.low >= APPLIED_FROM_MS or self.high <= -APPLIED_FROM_MS
        if is_wrong and self.set_clock is not None and self.agreeing >= _PROOFS:
            self._correct_clock(self.set_clock)

    def _correct_clock(self, set_clock: Callable[[int], None]) -> None:
        """No true offset within the bounds is small: our clock is wrong, not the network slow."""
        error = round((self.low + self.high) / 2)
        self.low, self.high = self.low - error, self.high - error
        self.set_ms += error
        set_clock(error)

    @property
    def learned_ms(self) -> int | None:
        """The exchange's clock minus ours as it was before it was set; None before the first reply."""
        return None if self.ms is None else self.ms + self.set_ms

    @property
    def ms(self) -> int | None:
        """Best estimate; None before the first reply. Positive = the exchange is ahead of us."""
        if self.low == float("-inf"):
            return None
        return round((self.low + self.high) / 2)

    def learn(self, reply: HttpReply, date: str | None, *, sent_ms: int, received_ms: int) -> None:
        """Narrow the bounds by a reply's timestamp, or by its header Date if it has none and we are far off."""
        if reply.timestamp_ms is not None:
            self.observe(sent_ms=sent_ms, received_ms=received_ms, server_ms=reply.timestamp_ms)
        elif date is not None:
            try:
                server_ms = int(parsedate_to_datetime(date).timestamp() * 1000)
            except (ValueError, TypeError, OverflowError):
                return
            if abs(server_ms - self.correct(received_ms)) > _DATE_ERROR_MS:
                self.observe(sent_ms=sent_ms - 1000, received_ms=received_ms, server_ms=server_ms, is_exchange=False)

    def correct(self, local_ms: int) -> int:
        """The time to sign with: local time, corrected by an offset of at least APPLIED_FROM_MS."""
        offset = self.ms
        return local_ms + offset if offset is not None and abs(offset) >= APPLIED_FROM_MS else local_ms


class Transport:
    """HTTP session with one network under one key. `open` before use (in a running event loop), `close` at the end.

    `offset` is learned from every reply and applied to signatures when it is large.
    """

    def __init__(
        self, base_url: str, signer: Signer, *, timeout_s: float, clock_ms: Callable[[], int] = wall_clock_ms
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._signer = signer
        self._timeout_s = timeout_s
        self._clock_ms = clock_ms
        self._session: aiohttp.ClientSession | None = None
        self.offset = ClockOffset()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The open session, shared with the streams."""
        if self._session is None:
            raise RuntimeError("the connection to the exchange is not open")
        return self._session

    @property
    def signer(self) -> Signer:
        return self._signer

    def signing_time_ms(self) -> int:
        """Unix ms to sign with: our clock, corrected if it is far from the exchange's."""
        return self.offset.correct(self._clock_ms())

    async def open(self) -> None:
        """Create the session; connects nothing yet."""
        if self._session is not None:
            return
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=32, keepalive_timeout=IDLE_S, ttl_dns_cache=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
            timeout=aiohttp.ClientTimeout(total=None),  # `send` has its own
            request_class=_Request,
        )

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        is_signed: bool = True,
        permit: WindowPermit | None = None,
    ) -> TransportResult:
        """Send one request once.

        `path` starts with `/v1` and includes the query; ValueError for characters that would be percent-encoded (section 2).
        `permit` is marked as sent when the first byte is written, and released if nothing was sent.
        """
        if not _PLAIN_CHARACTERS.issuperset(path):
            if permit is not None:
                permit.release()
            raise ValueError(f"the path {path!r} has characters that would be percent-encoded")
        trace = _SendTrace(permit, self._clock_ms)
        if self._session is None:
            if permit is not None:
                permit.release()
            return NotSent("the connection to the exchange is not open")
        sent_ms = self._clock_ms()
        headers = {"Content-Type": "application/json"} if body else {}
        if is_signed:
            headers = self._signer.sign_request(self.offset.correct(sent_ms), method, path, body)
        _current_trace.set(trace)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._request(method, path, body, headers, trace)
        except TimeoutError:
            reason = f"no reply within {self._timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError, ArithmeticError, EOFError) as error:
            # The last three: raised by the HTTP parser, by numbers and by decompression for broken replies.
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        finally:
            _current_trace.set(None)
            trace.close()
        return NoReply(reason) if trace.is_sent else NotSent(reason)

    async def _request(
        self, method: str, path: str, body: bytes, headers: dict[str, str], trace: _SendTrace
    ) -> TransportResult:
        async with self.session.request(
            method,
            URL(self.base_url + path, encoded=True),
            data=body or None,
            headers=headers,
            allow_redirects=False,  # a redirect would send the order a second time, elsewhere
        ) as response:
            content = await _read_bounded(response)
            received_ms = self._clock_ms()
            reply = read_reply(response.status, content, retry_after=response.headers.get("Retry-After"))
            trace.exchange_ms = reply.timestamp_ms
            sent_ms = received_ms if trace.sent_ms is None else trace.sent_ms
            self.offset.learn(reply, response.headers.get("Date"), sent_ms=sent_ms, received_ms=received_ms)
            return reply


class _SendTrace:
    """When the first byte of one request was handed to a connection; settles the request's permit accordingly."""

    __slots__ = ("_clock_ms", "_permit", "exchange_ms", "is_sent", "sent_ms")

    def __init__(self, permit: WindowPermit | None, clock_ms: Callable[[], int]) -> None:
        self._permit = permit
        self._clock_ms = clock_ms
        self.is_sent = False
        self.sent_ms: int | None = None
        self.exchange_ms: int | None = None  # when the exchange wrote its reply, by its clock

    def mark_sent(self) -> None:
        self.is_sent = True
        self.sent_ms = self._clock_ms()
        if self._permit is not None:
            self._permit.mark_sent()

    def close(self) -> None:
        """The reply is read, or will not be."""
        if self._permit is None:
            return
        if self.is_sent:
            self._permit.mark_answered(self.exchange_ms)
        else:
            self._permit.release()


# The trace of this task's request: below the session, aiohttp has no other cheap means to tell requests apart.
_current_trace: ContextVar[_SendTrace | None] = ContextVar("current_trace", default=None)


class _Request(aiohttp.ClientRequest):
    """aiohttp's request, reporting when it is sent. A TraceConfig could as well, for a tenth of the cost of the whole request."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Called with an open connection, right before the first byte is written. Not called = nothing was sent."""
        trace = _current_trace.get()
        if trace is not None:
            trace.mark_sent()
            if self.method == "POST":
                hit_soon("W5")
        return await super().send(conn)


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    if response.content.is_eof():
        return response.content.read_nowait()  # complete already: one chunk, which the parser bounds
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MAX_REPLY_BYTES:
            raise ValueError("the reply is too big")
        chunks.append(chunk)
    return b"".join(chunks)
