"""A listener on a free port with a pipeline that does what the test says, and raw bytes in and out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from kekbridge.config import Server
from kekbridge.ingress.http import Readiness, WebhookRequest, WebhookResponse
from kekbridge.ingress.listener import Listener, ListenerRejection

NOW = datetime(2026, 1, 15, 10, 30, 5, tzinfo=UTC)
PATH = "/api/webhooks/tradingview"
QUICK = Server(port=0, body_timeout_s=0.3, idle_timeout_s=0.5, shutdown_timeout_s=5)


class Door:
    """A listener with a pipeline that records deliveries and answers or raises what the test says."""

    def __init__(self, settings: Server = QUICK, **options: Any) -> None:
        self.deliveries: list[WebhookRequest] = []
        self.refusals: list[ListenerRejection] = []
        self.outcome: WebhookResponse | Exception = WebhookResponse(
            status=202, body={"success": True, "status": "queued"}
        )
        self.gate: asyncio.Event | None = None
        self.finished = 0
        self.readiness: Readiness | Exception = Readiness(is_ready=True, detail={"exchange": "reachable"})
        self.host, self.port = "127.0.0.1", 0
        options.setdefault("refused", self.refusals.append)
        self.listener = Listener(self.receive, self.ready, settings, clock=lambda: NOW, **options)

    @property
    def connections(self) -> int:
        return self.listener.open_connections

    async def receive(self, delivery: WebhookRequest) -> WebhookResponse:
        self.deliveries.append(delivery)
        if self.gate is not None:
            await self.gate.wait()
        self.finished += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def ready(self) -> Readiness:
        if isinstance(self.readiness, Exception):
            raise self.readiness
        return self.readiness

    async def raw(self, request: bytes) -> bytes:
        """Everything the server says to these bytes until it closes; what it said before a reset, too."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        said = b""
        try:
            async with asyncio.timeout(20):
                writer.write(request)
                while part := await reader.read(65_536):
                    said += part
        except ConnectionError:
            pass
        finally:
            writer.close()
        return said

    async def send(self, body: bytes = b"{}", *, method: str = "POST", path: str = PATH, **headers: str) -> Reply:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        head += "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        return Reply(await self.raw(head.encode() + b"\r\n" + body))


class Reply:
    """One HTTP response, taken apart."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1]) if raw else 0
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}

    @property
    def json(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/json; charset=utf-8"
        parsed: dict[str, Any] = json.loads(self.body, parse_float=Decimal)
        return parsed


@asynccontextmanager
async def opened(settings: Server = QUICK, **options: Any) -> AsyncIterator[Door]:
    """A listening door; what is under way is let go when the test ends."""
    door = Door(settings, **options)
    try:
        door.host, door.port = await door.listener.start()
        yield door
    finally:
        if door.gate is not None:
            door.gate.set()
        await door.listener.close()
