"""One WebSocket connection that is kept up: log in, subscribe, read, answer pings, notice silence, come back after a loss.

It knows topics only as names and hands every message on; what a message means is feed.py's business.
Protocol: docs/internals/orderly.md section 12.
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

from kekbridge.exchange.orderly.replies import one_line, read_object
from kekbridge.log import get_logger

log = get_logger("kekbridge.exchange.orderly.websocket")

_MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
_LOGIN_ID: Final = "login"


@dataclass(frozen=True, slots=True)
class StreamTimings:
    """Seconds. Silence over `silence_s` is a dead connection (the exchange pings every 10 s); we ask after half of it."""

    silence_s: float = 30.0
    handshake_s: float = 10.0
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    refused_pause_s: float = 5.0


class _ConnectionLost(Exception):
    """The connection is of no use any more; the text says why."""


class _SessionReplaced(_ConnectionLost):
    """The exchange turned the login or a subscription down: trying again at once would not help."""


class Stream:
    """Owned by one task that awaits `run()`; ends only by cancellation.

    `login` makes the parameters of the auth message, None for a public stream. `on_message(topic, data)` gets every message of a
    topic, `on_sign_of_life()` every frame, `on_live()` each time all topics are subscribed (again), `on_lost(reason)` each loss.
    """

    def __init__(
        self,
        name: str,
        url: str,
        topics: tuple[str, ...],
        *,
        session: Callable[[], aiohttp.ClientSession],
        on_message: Callable[[str, Any], None],
        on_live: Callable[[], None] = lambda: None,
        on_lost: Callable[[str], None] = lambda reason: None,
        on_sign_of_life: Callable[[], None] = lambda: None,
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
        self._on_sign_of_life = on_sign_of_life
        self._login = login
        self._timings = timings
        self._pending: set[str] = set()
        self.is_live = False

    async def run(self) -> None:
        """Stay connected for ever: pauses double from `first_pause_s` with jitter, and start over after a connection that lived."""
        failures = 0
        while True:
            was_live, reason, is_turned = await self._one_connection()
            failures = 1 if was_live else failures + 1
            pause = min(self._timings.first_pause_s * 2 ** (failures - 1), self._timings.longest_pause_s)
            if is_turned:
                pause = max(pause, self._timings.refused_pause_s)
            log.warning("stream_lost", stream=self.name, reason=reason, failures=failures)
            self._on_lost(reason)
            # Full jitter: after an outage of the exchange not every client may come back in the same instant.
            await asyncio.sleep(pause * (0.5 + random.random() / 2))

    async def _one_connection(self) -> tuple[bool, str, bool]:
        """From connect to loss: whether it was live, why it ended, whether the exchange turned us down."""
        try:
            async with asyncio.timeout(self._timings.handshake_s):
                socket = await self._session().ws_connect(self._url, max_msg_size=_MAX_MESSAGE_BYTES, autoping=True)
        except TimeoutError:
            return False, "no connection in time", False
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            # RuntimeError: the session is closed, we are shutting down and about to be cancelled.
            return False, one_line(f"{type(error).__name__}: {error}"), False
        was_live = False
        try:
            async with asyncio.timeout(self._timings.handshake_s):
                await self._open_topics(socket)
            self.is_live = was_live = True
            log.info("stream_live", stream=self.name, topics=len(self._topics))
            self._on_live()
            await self._read(socket)
        except _ConnectionLost as lost:
            return was_live, str(lost), isinstance(lost, _SessionReplaced)
        except TimeoutError:
            return was_live, "the exchange did not confirm login and topics in time", False
        except (aiohttp.ClientError, OSError) as error:
            return was_live, one_line(f"{type(error).__name__}: {error}"), False
        finally:
            self.is_live = False
            await socket.close()
        return was_live, "closed", False

    async def _open_topics(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Log in and wait for the yes (a subscription before it is refused), then subscribe and wait for every yes."""
        if self._login is not None:
            self._pending = {_LOGIN_ID}
            await _send(socket, {"id": _LOGIN_ID, "event": "auth", "params": dict(self._login())})
            await self._until_confirmed(socket)
        self._pending = set(self._topics)
        for topic in self._topics:
            await _send(socket, {"id": topic, "event": "subscribe", "topic": topic})
        await self._until_confirmed(socket)

    async def _until_confirmed(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while self._pending:
            await self._take(socket, await socket.receive())

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        heard = time.monotonic()
        while True:
            try:
                frame = await socket.receive(timeout=self._timings.silence_s / 2)
            except TimeoutError:
                if time.monotonic() - heard >= self._timings.silence_s * 0.9:
                    raise _ConnectionLost(f"silent for {self._timings.silence_s:g} s") from None
                await _send(socket, {"event": "ping"})
                continue
            heard = time.monotonic()
            await self._take(socket, frame)

    async def _take(self, socket: aiohttp.ClientWebSocketResponse, frame: aiohttp.WSMessage) -> None:
        if frame.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
            raise (_SessionReplaced if _LOGIN_ID in self._pending else _ConnectionLost)("closed by the exchange")
        if frame.type is aiohttp.WSMsgType.ERROR:
            raise _ConnectionLost(one_line(f"broken frame: {frame.data}"))
        message = _message_of(frame)
        if message is None:
            return
        self._on_sign_of_life()
        event = message.get("event")
        if event == "ping":
            await _send(socket, {"event": "pong", "ts": message.get("ts")})
        elif event in ("auth", "subscribe"):
            self._confirmed(message)
        elif isinstance(message.get("topic"), str):
            self._on_message(message["topic"], message.get("data"))

    def _confirmed(self, message: Mapping[str, Any]) -> None:
        name = _LOGIN_ID if message.get("event") == "auth" else str(message.get("id") or message.get("topic"))
        if message.get("success") is True:
            self._pending.discard(name)
            return
        why = one_line(message.get("errorMsg")) or "no reason given"
        raise _SessionReplaced(f"the exchange refused {name}: {why}")


def _message_of(frame: aiohttp.WSMessage) -> Mapping[str, Any] | None:
    """One JSON object per frame; anything else is skipped, a foreign frame must not end the stream."""
    if frame.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
        return None
    message = read_object(frame.data)
    if message is None:
        log.warning("stream_message_unreadable", size=len(frame.data))
    return message


async def _send(socket: aiohttp.ClientWebSocketResponse, message: Mapping[str, Any]) -> None:
    # A peer that stopped reading would otherwise hold us here, past the silence rule.
    async with asyncio.timeout(5):
        await socket.send_str(json.dumps(message, separators=(",", ":")))
