"""One WebSocket kept up: login before topics, pong for ping, silence noticed, losses survived."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from kekbridge.exchange.orderly.websocket import Stream, StreamTimings

FAST = StreamTimings(silence_s=0.3, handshake_s=2, first_delay_s=0.02, max_delay_s=0.05, refused_delay_s=0.05)
Until = Callable[[Callable[[], object]], Awaitable[None]]


class Venue:
    """A stream server that confirms everything and then does what `script` says."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.connections = 0
        self.refuse: set[str] = set()
        self.script: Callable[[web.WebSocketResponse], Awaitable[None]] | None = None
        self.port = 0

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.connections += 1
        async for frame in socket:
            message = json.loads(frame.data)
            self.heard.append(message)
            event = message["event"]
            if event in ("auth", "subscribe"):
                good = message.get("topic", event) not in self.refuse
                reply = {"id": message["id"], "event": event, "success": good, "ts": 1}
                await socket.send_json(reply if good else {**reply, "errorMsg": "auth failed"})
                if event == "subscribe" and message["topic"] == "b" and self.script is not None:
                    await self.script(socket)
        return socket


class Listener:
    def __init__(self) -> None:
        self.messages: list[tuple[str, Any]] = []
        self.lives = 0
        self.losses: list[str] = []

    def live(self) -> None:
        self.lives += 1


@pytest.fixture
async def venue() -> AsyncIterator[Venue]:
    found = Venue()
    app = web.Application()
    app.router.add_get("/ws", found.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.port = runner.addresses[0][1]
    yield found
    await runner.cleanup()


@asynccontextmanager
async def running(venue: Venue, *, is_private: bool = True) -> AsyncIterator[tuple[Stream, Listener]]:
    listener = Listener()
    async with aiohttp.ClientSession() as session:
        stream = Stream(
            "test",
            f"http://127.0.0.1:{venue.port}/ws",
            ("a", "b"),
            session=lambda: session,
            login=(lambda: {"orderly_key": "k", "sign": "s", "timestamp": 1}) if is_private else None,
            on_message=lambda topic, data: listener.messages.append((topic, data)),
            on_live=listener.live,
            on_lost=listener.losses.append,
            timings=FAST,
        )
        task = asyncio.create_task(stream.run())
        try:
            yield stream, listener
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_login_then_topics_then_messages(venue: Venue, until: Until) -> None:
    """Auth first, topics after its answer, live when all are confirmed; messages arrive exact."""

    async def script(socket: web.WebSocketResponse) -> None:
        await socket.send_str('{"topic":"a","ts":5,"data":{"price":0.12345678901234567890}}')

    venue.script = script
    async with running(venue) as (stream, listener):
        await until(lambda: listener.messages)
        assert stream.is_live
    assert [message["event"] for message in venue.heard[:3]] == ["auth", "subscribe", "subscribe"]
    (topic, data) = listener.messages[0]
    assert (topic, str(data["price"])) == ("a", "0.12345678901234567890")


async def test_ping_is_answered(venue: Venue, until: Until) -> None:
    """The server's JSON ping gets a JSON pong."""

    async def script(socket: web.WebSocketResponse) -> None:
        await socket.send_json({"event": "ping", "ts": 77})

    venue.script = script
    async with running(venue):
        await until(lambda: {"event": "pong", "ts": 77} in venue.heard)


async def test_silence_is_noticed(venue: Venue, until: Until) -> None:
    """A connection that says nothing, not even to our ping, is dead and is replaced."""
    async with running(venue) as (_, listener):
        await until(lambda: venue.connections >= 2)
        assert {"event": "ping"} in venue.heard
        assert any("silent" in reason for reason in listener.losses)


async def test_loss_and_return(venue: Venue, until: Until) -> None:
    """After a cut the stream logs in and subscribes again, and says each time that it is live."""

    async def script(socket: web.WebSocketResponse) -> None:
        if venue.connections < 3:
            await socket.close()

    venue.script = script
    async with running(venue) as (stream, listener):
        await until(lambda: listener.lives >= 3 and stream.is_live)
        assert len(listener.losses) >= 2
    assert sum(message["event"] == "auth" for message in venue.heard) >= 3


@pytest.mark.parametrize("refused", ["auth", "b"])
async def test_refusals_are_not_live(venue: Venue, until: Until, refused: str) -> None:
    """A refused login or topic never counts as live; the reason is kept, and it is tried again."""
    venue.refuse = {refused}
    async with running(venue) as (stream, listener):
        await until(lambda: len(listener.losses) >= 2)
        assert not stream.is_live
        assert listener.lives == 0
        assert "auth failed" in listener.losses[0]
        venue.refuse = set()
        await until(lambda: stream.is_live)


async def test_foreign_frames_are_skipped(venue: Venue, until: Until) -> None:
    """Frames that are no JSON object, deep ones included, do not end the stream."""

    async def script(socket: web.WebSocketResponse) -> None:
        for text in ("nonsense", "[1]", "null", "[" * 100_000, '{"topic":5}'):
            await socket.send_str(text)
        await socket.send_json({"topic": "a", "data": "after"})

    venue.script = script
    async with running(venue) as (_, listener):
        await until(lambda: ("a", "after") in listener.messages)
        assert listener.losses == []


async def test_public_stream_needs_no_login(venue: Venue, until: Until) -> None:
    """Without a login the first message is a subscription."""
    async with running(venue, is_private=False) as (stream, _):
        await until(lambda: stream.is_live)
    assert venue.heard[0]["event"] == "subscribe"
