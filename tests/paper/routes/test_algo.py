"""Endpoints of algo orders (docs/internals/orderly.md, section 7)."""

from __future__ import annotations

from tests.paper.algo_bodies import pair, place
from tests.paper.trader import BTC, ETH, Trader


async def test_cancel_all_by_type_and_symbol(trader: Trader) -> None:
    """DELETE /v1/algo/orders cancels by symbol or type; canceling all plain orders leaves algo orders open."""
    await trader.control("/paper/positions", {ETH: "1"})
    stop = {
        "symbol": ETH,
        "algo_type": "STOP",
        "type": "MARKET",
        "side": "SELL",
        "quantity": "1",
        "trigger_price": "1600",
    }
    stop_id, pair_id = await place(trader, stop), await place(trader, pair("POSITIONAL_TP_SL"))
    await trader.ok("DELETE", "/v1/orders")
    assert await trader.ok("DELETE", f"/v1/algo/orders?symbol={BTC}") == {"status": "CANCEL_ALL_SENT"}
    await trader.ok("DELETE", "/v1/algo/orders?algo_type=POSITIONAL_TP_SL")
    await trader.until_algo(pair_id, lambda o: o["algo_status"] == "CANCELLED")
    assert (await trader.ok("GET", f"/v1/algo/order/{stop_id}"))["algo_status"] == "NEW"
    await trader.ok("DELETE", "/v1/algo/orders?algo_type=STOP")
    await trader.until_algo(stop_id, lambda o: o["algo_status"] == "CANCELLED")
