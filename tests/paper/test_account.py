"""Positions, leverage, margin, funding, settlement, liquidation over HTTP: orderly-api.md sections 9 and 10."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from kekbridge.paper.settings import PAPER_ACCOUNT_ID
from tests.paper.trader import BTC, ETH, SOL, Trader


async def row(trader: Trader, symbol: str, mode: str = "CROSS") -> dict[str, Any]:
    """The position row of a symbol."""
    found: dict[str, Any] = await trader.ok("GET", f"/v1/position/{symbol}?margin_mode={mode}")
    return found


async def test_trades_move_cost_position_not_the_holding(trader: Trader) -> None:
    """Section 10: fees and results enter cost_position; holding stays until a settlement."""
    await trader.done(await trader.order(order_quantity="0.2", symbol=ETH, side="SELL"))
    position = await row(trader, ETH)
    assert (position["position_qty"], position["average_open_price"]) == (Decimal("-0.2"), 1800)
    assert position["cost_position"] == Decimal("-360") + Decimal("0.162")
    assert position["settle_price"] == Decimal("1799.19")
    assert position["unsettled_pnl"] == Decimal("-0.162")
    (holding,) = (await trader.ok("GET", "/v1/client/holding?all=True"))["holding"]
    assert (holding["token"], holding["holding"]) == ("USDC", 100_000)


async def test_average_is_kept_by_reducing_and_reset_by_flipping(trader: Trader) -> None:
    """Section 10: weighted when adding, unchanged when reducing, the price when flipping."""
    await trader.done(await trader.order(symbol=ETH, order_quantity="1"))
    await trader.prices(ETH="2000")
    await trader.done(await trader.order(symbol=ETH, order_quantity="1"))
    assert (await row(trader, ETH))["average_open_price"] == 1900
    await trader.prices(ETH="2100")
    closing = await trader.done(await trader.order(symbol=ETH, order_quantity="1", side="SELL"))
    assert closing["realized_pnl"] == 200
    assert (await row(trader, ETH))["average_open_price"] == 1900
    await trader.done(await trader.order(symbol=ETH, order_quantity="3", side="SELL"))
    flipped = await row(trader, ETH)
    assert (flipped["position_qty"], flipped["average_open_price"]) == (-2, 2100)
    (history,) = (await trader.ok("GET", f"/v1/position_history?limit=5&symbol={ETH}"))["rows"]
    assert (history["side"], history["max_position_qty"], history["closed_position_qty"]) == ("LONG", 2, 2)


async def test_closed_position_keeps_a_row_until_it_is_settled(trader: Trader) -> None:
    """Section 9: quantity 0 with unsettled PnL stays in rows; settling moves it into the balance."""
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


async def test_leverage_by_both_paths_and_for_all_symbols(trader: Trader) -> None:
    """Section 9: singular and plural path; without symbol all symbols, each capped at its maximum."""
    body = {"symbol": BTC, "leverage": 20, "margin_mode": "CROSS"}
    assert await trader.ok("POST", "/v1/client/leverages", body) == body
    assert (await trader.ok("GET", f"/v1/client/leverage?symbol={BTC}"))["leverage"] == 20
    await trader.ok("POST", "/v1/client/leverage", {"leverage": "15"})
    listed = {
        (r["symbol"], r["margin_mode"]): r["leverage"] for r in (await trader.ok("GET", "/v1/client/leverages"))["rows"]
    }
    assert (listed[BTC, "CROSS"], listed["PERP_WIF_USDC", "CROSS"]) == (15, 10)
    for bad in (
        {"symbol": BTC, "leverage": 101},
        {"symbol": BTC, "leverage": 0},
        {"symbol": "PERP_WIF_USDC", "leverage": 11},
        {},
    ):
        assert await trader.rejected("POST", "/v1/client/leverages", bad) == (400, -1005)


async def test_margin_bounds_orders_and_leverage(trader: Trader) -> None:
    """-1101 when the margin does not suffice, for an order, for open orders together, for a leverage."""
    await trader.ok("POST", "/v1/client/leverages", {"symbol": BTC, "leverage": 1})
    body = {"symbol": BTC, "side": "BUY", "order_type": "MARKET", "order_quantity": "2"}
    assert await trader.rejected("POST", "/v1/order", body) == (400, -1101)
    await trader.order(order_type="LIMIT", order_price="64000", order_quantity="1")
    assert await trader.rejected("POST", "/v1/order", body | {"order_quantity": "1"}) == (400, -1101)
    await trader.ok("DELETE", "/v1/orders")
    await trader.ok("POST", "/v1/client/leverages", {"symbol": BTC, "leverage": 10})
    await trader.done(await trader.order(order_quantity="5"))
    assert await trader.rejected("POST", "/v1/client/leverages", {"symbol": BTC, "leverage": 1}) == (400, -1101)


async def test_exits_pass_whatever_the_margin_says(trader: Trader) -> None:
    """An order that makes the position smaller needs no margin, reduce-only or not."""
    await trader.ok("POST", "/v1/client/leverages", {"symbol": BTC, "leverage": 20})
    await trader.done(await trader.order(order_quantity="10"))
    await trader.prices(BTC="57000")
    body = {"symbol": BTC, "side": "BUY", "order_type": "MARKET", "order_quantity": "1"}
    assert await trader.rejected("POST", "/v1/order", body) == (400, -1101)
    assert (await trader.done(await trader.order(side="SELL", order_quantity="1")))["status"] == "FILLED"


async def test_account_totals(trader: Trader) -> None:
    """Section 9: the account part of /v1/positions and /v1/account_info; ratio 10 without a position."""
    empty = await trader.ok("GET", "/v1/positions")
    assert (empty["margin_ratio"], empty["free_collateral"], empty["rows"]) == (10, 100_000, [])
    await trader.done(await trader.order(order_quantity="1"))
    totals = await trader.ok("GET", "/v1/positions")
    assert totals["total_collateral_value"] == Decimal("99970.75")
    assert totals["free_collateral"] == Decimal("93470.75")
    info = await trader.ok("GET", "/v1/account_info")
    assert info["free_collateral"] == totals["free_collateral"]
    assert "total_pnl_24h" in info
    assert "total_pnl_24_h" in totals


async def test_client_info_and_key_info(trader: Trader) -> None:
    """Fee rates in basis points; the key with scope and expiry."""
    info = await trader.ok("GET", "/v1/client/info")
    assert (info["account_id"], info["futures_taker_fee_rate"]) == (PAPER_ACCOUNT_ID, Decimal("4.5"))
    (key,) = (await trader.ok("GET", "/v1/client/key_info?key_status=ACTIVE"))["rows"]
    assert (key["orderly_key"], key["scope"]) == (trader.orderly_key, "read,trading")
    _, public = await trader.raw(
        "GET", f"/v1/get_orderly_key?account_id={PAPER_ACCOUNT_ID}&orderly_key={trader.orderly_key}"
    )
    assert public["data"]["expiration"] == key["expiration"]
    _, account = await trader.raw("GET", f"/v1/public/account?account_id={PAPER_ACCOUNT_ID}")
    assert account["data"]["broker_id"] == "kek_ai"


async def test_funding_accrues_in_the_position(trader: Trader) -> None:
    """payment = position × mark × rate; positive rate: longs pay; it enters cost_position."""
    await trader.control("/paper/positions", {BTC: "1", ETH: "-2"})
    await trader.control("/paper/funding", {BTC: "0.0001", ETH: "0.0002"})
    long, short = await row(trader, BTC), await row(trader, ETH)
    assert long["cost_position"] == Decimal("65006.5")
    assert short["cost_position"] == Decimal("-3600.72")
    rows = (await trader.ok("GET", "/v1/funding_fee/history"))["rows"]
    assert [(r["symbol"], r["funding_fee"], r["payment_type"]) for r in rows] == [
        (ETH, Decimal("-0.72"), "Receive"),
        (BTC, Decimal("6.5"), "Pay"),
    ]


async def test_liquidation_takes_the_position_and_freezes_orders(trader: Trader) -> None:
    """Margin gone: orders end, the position is handed over, calls meanwhile are -1012."""
    await trader.ok("POST", "/v1/client/leverages", {"symbol": BTC, "leverage": 20})
    await trader.done(await trader.order(order_quantity="10"))
    resting = await trader.order(symbol=ETH, order_type="LIMIT", order_price="1750", order_quantity="0.1")
    liquidation_price = (await row(trader, BTC))["est_liq_price"]
    await trader.prices(BTC=str(liquidation_price.quantize(Decimal("0.1")) + 20))
    assert await trader.position() == 10
    await trader.prices(BTC=str(liquidation_price.quantize(Decimal("0.1")) - 300))
    body = {"symbol": SOL, "side": "BUY", "order_type": "MARKET", "order_quantity": "1"}
    assert await trader.rejected("POST", "/v1/order", body) == (400, -1012)
    assert await trader.position() < 10
    assert (await trader.ok("GET", f"/v1/order/{resting}"))["status"] == "CANCELLED"
    (entry,) = (await trader.ok("GET", "/v1/liquidations"))["rows"]
    assert entry["positions_by_perp"][0]["symbol"] == BTC


async def test_isolated_position_beside_a_cross_one(trader: Trader) -> None:
    """Section 9: positions are keyed by symbol and margin mode; isolated ones carry their own margin."""
    await trader.done(await trader.order(symbol=ETH, order_quantity="1"))
    await trader.done(await trader.order(symbol=ETH, order_quantity="1", side="SELL", margin_mode="ISOLATED"))
    cross, isolated = await row(trader, ETH), await row(trader, ETH, "ISOLATED")
    assert (cross["position_qty"], isolated["position_qty"], isolated["margin"]) == (1, -1, 180)
    await trader.ok("POST", "/v1/position_margin", {"symbol": ETH, "amount": "20", "type": "ADD"})
    assert (await row(trader, ETH, "ISOLATED"))["margin"] == 200
    await trader.prices(ETH="2000")
    assert await trader.position(ETH) == 1
    assert (await row(trader, ETH, "ISOLATED"))["position_qty"] == 0


async def test_default_margin_mode(trader: Trader) -> None:
    """The default mode applies to orders that name none; it cannot change with something open in it."""
    await trader.ok("POST", "/v1/client/margin_mode", {"symbol": ETH, "default_margin_mode": "ISOLATED"})
    assert (await trader.done(await trader.order(symbol=ETH, order_quantity="0.1")))["margin_mode"] == "ISOLATED"
    body = {"symbol": ETH, "default_margin_mode": "CROSS"}
    assert await trader.rejected("POST", "/v1/client/margin_mode", body) == (400, -1005)


async def test_statistics_count_own_trades(trader: Trader) -> None:
    """Volume and fees come from the account's trades."""
    order = await trader.done(await trader.order(order_quantity="0.1"))
    found = await trader.ok("GET", "/v1/client/statistics")
    assert found["perp_trading_volume_last_24_hours"] == 6500
    assert found["fees_paid_last_30_days"] == order["total_fee"]
    assert (await trader.ok("GET", "/v1/volume/user/stats"))["perp_volume_ltd"] == 6500
