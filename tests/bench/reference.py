"""The reference: a program that does only the unavoidable work, safely. No safe program can be much faster.

HMAC, validation, unique durable intent (WAL, synchronous=FULL, group commit), 200, one ed25519 signature, one POST on a kept-alive
connection, durable result. `python -m tests.bench.reference --port N --exchange URL --database FILE`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import hashlib
import hmac
import json
import queue
import sqlite3
import threading
import time
from decimal import Decimal
from typing import Any

import aiohttp
from aiohttp import web
from nacl.signing import SigningKey
from pydantic import BaseModel, ConfigDict, ValidationError

SECRET = b"bench-secret"


class Message(BaseModel):
    """The fields of an alert."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    alertId: str  # noqa: N815 - the message's own name
    action: str
    symbol: str
    quantity: Decimal
    timestamp: str


class Store:
    """One writer thread with group commit."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[tuple[str, tuple[Any, ...], asyncio.Future[int]]] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, daemon=True).start()

    def write(self, statement: str, *values: Any) -> asyncio.Future[int]:
        """Execute a statement; the future gives its row count after the flush."""
        future: asyncio.Future[int] = self._loop.create_future()
        self._queue.put((statement, values, future))
        return future

    def _run(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS intents (id TEXT PRIMARY KEY, name TEXT, body TEXT, state TEXT, answer TEXT) STRICT"
        )
        while True:
            batch = [self._queue.get()]
            while not self._queue.empty() and len(batch) < 256:
                batch.append(self._queue.get())
            connection.execute("BEGIN IMMEDIATE")
            done = [(future, connection.execute(statement, values).rowcount) for statement, values, future in batch]
            connection.execute("COMMIT")
            self._loop.call_soon_threadsafe(_resolve, done)


def _resolve(done: list[tuple[asyncio.Future[int], int]]) -> None:
    for future, count in done:
        if not future.done():
            future.set_result(count)


class Reference:
    def __init__(self, exchange: str, database: str) -> None:
        self._exchange = exchange
        self._store = Store(database)
        self._key = SigningKey(b"7" * 32)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=32))
        self._tasks: set[asyncio.Task[None]] = set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"ready": True})
        body = await request.read()
        proof = hmac.new(SECRET, body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(proof, request.headers.get("X-Webhook-Signature", "")):
            return web.Response(status=401)
        try:
            message = Message.model_validate(json.loads(body, parse_float=Decimal))
        except (ValidationError, ValueError):
            return web.Response(status=400)
        client_order_id = "r-" + hashlib.sha256(message.alertId.encode()).hexdigest()[:24]
        if await self._save_intent(message, client_order_id, body):
            task = asyncio.create_task(self._send(message, client_order_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return web.json_response({"success": True, "clientOrderId": client_order_id})

    async def _save_intent(self, message: Message, client_order_id: str, body: bytes) -> bool:
        """Commit the intent; return false if the alert has been received before."""
        is_new = await self._store.write(
            "INSERT INTO intents VALUES (?, ?, ?, 'sent', NULL) ON CONFLICT DO NOTHING",
            *(message.alertId, client_order_id, body.decode()),
        )
        return bool(is_new)

    async def _save_answer(self, message: Message, text: str) -> None:
        await self._store.write("UPDATE intents SET state = 'done', answer = ? WHERE id = ?", text, message.alertId)

    async def _send(self, message: Message, client_order_id: str) -> None:
        text = order_text(message, client_order_id)
        stamp = str(time.time_ns() // 1_000_000)
        signature = self._key.sign((stamp + "POST/v1/order" + text).encode()).signature
        headers = {
            "Content-Type": "application/json",
            "orderly-timestamp": stamp,
            "orderly-signature": base64.urlsafe_b64encode(signature).decode(),
        }
        async with self._session.post(self._exchange + "/v1/order", data=text.encode(), headers=headers) as answer:
            text = await answer.text()
        await self._save_answer(message, text)
        print("order", client_order_id, answer.status, flush=True)


def order_text(message: Message, client_order_id: str) -> str:
    """Return the body of the order's request."""
    symbol = message.symbol.removesuffix(".P").removesuffix("USDT")
    return json.dumps(
        {
            "symbol": f"PERP_{symbol}_USDC",
            "order_type": "MARKET",
            "side": message.action.upper(),
            "order_quantity": str(message.quantity),
            "client_order_id": client_order_id,
        }
    )


async def serve(port: int, reference: Reference) -> None:
    """Answer requests, without end."""
    runner = web.ServerRunner(web.Server(reference.handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=512).start()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    print(json.dumps({"port": port}), flush=True)
    await asyncio.Event().wait()


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--exchange", required=True)
    parser.add_argument("--database", required=True)
    return parser.parse_args()


async def _main(given: argparse.Namespace) -> None:
    await serve(given.port, Reference(given.exchange, given.database))


if __name__ == "__main__":
    asyncio.run(_main(arguments(__doc__)))
