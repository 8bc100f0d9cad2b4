"""Public stream topics (docs/internals/orderly.md, section 12)."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.paper.stream_client import PUBLIC, connected
from tests.paper.trader import BTC, Trader


@pytest.mark.parametrize(
    ("topic", "field"),
    [
        (f"{BTC}@markprice", "price"),
        (f"{BTC}@bbo", "askSize"),
        (f"{BTC}@ticker", "close"),
        (f"{BTC}@estfundingrate", "fundingRate"),
        (f"{BTC}@kline_1m", "startTime"),
        (f"{BTC}@openinterest", "openInterest"),
        (f"{BTC}@orderbook", "asks"),
        ("SPOT_BTC_USDC@indexprice", "price"),
    ],
)
async def test_public_topics_push_their_documented_shape(trader: Trader, topic: str, field: str) -> None:
    """Each public topic pushes its documented fields after a subscription."""
    async with connected(trader, PUBLIC) as client:
        await client.send(id="s", event="subscribe", topic=topic)
        data = await client.topic(topic)
        assert field in data
        await client.send(id="u", event="unsubscribe", topic=topic)
        assert (await client.receive(lambda m: m.get("id") == "u"))["success"] is True


@pytest.mark.parametrize("topic", ["markprices", "bbos", "tickers", "indexprices"])
async def test_list_topics(trader: Trader, topic: str) -> None:
    """List topics contain every symbol."""
    async with connected(trader, PUBLIC) as client:
        await client.send(id="s", event="subscribe", topic=topic)
        assert len(await client.topic(topic)) >= 40


async def test_price_changes_trades_and_maintenance_are_pushed(trader: Trader) -> None:
    """A new mark price, a trade and maintenance are pushed at once."""
    async with connected(trader, PUBLIC) as client:
        for name in (f"{BTC}@markprice", f"{BTC}@trade", "maintenance_status"):
            await client.send(id=name, event="subscribe", topic=name)
            await client.reply(name)
        await trader.prices(BTC="65123.4")
        await client.topic(f"{BTC}@markprice", lambda d: d["price"] == Decimal("65123.4"))
        await trader.order()
        assert (await client.topic(f"{BTC}@trade"))["size"] == Decimal("0.01")
        await trader.control("/paper/faults", {"fault": "maintenance"})
        assert (await client.topic("maintenance_status"))[0]["status"] == 2


async def test_one_off_order_book(trader: Trader) -> None:
    """The event request returns an order book around the mark price."""
    async with connected(trader, PUBLIC) as client:
        await client.send(id="r1", event="request", params={"type": "orderbook", "symbol": BTC})
        data = (await client.receive(lambda m: m.get("id") == "r1"))["data"]
        assert data["asks"][0][0] > 65000 > data["bids"][0][0]
