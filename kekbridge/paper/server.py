"""Paper exchange server: start and stop. REST API, control API and streams share one port.

paper = PaperExchange(data_dir, settings=PaperSettings(prices="static"))
base_url = await paper.start(port=0)
...
await paper.close()
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from aiohttp import web

from kekbridge.connections.server import AppServer, bind
from kekbridge.paper.api import MAX_BODY, RestApi
from kekbridge.paper.auth import SignatureVerifier
from kekbridge.paper.codec import ApiError, failure
from kekbridge.paper.control_api import ControlApi
from kekbridge.paper.exchange import SimulatedExchange
from kekbridge.paper.journal import PaperJournal
from kekbridge.paper.prices import LivePriceFeed
from kekbridge.paper.rate_limits import RequestLimiter
from kekbridge.paper.routes import account as routes_account
from kekbridge.paper.routes import algo as routes_algo
from kekbridge.paper.routes import orders as routes_orders
from kekbridge.paper.routes import public as routes_public
from kekbridge.paper.routes import statistics as routes_statistics
from kekbridge.paper.routes import wallet as routes_wallet
from kekbridge.paper.settings import PaperSettings, now_ms
from kekbridge.paper.streams import Streams

_TICK_S = 1.0
_KEEPALIVE_S = 75.0
_BODY_S = 10.0
_STOP_S = 2.0
_MOST_CONNECTIONS = 512
_DEFAULTS = PaperSettings()


class PaperExchange:
    """One paper exchange. Its state is in `data_dir/paper.db` and survives restarts and kill -9."""

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: PaperSettings = _DEFAULTS,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self.data_dir = data_dir
        self.settings = settings
        self.clock = clock
        self.base_url = ""
        self._exchange: SimulatedExchange | None = None
        self._journal: PaperJournal | None = None
        self._server: AppServer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._timers: set[asyncio.TimerHandle] = set()

    @property
    def exchange(self) -> SimulatedExchange:
        """The exchange behind the server; RuntimeError unless started."""
        if self._exchange is None:
            raise RuntimeError("the paper exchange is not started")
        return self._exchange

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Open the database, listen (port 0: a free port) and return the base URL, such as "http://127.0.0.1:8090"."""
        self._journal = PaperJournal(self.data_dir / "paper.db")
        self._exchange = exchange = SimulatedExchange(self._journal, self.settings, self.clock, self._schedule)
        verifier, limiter = SignatureVerifier(exchange.state), RequestLimiter(enabled=self.settings.rate_limits)
        app = web.Application(client_max_size=MAX_BODY, middlewares=[_json_errors(self.clock)])
        api = RestApi(exchange, verifier, limiter)
        for module in (routes_public, routes_orders, routes_algo, routes_account, routes_statistics, routes_wallet):
            api.mount(app, module.ROUTES)
        ControlApi(exchange, limiter).mount(app)
        streams = Streams(exchange, verifier)
        streams.mount(app)
        self._server = AppServer(
            app,
            most_connections=_MOST_CONNECTIONS,
            keepalive_timeout=_KEEPALIVE_S,
            lingering_time=_BODY_S,
            body_timeout_s=_BODY_S,
            name="paper exchange",
        )
        listening = await bind(host, port)
        bound = listening[0].getsockname()
        await self._server.start(listening)
        shown = f"[{bound[0]}]" if ":" in str(bound[0]) else bound[0]
        self.base_url = f"http://{shown}:{bound[1]}"
        exchange.resume()
        self._tasks.append(asyncio.create_task(self._tick()))
        self._tasks.append(asyncio.create_task(streams.run()))
        if self.settings.prices == "live":
            feed = LivePriceFeed(self.settings, exchange.apply_live_prices)
            self._tasks.append(asyncio.create_task(feed.run()))
        return self.base_url

    async def close(self) -> None:
        """Stop listening, finish running requests, close the database. Can be called twice."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._server is not None:
            await self._server.close(longest_s=_STOP_S)
            self._server = None
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self._exchange = None

    def hint_price(self, symbol: str, price: Decimal) -> bool:
        """Set a mark price (USDC) that an alert contained; False if a better one is known or the symbol is not listed."""
        return self.exchange.hint_price(symbol, price)

    def journal(self, after: int = 0) -> list[dict[str, Any]]:
        """Return the events that `GET /paper/journal` lists."""
        return self.exchange.state.journal.events(after)

    def _schedule(self, delay_ms: int, action: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(handle)
            action()

        handle = asyncio.get_running_loop().call_later(delay_ms / 1000, run)
        self._timers.add(handle)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self.exchange.tick()


def _json_errors(clock: Callable[[], int]) -> Any:
    """Turn aiohttp's own error responses (unknown path, wrong method, body too large) into Orderly's JSON."""

    @web.middleware
    async def middleware(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            answer: web.StreamResponse = await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            api_error = ApiError(-1006 if error.status == 404 else -1005, error.reason, status=error.status)
            return web.Response(status=error.status, text=failure(api_error, clock()), content_type="application/json")
        return answer

    return middleware
