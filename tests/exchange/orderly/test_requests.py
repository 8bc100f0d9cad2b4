"""Create requests as documented: field names, shapes, and what they must always or never contain."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from kekbridge import errors
from kekbridge.exchange.orderly import requests
from kekbridge.exchange.orderly.requests import OrderKind, later_exits, order_kind, request_for
from kekbridge.model import Instrument, OrderIntent, OrderType, Purpose, Side, TakeProfit

D = Decimal
ETH = "PERP_ETH_USDC"
RULES = Instrument(
    ETH,
    D(0),
    D(100000),
    D("0.01"),
    D("0.001"),
    D(1000),
    D("0.001"),
    D(10),
    D("0.03"),
    D("0.6"),
    D("0.1"),
    D("0.05"),
    D(0),
)


def intent(**fields: Any) -> OrderIntent:
    base: dict[str, Any] = {
        "symbol": ETH,
        "side": Side.BUY,
        "order_type": OrderType.MARKET,
        "quantity": D("0.5"),
        "purpose": Purpose.ENTRY,
        "reference_price": D(2500),
    }
    return OrderIntent(**{**base, **fields})


def body(**fields: Any) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(request_for(intent(**fields), "kb-7f3a").text)
    return parsed


def test_market_entry() -> None:
    """The smallest order has the required fields and the margin mode, nothing else."""
    assert body() == {
        "symbol": ETH,
        "side": "BUY",
        "order_type": "MARKET",
        "order_quantity": "0.5",
        "client_order_id": "kb-7f3a",
        "margin_mode": "CROSS",
    }
    assert request_for(intent(), "kb-7f3a").path == "/v1/order"


@pytest.mark.parametrize("kind", [OrderType.LIMIT, OrderType.IOC, OrderType.FOK, OrderType.POST_ONLY])
def test_priced_types(kind: OrderType) -> None:
    """Every type with a limit price sends it; slippage is for MARKET only (docs/internals/orderly.md section 6)."""
    found = body(order_type=kind, limit_price=D("2400.50"), slippage=D("0.01"))
    assert found["order_type"] == kind.value.upper()
    assert found["order_price"] == "2400.5"
    assert "slippage" not in found


def test_slippage_is_a_fraction_on_market() -> None:
    """1 % is sent as 0.01."""
    assert body(slippage=D("0.010"))["slippage"] == "0.01"


@pytest.mark.parametrize("kind", [OrderType.LIMIT, OrderType.STOP_LIMIT])
def test_price_missing(kind: OrderType) -> None:
    """A priced type without its price is refused before anything is sent, naming the field."""
    with pytest.raises(errors.Refused) as caught:
        body(order_type=kind, trigger_price=D(2300))
    assert caught.value.code == "price_missing"


@pytest.mark.parametrize("purpose", [Purpose.EXIT, Purpose.PROTECT])
@pytest.mark.parametrize("reduce_only", [True, False])
def test_exits_are_reduce_only(purpose: Purpose, reduce_only: bool) -> None:
    """An exit is never sent without reduce_only, even if the intent lacks it (trap 6)."""
    assert body(purpose=purpose, reduce_only=reduce_only, side=Side.SELL)["reduce_only"] is True


def test_stop() -> None:
    """STOP as documented: own field names, MARK_PRICE, reduce-only for exits."""
    found = body(order_type=OrderType.STOP, side=Side.SELL, trigger_price=D(2300), purpose=Purpose.PROTECT)
    assert found == {
        "symbol": ETH,
        "algo_type": "STOP",
        "type": "MARKET",
        "side": "SELL",
        "quantity": "0.5",
        "trigger_price": "2300",
        "trigger_price_type": "MARK_PRICE",
        "reduce_only": True,
        "client_order_id": "kb-7f3a",
        "margin_mode": "CROSS",
    }


def test_stop_limit_entry() -> None:
    """A stop-limit entry is an algo order with both prices, and may open a position."""
    found = body(order_type=OrderType.STOP_LIMIT, trigger_price=D(2600), limit_price=D(2605))
    assert (found["type"], found["price"], found["trigger_price"], found["reduce_only"]) == (
        "LIMIT",
        "2605",
        "2600",
        False,
    )


def test_bracket() -> None:
    """Entry, stop and take-profit in one request, as in the documentation: BRACKET > TP_SL > two leaves."""
    found = body(stop_loss=D(2300), take_profits=(TakeProfit(D(2700), D("0.5")),))
    assert found["algo_type"] == "BRACKET"
    assert (found["type"], found["side"], found["quantity"]) == ("MARKET", "BUY", "0.5")
    (pair,) = found["child_orders"]
    assert pair["algo_type"] == "TP_SL"
    leaves = {leaf["algo_type"]: leaf for leaf in pair["child_orders"]}
    assert leaves["TAKE_PROFIT"]["trigger_price"] == "2700"
    assert leaves["STOP_LOSS"]["trigger_price"] == "2300"
    assert all(leaf["side"] == "SELL" and leaf["reduce_only"] and leaf["type"] == "MARKET" for leaf in leaves.values())


@pytest.mark.parametrize(
    ("fields", "leaves"),
    [
        ({"stop_loss": D(2300)}, ["STOP_LOSS"]),
        ({"take_profits": (TakeProfit(D(2700), D("0.5")),)}, ["TAKE_PROFIT"]),
    ],
)
def test_one_leg_bracket(fields: dict[str, Any], leaves: list[str]) -> None:
    """A single exit is allowed."""
    (pair,) = body(**fields)["child_orders"]
    assert [leaf["algo_type"] for leaf in pair["child_orders"]] == leaves


def test_limit_bracket_has_a_price() -> None:
    """A resting entry with a stop: type LIMIT and price, not order_price."""
    found = body(order_type=OrderType.LIMIT, limit_price=D(2400), stop_loss=D(2300))
    assert (found["type"], found["price"]) == ("LIMIT", "2400")
    assert "order_price" not in found


@pytest.mark.parametrize(
    "kind", [OrderType.IOC, OrderType.FOK, OrderType.POST_ONLY, OrderType.STOP, OrderType.STOP_LIMIT]
)
def test_no_bracket_for_other_entries(kind: OrderType) -> None:
    """The exchange's BRACKET supports market and limit entries only: others are refused, not sent without their stop."""
    with pytest.raises(errors.Refused) as caught:
        body(order_type=kind, limit_price=D(2400), trigger_price=D(2400), stop_loss=D(2300))
    assert caught.value.code == "order_type_unsupported"


