"""Request bodies of algo orders for tests, and helpers to place them and read their exits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.paper.trader import ETH, Trader


def leaf(kind: str, trigger: str, side: str = "SELL", **more: object) -> dict[str, object]:
    """Return one exit."""
    return {
        "symbol": ETH,
        "algo_type": kind,
        "side": side,
        "type": "MARKET",
        "trigger_price": trigger,
        "reduce_only": True,
    } | more


def bracket(middle: str = "TP_SL", **more: object) -> dict[str, object]:
    """Return a BRACKET around a price of 1800 with exits at 1900 and 1700; `middle` is the type of the pair."""
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
    """Return a TP_SL or POSITIONAL_TP_SL as root."""
    leaf_type = "CLOSE_POSITION" if kind == "POSITIONAL_TP_SL" else "MARKET"
    body: dict[str, object] = {
        "symbol": ETH,
        "algo_type": kind,
        "trigger_price_type": "MARK_PRICE",
        "child_orders": [leaf("TAKE_PROFIT", "1900", type=leaf_type), leaf("STOP_LOSS", "1700", type=leaf_type)],
    }
    return body | ({"quantity": "0.5"} if kind == "TP_SL" else {}) | more


async def place(trader: Trader, body: Mapping[str, object]) -> int:
    """Create an algo order and return the ID of its root."""
    order_id: int = (await trader.ok("POST", "/v1/algo/order", body))["order_id"]
    return order_id


def exits(root: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (take profit, stop loss) of a bracket with TP_SL."""
    take, stop = root["child_orders"][0]["child_orders"]
    return take, stop
