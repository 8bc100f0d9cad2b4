"""Endpoints of plain orders (docs/internals/orderly.md, sections 6 and 8)."""

from __future__ import annotations

from decimal import Decimal

from tests.paper.trader import BTC, ETH, Trader


async def test_create_response_has_no_fill_information(trader: Trader) -> None:
    """The response to a create has an ID and nothing about fills; error_message is the text none."""
    body = {"symbol": BTC, "side": "BUY", "order_type": "MARKET", "order_quantity": 0.01, "client_order_id": "kb-1"}
    data = await trader.ok("POST", "/v1/order", body)
    assert data == {
        "order_id": data["order_id"],
        "client_order_id": "kb-1",
        "order_type": "MARKET",
        "order_price": None,
        "order_quantity": Decimal("0.01"),
        "order_amount": None,
        "error_message": "none",
    }


async def test_numbers_are_written_exactly(trader: Trader) -> None:
    """Responses have plain JSON numbers: no exponent, no float noise, IDs as numbers."""
    order_id = await trader.order(order_quantity="0.00123", order_type="LIMIT", order_price="64999.9")
    path = f"/v1/order/{order_id}"
    async with trader.session.get(trader.base_url + path, headers=trader.headers("GET", path)) as answer:
        text = await answer.text()
    assert '"quantity":0.00123,' in text
    assert '"price":64999.9,' in text
    assert f'"order_id":{order_id},' in text


async def test_exponents_numeric_text_and_unknown_fields_are_accepted(trader: Trader) -> None:
    """Numbers like 1e-05, numbers as text, duplicate and unknown fields are accepted, as real clients send them."""
    order_id = await trader.order(
        order_quantity=1e-05 * 100, order_type="LIMIT", order_price="6.49e4", unknown={"a": 1}, order_tag="CCXT"
    )
    order = await trader.until_order(order_id, lambda o: o["status"] == "NEW")
    assert (order["price"], order["quantity"], order["order_tag"]) == (64900, Decimal("0.001"), "CCXT")


async def test_order_amount_is_in_usdc(trader: Trader) -> None:
    """order_amount sizes a MARKET order in USDC, rounded down to the quantity step."""
    order_id = await trader.order(order_quantity=None, order_amount="1000")
    order = await trader.done(order_id)
    assert order["total_executed_quantity"] == Decimal("0.01538")
    assert order["amount"] == 1000


async def test_batch_ignores_reduce_only(trader: Trader) -> None:
    """reduce_only has no effect in a batch; a rejected row does not affect the others."""
    rows = [
        {"symbol": BTC, "side": "SELL", "order_type": "MARKET", "order_quantity": "0.01", "reduce_only": True},
        {"symbol": BTC, "side": "BUY", "order_type": "LIMIT", "order_quantity": "0.01", "order_price": "1"},
    ]
    answers = (await trader.ok("POST", "/v1/batch-order", {"orders": rows}))["rows"]
    assert answers[0]["error_message"] == "none"
    assert (answers[1]["order_id"], answers[1]["error_message"] != "none") == (0, True)
    await trader.until_position(BTC, "-0.01")
    eleven = {"orders": [rows[0]] * 11}
    assert await trader.rejected("POST", "/v1/batch-order", eleven) == (400, -1005)


async def test_client_order_id_is_unique_among_open_orders(trader: Trader) -> None:
    """-1007 against an open order; a finished order frees its ID; GET returns the newest order."""
    limit = {"order_type": "LIMIT", "order_price": "64000", "client_order_id": "kb-x"}
    first = await trader.order(**limit)
    body = {"symbol": BTC, "side": "BUY", "order_quantity": "0.01", **limit}
    assert await trader.rejected("POST", "/v1/order", body) == (409, -1007)
    await trader.ok("DELETE", f"/v1/client/order?client_order_id=kb-x&symbol={BTC}")
    await trader.done(first)
    second = await trader.order(client_order_id="kb-x")
    third = await trader.done(second) and await trader.order(client_order_id="kb-x")
    assert (await trader.ok("GET", "/v1/client/order/kb-x"))["order_id"] == third
    fills = [e for e in await trader.journal() if e["event"] == "fill" and e["client_order_id"] == "kb-x"]
    assert len(fills) >= 1


