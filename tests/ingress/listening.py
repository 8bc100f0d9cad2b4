"""A listener on a free port with a receiver that the test controls, and raw bytes in and out."""

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


class ListeningServer:
    """A listener whose receiver records the requests and returns or raises `outcome`, once `may_respond` is set if it is given."""

    def __init__(self, settings: Server = QUICK, **options: Any) -> None:
        self.requests: list[WebhookRequest] = []
        self.rejections: list[ListenerRejection] = []
        self.outcome: WebhookResponse | Exception = WebhookResponse(
            status=202, body={"success": True, "status": "queued"}
        )
        self.may_respond: asyncio.Event | None = None
        self.finished = 0
        self.readiness: Readiness | Exception = Readiness(is_ready=True, detail={"exchange": "reachable"})
        self.host, self.port = "127.0.0.1", 0
        options.setdefault("on_refused", self.rejections.append)
        self.listener = Listener(self.receive, self.ready, settings, clock=lambda: NOW, **options)

    @property
    def connections(self) -> int:
        return self.listener.open_connections

    async def receive(self, request: WebhookRequest) -> WebhookResponse:
        self.requests.append(request)
        if self.may_respond is not None:
            await self.may_respond.wait()
        self.finished += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def ready(self) -> Readiness:
        if isinstance(self.readiness, Exception):
            raise self.readiness
        return self.readiness

    async def send_raw(self, request: bytes, *, source: str = "127.0.0.1") -> bytes:
        """Send bytes from an address of this machine; return everything the server sends until it closes or resets the connection."""
        reader, writer = await asyncio.open_connection(self.host, self.port, local_addr=(source, 0))
        received = b""
        try:
            async with asyncio.timeout(20):
                writer.write(request)
                while part := await reader.read(65_536):
                    received += part
        except ConnectionError:
            pass
        finally:
            writer.close()
        return received

    async def send(self, body: bytes = b"{}", *, method: str = "POST", path: str = PATH, **headers: str) -> Reply:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        head += "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        return Reply(await self.send_raw(head.encode() + b"\r\n" + body))


class Reply:
    """One parsed HTTP response."""

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
async def listening(settings: Server = QUICK, **options: Any) -> AsyncIterator[ListeningServer]:
    """Run a listener inside the block; requests that wait for `may_respond` are released at its end."""
    server = ListeningServer(settings, **options)
    try:
        server.host, server.port = await server.listener.start()
        yield server
    finally:
        if server.may_respond is not None:
            server.may_respond.set()
        await server.listener.close()
