"""Algo orders over HTTP: orderly-api.md section 7."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from tests.paper.trader import BTC, ETH, Trader, until


def leaf(kind: str, trigger: str, side: str = "SELL", **more: object) -> dict[str, object]:
    """One exit."""
    return {
        "symbol": ETH,
        "algo_type": kind,
        "side": side,
        "type": "MARKET",
        "trigger_price": trigger,
        "reduce_only": True,
    } | more


def bracket(middle: str = "TP_SL", **more: object) -> dict[str, object]:
    """A market bracket around 1800."""
    kind = "CLOSE_POSITION" if middle == "POSITIONAL_TP_SL" else "MARKET"
    exits = [leaf("TAKE_PROFIT", "1900", type=kind), leaf("STOP_LOSS", "1700", type=kind)]
    return {
        "symbol": ETH,
        "algo_type": "BRACKET",
        "type": "MARKET",
        "side": "BUY",
        "quantity": "0.5",
        "child_orders": [{"symbol": ETH, "algo_type": middle, "child_orders": exits}],
    } | more


def pair(kind: str, **more: object) -> dict[str, object]:
    """TP_SL or POSITIONAL_TP_SL at the root."""
    leaf_type = "CLOSE_POSITION" if kind == "POSITIONAL_TP_SL" else "MARKET"
    body: dict[str, object] = {
        "symbol": ETH,
        "algo_type": kind,
        "trigger_price_type": "MARK_PRICE",
        "child_orders": [leaf("TAKE_PROFIT", "1900", type=leaf_type), leaf("STOP_LOSS", "1700", type=leaf_type)],
    }
    return body | ({"quantity": "0.5"} if kind == "TP_SL" else {}) | more


async def place(trader: Trader, body: Mapping[str, object]) -> int:
    """Create an algo order and return the root's id."""
    order_id: int = (await trader.ok("POST", "/v1/algo/order", body))["order_id"]
    return order_id


