"""Algo order requests: shape, checks, stored tree, trailing trigger (docs/internals/orderly.md, section 7)."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.paper.algo_bodies import bracket, exits, leaf, pair, place
from tests.paper.trader import ETH, Trader


async def test_bracket_response_and_tree(trader: Trader) -> None:
    """One request creates four linked nodes; the response is {order_id, client_order_id, algo_type, quantity}."""
    data = await trader.ok("POST", "/v1/algo/order", bracket(client_order_id="kb-b"))
    assert data == {
        "order_id": data["order_id"],
        "client_order_id": "kb-b",
        "algo_type": "BRACKET",
        "quantity": Decimal("0.5"),
    }
    root = await trader.ok("GET", "/v1/algo/client/order/kb-b")
    child = root["child_orders"][0]
    take, stop = exits(root)
    assert (root["parent_algo_order_id"], root["root_algo_order_id"]) == (0, data["order_id"])
    assert child["parent_algo_order_id"] == data["order_id"]
    assert {take["parent_algo_order_id"], stop["parent_algo_order_id"]} == {child["algo_order_id"]}
    assert {n["root_algo_order_id"] for n in (child, take, stop)} == {data["order_id"]}
    assert root["root_algo_status"] == root["root_algo_order_status"]


async def test_single_exit_is_stored_with_an_inactive_sibling(trader: Trader) -> None:
    """A pair with one exit is stored with the other one deactivated, which never fires."""
    await trader.control("/paper/positions", {ETH: "1"})
    root_id = await place(trader, pair("TP_SL", child_orders=[leaf("STOP_LOSS", "1700")]))
    children = (await trader.ok("GET", f"/v1/algo/order/{root_id}"))["child_orders"]
    assert {(c["algo_type"], c["is_activated"]) for c in children} == {("STOP_LOSS", True), ("TAKE_PROFIT", False)}
    await trader.prices(ETH="1950")
    assert await trader.position(ETH) == 1


@pytest.mark.parametrize(
    "body",
    [
        {
            "symbol": ETH,
            "algo_type": "STOP",
            "type": "MARKET",
            "side": "SELL",
            "quantity": "1",
            "trigger_price": "1801",
        },
        {"symbol": ETH, "algo_type": "STOP", "type": "MARKET", "side": "BUY", "quantity": "1", "trigger_price": "1799"},
        pair("TP_SL", child_orders=[leaf("TAKE_PROFIT", "1790")]),
        pair("TP_SL", child_orders=[leaf("STOP_LOSS", "1810")]),
        bracket(type="LIMIT", price="1690"),
        bracket(side="SELL"),
        bracket(quantity=None),
        bracket(child_orders=[]),
        pair("TP_SL", quantity=None),
        pair("TP_SL", child_orders=[]),
        pair("TP_SL", child_orders=[leaf("STOP_LOSS", "1700", type="CLOSE_POSITION")]),
        pair("POSITIONAL_TP_SL", child_orders=[leaf("STOP_LOSS", "1700")]),
        {"symbol": ETH, "algo_type": "TRAILING_STOP", "type": "MARKET", "side": "SELL", "quantity": "1"},
        {"symbol": ETH, "algo_type": "ICEBERG", "type": "MARKET", "side": "SELL", "quantity": "1"},
        pair("TP_SL", trigger_price_type="LAST_PRICE"),
    ],
    ids=range(15),
)
async def test_malformed_algo_orders_are_rejected(trader: Trader, body: dict[str, object]) -> None:
    """Missing fields, wrong shapes and triggers on the wrong side of the price are rejected with -1005."""
    sent = {key: value for key, value in body.items() if value is not None}
    assert await trader.rejected("POST", "/v1/algo/order", sent) == (400, -1005)


async def test_filters_apply_to_algo_orders(trader: Trader) -> None:
    """Prices, quantities and client order IDs are checked as for plain orders, with the same codes."""
    assert await trader.rejected("POST", "/v1/algo/order", bracket(quantity="0.00001")) == (400, -1104)
    off_tick = pair("TP_SL", child_orders=[leaf("STOP_LOSS", "1700.001")])
    assert await trader.rejected("POST", "/v1/algo/order", off_tick) == (400, -1103)
    await place(trader, bracket(client_order_id="kb-same"))
    assert await trader.rejected("POST", "/v1/algo/order", bracket(client_order_id="kb-same")) == (409, -1007)


async def test_trailing_stop_follows_and_fires(trader: Trader) -> None:
    """A TRAILING_STOP is activated at its price, follows the best mark price and fires at its callback."""
    await trader.control("/paper/positions", {ETH: "1"})
    body = {
        "symbol": ETH,
        "algo_type": "TRAILING_STOP",
        "type": "MARKET",
        "side": "SELL",
        "quantity": "1",
        "reduce_only": True,
        "activatedPrice": "1850",
        "callbackRate": 0.02,
    }
    root_id = await place(trader, body)
    for price, active, extreme in (
        ("1780", False, None),
        ("1860", True, 1860),
        ("2000", True, 2000),
        ("1970", True, 2000),
    ):
        await trader.prices(ETH=price)
        node = await trader.ok("GET", f"/v1/algo/order/{root_id}")
        assert (node["is_activated"], node["extreme_price"], node["is_triggered"]) == (active, extreme, False)
    await trader.prices(ETH="1960")
    assert await trader.position(ETH) == 0
