"""Plain orders over HTTP: orderly-api.md sections 5, 6 and 8."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.paper.trader import BTC, ETH, Trader


async def test_create_answers_without_fill_information(trader: Trader) -> None:
    """Section 6: the answer holds an id, no fill; error_message is the text none."""
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


async def test_market_order_fills_at_mark_with_taker_fee(trader: Trader) -> None:
    """Fills at the mark; fee = price × quantity × 4.5 bps; the order and its trades agree."""
    order_id = await trader.order(order_quantity="0.2", symbol=ETH)
    order = await trader.done(order_id)
    assert (order["status"], order["total_executed_quantity"]) == ("FILLED", Decimal("0.2"))
    assert (order["average_executed_price"], order["price"]) == (1800, None)
    assert order["total_fee"] == Decimal("0.162")
    (trade,) = (await trader.ok("GET", f"/v1/order/{order_id}/trades"))["rows"]
    assert (trade["executed_price"], trade["executed_quantity"], trade["fee"]) == (
        1800,
        Decimal("0.2"),
        Decimal("0.162"),
    )
    assert trade["is_maker"] == 0
    assert trade["match_id"] > 2**53
    assert await trader.ok("GET", f"/v1/trade/{trade['id']}") == trade


async def test_create_is_answered_before_it_is_matched(trader: Trader) -> None:
    """Section 16: NEW first, fills later; the journal tells received, accepted, fill in this order."""
    order_id = await trader.order(client_order_id="kb-order")
    await trader.done(order_id)
    told = [e["event"] for e in await trader.journal() if e["client_order_id"] == "kb-order"]
    assert told == ["order_received", "order_accepted", "fill"]


async def test_numbers_are_written_exactly(trader: Trader) -> None:
    """Answers carry plain JSON numbers: no exponent, no float noise, ids as numbers."""
    order_id = await trader.order(order_quantity="0.00123", order_type="LIMIT", order_price="64999.9")
    path = f"/v1/order/{order_id}"
    async with trader.session.get(trader.base_url + path, headers=trader.headers("GET", path)) as answer:
        text = await answer.text()
    assert '"quantity":0.00123,' in text
    assert '"price":64999.9,' in text
    assert f'"order_id":{order_id},' in text


async def test_exponents_numeric_text_and_unknown_fields_are_accepted(trader: Trader) -> None:
    """Section 16: real clients send 1e-05, quoted numbers, duplicated and unknown fields."""
    order_id = await trader.order(
        order_quantity=1e-05 * 100, order_type="LIMIT", order_price="6.49e4", unknown={"a": 1}, order_tag="CCXT"
    )
    order = await trader.until_order(order_id, lambda o: o["status"] == "NEW")
    assert (order["price"], order["quantity"], order["order_tag"]) == (64900, Decimal("0.001"), "CCXT")


async def test_limit_rests_and_fills_as_maker_at_its_price(trader: Trader) -> None:
    """A resting limit order trades at its own price, as maker (1.5 bps), when the mark reaches it."""
    order_id = await trader.order(order_type="LIMIT", order_price="64900", order_quantity="0.1")
    await trader.prices(BTC="64880")
    order = await trader.done(order_id)
    assert (order["status"], order["average_executed_price"]) == ("FILLED", 64900)
    assert order["total_fee"] == Decimal("0.9735")


async def test_crossing_limit_takes_the_mark(trader: Trader) -> None:
    """A limit order through the mark trades at the better mark, as taker."""
    order = await trader.done(await trader.order(order_type="LIMIT", order_price="65100"))
    assert order["average_executed_price"] == 65000
    assert order["total_fee"] == Decimal("0.2925")


@pytest.mark.parametrize("kind", ["IOC", "FOK"])
async def test_ioc_and_fok_away_from_the_mark_end_unfilled(trader: Trader, kind: str) -> None:
    """IOC and FOK that cannot match go NEW then CANCELLED with nothing executed."""
    order = await trader.done(await trader.order(order_type=kind, order_price="64900"))
    assert (order["status"], order["total_executed_quantity"]) == ("CANCELLED", 0)


@pytest.mark.parametrize("kind", ["IOC", "FOK"])
async def test_ioc_and_fok_through_the_mark_fill(trader: Trader, kind: str) -> None:
    """IOC and FOK that can match do so at once."""
    assert (await trader.done(await trader.order(order_type=kind, order_price="65010")))["status"] == "FILLED"


async def test_post_only_cancels_or_adjusts(trader: Trader) -> None:
    """POST_ONLY is cancelled when it would match; with post_only_adjust it moves one tick off."""
    order = await trader.done(await trader.order(order_type="POST_ONLY", order_price="65010"))
    assert (order["status"], order["total_executed_quantity"]) == ("CANCELLED", 0)
    order_id = await trader.order(order_type="POST_ONLY", order_price="65010", post_only_adjust=True)
    order = await trader.until_order(order_id, lambda o: o["price"] != 65010)
    assert (order["status"], order["price"]) == ("NEW", Decimal("64999.9"))


async def test_ask_and_bid_take_their_price_from_the_book(trader: Trader) -> None:
    """A BUY BID rests one tick under the mark; a BUY ASK crosses and fills."""
    resting = await trader.order(order_type="BID")
    assert (await trader.ok("GET", f"/v1/order/{resting}"))["price"] == Decimal("64999.9")
    assert (await trader.done(await trader.order(order_type="ASK")))["status"] == "FILLED"


async def test_order_amount_buys_for_usdc(trader: Trader) -> None:
    """order_amount sizes a MARKET order in USDC, rounded down to the step."""
    order_id = await trader.order(order_quantity=None, order_amount="1000")
    order = await trader.done(order_id)
    assert order["total_executed_quantity"] == Decimal("0.01538")
    assert order["amount"] == 1000


async def test_reduce_only_is_capped_at_the_position(trader: Trader) -> None:
    """A reduce-only order closes at most the position; the excess is cancelled and nothing flips."""
    await trader.done(await trader.order(order_quantity="0.02"))
    order = await trader.done(await trader.order(side="SELL", order_quantity="0.05", reduce_only=True))
    assert (order["status"], order["total_executed_quantity"]) == ("CANCELLED", Decimal("0.02"))
    assert await trader.position() == 0
    order = await trader.done(await trader.order(side="SELL", reduce_only=True))
    assert (order["status"], order["total_executed_quantity"]) == ("CANCELLED", 0)


async def test_batch_ignores_reduce_only(trader: Trader) -> None:
    """Section 6: reduce_only does nothing in a batch; a failed row does not fail the rest."""
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


async def test_client_id_is_unique_among_open_orders_only(trader: Trader) -> None:
    """Section 6: -1007 against an open order; a finished one frees its id; GET returns the newest."""
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


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"order_price": "65000.05"}, -1103),
        ({"order_price": "200001"}, -1103),
        ({"order_price": "0"}, -1103),
        ({"order_price": "65650.1"}, -1105),
        ({"order_price": "25999.9"}, -1105),
        ({"side": "SELL", "order_price": "64349.9"}, -1105),
        ({"order_quantity": "0.000001"}, -1104),
        ({"order_quantity": "0.010001"}, -1104),
        ({"order_quantity": "10.00001"}, -1104),
        ({"order_quantity": "0.0001"}, -1102),
        ({"symbol": "PERP_NOPE_USDC"}, -1005),
        ({"side": "HOLD"}, -1005),
        ({"order_type": "GTD"}, -1005),
        ({"order_price": None}, -1005),
        ({"order_quantity": "abc"}, -1005),
        ({"order_quantity": True}, -1005),
        ({"order_amount": "100"}, -1005),
        ({"client_order_id": "-kb"}, -1005),
        ({"client_order_id": "k" * 37}, -1005),
        ({"visible_quantity": "0.02"}, -1005),
        ({"visible_quantity": "0.000001"}, -1104),
    ],
)
async def test_filters_answer_with_the_documented_code(trader: Trader, fields: dict[str, object], code: int) -> None:
    """Section 5: price -1103, range -1105, size -1104, notional -1102, margin -1101, the rest -1005."""
    body = {"symbol": BTC, "side": "BUY", "order_type": "LIMIT", "order_price": "64500", "order_quantity": "0.01"}
    sent = {k: v for k, v in (body | fields).items() if v is not None}
    assert await trader.rejected("POST", "/v1/order", sent) == (400, code)
    received, refused = (await trader.journal())[-2:]
    assert (received["event"], refused["event"], refused["code"]) == ("order_received", "order_refused", code)


async def test_price_range_edges_are_inside(trader: Trader) -> None:
    """Section 5: exactly mark × (1 ± price_range) is allowed."""
    for side, price in (("BUY", "65650"), ("SELL", "64350")):
        assert (await trader.done(await trader.order(side=side, order_type="IOC", order_price=price)))[
            "status"
        ] == "FILLED"


async def test_reduce_only_may_close_a_remainder_below_min_notional(trader: Trader) -> None:
    """Section 5: the notional check is skipped for reduce-only orders."""
    await trader.control("/paper/positions", {BTC: "0.0001"})
    order = await trader.done(await trader.order(side="SELL", order_quantity="0.0001", reduce_only=True))
    assert order["status"] == "FILLED"


async def test_market_slippage_bounds_the_fill(trader: Trader) -> None:
    """slippage is a fraction: a mark that ran further between acceptance and match cancels the order."""
    await trader.control("/paper/faults", {"fault": "no_fill"})
    order_id = await trader.order(slippage="0.001")
    await trader.prices(BTC="65100")
    await trader.control("/paper/faults", {})
    order = await trader.done(order_id)
    assert (order["status"], order["total_executed_quantity"]) == ("CANCELLED", 0)


async def test_resting_order_outside_the_scope_is_cancelled(trader: Trader) -> None:
    """Section 5: the system cancels resting orders that the mark leaves outside the range."""
    order_id = await trader.order(side="SELL", order_type="LIMIT", order_price="100000", order_quantity="0.001")
    await trader.prices(BTC="60000")
    assert (await trader.done(order_id))["status"] == "CANCELLED"


async def test_edit_changes_price_and_quantity_later(trader: Trader) -> None:
    """Edit is asynchronous (EDIT_SENT), keeps the id, and is filtered like a new order."""
    order_id = await trader.order(order_type="LIMIT", order_price="64000")
    body = {"order_id": str(order_id), "symbol": BTC, "order_type": "LIMIT", "side": "BUY"}
    answer = await trader.ok("PUT", "/v1/order", body | {"order_price": "64100", "order_quantity": "0.02"})
    assert answer == {"status": "EDIT_SENT"}
    order = await trader.until_order(order_id, lambda o: o["price"] == 64100)
    assert (order["quantity"], order["status"]) == (Decimal("0.02"), "NEW")
    assert await trader.rejected("PUT", "/v1/order", body | {"order_price": "64100.05"}) == (400, -1103)
    assert await trader.rejected("PUT", "/v1/order", body | {"order_id": 1}) == (400, -1006)


async def test_cancel_is_asynchronous_and_finished_orders_refuse_it(trader: Trader) -> None:
    """CANCEL_SENT, then CANCELLED; a finished or unknown order is -1006."""
    order_id = await trader.order(order_type="LIMIT", order_price="64000")
    path = f"/v1/order?order_id={order_id}&symbol={BTC}"
    assert await trader.ok("DELETE", path) == {"status": "CANCEL_SENT"}
    assert (await trader.done(order_id))["status"] == "CANCELLED"
    assert await trader.rejected("DELETE", path) == (400, -1006)
    assert await trader.rejected("DELETE", f"/v1/order?order_id=5&symbol={BTC}") == (400, -1006)
    assert await trader.rejected("GET", "/v1/order/5") == (400, -1006)


async def test_batch_cancels_and_cancel_all(trader: Trader) -> None:
    """Cancels by lists of ids and of client ids; cancel-all by symbol and of everything."""
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
    """GET /v1/orders: bundles, symbol, side, paging with meta, newest first by default."""
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
    """cancel_all_after accepts 0 and 5000 to 900000 ms and answers the expected time."""
    assert await trader.ok("POST", "/v1/order/cancel_all_after", {"trigger_after": 0}) == {"expected_trigger_time": 0}
    assert await trader.rejected("POST", "/v1/order/cancel_all_after", {"trigger_after": 4999}) == (400, -1005)
    assert (await trader.ok("POST", "/v1/order/cancel_all_after", {"trigger_after": 60000}))[
        "expected_trigger_time"
    ] > 0


async def test_old_requests_are_refused_by_their_own_window(trader: Trader) -> None:
    """x-recv-window on a create bounds the age of the request."""
    body = {"symbol": BTC, "side": "BUY", "order_type": "MARKET", "order_quantity": "0.01"}
    status, answer = await trader.call("POST", "/v1/order", body, **{"x-recv-window": "-1"})
    assert (status, answer["code"]) == (400, -1005)
    status, _ = await trader.call("POST", "/v1/order", body, **{"x-recv-window": "10000"})
    assert status == 200
