"""Fixtures: the paper exchange on a free port, a client connected to it, and stored orders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import pytest

from kekbridge.config import ExchangeSettings
from kekbridge.exchange.orderly.client import OrderlyExchange
from kekbridge.exchange.orderly.signing import Signer
from kekbridge.exchange.orderly.websocket import StreamTimings
from kekbridge.model import Order, OrderIntent, OrderStatus, OrderType, Purpose, Side
from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ORDERLY_SECRET, PaperSettings
from tests.waiting import DEADLINE_S

BTC = "PERP_BTC_USDC"
QUICK = StreamTimings(first_delay_s=0.05, max_delay_s=0.2, refused_delay_s=0.2)


class MakeOrder(Protocol):
    def __call__(self, client_order_id: str, **intent: Any) -> Order: ...


Until = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
def make_order() -> MakeOrder:
    """A stored order: a market buy of 0.01 BTC unless the intent's fields say otherwise."""

    def make(client_order_id: str, **intent: Any) -> Order:
        fields: dict[str, Any] = {
            "symbol": BTC,
            "side": Side.BUY,
            "order_type": OrderType.MARKET,
            "quantity": Decimal("0.01"),
            "purpose": Purpose.ENTRY,
            "reference_price": Decimal(65000),
        }
        now = datetime.now(UTC)
        return Order(
            client_order_id=client_order_id,
            alert_id="01JD0000000000000000000000",
            webhook_id="wh",
            leg=0,
            sequence=1,
            intent=OrderIntent(**{**fields, **intent}),
            status=OrderStatus.SUBMITTING,
            created_at=now,
            expires_at=now + timedelta(seconds=60),
        )

    return make


@pytest.fixture
async def paper(tmp_path: Path) -> AsyncIterator[PaperExchange]:
    """A paper exchange without outside connections; BTC at 65000."""
    venue = PaperExchange(
        tmp_path / "paper", settings=PaperSettings(prices="static", marks={BTC: Decimal(65000)}, match_delay_ms=1)
    )
    await venue.start()
    yield venue
    await venue.close()


@pytest.fixture
async def exchange(paper: PaperExchange) -> AsyncIterator[OrderlyExchange]:
    """A started client with a live private stream."""
    client = new_client(paper.base_url)
    await client.start()
    await eventually(lambda: client.health.stream_is_live and client.snapshot)
    yield client
    await client.close()


@pytest.fixture
def control(paper: PaperExchange) -> Callable[..., Awaitable[Any]]:
    """POST (or GET) a control path of the paper exchange."""

    async def call(path: str, body: object | None = None) -> Any:
        async with aiohttp.ClientSession() as session:
            if body is None:
                async with session.get(paper.base_url + path) as answer:
                    return await answer.json()
            async with session.post(paper.base_url + path, json=body) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.json()

    return call


@pytest.fixture
def until() -> Until:
    return eventually


@pytest.fixture
def client_for() -> Callable[..., OrderlyExchange]:
    """Create a client for any base URL: `client_for(url, **settings)`."""
    return new_client


def new_client(base_url: str, **settings: Any) -> OrderlyExchange:
    signer = Signer(PAPER_ACCOUNT_ID, PAPER_ORDERLY_SECRET)
    return OrderlyExchange("paper", base_url, signer, ExchangeSettings(**settings), stream_timings=QUICK)


async def eventually(claim: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Wait until the claim holds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while not claim():
        assert loop.time() < end, "the awaited condition did not come true"
        await asyncio.sleep(0.01)
