"""A raw TCP server that records requests and answers with bytes: how the exchange's end may misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from kekbridge.exchange.orderly.signing import Signer

#: The key of every request to the server.
SIGNER = Signer(
    "0x1486549202a0f260571dee401599c58ec79b04953008749ff2ab32576130bd83",
    "ed25519:4wBqpZM9xaSheZzJSMawUKKwhdpChKbZ5eu5ky4Vigw",
)
#: What becomes of a connection once a request was read.
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
#: Body of a create that was accepted.
YES = b'{"success":true,"timestamp":1790000000123,"data":{"order_id":1}}'


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """One whole response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def headers_of(request: bytes) -> dict[str, str]:
    """Headers of a recorded request, names in lower case."""
    lines = request.split(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def sends(data: bytes, *, then_close: bool = True) -> Handler:
    """Answer every request with these bytes."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if then_close:
            writer.close()

    return reply


class RawServer:
    """Answers with `reply`, by default that the order was accepted; closes at once what it accepts while `is_refusing`."""

    def __init__(self, reply: Handler | None = None) -> None:
        self.reply = reply or sends(answer(YES), then_close=False)
        self.is_refusing = False
        self.requests: list[bytes] = []
        self.connections = 0
        self.open: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        self.scheme = "http"
        self.port = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Called for each new connection."""
        self.connections += 1
        self.open[writer] = asyncio.create_task(self._handle(reader, writer))

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not (self.is_refusing or writer.is_closing()):
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(int(headers_of(head).get("content-length", "0")))
                self.requests.append(head + body)
                await self.reply(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client went away, or the test is over
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self.open.pop(writer, None)

    def close_connections(self) -> None:
        """Close every connection that is open."""
        for writer in tuple(self.open):
            writer.close()


@asynccontextmanager
async def serving(reply: Handler | None = None, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    """A server on a free port."""
    server = RawServer(reply)
    listening = await asyncio.start_server(server.accept, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    server.scheme = "https" if tls else "http"
    try:
        yield server
    finally:
        listening.close()
        for _ in range(5):
            await asyncio.sleep(0)  # what was accepted a moment ago reaches `accept`
        for task in server.open.values():
            task.cancel()
        await asyncio.gather(*server.open.values(), return_exceptions=True)
        server.close_connections()
