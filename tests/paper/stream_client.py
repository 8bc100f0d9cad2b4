"""A WebSocket client for tests: logs in, subscribes, waits for messages with a deadline."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import aiohttp

from kekbridge.paper.settings import PAPER_ACCOUNT_ID
from tests.paper.trader import DEADLINE_S, Trader

PRIVATE = f"/v2/ws/private/stream/{PAPER_ACCOUNT_ID}"
PUBLIC = f"/ws/stream/{PAPER_ACCOUNT_ID}"


class StreamClient:
    """One WebSocket client that keeps everything it hears."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []

    async def say(self, **message: object) -> None:
        """Send a message."""
        await self.socket.send_str(json.dumps(message))

    async def hear(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first message, past or future, that is it."""
        for known in self.heard:
            if is_it(known):
                return known
        async with asyncio.timeout(DEADLINE_S):
            while True:
                raw = await self.socket.receive()
                assert raw.type == aiohttp.WSMsgType.TEXT, raw
                message: dict[str, Any] = json.loads(raw.data, parse_float=Decimal)
                self.heard.append(message)
                if is_it(message):
                    return message

    async def answer(self, message_id: object) -> dict[str, Any]:
        """The answer to the message with this id."""
        return await self.hear(lambda m: m.get("id") == message_id)

    async def topic(self, name: str, is_it: Callable[[Any], bool] = lambda _: True) -> Any:
        """The data of a message of a topic."""
        found = await self.hear(lambda m: m.get("topic") == name and is_it(m["data"]))
        return found["data"]

    async def closed(self) -> None:
        """Wait for the end of the connection."""
        async with asyncio.timeout(DEADLINE_S):
            while (await self.socket.receive()).type == aiohttp.WSMsgType.TEXT:
                pass

    def reports(self, order_id: int) -> list[str]:
        """The statuses heard of one order."""
        return [
            m["data"]["status"]
            for m in self.heard
            if m.get("topic") == "executionreport" and m["data"]["orderId"] == order_id
        ]


@asynccontextmanager
async def connected(trader: Trader, path: str) -> AsyncIterator[StreamClient]:
    """An open connection."""
    async with trader.session.ws_connect(trader.base_url + path) as socket:
        yield StreamClient(socket)


def login(trader: Trader) -> dict[str, object]:
    """The auth message; the signed text is the timestamp alone."""
    stamp = time.time_ns() // 1_000_000
    params = {"orderly_key": trader.orderly_key, "sign": trader.sign(str(stamp)), "timestamp": stamp}
    return {"id": "a", "event": "auth", "params": params}


@asynccontextmanager
async def logged_in(trader: Trader, *wanted: str) -> AsyncIterator[StreamClient]:
    """A private connection that follows some topics."""
    async with connected(trader, PRIVATE) as listener:
        await listener.say(**login(trader))
        assert (await listener.hear(lambda m: m.get("event") == "auth"))["success"] is True
        for name in wanted:
            await listener.say(id=name, event="subscribe", topic=name)
            assert (await listener.answer(name))["success"] is True
        yield listener
