"""One WebSocket stream: log in, subscribe, read, answer pings, detect silence, reconnect.

Passes messages on by topic; `stream_feed.py` interprets them. Protocol: docs/internals/orderly.md section 12.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import msgspec

from kekbridge.exchange.orderly.replies import is_nested_too_deep, sanitize_line
from kekbridge.log import get_logger

log = get_logger("kekbridge.exchange.orderly.websocket")

_MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
_LOGIN_ID: Final = "login"


@dataclass(frozen=True, slots=True)
class StreamTimings:
    """Timeouts and reconnect delays."""

    #: Seconds without a frame after which the connection is dead (the exchange pings every 10 s); we ping after half of it.
    silence_s: float = 30.0
    #: Seconds for connecting, and again for login and subscriptions.
    handshake_s: float = 10.0
    #: Seconds before the first reconnect; doubles with every failure.
    first_delay_s: float = 0.5
    #: Longest delay in seconds.
    max_delay_s: float = 30.0
    #: Shortest delay in seconds after the exchange refused the login or a topic.
    refused_delay_s: float = 5.0


class _Message(msgspec.Struct):
    """The frame of every message of the protocol. Any of it may be missing; what is not expected is ignored."""

    #: Text; a message of a topic, or the confirmation of a subscription.
    topic: Any = None
    #: ping, auth, subscribe and others; None for a message of a topic.
    event: Any = None
    #: Our own text, in confirmations.
    id: Any = None
    #: Unix ms, returned in a pong.
    ts: Any = None
    #: Whether a login or subscription was accepted.
    success: Any = None
    #: Why it was not.
    errorMsg: Any = None  # noqa: N815 - the protocol's name
    #: What the topic reports, not parsed yet: each topic has a parser of its own.
    data: msgspec.Raw = msgspec.Raw(b"null")
    #: The topic `account` as the exchange documents it: without its name, and without `data`.
    accountDetail: msgspec.Raw = msgspec.Raw(b"null")  # noqa: N815 - the protocol's name


_MESSAGES: Final = msgspec.json.Decoder(_Message)


class _ConnectionLost(Exception):
    """The connection is unusable; the text gives the reason."""


class _HandshakeRefused(_ConnectionLost):
    """The exchange refused the login, or every topic: reconnecting at once would not help."""


class Stream:
    """A stream that reconnects. One task awaits `run()`, which ends by cancellation only.

    `login` returns the parameters of the auth message; None for a public stream. `on_message(topic, data)` gets every message of a
    topic, its data as JSON; `on_frame()` is called for every frame, `on_live()` each time the topics are subscribed, `on_refused(topic,
    reason)` before that for each topic that the exchange refuses, which costs that topic only, `on_lost(reason)` for each loss.
    """

    def __init__(
        self,
        name: str,
        url: str,
        topics: tuple[str, ...],
        *,
        session: Callable[[], aiohttp.ClientSession],
        on_message: Callable[[str, msgspec.Raw], None],
        on_live: Callable[[], None] = lambda: None,
        on_lost: Callable[[str], None] = lambda reason: None,
        on_refused: Callable[[str, str], None] = lambda topic, reason: None,
        on_frame: Callable[[], None] = lambda: None,
        login: Callable[[], Mapping[str, Any]] | None = None,
        timings: StreamTimings,
    ) -> None:
        self.name = name
        self._url = url
        self._topics = topics
        self._session = session
        self._on_message = on_message
        self._on_live = on_live
        self._on_lost = on_lost
        self._on_refused = on_refused
        self._on_frame = on_frame
        self._login = login
        self._timings = timings
        self._pending: set[str] = set()
        #: Topics that the exchange refused or did not confirm on this connection, and why.
        self.refused: dict[str, str] = {}
        self.is_live = False

    async def run(self) -> None:
        """Stay connected for ever. Delays double from `first_delay_s`, with jitter, and restart after a connection that was live."""
        failures = 0
        while True:
            was_live, reason, is_refused = await self._run_connection()
            failures = 1 if was_live else failures + 1
            delay = min(self._timings.first_delay_s * 2 ** (failures - 1), self._timings.max_delay_s)
            if is_refused:
                delay = max(delay, self._timings.refused_delay_s)
            log.warning("stream_lost", stream=self.name, reason=reason, failures=failures)
            self._on_lost(reason)
            # Jitter: after an outage of the exchange, clients must not all reconnect in the same instant.
            await asyncio.sleep(delay * (0.5 + random.random() / 2))

    async def _run_connection(self) -> tuple[bool, str, bool]:
        """From connect to loss; return whether it was live, why it ended, and whether the exchange refused the login or a topic."""
        try:
            async with asyncio.timeout(self._timings.handshake_s):
                socket = await self._session().ws_connect(self._url, max_msg_size=_MAX_MESSAGE_BYTES, autoping=True)
        except TimeoutError:
            return False, f"no connection within {self._timings.handshake_s:g} s", False
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            # RuntimeError: the session is closed, because of a shutdown that is about to cancel this task.
            return False, sanitize_line(f"{type(error).__name__}: {error}"), False
        was_live = False
        try:
            async with asyncio.timeout(self._timings.handshake_s):
                await self._log_in(socket)
            await self._subscribe(socket)
            self.is_live = was_live = True
            log.info("stream_live", stream=self.name, topics=len(self._topics) - len(self.refused))
            self._on_live()
            await self._read(socket)
        except _ConnectionLost as lost:
            return was_live, str(lost), isinstance(lost, _HandshakeRefused)
        except TimeoutError:
            return was_live, "the exchange did not confirm login and topics in time", False
        except (aiohttp.ClientError, OSError) as error:
            return was_live, sanitize_line(f"{type(error).__name__}: {error}"), False
        finally:
            self.is_live = False
            await socket.close()
        return was_live, "closed", False

    async def _log_in(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Log in and await the confirmation: an earlier subscription would be refused."""
        if self._login is not None:
            self._pending = {_LOGIN_ID}
            await _send(socket, {"id": _LOGIN_ID, "event": "auth", "params": dict(self._login())})
            await self._await_confirmations(socket)

    async def _subscribe(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Subscribe and await every confirmation. A topic that is refused or not confirmed in time is done without."""
        self.refused = {}
        self._pending = set(self._topics)
        for topic in self._topics:
            await _send(socket, {"id": topic, "event": "subscribe", "topic": topic})
        try:
            async with asyncio.timeout(self._timings.handshake_s):
                await self._await_confirmations(socket)
        except TimeoutError:
            if self._pending == set(self._topics):
                raise
            self.refused |= dict.fromkeys(self._pending, "not confirmed in time")
            self._pending = set()
        if self.refused.keys() == set(self._topics):
            raise _HandshakeRefused(f"the exchange refused every topic: {next(iter(self.refused.values()), '')}")
        for topic, reason in self.refused.items():
            log.warning("topic_refused", stream=self.name, topic=topic, reason=reason)
            self._on_refused(topic, reason)

    async def _await_confirmations(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while self._pending:
            await self._handle_frame(socket, await socket.receive())

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        last_frame_at = time.monotonic()
        while True:
            try:
                frame = await socket.receive(timeout=self._timings.silence_s / 2)
            except TimeoutError:
                if time.monotonic() - last_frame_at >= self._timings.silence_s * 0.9:
                    raise _ConnectionLost(f"silent for {self._timings.silence_s:g} s") from None
                await _send(socket, {"event": "ping"})
                continue
            last_frame_at = time.monotonic()
            await self._handle_frame(socket, frame)

    async def _handle_frame(self, socket: aiohttp.ClientWebSocketResponse, frame: aiohttp.WSMessage) -> None:
        if frame.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
            raise (_HandshakeRefused if _LOGIN_ID in self._pending else _ConnectionLost)("closed by the exchange")
        if frame.type is aiohttp.WSMsgType.ERROR:
            raise _ConnectionLost(sanitize_line(f"broken frame: {frame.data}"))
        message = _message_of(frame)
        if message is None:
            return
        self._on_frame()
        if message.event == "ping":
            await _send(socket, {"event": "pong", "ts": message.ts})
        elif message.event in ("auth", "subscribe"):
            self._handle_confirmation(message)
        elif isinstance(message.topic, str):
            self._on_message(message.topic, message.data)
        elif bytes(message.accountDetail) != b"null":
            self._on_message("account", message.accountDetail)

    def _handle_confirmation(self, message: _Message) -> None:
        name = _LOGIN_ID if message.event == "auth" else str(message.id or message.topic)
        if message.success is True:
            self._pending.discard(name)
            return
        reason = sanitize_line(message.errorMsg) or "no reason given"
        if name != _LOGIN_ID and name in self._pending:
            self._pending.discard(name)
            self.refused[name] = reason
            return
        raise _HandshakeRefused(f"the exchange refused {name}: {reason}")


def _message_of(frame: aiohttp.WSMessage) -> _Message | None:
    """The message of a frame; one that is not a JSON object is skipped, as it must not end the stream."""
    if frame.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
        return None
    try:
        if not is_nested_too_deep(frame.data):
            return _MESSAGES.decode(frame.data)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        pass
    log.warning("stream_message_unreadable", size=len(frame.data))
    return None


async def _send(socket: aiohttp.ClientWebSocketResponse, message: Mapping[str, Any]) -> None:
    # Without a timeout, a peer that stopped reading would block us past the silence limit.
    async with asyncio.timeout(5):
        await socket.send_str(json.dumps(message, separators=(",", ":")))
