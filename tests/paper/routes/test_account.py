"""Endpoints of account, leverage, margin and keys (docs/internals/orderly.md, section 9)."""

from __future__ import annotations

from decimal import Decimal

from kekbridge.paper.settings import PAPER_ACCOUNT_ID
from tests.paper.trader import BTC, ETH, Trader


async def test_leverage_by_both_paths_and_for_all_symbols(trader: Trader) -> None:
    """Both leverage paths work; without symbol all symbols are set, each capped at its maximum."""
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


async def test_account_totals(trader: Trader) -> None:
    """/v1/positions and /v1/account_info report the same totals; the margin ratio is 10 without a position."""
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
    """Fee rates are in basis points; keys are listed with scope and expiry."""
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


async def test_default_margin_mode(trader: Trader) -> None:
    """The default mode applies to orders without one; it cannot change while a position or order uses it."""
    await trader.ok("POST", "/v1/client/margin_mode", {"symbol": ETH, "default_margin_mode": "ISOLATED"})
    assert (await trader.done(await trader.order(symbol=ETH, order_quantity="0.1")))["margin_mode"] == "ISOLATED"
    body = {"symbol": ETH, "default_margin_mode": "CROSS"}
    assert await trader.rejected("POST", "/v1/client/margin_mode", body) == (400, -1005)
