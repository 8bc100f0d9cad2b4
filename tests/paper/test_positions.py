"""Positions, margin, funding and settlement (docs/internals/orderly.md, sections 9 and 10)."""

from __future__ import annotations

from decimal import Decimal

from tests.paper.trader import BTC, ETH, Trader


async def test_fills_change_cost_position_not_the_holding(trader: Trader) -> None:
    """Fees and PnL change cost_position; the holding changes only with a settlement."""
    await trader.done(await trader.order(order_quantity="0.2", symbol=ETH, side="SELL"))
    position = await trader.position_row(ETH)
    assert (position["position_qty"], position["average_open_price"]) == (Decimal("-0.2"), 1800)
    assert position["cost_position"] == Decimal("-360") + Decimal("0.162")
    assert position["settle_price"] == Decimal("1799.19")
    assert position["unsettled_pnl"] == Decimal("-0.162")
    (holding,) = (await trader.ok("GET", "/v1/client/holding?all=True"))["holding"]
    assert (holding["token"], holding["holding"]) == ("USDC", 100_000)


async def test_average_is_kept_by_reducing_and_reset_by_flipping(trader: Trader) -> None:
    """The average open price is weighted by adding, kept by reducing, reset by flipping."""
    await trader.done(await trader.order(symbol=ETH, order_quantity="1"))
    await trader.prices(ETH="2000")
    await trader.done(await trader.order(symbol=ETH, order_quantity="1"))
    assert (await trader.position_row(ETH))["average_open_price"] == 1900
    await trader.prices(ETH="2100")
    closing = await trader.done(await trader.order(symbol=ETH, order_quantity="1", side="SELL"))
    assert closing["realized_pnl"] == 200
    assert (await trader.position_row(ETH))["average_open_price"] == 1900
    await trader.done(await trader.order(symbol=ETH, order_quantity="3", side="SELL"))
    flipped = await trader.position_row(ETH)
    assert (flipped["position_qty"], flipped["average_open_price"]) == (-2, 2100)
    (history,) = (await trader.ok("GET", f"/v1/position_history?limit=5&symbol={ETH}"))["rows"]
    assert (history["side"], history["max_position_qty"], history["closed_position_qty"]) == ("LONG", 2, 2)


async def test_closed_position_keeps_a_row_until_it_is_settled(trader: Trader) -> None:
    """A closed position with unsettled PnL stays listed until settlement moves the PnL to the balance."""
    await trader.done(await trader.order(symbol=ETH, order_quantity="1"))
    await trader.prices(ETH="1900")
    await trader.done(await trader.order(symbol=ETH, order_quantity="1", side="SELL", reduce_only=True))
    (left,) = (await trader.ok("GET", "/v1/positions"))["rows"]
    assert (left["position_qty"], left["unsettled_pnl"]) == (0, Decimal("98.335"))
    await trader.control("/paper/settle")
    assert (await trader.ok("GET", "/v1/positions"))["rows"] == []
    (holding,) = (await trader.ok("GET", "/v1/client/holding"))["holding"]
    assert holding["holding"] == Decimal("100098.335")
    (entry,) = (await trader.ok("GET", "/v1/pnl_settlement/history"))["rows"]
    assert entry["settled_amount"] == Decimal("98.335")


async def test_margin_limits_orders_and_leverage(trader: Trader) -> None:
    """-1101 if the margin is insufficient for an order, for all open orders together, or for a leverage."""
    await trader.ok("POST", "/v1/client/leverages", {"symbol": BTC, "leverage": 1})
    body = {"symbol": BTC, "side": "BUY", "order_type": "MARKET", "order_quantity": "2"}
    assert await trader.rejected("POST", "/v1/order", body) == (400, -1101)
    await trader.order(order_type="LIMIT", order_price="64000", order_quantity="1")
    assert await trader.rejected("POST", "/v1/order", body | {"order_quantity": "1"}) == (400, -1101)
    await trader.ok("DELETE", "/v1/orders")
    await trader.ok("POST", "/v1/client/leverages", {"symbol": BTC, "leverage": 10})
    await trader.done(await trader.order(order_quantity="5"))
    assert await trader.rejected("POST", "/v1/client/leverages", {"symbol": BTC, "leverage": 1}) == (400, -1101)


async def test_exits_need_no_margin(trader: Trader) -> None:
    """An order that reduces the position needs no margin, reduce-only or not."""
    await trader.ok("POST", "/v1/client/leverages", {"symbol": BTC, "leverage": 20})
    await trader.done(await trader.order(order_quantity="10"))
    await trader.prices(BTC="57000")
    body = {"symbol": BTC, "side": "BUY", "order_type": "MARKET", "order_quantity": "1"}
    assert await trader.rejected("POST", "/v1/order", body) == (400, -1101)
    assert (await trader.done(await trader.order(side="SELL", order_quantity="1")))["status"] == "FILLED"


async def test_funding_accrues_in_the_position(trader: Trader) -> None:
    """Funding is position × mark price × rate, positive: longs pay; it changes cost_position."""
    await trader.control("/paper/positions", {BTC: "1", ETH: "-2"})
    await trader.control("/paper/funding", {BTC: "0.0001", ETH: "0.0002"})
    long, short = await trader.position_row(BTC), await trader.position_row(ETH)
    assert long["cost_position"] == Decimal("65006.5")
    assert short["cost_position"] == Decimal("-3600.72")
    rows = (await trader.ok("GET", "/v1/funding_fee/history"))["rows"]
    assert [(r["symbol"], r["funding_fee"], r["payment_type"]) for r in rows] == [
        (ETH, Decimal("-0.72"), "Receive"),
        (BTC, Decimal("6.5"), "Pay"),
    ]


async def test_isolated_position_beside_a_cross_one(trader: Trader) -> None:
    """Positions are separate by symbol and margin mode; an isolated one has its own margin."""
    await trader.done(await trader.order(symbol=ETH, order_quantity="1"))
    await trader.done(await trader.order(symbol=ETH, order_quantity="1", side="SELL", margin_mode="ISOLATED"))
    cross, isolated = await trader.position_row(ETH), await trader.position_row(ETH, "ISOLATED")
    assert (cross["position_qty"], isolated["position_qty"], isolated["margin"]) == (1, -1, 180)
    await trader.ok("POST", "/v1/position_margin", {"symbol": ETH, "amount": "20", "type": "ADD"})
    assert (await trader.position_row(ETH, "ISOLATED"))["margin"] == 200
    await trader.prices(ETH="2000")
    assert await trader.position(ETH) == 1
    assert (await trader.position_row(ETH, "ISOLATED"))["position_qty"] == 0
