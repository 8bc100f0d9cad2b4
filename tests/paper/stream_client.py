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
from tests.paper.trader import Trader
from tests.waiting import DEADLINE_S

PRIVATE = f"/v2/ws/private/stream/{PAPER_ACCOUNT_ID}"
PUBLIC = f"/ws/stream/{PAPER_ACCOUNT_ID}"


class StreamClient:
    """One WebSocket connection that keeps every message it receives."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.messages: list[dict[str, Any]] = []

    async def send(self, **message: object) -> None:
        """Send a message."""
        await self.socket.send_str(json.dumps(message))

    async def receive(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first message, received or to come, that meets a condition."""
        for known in self.messages:
            if condition(known):
                return known
        async with asyncio.timeout(DEADLINE_S):
            while True:
                raw = await self.socket.receive()
                assert raw.type == aiohttp.WSMsgType.TEXT, raw
                message: dict[str, Any] = json.loads(raw.data, parse_float=Decimal)
                self.messages.append(message)
                if condition(message):
                    return message

    async def reply(self, message_id: object) -> dict[str, Any]:
        """Return the reply to the message with this ID."""
        return await self.receive(lambda m: m.get("id") == message_id)

    async def topic(self, name: str, condition: Callable[[Any], bool] = lambda _: True) -> Any:
        """Return the data of the first message of a topic, optionally one that meets a condition."""
        found = await self.receive(lambda m: m.get("topic") == name and condition(m["data"]))
        return found["data"]

    async def closed(self) -> None:
        """Wait until the connection is closed."""
        async with asyncio.timeout(DEADLINE_S):
            while (await self.socket.receive()).type == aiohttp.WSMsgType.TEXT:
                pass

    def reports(self, order_id: int) -> list[str]:
        """Return the statuses in the execution reports of one order."""
        return [
            m["data"]["status"]
            for m in self.messages
            if m.get("topic") == "executionreport" and m["data"]["orderId"] == order_id
        ]


@asynccontextmanager
async def connected(trader: Trader, path: str) -> AsyncIterator[StreamClient]:
    """An open connection."""
    async with trader.session.ws_connect(trader.base_url + path) as socket:
        yield StreamClient(socket)


def login(trader: Trader) -> dict[str, object]:
    """Return the auth message; its signature covers the timestamp alone."""
    stamp = time.time_ns() // 1_000_000
    params = {"orderly_key": trader.orderly_key, "sign": trader.sign(str(stamp)), "timestamp": stamp}
    return {"id": "a", "event": "auth", "params": params}


@asynccontextmanager
async def logged_in(trader: Trader, *topics: str) -> AsyncIterator[StreamClient]:
    """A private connection, logged in and subscribed to topics."""
    async with connected(trader, PRIVATE) as client:
        await client.send(**login(trader))
        assert (await client.receive(lambda m: m.get("event") == "auth"))["success"] is True
        for name in topics:
            await client.send(id=name, event="subscribe", topic=name)
            assert (await client.reply(name))["success"] is True
        yield client
