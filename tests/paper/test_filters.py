"""Order filters (docs/internals/orderly.md, section 5)."""

from __future__ import annotations

import pytest

from tests.paper.trader import BTC, Trader


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"order_price": "65000.05"}, -1103),
        ({"order_price": "200001"}, -1103),
        ({"order_price": "0"}, -1103),
        ({"order_price": "65650.1"}, -1105),
        ({"order_price": "25999.9"}, -1105),
        ({"side": "SELL", "order_price": "64349.9"}, -1105),
        ({"order_quantity": "0.000001"}, -1104),
        ({"order_quantity": "0.010001"}, -1104),
        ({"order_quantity": "10.00001"}, -1104),
        ({"order_quantity": "0.0001"}, -1102),
        ({"symbol": "PERP_NOPE_USDC"}, -1005),
        ({"side": "HOLD"}, -1005),
        ({"order_type": "GTD"}, -1005),
        ({"order_price": None}, -1005),
        ({"order_quantity": "abc"}, -1005),
        ({"order_quantity": True}, -1005),
        ({"order_amount": "100"}, -1005),
        ({"client_order_id": "-kb"}, -1005),
        ({"client_order_id": "k" * 37}, -1005),
        ({"visible_quantity": "0.02"}, -1005),
        ({"visible_quantity": "0.000001"}, -1104),
    ],
)
async def test_filters_answer_with_the_documented_code(trader: Trader, fields: dict[str, object], code: int) -> None:
    """Price -1103, price range -1105, quantity -1104, notional -1102, anything else -1005."""
    body = {"symbol": BTC, "side": "BUY", "order_type": "LIMIT", "order_price": "64500", "order_quantity": "0.01"}
    sent = {k: v for k, v in (body | fields).items() if v is not None}
    assert await trader.rejected("POST", "/v1/order", sent) == (400, code)
    received, rejected = (await trader.journal())[-2:]
    assert (received["event"], rejected["event"], rejected["code"]) == ("order_received", "order_refused", code)


async def test_price_range_edges_are_inside(trader: Trader) -> None:
    """A price of exactly mark price × (1 ± price_range) is accepted."""
    for side, price in (("BUY", "65650"), ("SELL", "64350")):
        assert (await trader.done(await trader.order(side=side, order_type="IOC", order_price=price)))[
            "status"
        ] == "FILLED"


async def test_reduce_only_may_close_a_remainder_below_min_notional(trader: Trader) -> None:
    """Reduce-only orders need no minimum notional."""
    await trader.control("/paper/positions", {BTC: "0.0001"})
    order = await trader.done(await trader.order(side="SELL", order_quantity="0.0001", reduce_only=True))
    assert order["status"] == "FILLED"