def exits(root: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(take profit, stop loss) of a bracket with TP_SL."""
    take, stop = root["child_orders"][0]["child_orders"]
    return take, stop


async def test_bracket_answer_and_tree(trader: Trader) -> None:
    """One request, four linked nodes; the answer is {order_id, client_order_id, algo_type, quantity}."""
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


async def test_bracket_exits_sleep_until_the_entry_fills_and_follow_its_size(trader: Trader) -> None:
    """The exits of a limit bracket are inactive first, then sized by the executed quantity."""
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
    """OCO: the first trigger closes the position; the other leg is CANCELLED; nothing else is left."""
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
    """A fired STOP shows up in /v1/orders under an id of its own."""
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
    """A STOP of type LIMIT sends a limit order at its price."""
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
async def test_malformed_or_wrong_sided_algos_are_refused(trader: Trader, body: dict[str, object]) -> None:
    """Section 7: required fields, shapes, and triggers on the wrong side of the price: -1005."""
    sent = {key: value for key, value in body.items() if value is not None}
    assert await trader.rejected("POST", "/v1/algo/order", sent) == (400, -1005)


async def test_algo_filters_use_their_codes(trader: Trader) -> None:
    """Ticks, steps and client ids are checked like those of plain orders."""
    assert await trader.rejected("POST", "/v1/algo/order", bracket(quantity="0.00001")) == (400, -1104)
    off_tick = pair("TP_SL", child_orders=[leaf("STOP_LOSS", "1700.001")])
    assert await trader.rejected("POST", "/v1/algo/order", off_tick) == (400, -1103)
    await place(trader, bracket(client_order_id="kb-same"))
    assert await trader.rejected("POST", "/v1/algo/order", bracket(client_order_id="kb-same")) == (409, -1007)


async def test_at_most_ten_untriggered_tp_sl(trader: Trader) -> None:
    """Section 7: an eleventh untriggered TP_SL is refused."""
    await trader.control("/paper/positions", {ETH: "10"})
    for _ in range(10):
        await place(trader, pair("TP_SL"))
    assert await trader.rejected("POST", "/v1/algo/order", pair("TP_SL")) == (400, -1005)


async def test_one_positional_per_symbol_and_side(trader: Trader) -> None:
    """Section 7: one untriggered POSITIONAL_TP_SL per symbol and side."""
    await trader.control("/paper/positions", {ETH: "1"})
    await place(trader, pair("POSITIONAL_TP_SL"))
    assert await trader.rejected("POST", "/v1/algo/order", pair("POSITIONAL_TP_SL")) == (400, -1005)
    other = [leaf("STOP_LOSS", "1900", "BUY", type="CLOSE_POSITION")]
    await place(trader, pair("POSITIONAL_TP_SL", child_orders=other))


async def test_positional_closes_whatever_the_position_is_then(trader: Trader) -> None:
    """CLOSE_POSITION exits take the size of the position at the trigger."""
    await trader.done(await trader.order(symbol=ETH, order_quantity="0.5"))
    await place(trader, pair("POSITIONAL_TP_SL"))
    await trader.done(await trader.order(symbol=ETH, order_quantity="0.7"))
    await trader.prices(ETH="1699")
    assert await trader.position(ETH) == 0


async def test_tp_sl_exits_only_its_fixed_quantity(trader: Trader) -> None:
    """TP_SL is for a fixed quantity."""
    await trader.control("/paper/positions", {ETH: "2"})
    await place(trader, pair("TP_SL"))
    await trader.prices(ETH="1699")
    assert await trader.position(ETH) == Decimal("1.5")


async def test_exits_end_with_the_position(trader: Trader) -> None:
    """TP/SL of a position are cancelled when it closes; a STOP is not (trap 6)."""
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


async def test_one_leg_alone_shows_two_children(trader: Trader) -> None:
    """Section 7: with one leg the other is stored switched off, and never fires."""
    await trader.control("/paper/positions", {ETH: "1"})
    root_id = await place(trader, pair("TP_SL", child_orders=[leaf("STOP_LOSS", "1700")]))
    children = (await trader.ok("GET", f"/v1/algo/order/{root_id}"))["child_orders"]
    assert {(c["algo_type"], c["is_activated"]) for c in children} == {("STOP_LOSS", True), ("TAKE_PROFIT", False)}
    await trader.prices(ETH="1950")
    assert await trader.position(ETH) == 1


async def test_bracket_positional_becomes_independent_and_replaces_the_earlier(trader: Trader) -> None:
    """Section 7: with the first fill the exit is a root of its own; an earlier one is cancelled."""
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


async def test_cancelled_bracket_entry_takes_its_exits_along(trader: Trader) -> None:
    """Cancelling an unfilled bracket ends the entry, the plain order and all exits."""
    root_id = await place(trader, bracket(type="LIMIT", price="1790", client_order_id="kb-c"))
    await trader.ok("DELETE", f"/v1/algo/client/order?client_order_id=kb-c&symbol={ETH}")
    root = await trader.until_algo(root_id, lambda o: o["algo_status"] == "CANCELLED")
    assert {one["algo_status"] for one in exits(root)} == {"CANCELLED"}
    assert (await trader.ok("GET", "/v1/orders?status=INCOMPLETE"))["rows"] == []
    assert await trader.rejected("DELETE", f"/v1/algo/order?order_id={root_id}&symbol={ETH}") == (400, -1006)


async def test_partly_filled_bracket_keeps_guarding_what_was_filled(trader: Trader) -> None:
    """Cancelling the rest of an entry leaves exits of the executed size."""
    await trader.control("/paper/faults", {"fault": "partial_fills", "parts": 2, "count": 1})
    await trader.control("/paper/faults", {"fault": "delay", "path": "/none", "count": 1})
    root_id = await place(trader, bracket(type="LIMIT", price="1800"))
    root = await trader.until_algo(root_id, lambda o: o["total_executed_quantity"] > 0)
    assert {one["quantity"] for one in exits(root)} <= {root["total_executed_quantity"], Decimal("0.5")}
    root = await trader.until_algo(root_id, lambda o: o["algo_status"] == "FILLED")
    assert {one["quantity"] for one in exits(root)} == {Decimal("0.5")}


async def test_cancel_all_by_type_and_symbol(trader: Trader) -> None:
    """DELETE /v1/algo/orders: by type; plain cancel-all leaves algo orders standing (trap 5)."""
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


async def test_edit_moves_triggers_and_switches_legs_off(trader: Trader) -> None:
    """PUT /v1/algo/order: triggers through child ids; is_activated false switches one leg off."""
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


async def test_trailing_stop_follows_and_fires(trader: Trader) -> None:
    """TRAILING_STOP: activation price, extreme price, callback."""
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


async def test_refused_algo_entry_leaves_no_order(trader: Trader) -> None:
    """A bracket whose entry fails a filter is refused as a whole."""
    refused = bracket(
        type="LIMIT",
        price="1900",
        child_orders=[{"symbol": ETH, "algo_type": "TP_SL", "child_orders": [leaf("TAKE_PROFIT", "1950")]}],
    )
    assert await trader.rejected("POST", "/v1/algo/order", refused) == (400, -1105)
    assert (await trader.ok("GET", "/v1/algo/orders"))["rows"] == []

    async def no_orders() -> bool | None:
        return True if (await trader.ok("GET", "/v1/orders"))["rows"] == [] else None

    assert await until(no_orders)
