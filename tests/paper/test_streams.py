"""WebSocket streams: logins, reports, faults (docs/internals/orderly.md, section 12)."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from tests.paper.stream_client import PRIVATE, PUBLIC, StreamClient, connected, logged_in, login
from tests.paper.trader import BTC, ETH, Trader


async def test_market_order_reports_new_then_filled(trader: Trader) -> None:
    """NEW has no fill; FILLED has the fill and totals in camelCase; match_id is text."""
    async with logged_in(trader, "executionreport") as client:
        order_id = await trader.order(client_order_id="kb-s")
        new = await client.topic("executionreport", lambda d: d["status"] == "NEW")
        filled = await client.topic("executionreport", lambda d: d["status"] == "FILLED")
    assert (new["tradeId"], new["executedQuantity"], new["clientOrderId"]) == (0, 0, "kb-s")
    assert (filled["orderId"], filled["executedPrice"], filled["avgExecutedPrice"]) == (order_id, 65000, 65000)
    assert (filled["totalExecutedQuantity"], filled["fee"]) == (Decimal("0.01"), Decimal("0.2925"))
    assert isinstance(filled["match_id"], str)
    assert filled["seq"] > new["seq"]


async def test_partial_fills_are_separate_reports(trader: Trader) -> None:
    """Each partial fill has its own report; quantities add up."""
    await trader.control("/paper/faults", {"fault": "partial_fills", "parts": 3, "count": 1})
    async with logged_in(trader, "executionreport") as client:
        order_id = await trader.order(order_quantity="0.03")
        await client.topic("executionreport", lambda d: d["status"] == "FILLED")
    assert client.reports(order_id) == ["NEW", "PARTIAL_FILLED", "PARTIAL_FILLED", "FILLED"]
    parts = [m["data"]["executedQuantity"] for m in client.messages if m.get("topic") == "executionreport"]
    assert sum(parts) == Decimal("0.03")


async def test_edit_and_cancel_are_reported(trader: Trader) -> None:
    """REPLACED after an edit, CANCELLED after a cancel; clientOrderId is "" if none was given."""
    async with logged_in(trader, "executionreport") as client:
        order_id = await trader.order(order_type="LIMIT", order_price="64000")
        body = {"order_id": order_id, "symbol": BTC, "order_type": "LIMIT", "side": "BUY", "order_price": "64100"}
        await trader.ok("PUT", "/v1/order", body)
        await client.topic("executionreport", lambda d: d["status"] == "REPLACED")
        await trader.ok("DELETE", f"/v1/order?order_id={order_id}&symbol={BTC}")
        last = await client.topic("executionreport", lambda d: d["status"] == "CANCELLED")
    assert last["clientOrderId"] == ""
    assert client.reports(order_id) == ["NEW", "REPLACED", "CANCELLED"]


async def test_symbol_filter(trader: Trader) -> None:
    """executionreport can be limited to a list of symbols."""
    async with logged_in(trader) as client:
        await client.send(id="x", event="subscribe", topic="executionreport", params={"symbol": f"{ETH},PERP_SOL_USDC"})
        await client.receive(lambda m: m.get("id") == "x")
        await trader.done(await trader.order())
        await trader.order(symbol=ETH, order_quantity="0.1")
        await client.topic("executionreport", lambda d: d["status"] == "FILLED")
    assert {m["data"]["symbol"] for m in client.messages if "topic" in m} == {ETH}


async def test_position_and_balance(trader: Trader) -> None:
    """position reports changed positions (0 when closed), balance and settle report settlements."""
    async with logged_in(trader, "position", "balance", "settle") as client:
        await trader.done(await trader.order(symbol=ETH, order_quantity="1"))
        (held,) = (await client.topic("position"))["positions"]
        assert (held["positionQty"], held["averageOpenPrice"], held["marginMode"]) == (1, 1800, "CROSS")
        await trader.prices(ETH="1900")
        await trader.done(await trader.order(symbol=ETH, order_quantity="1", side="SELL", reduce_only=True))
        await client.topic("position", lambda d: d["positions"][0]["positionQty"] == 0)
        await trader.control("/paper/settle")
        await client.topic("balance", lambda d: d["balances"]["USDC"]["holding"] == Decimal("100098.335"))
        assert (await client.topic("settle"))["settled_amount"] == Decimal("98.335")


async def test_algo_reports_in_both_shapes(trader: Trader) -> None:
    """algoexecutionreport is a flat list, v2 one nested object."""
    exits = [
        {
            "symbol": ETH,
            "algo_type": kind,
            "side": "SELL",
            "type": "MARKET",
            "trigger_price": price,
            "reduce_only": True,
        }
        for kind, price in (("TAKE_PROFIT", "1900"), ("STOP_LOSS", "1700"))
    ]
    body = {
        "symbol": ETH,
        "algo_type": "BRACKET",
        "type": "MARKET",
        "side": "BUY",
        "quantity": "0.5",
        "child_orders": [{"symbol": ETH, "algo_type": "TP_SL", "child_orders": exits}],
    }
    async with logged_in(trader, "algoexecutionreport", "algoexecutionreportv2") as client:
        root_id = (await trader.ok("POST", "/v1/algo/order", body))["order_id"]
        flat = await client.topic("algoexecutionreport")
        assert [row["algoType"] for row in flat] == ["BRACKET", "TP_SL", "TAKE_PROFIT", "STOP_LOSS"]
        nested = await client.topic("algoexecutionreportv2", lambda d: d["algoStatus"] == "FILLED")
        assert (nested["algoOrderId"], nested["averageExecutedPrice"]) == (root_id, 1800)
        await trader.prices(ETH="1690")

        def stopped(data: dict[str, Any]) -> bool:
            return bool(data["childOrders"][0]["childOrders"][1]["algoStatus"] == "FILLED")

        last = await client.topic("algoexecutionreportv2", stopped)
        take, stop = last["childOrders"][0]["childOrders"]
    assert (stop["triggerStatus"], stop["isTriggered"], stop["executedPrice"]) == ("SUCCESS", True, 1690)
    assert (take["triggerStatus"], take["algoStatus"]) == ("USELESS", "CANCELLED")


async def test_login_by_query(trader: Trader) -> None:
    """The login parameters may be in the URL, percent-encoded."""
    stamp = str(time.time_ns() // 1_000_000)
    query = (
        f"orderly_key={quote(trader.orderly_key, safe='')}&timestamp={stamp}&sign={quote(trader.sign(stamp), safe='')}"
    )
    async with trader.session.ws_connect(f"{trader.base_url}{PRIVATE}?{query}") as socket:
        client = StreamClient(socket)
        assert (await client.receive(lambda m: m.get("event") == "auth"))["success"] is True
        await client.send(event="subscribe", topic="balance")
        assert (await client.receive(lambda m: m.get("event") == "subscribe"))["success"] is True


async def test_failed_login_closes_the_connection(trader: Trader) -> None:
    """A wrong signature is answered with auth failed, then the connection is closed."""
    async with connected(trader, PRIVATE) as client:
        message = login(trader)
        message["params"] = {**dict(message["params"]), "sign": trader.sign("1")}  # type: ignore[call-overload]
        await client.send(**message)
        answer = await client.receive(lambda m: m.get("event") == "auth")
        assert (answer["success"], answer["errorMsg"]) == (False, "auth failed")
        await client.closed()


async def test_invalid_subscriptions_are_rejected(trader: Trader) -> None:
    """Private topics without login, unknown topics or symbols and a missing topic get Orderly's messages."""
    async with connected(trader, PUBLIC) as client:
        for number, (topic, text) in enumerate(
            (
                ("executionreport", "Auth is needed."),
                ("nonsense", "invalid topic nonsense"),
                (f"{BTC}@nonsense", f"invalid topic {BTC}@nonsense"),
                ("PERP_NOPE_USDC@bbo", "invalid symbol PERP_NOPE_USDC"),
                ("", "missing required parameter topic"),
            )
        ):
            await client.send(id=number, event="subscribe", topic=topic)
            answer = await client.reply(number)
            assert (answer["success"], answer["errorMsg"]) == (False, text)


