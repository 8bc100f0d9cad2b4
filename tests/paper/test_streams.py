"""Both WebSocket streams: orderly-api.md section 12."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from kekbridge.paper.identity import PAPER_ACCOUNT_ID
from tests.paper.trader import BTC, ETH, Trader
from tests.waiting import DEADLINE_S

PRIVATE = f"/v2/ws/private/stream/{PAPER_ACCOUNT_ID}"
PUBLIC = f"/ws/stream/{PAPER_ACCOUNT_ID}"


class Listener:
    """One WebSocket client that keeps everything it hears."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []

    async def say(self, **message: object) -> None:
        """Send a message."""
        await self.socket.send_str(json.dumps(message))

    async def hear(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first message, past or future, that is it."""
        for known in self.heard:
            if is_it(known):
                return known
        async with asyncio.timeout(DEADLINE_S):
            while True:
                raw = await self.socket.receive()
                assert raw.type == aiohttp.WSMsgType.TEXT, raw
                message: dict[str, Any] = json.loads(raw.data, parse_float=Decimal)
                self.heard.append(message)
                if is_it(message):
                    return message

    async def answer(self, message_id: object) -> dict[str, Any]:
        """The answer to the message with this id."""
        return await self.hear(lambda m: m.get("id") == message_id)

    async def topic(self, name: str, is_it: Callable[[Any], bool] = lambda _: True) -> Any:
        """The data of a message of a topic."""
        found = await self.hear(lambda m: m.get("topic") == name and is_it(m["data"]))
        return found["data"]

    async def closed(self) -> None:
        """Wait for the end of the connection."""
        async with asyncio.timeout(DEADLINE_S):
            while (await self.socket.receive()).type == aiohttp.WSMsgType.TEXT:
                pass

    def reports(self, order_id: int) -> list[str]:
        """The statuses heard of one order."""
        return [
            m["data"]["status"]
            for m in self.heard
            if m.get("topic") == "executionreport" and m["data"]["orderId"] == order_id
        ]


@asynccontextmanager
async def connected(trader: Trader, path: str) -> AsyncIterator[Listener]:
    """An open connection."""
    async with trader.session.ws_connect(trader.base_url + path) as socket:
        yield Listener(socket)


def login(trader: Trader) -> dict[str, object]:
    """The auth message; the signed text is the timestamp alone."""
    stamp = time.time_ns() // 1_000_000
    params = {"orderly_key": trader.orderly_key, "sign": trader.sign(str(stamp)), "timestamp": stamp}
    return {"id": "a", "event": "auth", "params": params}


@asynccontextmanager
async def logged_in(trader: Trader, *wanted: str) -> AsyncIterator[Listener]:
    """A private connection that follows some topics."""
    async with connected(trader, PRIVATE) as listener:
        await listener.say(**login(trader))
        assert (await listener.hear(lambda m: m.get("event") == "auth"))["success"] is True
        for name in wanted:
            await listener.say(id=name, event="subscribe", topic=name)
            assert (await listener.answer(name))["success"] is True
        yield listener


async def test_market_order_is_told_as_new_then_filled(trader: Trader) -> None:
    """NEW has no fill; FILLED carries the fill and the totals, camelCase; match_id is text."""
    async with logged_in(trader, "executionreport") as listener:
        order_id = await trader.order(client_order_id="kb-s")
        new = await listener.topic("executionreport", lambda d: d["status"] == "NEW")
        filled = await listener.topic("executionreport", lambda d: d["status"] == "FILLED")
    assert (new["tradeId"], new["executedQuantity"], new["clientOrderId"]) == (0, 0, "kb-s")
    assert (filled["orderId"], filled["executedPrice"], filled["avgExecutedPrice"]) == (order_id, 65000, 65000)
    assert (filled["totalExecutedQuantity"], filled["fee"]) == (Decimal("0.01"), Decimal("0.2925"))
    assert isinstance(filled["match_id"], str)
    assert filled["seq"] > new["seq"]


async def test_partial_fills_are_separate_reports(trader: Trader) -> None:
    """Each part is its own report; quantities add up."""
    await trader.control("/paper/faults", {"fault": "partial_fills", "parts": 3, "count": 1})
    async with logged_in(trader, "executionreport") as listener:
        order_id = await trader.order(order_quantity="0.03")
        await listener.topic("executionreport", lambda d: d["status"] == "FILLED")
    assert listener.reports(order_id) == ["NEW", "PARTIAL_FILLED", "PARTIAL_FILLED", "FILLED"]
    parts = [m["data"]["executedQuantity"] for m in listener.heard if m.get("topic") == "executionreport"]
    assert sum(parts) == Decimal("0.03")


async def test_edit_and_cancel_are_told(trader: Trader) -> None:
    """REPLACED after an edit, CANCELLED after a cancel; clientOrderId is "" when none was given."""
    async with logged_in(trader, "executionreport") as listener:
        order_id = await trader.order(order_type="LIMIT", order_price="64000")
        body = {"order_id": order_id, "symbol": BTC, "order_type": "LIMIT", "side": "BUY", "order_price": "64100"}
        await trader.ok("PUT", "/v1/order", body)
        await listener.topic("executionreport", lambda d: d["status"] == "REPLACED")
        await trader.ok("DELETE", f"/v1/order?order_id={order_id}&symbol={BTC}")
        last = await listener.topic("executionreport", lambda d: d["status"] == "CANCELLED")
    assert last["clientOrderId"] == ""
    assert listener.reports(order_id) == ["NEW", "REPLACED", "CANCELLED"]


async def test_symbol_filter(trader: Trader) -> None:
    """executionreport takes a list of symbols."""
    async with logged_in(trader) as listener:
        await listener.say(
            id="x", event="subscribe", topic="executionreport", params={"symbol": f"{ETH},PERP_SOL_USDC"}
        )
        await listener.hear(lambda m: m.get("id") == "x")
        await trader.done(await trader.order())
        await trader.order(symbol=ETH, order_quantity="0.1")
        await listener.topic("executionreport", lambda d: d["status"] == "FILLED")
    assert {m["data"]["symbol"] for m in listener.heard if "topic" in m} == {ETH}


async def test_position_and_balance(trader: Trader) -> None:
    """position tells changed positions (0 when closed), balance tells settlements."""
    async with logged_in(trader, "position", "balance", "settle") as listener:
        await trader.done(await trader.order(symbol=ETH, order_quantity="1"))
        (held,) = (await listener.topic("position"))["positions"]
        assert (held["positionQty"], held["averageOpenPrice"], held["marginMode"]) == (1, 1800, "CROSS")
        await trader.prices(ETH="1900")
        await trader.done(await trader.order(symbol=ETH, order_quantity="1", side="SELL", reduce_only=True))
        await listener.topic("position", lambda d: d["positions"][0]["positionQty"] == 0)
        await trader.control("/paper/settle")
        await listener.topic("balance", lambda d: d["balances"]["USDC"]["holding"] == Decimal("100098.335"))
        assert (await listener.topic("settle"))["settled_amount"] == Decimal("98.335")


async def test_algo_reports_in_both_shapes(trader: Trader) -> None:
    """v1 is a flat list, v2 one nested object; averageExecutedPrice and triggers as named there."""
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
    async with logged_in(trader, "algoexecutionreport", "algoexecutionreportv2") as listener:
        root_id = (await trader.ok("POST", "/v1/algo/order", body))["order_id"]
        flat = await listener.topic("algoexecutionreport")
        assert [row["algoType"] for row in flat] == ["BRACKET", "TP_SL", "TAKE_PROFIT", "STOP_LOSS"]
        nested = await listener.topic("algoexecutionreportv2", lambda d: d["algoStatus"] == "FILLED")
        assert (nested["algoOrderId"], nested["averageExecutedPrice"]) == (root_id, 1800)
        await trader.prices(ETH="1690")

        def stopped(data: dict[str, Any]) -> bool:
            return bool(data["childOrders"][0]["childOrders"][1]["algoStatus"] == "FILLED")

        last = await listener.topic("algoexecutionreportv2", stopped)
        take, stop = last["childOrders"][0]["childOrders"]
    assert (stop["triggerStatus"], stop["isTriggered"], stop["executedPrice"]) == ("SUCCESS", True, 1690)
    assert (take["triggerStatus"], take["algoStatus"]) == ("USELESS", "CANCELLED")


async def test_login_by_query(trader: Trader) -> None:
    """The parameters may stand in the URL, percent-encoded."""
    stamp = str(time.time_ns() // 1_000_000)
    query = (
        f"orderly_key={quote(trader.orderly_key, safe='')}&timestamp={stamp}&sign={quote(trader.sign(stamp), safe='')}"
    )
    async with trader.session.ws_connect(f"{trader.base_url}{PRIVATE}?{query}") as socket:
        listener = Listener(socket)
        assert (await listener.hear(lambda m: m.get("event") == "auth"))["success"] is True
        await listener.say(event="subscribe", topic="balance")
        assert (await listener.hear(lambda m: m.get("event") == "subscribe"))["success"] is True


async def test_failed_login_closes(trader: Trader) -> None:
    """A wrong signature is answered with auth failed, then the connection ends."""
    async with connected(trader, PRIVATE) as listener:
        message = login(trader)
        message["params"] = {**dict(message["params"]), "sign": trader.sign("1")}  # type: ignore[call-overload]
        await listener.say(**message)
        answer = await listener.hear(lambda m: m.get("event") == "auth")
        assert (answer["success"], answer["errorMsg"]) == (False, "auth failed")
        await listener.closed()


async def test_private_topics_need_a_login(trader: Trader) -> None:
    """Auth is needed., invalid topic, invalid symbol, missing parameter."""
    async with connected(trader, PUBLIC) as listener:
        for number, (topic, text) in enumerate(
            (
                ("executionreport", "Auth is needed."),
                ("nonsense", "invalid topic nonsense"),
                (f"{BTC}@nonsense", f"invalid topic {BTC}@nonsense"),
                ("PERP_NOPE_USDC@bbo", "invalid symbol PERP_NOPE_USDC"),
                ("", "missing required parameter topic"),
            )
        ):
            await listener.say(id=number, event="subscribe", topic=topic)
            answer = await listener.answer(number)
            assert (answer["success"], answer["errorMsg"]) == (False, text)


async def test_client_ping_and_garbage(trader: Trader) -> None:
    """A ping is answered with pong and ts; garbage does not end the connection."""
    async with connected(trader, PUBLIC) as listener:
        await listener.socket.send_str("not json")
        await listener.socket.send_str("[1]")
        await listener.say(event="ping")
        assert "ts" in await listener.hear(lambda m: m.get("event") == "pong")


@pytest.mark.parametrize(
    ("topic", "field"),
    [
        (f"{BTC}@markprice", "price"),
        (f"{BTC}@bbo", "askSize"),
        (f"{BTC}@ticker", "close"),
        (f"{BTC}@estfundingrate", "fundingRate"),
        (f"{BTC}@kline_1m", "startTime"),
        (f"{BTC}@openinterest", "openInterest"),
        (f"{BTC}@orderbook", "asks"),
        ("SPOT_BTC_USDC@indexprice", "price"),
    ],
)
async def test_public_topics_have_something_to_say(trader: Trader, topic: str, field: str) -> None:
    """Each public topic pushes its documented shape."""
    async with connected(trader, PUBLIC) as listener:
        await listener.say(id="s", event="subscribe", topic=topic)
        data = await listener.topic(topic)
        assert field in data
        await listener.say(id="u", event="unsubscribe", topic=topic)
        assert (await listener.hear(lambda m: m.get("id") == "u"))["success"] is True


@pytest.mark.parametrize("topic", ["markprices", "bbos", "tickers", "indexprices"])
async def test_list_topics(trader: Trader, topic: str) -> None:
    """List topics cover every symbol."""
    async with connected(trader, PUBLIC) as listener:
        await listener.say(id="s", event="subscribe", topic=topic)
        assert len(await listener.topic(topic)) >= 40


async def test_price_changes_trades_and_maintenance_are_pushed(trader: Trader) -> None:
    """A new mark, an own trade and maintenance reach public subscribers at once."""
    async with connected(trader, PUBLIC) as listener:
        for name in (f"{BTC}@markprice", f"{BTC}@trade", "maintenance_status"):
            await listener.say(id=name, event="subscribe", topic=name)
            await listener.answer(name)
        await trader.prices(BTC="65123.4")
        await listener.topic(f"{BTC}@markprice", lambda d: d["price"] == Decimal("65123.4"))
        await trader.order()
        assert (await listener.topic(f"{BTC}@trade"))["size"] == Decimal("0.01")
        await trader.control("/paper/faults", {"fault": "maintenance"})
        assert (await listener.topic("maintenance_status"))[0]["status"] == 2


async def test_one_off_order_book(trader: Trader) -> None:
    """event request answers with a book around the mark."""
    async with connected(trader, PUBLIC) as listener:
        await listener.say(id="r1", event="request", params={"type": "orderbook", "symbol": BTC})
        data = (await listener.hear(lambda m: m.get("id") == "r1"))["data"]
        assert data["asks"][0][0] > 65000 > data["bids"][0][0]


# --- faults ------------------------------------------------------------------------------------------------


async def test_duplicated_and_withheld_reports(trader: Trader) -> None:
    """duplicate_reports sends each report twice; withhold_reports loses it."""
    await trader.control("/paper/faults", {"fault": "duplicate_reports", "count": 1})
    async with logged_in(trader, "executionreport") as listener:
        first = await trader.order()
        await listener.topic("executionreport", lambda d: d["status"] == "FILLED")
        await trader.control("/paper/faults", {"fault": "withhold_reports", "count": 1})
        second = await trader.order()
        await listener.topic("executionreport", lambda d: d["orderId"] == second and d["status"] == "FILLED")
    assert listener.reports(first) == ["NEW", "NEW", "FILLED"]
    assert listener.reports(second) == ["FILLED"]


async def test_reordered_reports(trader: Trader) -> None:
    """reorder_reports lets a report arrive after the next one."""
    await trader.control("/paper/faults", {"fault": "reorder_reports", "count": 1})
    async with logged_in(trader, "executionreport") as listener:
        order_id = await trader.order()
        await listener.topic("executionreport", lambda d: d["status"] == "NEW")
    assert listener.reports(order_id) == ["FILLED", "NEW"]


async def test_stream_drop_cuts_private_connections_at_once(trader: Trader) -> None:
    """After the drop a client must log in and subscribe again, and then it hears reports again."""
    async with logged_in(trader, "executionreport") as listener:
        await trader.control("/paper/faults", {"fault": "stream_drop", "count": 1})
        await listener.closed()
    async with logged_in(trader, "executionreport") as listener:
        await trader.order()
        await listener.topic("executionreport", lambda d: d["status"] == "FILLED")


async def test_removed_key_loses_its_stream(trader: Trader) -> None:
    """A key that is removed is logged out."""
    async with logged_in(trader, "balance") as listener:
        await trader.control("/paper/keys", {"orderly_key": trader.orderly_key, "status": "REMOVED"})
        await listener.closed()
