"""One stream: login before topics, pong for ping, silence detected, reconnects."""

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


class StreamServer:
    """Confirms login and topics, then runs `script`."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
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
            self.received.append(message)
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
        self.messages: list[tuple[str, str]] = []
        self.live_count = 0
        self.losses: list[str] = []

    def on_live(self) -> None:
        self.live_count += 1


@pytest.fixture
async def server() -> AsyncIterator[StreamServer]:
    server = StreamServer()
    app = web.Application()
    app.router.add_get("/ws", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.port = runner.addresses[0][1]
    yield server
    await runner.cleanup()


@asynccontextmanager
async def running(server: StreamServer, *, is_private: bool = True) -> AsyncIterator[tuple[Stream, Listener]]:
    listener = Listener()
    async with aiohttp.ClientSession() as session:
        stream = Stream(
            "test",
            f"http://127.0.0.1:{server.port}/ws",
            ("a", "b"),
            session=lambda: session,
            login=(lambda: {"orderly_key": "k", "sign": "s", "timestamp": 1}) if is_private else None,
            on_message=lambda topic, data: listener.messages.append((topic, bytes(data).decode())),
            on_live=listener.on_live,
            on_lost=listener.losses.append,
            timings=FAST,
        )
        task = asyncio.create_task(stream.run())
        try:
            yield stream, listener
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_login_then_topics_then_messages(server: StreamServer, until: Until) -> None:
    """Auth first, topics after its confirmation, live when all are confirmed; data arrives as written."""

    async def script(socket: web.WebSocketResponse) -> None:
        await socket.send_str('{"topic":"a","ts":5,"data":{"price":0.12345678901234567890}}')

    server.script = script
    async with running(server) as (stream, listener):
        await until(lambda: listener.messages)
        assert stream.is_live
    assert [message["event"] for message in server.received[:3]] == ["auth", "subscribe", "subscribe"]
    assert listener.messages == [("a", '{"price":0.12345678901234567890}')]


@pytest.mark.parametrize("ts", [77, 77.5, "77", None, [1]], ids=repr)
async def test_ping_is_answered(server: StreamServer, until: Until, ts: object) -> None:
    """The server's JSON ping gets a JSON pong with its time, whatever that is."""

    async def script(socket: web.WebSocketResponse) -> None:
        await socket.send_json({"event": "ping", "ts": ts})

    server.script = script
    async with running(server):
        await until(lambda: {"event": "pong", "ts": ts} in server.received)


async def test_silent_connection_is_replaced(server: StreamServer, until: Until) -> None:
    """A connection without frames, even after our ping, is dead."""
    async with running(server) as (_, listener):
        await until(lambda: server.connections >= 2)
        assert {"event": "ping"} in server.received
        assert any("silent" in reason for reason in listener.losses)


async def test_reconnect_logs_in_and_subscribes_again(server: StreamServer, until: Until) -> None:
    """After a loss the stream logs in, subscribes and reports that it is live, each time."""

    async def script(socket: web.WebSocketResponse) -> None:
        if server.connections < 3:
            await socket.close()

    server.script = script
    async with running(server) as (stream, listener):
        await until(lambda: listener.live_count >= 3 and stream.is_live)
        assert len(listener.losses) >= 2
    assert sum(message["event"] == "auth" for message in server.received) >= 3


async def test_one_refused_topic_costs_that_topic_only(server: StreamServer, until: Until) -> None:
    """The others are in use on the same connection; the refused one is named, with the exchange's reason."""

    async def script(socket: web.WebSocketResponse) -> None:
        await socket.send_str('{"topic":"a","ts":5,"data":{"x":1}}')

    server.refuse, server.script = {"b"}, script
    async with running(server) as (stream, listener):
        await until(lambda: listener.messages)
        assert stream.is_live
        assert stream.refused == {"b": "auth failed"}
        assert listener.losses == []
        assert server.connections == 1


@pytest.mark.parametrize("refused", [{"auth"}, {"a", "b"}], ids=["login", "every topic"])
async def test_refused_handshake_is_not_live(server: StreamServer, until: Until, refused: set[str]) -> None:
    """A refused login, or the refusal of every topic, never counts as live; the reason is reported, and it is tried again."""
    server.refuse = refused
    async with running(server) as (stream, listener):
        await until(lambda: len(listener.losses) >= 2)
        assert not stream.is_live
        assert listener.live_count == 0
        assert "auth failed" in listener.losses[0]
        server.refuse = set()
        await until(lambda: stream.is_live)


async def test_unreadable_frames_are_skipped(server: StreamServer, until: Until) -> None:
    """Frames that are not a JSON object, deeply nested ones included, do not end the stream."""

    async def script(socket: web.WebSocketResponse) -> None:
        for text in (
            "",
            "nonsense",
            "[1]",
            "null",
            "[" * 100_000,
            '{"a":' * 100_000,
            '{"topic":5}',
            '{"ts":1e99999999999999999999}',
        ):
            await socket.send_str(text)
        await socket.send_bytes(b"\xff\xfe")
        await socket.send_json({"topic": "a", "data": "after"})

    server.script = script
    async with running(server) as (_, listener):
        await until(lambda: ("a", '"after"') in listener.messages)
        assert listener.losses == []


async def test_public_stream_needs_no_login(server: StreamServer, until: Until) -> None:
    """Without a login the first message is a subscription."""
    async with running(server, is_private=False) as (stream, _):
        await until(lambda: stream.is_live)
    assert server.received[0]["event"] == "subscribe"
