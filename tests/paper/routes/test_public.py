"""Public endpoints and market data (docs/internals/orderly.md, section 4)."""

from __future__ import annotations

from decimal import Decimal

from tests.paper.trader import BTC, Trader


async def test_public_data(trader: Trader) -> None:
    """Rules, prices, tokens and chains, which clients load first, are served without a signature."""
    _, info = await trader.raw("GET", "/v1/public/info")
    rows = {row["symbol"]: row for row in info["data"]["rows"]}
    assert len(rows) >= 40
    assert (rows[BTC]["base_tick"], rows[BTC]["quote_tick"]) == (Decimal("0.00001"), Decimal("0.1"))
    _, futures = await trader.raw("GET", "/v1/public/futures")
    marks = {row["symbol"]: row["mark_price"] for row in futures["data"]["rows"]}
    assert set(marks) == set(rows)
    for symbol, rule in rows.items():
        assert rule["quote_min"] < marks[symbol] < rule["quote_max"]
        assert marks[symbol] % rule["quote_tick"] == 0
        assert rule["base_min"] % rule["base_tick"] == 0
        assert rule["base_max"] % rule["base_tick"] == 0
    for path in ("token", "chain_info", "funding_rates", "config", "leverage", "announcement", "broker/name"):
        status, answer = await trader.raw("GET", f"/v1/public/{path}")
        assert (status, answer["success"]) == (200, True), path
    for path in (
        f"public/market_trades?symbol={BTC}",
        f"public/funding_rate_history?symbol={BTC}",
        f"public/funding_rate/{BTC}",
        "registration_nonce",
        "ip_info",
    ):
        assert (await trader.raw("GET", f"/v1/{path}"))[1]["success"] is True, path
    _, history = await trader.raw("GET", f"/v1/tv/kline_history?symbol={BTC}&resolution=60&limit=3")
    assert (history["s"], len(history["t"])) == ("ok", 3)


async def test_order_book_and_kline_are_signed(trader: Trader) -> None:
    """Order book and candles need a signature, unlike other market data."""
    book = await trader.ok("GET", f"/v1/orderbook/{BTC}?max_level=5")
    assert len(book["asks"]) == len(book["bids"]) == 5
    assert book["asks"][0]["price"] > 65000 > book["bids"][0]["price"]
    assert len((await trader.ok("GET", f"/v1/kline?symbol={BTC}&type=1m&limit=2"))["rows"]) == 2
    assert (await trader.raw("GET", f"/v1/orderbook/{BTC}"))[0] == 401
