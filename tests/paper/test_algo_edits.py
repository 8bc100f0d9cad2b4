"""Edits of algo orders (docs/internals/orderly.md, section 7)."""

from __future__ import annotations

from decimal import Decimal

from tests.paper.algo_bodies import pair, place
from tests.paper.trader import ETH, Trader


async def test_edit_changes_triggers_and_deactivates_exits(trader: Trader) -> None:
    """PUT /v1/algo/order changes triggers by child ID; is_activated false deactivates one exit."""
    await trader.control("/paper/positions", {ETH: "1"})
    root_id = await place(trader, pair("TP_SL"))
    take, stop = (await trader.ok("GET", f"/v1/algo/order/{root_id}"))["child_orders"]
    change = {"order_id": root_id, "child_orders": [{"order_id": stop["algo_order_id"], "trigger_price": "1750"}]}
    assert await trader.ok("PUT", "/v1/algo/order", change) == {"status": "EDIT_SENT"}
    await trader.until_algo(root_id, lambda o: o["child_orders"][1]["trigger_price"] == 1750)
    off = {"order_id": str(root_id), "child_orders": [{"order_id": take["algo_order_id"], "is_activated": False}]}
    await trader.ok("PUT", "/v1/algo/order", off)
    await trader.until_algo(root_id, lambda o: not o["child_orders"][0]["is_activated"])
    sizes = [
        {"order_id": take["algo_order_id"], "quantity": "0.3"},
        {"order_id": stop["algo_order_id"], "quantity": "0.4"},
    ]
    assert await trader.rejected("PUT", "/v1/algo/order", {"order_id": root_id, "child_orders": sizes}) == (400, -1005)
    same = [{**one, "quantity": "0.3"} for one in sizes]
    await trader.ok("PUT", "/v1/algo/order", {"order_id": root_id, "child_orders": same})
    await trader.until_algo(root_id, lambda o: o["quantity"] == Decimal("0.3"))
    await trader.prices(ETH="1749")
    assert await trader.position(ETH) == Decimal("0.7")
    assert await trader.rejected("PUT", "/v1/algo/order", change) == (400, -1006)
