"""The signed transport: one request out, one Outcome back. Never retries, never judges, never raises for what the network did.

One kept-warm session; the very bytes that were signed are sent. Whether a request can have reached the exchange is decided here, by
watching for the moment in which its first byte is handed to a connection.
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

APPLIED_FROM_MS: Final = 500
"""Below this the offset is reported but not applied: half of the smallest receive window that can be set is 250 ms away."""


@dataclass(slots=True)
class ClockOffset:
    """The bounds that all recent answers agree on: exchange clock minus ours lies between `low` and `high` ms."""

    low: float = float("-inf")
    high: float = float("inf")

    def observe(self, *, sent_ms: int, received_ms: int, server_ms: int) -> None:
        """Learn from one answer: the exchange read its clock between our sending and our receiving.

        Bounds that contradict the known ones mean that a clock was moved (or drifted): then only the new ones count.
        """
        if received_ms < sent_ms:
            return  # our clock was set back in between: this answer says nothing
        low, high = float(server_ms - received_ms), float(server_ms + 1 - sent_ms)
        if low > self.high or high < self.low:
            self.low, self.high = low, high
        else:
            self.low, self.high = max(low, self.low), min(high, self.high)

    @property
    def ms(self) -> int | None:
        """The best estimate, None before the first answer; positive = the exchange is ahead of us."""
        if self.low == float("-inf"):
            return None
        return round((self.low + self.high) / 2)

    def correct(self, local_ms: int) -> int:
        """The time to sign with."""
        offset = self.ms
        return local_ms + offset if offset is not None and abs(offset) >= APPLIED_FROM_MS else local_ms


USER_AGENT: Final = (
    f"kekbridge/{__version__}"  # some fronts answer 403 to clients without a plain one (section 15, trap 25)
)
# A pooled connection that the other side is about to close costs an order its answer: keep none that idled longer than this.
_IDLE_S: Final = 30
_MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
_PLAIN_CHARACTERS: Final = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~/?=&,:"  # sent as they are by every client
)
# A Date header has whole seconds: it serves only to notice a clock that is far off when the body carries no timestamp.
_DATE_ERROR_MS: Final = 2_000


def wall_clock_ms() -> int:
    """Unix time in integer milliseconds."""
    return time.time_ns() // 1_000_000


class Transport:
    """The connection to one venue with one key. `open` before use, `close` at the end.

    Needs a running event loop from `open` on. `offset` is learnt from every answer and applied to signing when large.
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
        """The time to put into a signature: ours, corrected when it is far from the exchange's."""
        return self.offset.correct(self._clock_ms())

    async def open(self) -> None:
        """Make the session; nothing is connected yet."""
        if self._session is not None:
            return
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=32, keepalive_timeout=_IDLE_S, ttl_dns_cache=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
            timeout=aiohttp.ClientTimeout(total=None),  # each request brings its own
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
        recv_window_ms: int | None = None,
        ticket: WindowPermit | None = None,
    ) -> TransportResult:
        """Send once. `path` from `/v1` with its query, in characters that need no percent-encoding (section 2).

        `ticket` is stamped when the request leaves and given back when it provably did not.
        """
        if not _PLAIN_CHARACTERS.issuperset(path):
            if ticket is not None:
                ticket.release()
            raise ValueError(f"the path {path!r} has characters that would be percent-encoded")
        marks = _SendTrace(ticket, self._clock_ms)
        if self._session is None:
            if ticket is not None:
                ticket.release()
            return NotSent("the connection to the exchange is not open")
        sent_ms = self._clock_ms()
        headers = {"Content-Type": "application/json"} if body else {}
        if is_signed:
            headers = self._signer.sign_request(self.offset.correct(sent_ms), method, path, body)
            if recv_window_ms is not None:
                headers["x-recv-window"] = str(recv_window_ms)
        _departing.set(marks)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(method, path, body, headers, marks)
        except TimeoutError:
            reason = f"no answer within {self._timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError, EOFError) as error:
            # ValueError and EOFError: what the HTTP parser and decompression raise on a broken answer.
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        finally:
            _departing.set(None)
            marks.end()
        return NoReply(reason) if marks.has_left else NotSent(reason)

    async def _exchange(
        self, method: str, path: str, body: bytes, headers: dict[str, str], marks: _SendTrace
    ) -> TransportResult:
        async with self.session.request(
            method,
            URL(self.base_url + path, encoded=True),
            data=body or None,
            headers=headers,
            allow_redirects=False,  # following one would send an order to a second place
        ) as response:
            content = await _read_bounded(response)
            received_ms = self._clock_ms()
            reply = read_reply(response.status, content, retry_after=response.headers.get("Retry-After"))
            marks.answered_ms = reply.timestamp_ms
            self._learn_clock(reply, response.headers.get("Date"), marks.left_ms or received_ms, received_ms)
            return reply

    def _learn_clock(self, reply: HttpReply, date: str | None, sent_ms: int, received_ms: int) -> None:
        if reply.timestamp_ms is not None:
            self.offset.observe(sent_ms=sent_ms, received_ms=received_ms, server_ms=reply.timestamp_ms)
        elif date is not None:
            try:
                server_ms = int(parsedate_to_datetime(date).timestamp() * 1000)
            except (ValueError, TypeError):
                return
            if abs(server_ms - self.signing_time_ms()) > _DATE_ERROR_MS:
                self.offset.observe(sent_ms=sent_ms - 1000, received_ms=received_ms, server_ms=server_ms)


class _SendTrace:
    """Whether and when the first byte of a request was handed to a connection, and what became of its place in the rate window."""

    __slots__ = ("_clock_ms", "_ticket", "answered_ms", "has_left", "left_ms")

    def __init__(self, ticket: WindowPermit | None, clock_ms: Callable[[], int]) -> None:
        self._ticket = ticket
        self._clock_ms = clock_ms
        self.has_left = False
        self.left_ms: int | None = None
        self.answered_ms: int | None = None  # by the exchange's clock

    def now(self) -> None:
        self.has_left = True
        self.left_ms = self._clock_ms()
        if self._ticket is not None:
            self._ticket.mark_sent()

    def end(self) -> None:
        """The answer is read, or will not be."""
        if self._ticket is None:
            return
        if self.has_left:
            self._ticket.mark_answered(self.answered_ms)
        else:
            self._ticket.release()


# Of the request that this task is making; aiohttp has no other cheap way to tell one request from another below the session.
_departing: ContextVar[_SendTrace | None] = ContextVar("departing", default=None)


class _Request(aiohttp.ClientRequest):
    """aiohttp's request, which tells when it leaves. A TraceConfig tells it as well, for a tenth of the price of the whole request."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Called with an open connection, right before the first byte is written: not called = nothing left this machine."""
        departure = _departing.get()
        if departure is not None:
            departure.now()
            if self.method == "POST":
                hit_soon("W5")
        return await super().send(conn)


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    if response.content.is_eof():
        return response.content.read_nowait()  # it came in one piece, which the parser bounds
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > _MAX_ANSWER_BYTES:
            raise ValueError("the answer is too big")
        chunks.append(chunk)
    return b"".join(chunks)