async def test_cancel_is_asynchronous(trader: Trader) -> None:
    """A cancel is answered CANCEL_SENT before the order is CANCELLED; a finished or unknown order is -1006."""
    order_id = await trader.order(order_type="LIMIT", order_price="64000")
    path = f"/v1/order?order_id={order_id}&symbol={BTC}"
    assert await trader.ok("DELETE", path) == {"status": "CANCEL_SENT"}
    assert (await trader.done(order_id))["status"] == "CANCELLED"
    assert await trader.rejected("DELETE", path) == (400, -1006)
    assert await trader.rejected("DELETE", f"/v1/order?order_id=5&symbol={BTC}") == (400, -1006)
    assert await trader.rejected("GET", "/v1/order/5") == (400, -1006)


async def test_batch_cancels_and_cancel_all(trader: Trader) -> None:
    """Orders are canceled by lists of IDs or client order IDs, by symbol, or all."""
    limit: dict[str, object] = {"order_type": "LIMIT", "order_price": "64000"}
    ids = [await trader.order(**limit, client_order_id=f"kb-{n}") for n in range(4)]
    other = await trader.order(symbol=ETH, order_type="LIMIT", order_price="1750", order_quantity="0.1")
    assert (await trader.ok("DELETE", f"/v1/batch-order?order_ids={ids[0]},{ids[1]}"))["status"] == "CANCEL_ALL_SENT"
    await trader.ok("DELETE", "/v1/client/batch-order?client_order_ids=kb-2,kb-none")
    for order_id in ids[:3]:
        await trader.done(order_id)
    assert await trader.rejected("DELETE", "/v1/batch-order?order_ids=1,2") == (400, -1006)
    await trader.ok("DELETE", f"/v1/orders?symbol={BTC}")
    await trader.done(ids[3])
    assert (await trader.ok("GET", f"/v1/order/{other}"))["status"] == "NEW"
    await trader.ok("DELETE", "/v1/orders")
    await trader.done(other)


async def test_listing_filters_sorts_and_pages(trader: Trader) -> None:
    """GET /v1/orders filters by status, symbol and side, sorts newest first and pages with meta."""
    filled = await trader.order()
    await trader.done(filled)
    resting = [await trader.order(order_type="LIMIT", order_price=str(64000 + n)) for n in range(3)]

    async def ids(query: str) -> list[int]:
        return [row["order_id"] for row in (await trader.ok("GET", f"/v1/orders?{query}"))["rows"]]

    assert await ids("status=INCOMPLETE") == resting[::-1]
    assert await ids("status=COMPLETED") == [filled]
    assert await ids("sort_by=CREATED_TIME_ASC&source_type=ALL") == [filled, *resting]
    assert await ids(f"symbol={ETH}") == []
    assert await ids("side=SELL") == []
    data = await trader.ok("GET", "/v1/orders?size=2&page=2&status=INCOMPLETE")
    assert [row["order_id"] for row in data["rows"]] == [resting[0]]
    assert data["meta"] == {"total": 3, "records_per_page": 2, "current_page": 2}
    assert await trader.rejected("GET", "/v1/orders?size=501") == (400, -1005)
    assert await trader.rejected("GET", "/v1/orders?status=OPEN") == (400, -1005)


async def test_dead_mans_switch(trader: Trader) -> None:
    """cancel_all_after accepts 0 and 5000 to 900000 ms and returns the trigger time."""
    assert await trader.ok("POST", "/v1/order/cancel_all_after", {"trigger_after": 0}) == {"expected_trigger_time": 0}
    assert await trader.rejected("POST", "/v1/order/cancel_all_after", {"trigger_after": 4999}) == (400, -1005)
    assert (await trader.ok("POST", "/v1/order/cancel_all_after", {"trigger_after": 60000}))[
        "expected_trigger_time"
    ] > 0