def test_several_take_profits() -> None:
    """The stop follows the position (POSITIONAL), the farthest take-profit is in the bracket, nearer ones are TP_SL orders of their own."""
    wishes = (TakeProfit(D(2600), D("0.2")), TakeProfit(D(2800), D("0.2")), TakeProfit(D(2700), D("0.1")))
    wanted = intent(stop_loss=D(2300), take_profits=wishes)
    (pair,) = json.loads(request_for(wanted, "kb-1").text)["child_orders"]
    assert pair["algo_type"] == "POSITIONAL_TP_SL"
    assert {leaf["algo_type"]: leaf["trigger_price"] for leaf in pair["child_orders"]} == {
        "TAKE_PROFIT": "2800",
        "STOP_LOSS": "2300",
    }
    assert all(leaf["type"] == "CLOSE_POSITION" for leaf in pair["child_orders"])
    later = later_exits(wanted, D("0.5"), RULES)
    assert [(exit_.take_profits[0].trigger_price, exit_.quantity) for exit_ in later] == [
        (D(2600), D("0.2")),
        (D(2700), D("0.1")),
    ]
    assert all(order_kind(exit_) is OrderKind.TP_SL and exit_.side is Side.SELL for exit_ in later)


def test_take_profit_for_a_part_of_the_entry() -> None:
    """A take-profit for half of the entry stays out of the bracket, and the stop covers what is left."""
    wanted = intent(stop_loss=D(2300), take_profits=(TakeProfit(D(2600), D("0.25")),))
    (pair,) = json.loads(request_for(wanted, "kb-1").text)["child_orders"]
    assert [leaf["algo_type"] for leaf in pair["child_orders"]] == ["STOP_LOSS"]
    assert pair["algo_type"] == "POSITIONAL_TP_SL"
    assert [exit_.quantity for exit_ in later_exits(wanted, D("0.5"), RULES)] == [D("0.25")]