async def test_client_ping_and_garbage(trader: Trader) -> None:
    """A ping is answered with pong and ts; invalid messages do not close the connection."""
    async with connected(trader, PUBLIC) as client:
        await client.socket.send_str("not json")
        await client.socket.send_str("[1]")
        await client.send(event="ping")
        assert "ts" in await client.receive(lambda m: m.get("event") == "pong")


async def test_duplicated_and_withheld_reports(trader: Trader) -> None:
    """duplicate_reports sends a report twice; withhold_reports drops it."""
    await trader.control("/paper/faults", {"fault": "duplicate_reports", "count": 1})
    async with logged_in(trader, "executionreport") as client:
        first = await trader.order()
        await client.topic("executionreport", lambda d: d["status"] == "FILLED")
        await trader.control("/paper/faults", {"fault": "withhold_reports", "count": 1})
        second = await trader.order()
        await client.topic("executionreport", lambda d: d["orderId"] == second and d["status"] == "FILLED")
    assert client.reports(first) == ["NEW", "NEW", "FILLED"]
    assert client.reports(second) == ["FILLED"]


async def test_reordered_reports(trader: Trader) -> None:
    """reorder_reports sends a report after the next one."""
    await trader.control("/paper/faults", {"fault": "reorder_reports", "count": 1})
    async with logged_in(trader, "executionreport") as client:
        order_id = await trader.order()
        await client.topic("executionreport", lambda d: d["status"] == "NEW")
    assert client.reports(order_id) == ["FILLED", "NEW"]


async def test_stream_drop_cuts_private_connections_at_once(trader: Trader) -> None:
    """After stream_drop a client can connect, log in and subscribe again."""
    async with logged_in(trader, "executionreport") as client:
        await trader.control("/paper/faults", {"fault": "stream_drop", "count": 1})
        await client.closed()
    async with logged_in(trader, "executionreport") as client:
        await trader.order()
        await client.topic("executionreport", lambda d: d["status"] == "FILLED")


async def test_removed_key_closes_its_connections(trader: Trader) -> None:
    """Removing a key closes the connections that it logged in."""
    async with logged_in(trader, "balance") as client:
        await trader.control("/paper/keys", {"orderly_key": trader.orderly_key, "status": "REMOVED"})
        await client.closed()
