"""When the account is read again: at the start, after the stream connected, and what does not wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from kekbridge.config import ExchangeSettings
from kekbridge.exchange.orderly.client import OrderlyExchange
from kekbridge.exchange.orderly.rate_limiter import RATES, Endpoint, Rate, RateLimiter
from kekbridge.exchange.orderly.signing import Signer
from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ORDERLY_SECRET
from tests.exchange.orderly.conftest import QUICK
from tests.waiting import DEADLINE_S

BTC, ETH = "PERP_BTC_USDC", "PERP_ETH_USDC"
Control = Callable[..., Awaitable[Any]]
Until = Callable[[Callable[[], object]], Awaitable[None]]


def client(base_url: str, *, leverage_reads: int) -> OrderlyExchange:
    """A client that may read the leverages so many times; a further read waits an hour."""
    rates = {**RATES, Endpoint.LEVERAGE_GET: Rate(leverage_reads, 3600)}
    return OrderlyExchange(
        "paper",
        base_url,
        Signer(PAPER_ACCOUNT_ID, PAPER_ORDERLY_SECRET),
        ExchangeSettings(),
        rate_limiter=RateLimiter(rates),
        stream_timings=QUICK,
    )


@asynccontextmanager
async def started(exchange: OrderlyExchange) -> AsyncIterator[OrderlyExchange]:
    await exchange.start()
    try:
        yield exchange
    finally:
        await exchange.close()


async def test_reading_the_account_does_not_wait_for_the_leverages_again(paper: PaperExchange, until: Until) -> None:
    """They are read at the start and, at most once a second, after the stream connected: the start must not wait for the second."""
    async with started(client(paper.base_url, leverage_reads=1)) as exchange:
        await until(lambda: exchange.stream_is_live)
        async with asyncio.timeout(DEADLINE_S / 2):
            snapshot = await exchange.refresh()
        assert snapshot.leverage[BTC] == 10


async def test_leverages_are_read_again_after_the_stream_connected(
    paper: PaperExchange, control: Control, until: Until
) -> None:
    """One that was set elsewhere while the stream was down is known soon after, and known for certain."""
    async with started(client(paper.base_url, leverage_reads=100)) as exchange:
        await until(lambda: exchange.stream_is_live and exchange.leverage_of(BTC) == 10)
        await control("/paper/faults", {"fault": "stream_drop", "count": 1})
        await until(lambda: not exchange.stream_is_live)
        await control("/paper/leverage", {"symbol": BTC, "margin_mode": "CROSS", "leverage": 7})
        await until(lambda: exchange.stream_is_live and exchange.leverage_of(BTC) == 7)


async def test_orders_that_wait_for_the_leverages_share_one_read() -> None:
    """One read a second is allowed: three orders that each read for themselves would wait three seconds."""
    reads: list[str] = []
    asked, released = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        reads.append(request.path)
        asked.set()
        await released.wait()
        rows = [{"symbol": symbol, "margin_mode": "CROSS", "leverage": 5} for symbol in (BTC, ETH)]
        return web.json_response({"success": True, "timestamp": 1, "data": {"rows": rows}})

    app = web.Application()
    app.router.add_get("/v1/client/leverages", answer)
    async with TestServer(app) as server:
        exchange = client(f"http://127.0.0.1:{server.port}", leverage_reads=100)
        exchange._sync.hears_leverage = lambda: True
        await exchange._open()
        try:
            async with asyncio.TaskGroup() as group:
                waiting = [group.create_task(exchange.set_leverage(one, Decimal(5))) for one in (BTC, ETH, BTC)]
                await asked.wait()
                for _ in range(10):
                    await asyncio.sleep(0)
                released.set()
        finally:
            await exchange.close()
    assert (len(reads), [type(one.result()).__name__ for one in waiting]) == (1, ["Accepted"] * 3)