def test_part_take_profit_without_stop_is_a_plain_entry() -> None:
    """A bracket could hold none of it, so the entry is a plain order and is queried as one."""
    wanted = intent(take_profits=(TakeProfit(D(2600), D("0.25")),))
    assert order_kind(wanted) is OrderKind.PLAIN
    assert request_for(wanted, "kb-1").path == "/v1/order"


@pytest.mark.parametrize(
    ("fields", "is_positional"),
    [
        ({}, False),
        ({"stop_loss": D(2000)}, False),
        ({"stop_loss": D(2000), "take_profits": (TakeProfit(D(3000), D("0.5")),)}, False),
        ({"stop_loss": D(2000), "take_profits": (TakeProfit(D(3000), D("0.25")),)}, True),
        ({"take_profits": (TakeProfit(D(3000), D("0.25")), TakeProfit(D(3500), D("0.25")))}, True),
        ({"take_profits": (TakeProfit(D(3000), D("0.25")),)}, False),
    ],
)
def test_exits_that_close_the_whole_position(fields: dict[str, Any], is_positional: bool) -> None:
    """Those beside several take-profits, or one for a part of the entry."""
    wanted = intent(**fields)
    assert requests.has_positional_exits(wanted) is is_positional
    assert ("POSITIONAL_TP_SL" in request_for(wanted, "kb-7f3a").text) is is_positional


def test_later_exits_shrink_with_a_partly_executed_entry() -> None:
    """Quantities are shares of what executed, rounded down to the step; those below the minimum are left out."""
    wishes = (TakeProfit(D(2600), D("0.1")), TakeProfit(D(2700), D("0.4")))
    wanted = intent(stop_loss=D(2300), take_profits=wishes)
    assert [exit_.quantity for exit_ in later_exits(wanted, D("0.0333"), RULES)] == [D("0.006")]
    assert later_exits(wanted, D("0.004"), RULES) == ()
    assert later_exits(wanted, D(0), RULES) == ()


def test_exit_pair_for_a_position() -> None:
    """A reduce-only intent with exits is a TP_SL of its own: quantity and trigger type at the root, side at the leaves."""
    found = body(side=Side.SELL, purpose=Purpose.PROTECT, reduce_only=True, stop_loss=D(2300))
    assert found["algo_type"] == "TP_SL"
    assert found["quantity"] == "0.5"
    assert "side" not in found
    assert found["child_orders"][0]["side"] == "SELL"


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"trailing_callback_rate": D("0.010")}, "callback_rate", "0.01"),
        ({"trailing_callback_value": D(100)}, "callback_value", "100"),
    ],
)
def test_trailing_stop(fields: dict[str, Any], name: str, value: str) -> None:
    """Trailing stops: snake_case names, exactly one of rate and value, MARKET."""
    found = body(side=Side.SELL, purpose=Purpose.PROTECT, trigger_price=D(2600), **fields)
    assert found["algo_type"] == "TRAILING_STOP"
    assert found[name] == value
    assert ("callback_rate" in found) != ("callback_value" in found)
    assert found["activated_price"] == "2600"
    assert found["reduce_only"] is True


amounts = st.decimals(min_value="0.00000001", max_value=10**9, allow_nan=False, allow_infinity=False, places=8)


