"""Live public marks for a paper exchange: stream first, REST while it is down, silence when neither answers.

Everything runs in the background with short timeouts and back-off; an order never waits for it.
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
_MAX_PAUSE_S: Final = 60.0
_SILENCE_S: Final = 30.0
_ERRORS: Final = (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError)


class DaemonThreadResolver(AbstractResolver):
    """Looks names up in threads that do not hold up the end of the process.

    The loop's own executor is joined at exit, and a lookup without a network may hang for many seconds.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host name; OSError when there are none."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Any]] = loop.create_future()

        def settle(rows: list[Any] | None, error: OSError | None) -> None:
            if found.done():
                return
            if error is not None:
                found.set_exception(error)
            else:
                found.set_result(rows or [])

        def look_up() -> None:
            rows: list[Any] | None = None
            trouble: OSError | None = None
            try:
                rows = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
            except OSError as error:
                trouble = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, rows, trouble)

        threading.Thread(target=look_up, name="paper-resolver", daemon=True).start()
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
        """Nothing to close."""


class LivePriceFeed:
    """Feeds live marks into `apply` until cancelled."""

    def __init__(self, settings: PaperSettings, apply: Apply) -> None:
        self._settings = settings
        self._apply = apply

    async def run(self) -> None:
        """Stream when it works; one REST look before each attempt keeps prices fresh meanwhile."""
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
        """One REST look; True when prices came."""
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
        """Follow the stream until it breaks or falls silent; True when it gave prices."""
        gave = False
        try:
            async with asyncio.timeout(self._settings.live_timeout_s):
                stream = await session.ws_connect(self._settings.live_stream_url)
            async with stream:
                await stream.send_str('{"id":"marks","event":"subscribe","topic":"markprices"}')
                while True:
                    message = await stream.receive(timeout=_SILENCE_S)
                    if message.type != aiohttp.WSMsgType.TEXT:
                        return gave
                    body = json.loads(message.data, parse_float=Decimal)
                    if body.get("event") == "ping":
                        await stream.send_str('{"event":"pong"}')
                    elif body.get("topic") == "markprices":
                        self._apply_rows(body["data"], "price")
                        gave = True
        except _ERRORS:
            return gave

    def _apply_rows(self, rows: list[Mapping[str, Any]], name: str) -> None:
        marks: dict[str, Decimal] = {}
        for row in rows:
            with contextlib.suppress(InvalidOperation):
                price = Decimal(str(row.get(name)))
                if price.is_finite() and price > 0:
                    marks[str(row["symbol"])] = price
        self._apply(marks)
