"""Lists are read to their end, whatever the size of the pages and whatever moves between them; a list without an end is no list."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web

from kekbridge.errors import ExchangeUnavailable
from kekbridge.exchange.orderly.client import OrderlyExchange
from kekbridge.exchange.orderly.rate_limiter import Endpoint
from kekbridge.paper.server import PaperExchange
from tests.exchange.orderly.conftest import BTC

ClientFor = Callable[..., OrderlyExchange]
ETH = "PERP_ETH_USDC"
Page = Callable[[int], dict[str, Any]]


@asynccontextmanager
async def listing(client_for: ClientFor, page: Page) -> AsyncIterator[OrderlyExchange]:
    """A client of an exchange whose trades are what `page` gives for each page number."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"success": True, "timestamp": 1, "data": page(int(request.query["page"]))})

    app = web.Application()
    app.router.add_get("/v1/trades", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = client_for(f"http://127.0.0.1:{runner.addresses[0][1]}")
    await client._transport.open()
    try:
        yield client
    finally:
        await client.close()
        await runner.cleanup()


async def ids(client: OrderlyExchange) -> list[int]:
    return [row["id"] for row in await client.orders_api.rows(Endpoint.TRADES, "/v1/trades?start_t=1")]


def rows(first: int, last: int, *, total: int | None) -> dict[str, Any]:
    """A page with the rows from `first` to before `last`."""
    meta = {} if total is None else {"meta": {"total": total, "records_per_page": 500, "current_page": 1}}
    return {"rows": [{"id": number} for number in range(first, last)], **meta}


@pytest.mark.parametrize("size", [500, 60, 1])
async def test_pages_of_any_size_are_one_list(client_for: ClientFor, size: int) -> None:
    """The exchange may give fewer rows than were asked for: the list ends by its total."""
    total = 620 if size > 1 else 7
    pages = [(first, min(first + size, total)) for first in range(1, total, size)]

    def page(number: int) -> dict[str, Any]:
        first, last = pages[number - 1]
        return rows(first, last, total=total - 1)

    async with listing(client_for, page) as client:
        assert await ids(client) == list(range(1, total))


async def test_a_row_that_moves_to_the_next_page_counts_once(client_for: ClientFor) -> None:
    """A new row comes in between: the last one of the first page is the first of the second; the new one is read the next time."""

    def page(number: int) -> dict[str, Any]:
        return {1: rows(1, 4, total=6), 2: rows(3, 7, total=7)}.get(number, rows(0, 0, total=7))

    async with listing(client_for, page) as client:
        assert await ids(client) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "page",
    [
        lambda number: rows(1, 4, total=620),
        lambda number: rows(1, 4, total=620) if number == 1 else rows(0, 0, total=620),
    ],
    ids=["the same page for ever", "an empty page"],
)
async def test_a_list_that_does_not_reach_its_total_is_not_read(client_for: ClientFor, page: Page) -> None:
    """It is an error of the exchange, not a short list: what follows from it must not count as complete."""
    async with listing(client_for, page) as client:
        with pytest.raises(ExchangeUnavailable, match=r"/v1/trades could not be read to its end"):
            await ids(client)


async def test_a_list_without_a_total_is_one_page(client_for: ClientFor) -> None:
    """A call that knows no pages gives all it has, whatever page is asked for."""
    async with listing(client_for, lambda _: rows(1, 4, total=None)) as client:
        assert await ids(client) == [1, 2, 3]


async def test_620_funding_payments(exchange: OrderlyExchange, paper: PaperExchange) -> None:
    """More than a page holds: each is read, also in pages of 60 rows."""
    now = datetime.now(UTC)
    since = now - timedelta(hours=310)
    paper.exchange.set_positions({BTC: Decimal(1), ETH: Decimal(1)})
    for hour in range(310):
        at = int((now - timedelta(hours=hour)).timestamp() * 1000)
        for symbol in (BTC, ETH):
            paper.exchange.portfolio.pay_funding(symbol, Decimal("0.0001"), at)
    for size in (500, 60):
        paper.exchange.page_sizes["funding_fee"] = size
        found = await exchange.account_api.funding_payments(since)
        assert len(found) == 620
