"""Live mark prices from Orderly's public API: the stream, or REST while the stream is down.

Runs in the background with short timeouts and back-off; orders never wait for it. Without a connection the last
prices stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from kekbridge.paper.settings import PaperSettings

Apply = Callable[[Mapping[str, Decimal]], None]
#: Longest pause between two attempts.
_MAX_PAUSE_S: Final = 60.0
#: A stream without a message for this long is given up.
_SILENCE_S: Final = 30.0
_ERRORS: Final = (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError)


class DaemonThreadResolver(AbstractResolver):
    """Resolves host names in daemon threads, which do not delay the end of the process.

    The event loop's own executor is joined at exit, and a lookup without a network may hang for many seconds.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host name; OSError if there are none."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Any]] = loop.create_future()

        def settle(rows: list[Any] | None, error: OSError | None) -> None:
            if found.done():
                return
            if error is not None:
                found.set_exception(error)
            else:
                found.set_result(rows or [])

        def resolve_name() -> None:
            rows: list[Any] | None = None
            failure: OSError | None = None
            try:
                rows = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
            except OSError as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is closed, the result is not needed any more
                loop.call_soon_threadsafe(settle, rows, failure)

        threading.Thread(target=resolve_name, name="paper-resolver", daemon=True).start()
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=address[1],
                family=row_family,
                proto=proto,
                flags=socket.AI_NUMERICHOST,
            )
            for row_family, _, proto, _, address in await found
        ]

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


class LivePriceFeed:
    """Passes live mark prices (symbol -> USDC) to `apply` until canceled."""

    def __init__(self, settings: PaperSettings, apply: Apply) -> None:
        self._settings = settings
        self._apply = apply

    async def run(self) -> None:
        """Poll REST once, then follow the stream; repeat, with back-off while neither works."""
        pause = self._settings.live_interval_s
        timeout = aiohttp.ClientTimeout(total=None, connect=self._settings.live_timeout_s)
        connector = aiohttp.TCPConnector(resolver=DaemonThreadResolver())
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=True) as session:
            while True:
                reached = await self._poll(session)
                if reached:
                    reached = await self._stream(session) or reached
                pause = self._settings.live_interval_s if reached else min(pause * 2, _MAX_PAUSE_S)
                await asyncio.sleep(pause)

    async def _poll(self, session: aiohttp.ClientSession) -> bool:
        """Poll REST once; return whether it succeeded."""
        url = f"{self._settings.live_url.rstrip('/')}/v1/public/futures"
        try:
            async with asyncio.timeout(self._settings.live_timeout_s):
                async with session.get(url) as answer:
                    body = json.loads(await answer.read(), parse_float=Decimal)
            self._apply_rows(body["data"]["rows"], "mark_price")
        except _ERRORS:
            return False
        return True

    async def _stream(self, session: aiohttp.ClientSession) -> bool:
        """Follow the stream until it fails or is silent; return whether it delivered prices."""
        delivered = False
        try:
            async with asyncio.timeout(self._settings.live_timeout_s):
                stream = await session.ws_connect(self._settings.live_stream_url)
            async with stream:
                await stream.send_str('{"id":"marks","event":"subscribe","topic":"markprices"}')
                while True:
                    message = await stream.receive(timeout=_SILENCE_S)
                    if message.type != aiohttp.WSMsgType.TEXT:
                        return delivered
                    body = json.loads(message.data, parse_float=Decimal)
                    if body.get("event") == "ping":
                        await stream.send_str('{"event":"pong"}')
                    elif body.get("topic") == "markprices":
                        self._apply_rows(body["data"], "price")
                        delivered = True
        except _ERRORS:
            return delivered

    def _apply_rows(self, rows: list[Mapping[str, Any]], name: str) -> None:
        marks: dict[str, Decimal] = {}
        for row in rows:
            with contextlib.suppress(InvalidOperation):
                price = Decimal(str(row.get(name)))
                if price.is_finite() and price > 0:
                    marks[str(row["symbol"])] = price
        self._apply(marks)