@given(value=st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12))
def test_numbers_are_plain_and_exact(value: D) -> None:
    """Any Decimal is sent without exponent and means the same number."""
    text = body(quantity=value)["order_quantity"]
    assert "e" not in text.lower()
    assert D(text) == value


@pytest.mark.parametrize("value", [D("NaN"), D("Infinity"), D("-Infinity")])
def test_non_finite_numbers_are_refused(value: D) -> None:
    """NaN and infinities are refused instead of being written into a body."""
    with pytest.raises(ValueError):
        body(quantity=value)


@given(
    quantity=amounts,
    stop=st.none() | amounts,
    take=st.lists(st.tuples(amounts, amounts), max_size=3),
    side=st.sampled_from(Side),
    purpose=st.sampled_from(Purpose),
    kind=st.sampled_from(OrderType),
    rate=st.none() | st.decimals(min_value="0.001", max_value="0.05", places=4),
)
def test_every_request(
    quantity: D, stop: D | None, take: list[tuple[D, D]], side: Side, purpose: Purpose, kind: OrderType, rate: D | None
) -> None:
    """For any intent: id and margin mode are present, order_tag is not, numbers are plain text, exits reduce, the path fits."""
    wanted = intent(
        quantity=quantity,
        side=side,
        purpose=purpose,
        order_type=kind,
        stop_loss=stop,
        take_profits=tuple(TakeProfit(price, share) for price, share in take),
        trailing_callback_rate=rate,
        limit_price=D(2400),
        trigger_price=D(2500),
    )
    try:
        request = request_for(wanted, "kb-x")
    except errors.Refused:
        reject()  # which combinations are refused, and as what, is tested by name above
    found = json.loads(request.text)
    assert request.text == requests.encode(found), "one serialisation"
    assert found["client_order_id"] == "kb-x"
    assert found["margin_mode"] == "CROSS"
    assert request.path == ("/v1/algo/order" if request.kind.is_algo else "/v1/order")
    nodes = [found]
    for node in nodes:
        nodes.extend(node.get("child_orders", []))
        assert "order_tag" not in node
        assert not any(isinstance(value, float) for value in node.values())
        if node.get("algo_type") in ("TAKE_PROFIT", "STOP_LOSS"):
            assert node["reduce_only"] is True
            assert node["side"] == (side if request.kind is OrderKind.TP_SL else side.opposite)
    if purpose is not Purpose.ENTRY and request.kind is not OrderKind.TP_SL:
        assert found["reduce_only"] is True


@given(
    shares=st.lists(st.decimals(min_value="0.001", max_value=5, places=3), min_size=1, max_size=4),
    quantity=st.decimals(min_value="0.001", max_value=10, places=3),
    part=st.decimals(min_value=0, max_value=1, places=3),
)
def test_later_exits_never_exceed_what_was_executed(shares: list[D], quantity: D, part: D) -> None:
    """Later exits together never close more than the entry executed, and lie on the exchange's grid."""
    total = sum(shares, D(0))
    wishes = tuple(TakeProfit(D(2600 + index), share) for index, share in enumerate(shares))
    wanted = intent(quantity=max(quantity, total), stop_loss=D(2300), take_profits=wishes)
    executed = (wanted.quantity * part).quantize(D("0.001"))
    exits = later_exits(wanted, executed, RULES)
    assert sum((exit_.quantity for exit_ in exits), D(0)) <= executed
    for exit_ in exits:
        assert (exit_.quantity - RULES.base_min) % RULES.base_tick == 0
        assert exit_.reduce_only


def test_each_order_has_its_own_request() -> None:
    """A cached request is reused for the same intent and id only; equal numbers are written alike."""
    first = request_for(intent(quantity=D("1.50")), "kb-1")
    assert request_for(intent(quantity=D("1.5")), "kb-1") == first
    assert json.loads(request_for(intent(quantity=D("1.5")), "kb-2").text)["client_order_id"] == "kb-2"
    assert json.loads(request_for(intent(quantity=D("1.6")), "kb-1").text)["order_quantity"] == "1.6"
