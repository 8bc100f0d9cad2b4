"""Matching of plain orders: fills, fees, order types, edits (docs/internals/orderly.md, section 6)."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.paper.trader import BTC, ETH, Trader


async def test_market_order_fills_at_mark_with_taker_fee(trader: Trader) -> None:
    """A MARKET order fills at the mark price with a fee of 4.5 bps; order and trades agree."""
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


async def test_create_is_journaled_before_it_is_matched(trader: Trader) -> None:
    """An order is NEW first and fills later; the journal has received, accepted, fill in this order."""
    order_id = await trader.order(client_order_id="kb-order")
    await trader.done(order_id)
    listed = [e["event"] for e in await trader.journal() if e["client_order_id"] == "kb-order"]
    assert listed == ["order_received", "order_accepted", "fill"]


async def test_limit_rests_and_fills_as_maker_at_its_price(trader: Trader) -> None:
    """A resting limit order fills at its own price with the maker fee (1.5 bps) once the mark price reaches it."""
    order_id = await trader.order(order_type="LIMIT", order_price="64900", order_quantity="0.1")
    await trader.prices(BTC="64880")
    order = await trader.done(order_id)
    assert (order["status"], order["average_executed_price"]) == ("FILLED", 64900)
    assert order["total_fee"] == Decimal("0.9735")


async def test_crossing_limit_fills_at_the_mark(trader: Trader) -> None:
    """A limit order beyond the mark price fills at the better mark price as taker."""
    order = await trader.done(await trader.order(order_type="LIMIT", order_price="65100"))
    assert order["average_executed_price"] == 65000
    assert order["total_fee"] == Decimal("0.2925")


@pytest.mark.parametrize("kind", ["IOC", "FOK"])
async def test_ioc_and_fok_away_from_the_mark_are_canceled(trader: Trader, kind: str) -> None:
    """IOC and FOK orders that cannot match are canceled with nothing filled."""
    order = await trader.done(await trader.order(order_type=kind, order_price="64900"))
    assert (order["status"], order["total_executed_quantity"]) == ("CANCELLED", 0)


@pytest.mark.parametrize("kind", ["IOC", "FOK"])
async def test_ioc_and_fok_beyond_the_mark_fill(trader: Trader, kind: str) -> None:
    """IOC and FOK orders that can match are filled at once."""
    assert (await trader.done(await trader.order(order_type=kind, order_price="65010")))["status"] == "FILLED"


async def test_post_only_cancels_or_adjusts(trader: Trader) -> None:
    """POST_ONLY is canceled if it would match; with post_only_adjust its price moves one tick off the mark price."""
    order = await trader.done(await trader.order(order_type="POST_ONLY", order_price="65010"))
    assert (order["status"], order["total_executed_quantity"]) == ("CANCELLED", 0)
    order_id = await trader.order(order_type="POST_ONLY", order_price="65010", post_only_adjust=True)
    order = await trader.until_order(order_id, lambda o: o["price"] != 65010)
    assert (order["status"], order["price"]) == ("NEW", Decimal("64999.9"))


async def test_ask_and_bid_take_their_price_from_the_book(trader: Trader) -> None:
    """A BUY at BID rests one tick below the mark price; a BUY at ASK crosses and fills."""
    resting = await trader.order(order_type="BID")
    assert (await trader.ok("GET", f"/v1/order/{resting}"))["price"] == Decimal("64999.9")
    assert (await trader.done(await trader.order(order_type="ASK")))["status"] == "FILLED"


async def test_reduce_only_is_capped_at_the_position(trader: Trader) -> None:
    """A reduce-only order fills at most the position; the rest is canceled and the position never flips."""
    await trader.done(await trader.order(order_quantity="0.02"))
    order = await trader.done(await trader.order(side="SELL", order_quantity="0.05", reduce_only=True))
    assert (order["status"], order["total_executed_quantity"]) == ("CANCELLED", Decimal("0.02"))
    assert await trader.position() == 0
    order = await trader.done(await trader.order(side="SELL", reduce_only=True))
    assert (order["status"], order["total_executed_quantity"]) == ("CANCELLED", 0)


async def test_reduce_only_needs_a_position_by_option(trader: Trader) -> None:
    """By option a reduce-only order or stop is rejected when nothing of the other side is open, and accepted when there is."""
    await trader.control("/paper/options", {"reduce_only_needs_position": True})
    order = {"symbol": BTC, "side": "SELL", "order_type": "MARKET", "order_quantity": "0.01", "reduce_only": True}
    stop = {
        "symbol": BTC, "side": "SELL", "algo_type": "STOP", "type": "MARKET", "quantity": "0.01",
        "trigger_price": "60000", "reduce_only": True,
    }  # fmt: skip
    wrong_mode = {**order, "margin_mode": "ISOLATED"}
    for path, body in (("/v1/order", order), ("/v1/algo/order", stop)):
        assert await trader.rejected("POST", path, body) == (400, -1005)
    await trader.control("/paper/positions", {BTC: "0.02"})
    for body in (wrong_mode, {**order, "side": "BUY"}):
        assert await trader.rejected("POST", "/v1/order", body) == (400, -1005)
    await trader.ok("POST", "/v1/algo/order", stop)
    assert (await trader.done((await trader.ok("POST", "/v1/order", order))["order_id"]))["status"] == "FILLED"


async def test_market_slippage_cancels_the_order(trader: Trader) -> None:
    """A MARKET order is canceled if the mark price moves by more than its slippage before the match."""
    await trader.control("/paper/faults", {"fault": "no_fill"})
    order_id = await trader.order(slippage="0.001")
    await trader.prices(BTC="65100")
    await trader.control("/paper/faults", {})
    order = await trader.done(order_id)
    assert (order["status"], order["total_executed_quantity"]) == ("CANCELLED", 0)


async def test_resting_order_outside_the_price_scope_is_canceled(trader: Trader) -> None:
    """A resting order is canceled when the mark price leaves it outside the price scope."""
    order_id = await trader.order(side="SELL", order_type="LIMIT", order_price="100000", order_quantity="0.001")
    await trader.prices(BTC="60000")
    assert (await trader.done(order_id))["status"] == "CANCELLED"


async def test_edit_is_asynchronous(trader: Trader) -> None:
    """An edit (EDIT_SENT) keeps the order ID, takes effect later and passes the filters of a new order."""
    order_id = await trader.order(order_type="LIMIT", order_price="64000")
    body = {"order_id": str(order_id), "symbol": BTC, "order_type": "LIMIT", "side": "BUY"}
    answer = await trader.ok("PUT", "/v1/order", body | {"order_price": "64100", "order_quantity": "0.02"})
    assert answer == {"status": "EDIT_SENT"}
    order = await trader.until_order(order_id, lambda o: o["price"] == 64100)
    assert (order["quantity"], order["status"]) == (Decimal("0.02"), "NEW")
    assert await trader.rejected("PUT", "/v1/order", body | {"order_price": "64100.05"}) == (400, -1103)
    assert await trader.rejected("PUT", "/v1/order", body | {"order_id": 1}) == (400, -1006)
