"""Algo orders: triggers, brackets, exits, cancels (docs/internals/orderly.md, section 7)."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.paper.algo_bodies import bracket, exits, leaf, pair, place
from tests.paper.trader import ETH, Trader, until


async def test_bracket_exits_are_activated_and_sized_by_the_entry_fill(trader: Trader) -> None:
    """The exits of a limit bracket are inactive until the entry fills; then they have the filled quantity."""
    root_id = await place(trader, bracket(type="LIMIT", price="1790"))
    root = await trader.until_algo(root_id, lambda o: True)
    assert not any(one["is_activated"] for one in exits(root))
    await trader.prices(ETH="1785")
    root = await trader.until_algo(root_id, lambda o: o["algo_status"] == "FILLED")
    assert [(one["is_activated"], one["quantity"]) for one in exits(root)] == [(True, Decimal("0.5"))] * 2
    listed = (await trader.ok("GET", "/v1/algo/orders?status=INCOMPLETE&algo_type=BRACKET"))["rows"]
    assert [row["algo_order_id"] for row in listed] == [root_id]


@pytest.mark.parametrize(("price", "fired"), [("1690", 1), ("1910", 0)])
async def test_bracket_exit_fires_and_cancels_its_sibling(trader: Trader, price: str, fired: int) -> None:
    """OCO: the first trigger closes the position and cancels the other exit; no order is left."""
    root_id = await place(trader, bracket())
    await trader.until_position(ETH, "0.5")
    await trader.prices(ETH=price)
    assert await trader.position(ETH) == 0
    legs = exits(await trader.ok("GET", f"/v1/algo/order/{root_id}"))
    hit, other = legs[fired], legs[1 - fired]
    assert (hit["algo_status"], hit["is_triggered"], hit["total_executed_quantity"]) == ("FILLED", True, Decimal("0.5"))
    assert (other["algo_status"], other["is_triggered"]) == ("CANCELLED", False)
    assert (await trader.ok("GET", "/v1/algo/orders?status=INCOMPLETE"))["rows"] == []
    trades = (await trader.ok("GET", f"/v1/algo/order/{root_id}/trades"))["rows"]
    assert sorted(trade["side"] for trade in trades) == ["BUY", "SELL"]


async def test_triggered_order_is_a_plain_order_with_another_id(trader: Trader) -> None:
    """A triggered STOP sends a plain order, which is listed under its own ID."""
    stop = {
        "symbol": ETH,
        "algo_type": "STOP",
        "type": "MARKET",
        "side": "BUY",
        "quantity": "0.5",
        "trigger_price": "1810",
        "child_orders": [],
    }
    root_id = await place(trader, stop)
    await trader.prices(ETH="1812")
    (order,) = (await trader.ok("GET", f"/v1/orders?symbol={ETH}"))["rows"]
    assert (order["status"], order["average_executed_price"]) == ("FILLED", 1812)
    assert order["order_id"] != root_id
    node = await trader.ok("GET", f"/v1/algo/order/{root_id}")
    assert (node["algo_status"], node["is_triggered"]) == ("FILLED", True)


async def test_stop_limit_rests_after_its_trigger(trader: Trader) -> None:
    """A triggered STOP of type LIMIT sends a limit order at its price."""
    root_id = await place(
        trader,
        {
            "symbol": ETH,
            "algo_type": "STOP",
            "type": "LIMIT",
            "price": "1800",
            "side": "BUY",
            "quantity": "0.5",
            "trigger_price": "1810",
        },
    )
    await trader.prices(ETH="1811")
    (order,) = (await trader.ok("GET", "/v1/orders?status=INCOMPLETE"))["rows"]
    assert (order["type"], order["price"]) == ("LIMIT", 1800)
    await trader.prices(ETH="1799")
    assert (await trader.ok("GET", f"/v1/algo/order/{root_id}"))["algo_status"] == "FILLED"


async def test_at_most_ten_untriggered_tp_sl(trader: Trader) -> None:
    """An eleventh untriggered TP_SL is rejected."""
    await trader.control("/paper/positions", {ETH: "10"})
    for _ in range(10):
        await place(trader, pair("TP_SL"))
    assert await trader.rejected("POST", "/v1/algo/order", pair("TP_SL")) == (400, -1005)


async def test_exits_of_brackets_count_by_option(trader: Trader) -> None:
    """By option the exits of open brackets count among the ten, and an eleventh bracket with exits is rejected, too."""
    for _ in range(9):
        await place(trader, bracket(quantity="0.01"))
    await place(trader, pair("TP_SL"))
    await place(trader, pair("TP_SL"))
    await trader.control("/paper/options", {"bracket_exits_count": True})
    assert await trader.rejected("POST", "/v1/algo/order", pair("TP_SL")) == (400, -1005)
    assert await trader.rejected("POST", "/v1/algo/order", bracket()) == (400, -1005)
    await place(trader, bracket("POSITIONAL_TP_SL"))


async def test_one_positional_per_symbol_and_side(trader: Trader) -> None:
    """At most one untriggered POSITIONAL_TP_SL per symbol and side is accepted."""
    await trader.control("/paper/positions", {ETH: "1"})
    await place(trader, pair("POSITIONAL_TP_SL"))
    assert await trader.rejected("POST", "/v1/algo/order", pair("POSITIONAL_TP_SL")) == (400, -1005)
    other = [leaf("STOP_LOSS", "1900", "BUY", type="CLOSE_POSITION")]
    await place(trader, pair("POSITIONAL_TP_SL", child_orders=other))


async def test_positional_exit_closes_the_position_at_its_trigger(trader: Trader) -> None:
    """CLOSE_POSITION exits have the size that the position has when they are triggered."""
    await trader.done(await trader.order(symbol=ETH, order_quantity="0.5"))
    await place(trader, pair("POSITIONAL_TP_SL"))
    await trader.done(await trader.order(symbol=ETH, order_quantity="0.7"))
    await trader.prices(ETH="1699")
    assert await trader.position(ETH) == 0


async def test_tp_sl_exits_only_its_fixed_quantity(trader: Trader) -> None:
    """TP_SL closes its fixed quantity, not the whole position."""
    await trader.control("/paper/positions", {ETH: "2"})
    await place(trader, pair("TP_SL"))
    await trader.prices(ETH="1699")
    assert await trader.position(ETH) == Decimal("1.5")


async def test_exits_are_canceled_with_the_position(trader: Trader) -> None:
    """Exits are canceled when their position closes; a STOP is not."""
    await trader.done(await trader.order(symbol=ETH, order_quantity="1"))
    first = await place(trader, pair("TP_SL"))
    second = await place(trader, pair("POSITIONAL_TP_SL"))
    stop = await place(
        trader,
        {
            "symbol": ETH,
            "algo_type": "STOP",
            "type": "MARKET",
            "side": "SELL",
            "quantity": "1",
            "trigger_price": "1600",
        },
    )
    await trader.done(await trader.order(symbol=ETH, side="SELL", order_quantity="1", reduce_only=True))
    for order_id in (first, second):
        await trader.until_algo(order_id, lambda o: o["algo_status"] == "CANCELLED")
    assert (await trader.ok("GET", f"/v1/algo/order/{stop}"))["algo_status"] == "NEW"


async def test_positional_exit_of_a_bracket_replaces_an_earlier_one(trader: Trader) -> None:
    """After the first fill the positional exit of a bracket is a root of its own, and an earlier one is canceled."""
    await trader.control("/paper/positions", {ETH: "1"})
    earlier = await place(trader, pair("POSITIONAL_TP_SL"))
    root_id = await place(trader, bracket("POSITIONAL_TP_SL"))
    child_id = (await trader.ok("GET", f"/v1/algo/order/{root_id}"))["child_orders"]
    await trader.until_algo(earlier, lambda o: o["algo_status"] == "CANCELLED")
    (independent,) = (await trader.ok("GET", "/v1/algo/orders?status=INCOMPLETE&algo_type=POSITIONAL_TP_SL"))["rows"]
    assert independent["parent_algo_order_id"] == 0
    assert not child_id or independent["algo_order_id"] == child_id[0]["algo_order_id"]
    await trader.prices(ETH="1650")
    assert await trader.position(ETH) == 0


async def test_cancel_of_a_bracket_cancels_its_exits(trader: Trader) -> None:
    """Canceling an unfilled bracket cancels the entry, its plain order and all exits."""
    root_id = await place(trader, bracket(type="LIMIT", price="1790", client_order_id="kb-c"))
    await trader.ok("DELETE", f"/v1/algo/client/order?client_order_id=kb-c&symbol={ETH}")
    root = await trader.until_algo(root_id, lambda o: o["algo_status"] == "CANCELLED")
    assert {one["algo_status"] for one in exits(root)} == {"CANCELLED"}
    assert (await trader.ok("GET", "/v1/orders?status=INCOMPLETE"))["rows"] == []
    assert await trader.rejected("DELETE", f"/v1/algo/order?order_id={root_id}&symbol={ETH}") == (400, -1006)


async def test_exits_of_a_partly_filled_bracket_follow_the_filled_quantity(trader: Trader) -> None:
    """While the entry fills in parts, its exits have the filled quantity."""
    await trader.control("/paper/faults", {"fault": "partial_fills", "parts": 2, "count": 1})
    await trader.control("/paper/faults", {"fault": "delay", "path": "/none", "count": 1})
    root_id = await place(trader, bracket(type="LIMIT", price="1800"))
    root = await trader.until_algo(root_id, lambda o: o["total_executed_quantity"] > 0)
    assert {one["quantity"] for one in exits(root)} <= {root["total_executed_quantity"], Decimal("0.5")}
    root = await trader.until_algo(root_id, lambda o: o["algo_status"] == "FILLED")
    assert {one["quantity"] for one in exits(root)} == {Decimal("0.5")}


async def test_rejected_bracket_leaves_no_order(trader: Trader) -> None:
    """A bracket whose entry fails a filter is rejected as a whole."""
    rejected = bracket(
        type="LIMIT",
        price="1900",
        child_orders=[{"symbol": ETH, "algo_type": "TP_SL", "child_orders": [leaf("TAKE_PROFIT", "1950")]}],
    )
    assert await trader.rejected("POST", "/v1/algo/order", rejected) == (400, -1105)
    assert (await trader.ok("GET", "/v1/algo/orders"))["rows"] == []

    async def no_orders() -> bool | None:
        return True if (await trader.ok("GET", "/v1/orders"))["rows"] == [] else None

    assert await until(no_orders)
