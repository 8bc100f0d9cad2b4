"""Orderly's own Python connector, unmodified, against the paper exchange."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest

from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ORDERLY_KEY, PAPER_ORDERLY_SECRET
from tests.paper.trader import BTC, ETH
from tests.waiting import DEADLINE_S

# Its dependencies (web3, websockets, pkg_resources) warn at import, which is where it is used: it takes half a second.
pytestmark = pytest.mark.filterwarnings("ignore")


@contextmanager
def connector(paper: PaperExchange) -> Iterator[Any]:
    """A REST client of the connector for the paper exchange."""
    from orderly_evm_connector.rest import Rest

    client = Rest(
        orderly_key=PAPER_ORDERLY_KEY,
        orderly_secret=PAPER_ORDERLY_SECRET,
        orderly_account_id=PAPER_ACCOUNT_ID,
        orderly_api_url=paper.base_url,
    )
    try:
        yield client
    finally:
        client.session.close()


def eventually(poll: Callable[[], Any]) -> Any:
    """Call `poll` until it returns something true, and return that; fail after DEADLINE_S."""
    end = time.monotonic() + DEADLINE_S
    while not (found := poll()):
        assert time.monotonic() < end, "condition not met in time"
        time.sleep(0.005)
    return found


def data(response: dict[str, Any]) -> Any:
    """Return the `data` of a successful response."""
    assert response["success"] is True, response
    return response["data"]


async def test_plain_orders(paper: PaperExchange) -> None:
    """Markets, limit, edit, cancels, market, batch, trades, positions and leverage work with the connector."""
    with connector(paper) as client:
        await asyncio.to_thread(_trade_plain_orders, client)


def _trade_plain_orders(client: Any) -> None:
    markets = {row["symbol"]: row for row in data(client.get_available_symbols())["rows"]}
    assert BTC in markets
    assert data(client.get_futures_info_for_one_market(BTC))["mark_price"] == 65000
    assert data(client.get_system_maintenance_status())["status"] == 0
    limit = data(
        client.create_order(BTC, "LIMIT", "BUY", client_order_id="c1", order_price=64000.5, order_quantity=0.001)
    )

    def status(order_id: int) -> str:
        return str(data(client.get_order(order_id))["status"])

    assert eventually(lambda: status(limit["order_id"]) == "NEW")
    data(client.edit_order(str(limit["order_id"]), BTC, "LIMIT", "BUY", order_price=64100, order_quantity=0.002))
    eventually(lambda: data(client.get_order_by_client_order_id("c1"))["price"] == 64100)
    assert [row["order_id"] for row in data(client.get_orders(status="INCOMPLETE"))["rows"]] == [limit["order_id"]]
    data(client.cancel_order_by_client_order_id("c1", BTC))
    eventually(lambda: status(limit["order_id"]) == "CANCELLED")
    again = data(client.create_order(BTC, "LIMIT", "BUY", order_price=64000, order_quantity=0.001))
    data(client.cancel_order(again["order_id"], BTC))
    eventually(lambda: status(again["order_id"]) == "CANCELLED")
    assert client.cancel_order(again["order_id"], BTC)["code"] == -1006
    market = data(client.create_order(BTC, "MARKET", "BUY", order_quantity=0.01))
    eventually(lambda: status(market["order_id"]) == "FILLED")
    assert len(data(client.get_all_trades_of_order(market["order_id"]))["rows"]) == 1
    assert data(client.get_trades(symbol=BTC))["rows"][0]["order_id"] == market["order_id"]
    assert data(client.get_one_position_info(BTC))["position_qty"] == 0.01
    assert len(data(client.get_all_positions_info())["rows"]) == 1
    data(client.update_leverage_configuration(5))
    assert data(client.get_leverage_setting(BTC))["leverage"] == 5
    assert data(client.get_account_information())["account_id"] == PAPER_ACCOUNT_ID
    assert data(client.get_current_holdings(all=True))["holding"][0]["token"] == "USDC"
    rows = [
        {"symbol": BTC, "side": "BUY", "order_type": "LIMIT", "order_price": 64000 + n, "order_quantity": 0.001}
        for n in range(3)
    ]
    ids = [row["order_id"] for row in data(client.batch_create_order(rows))["rows"]]
    data(client.batch_cancel_orders(f"{ids[0]},{ids[1]}"))
    eventually(lambda: [status(one) for one in ids] == ["CANCELLED", "CANCELLED", "NEW"])
    data(client.cancel_orders(symbol=BTC))
    eventually(lambda: status(ids[2]) == "CANCELLED")
    close = data(client.create_order(BTC, "MARKET", "SELL", order_quantity=0.01, reduce_only=True))
    eventually(lambda: status(close["order_id"]) == "FILLED")
    assert data(client.get_one_position_info(BTC))["position_qty"] == 0


async def test_algo_orders(paper: PaperExchange) -> None:
    """STOP, TP_SL and BRACKET work with the connector's own arguments; a bracket is stopped out."""
    with connector(paper) as client:
        bracket_id = await asyncio.to_thread(_trade_algo_orders, client)
        paper.exchange.set_price(ETH, Decimal(1690), "override")
        root = await asyncio.to_thread(lambda: data(client.get_algo_order(bracket_id)))
    take, stop = root["child_orders"][0]["child_orders"]
    assert (take["algo_status"], stop["algo_status"]) == ("CANCELLED", "FILLED")


def _exits() -> list[dict[str, object]]:
    return [
        {
            "symbol": ETH,
            "algo_type": kind,
            "side": "SELL",
            "type": "MARKET",
            "trigger_price": price,
            "reduce_only": True,
        }
        for kind, price in (("TAKE_PROFIT", 1900), ("STOP_LOSS", 1700))
    ]


def _trade_algo_orders(client: Any) -> int:
    stop = data(client.create_algo_order("STOP", 0.1, "BUY", ETH, "MARKET", 1900, client_order_id="s1"))
    assert data(client.get_algo_order_by_client_order_id("s1"))["algo_order_id"] == stop["order_id"]
    data(client.edit_algo_order(order_id=str(stop["order_id"]), trigger_price=1950))
    eventually(lambda: data(client.get_algo_order(stop["order_id"]))["trigger_price"] == 1950)
    data(client.cancel_algo_order_by_client_order_id("s1", ETH))
    eventually(lambda: data(client.get_algo_order(stop["order_id"]))["algo_status"] == "CANCELLED")
    pair = data(client.create_algo_order("TP_SL", 0.1, "SELL", ETH, "MARKET", 1, child_orders=_exits()))
    assert len(data(client.get_algo_orders(algo_type="TP_SL", status="INCOMPLETE"))["rows"]) == 1
    data(client.cancel_algo_order(pair["order_id"], ETH))
    middle = [{"symbol": ETH, "algo_type": "TP_SL", "child_orders": _exits()}]
    bracket = data(
        client.create_algo_order("BRACKET", 0.5, "BUY", ETH, "MARKET", 1, child_orders=middle, client_order_id="b1")
    )
    eventually(lambda: data(client.get_algo_order(bracket["order_id"]))["algo_status"] == "FILLED")
    assert data(client.get_one_position_info(ETH))["position_qty"] == 0.5
    return int(bracket["order_id"])


async def test_errors(paper: PaperExchange) -> None:
    """A 400 is returned as a dict with success false, a 409 is raised with its code."""
    from orderly_evm_connector.error import ClientError

    def run(client: Any) -> None:
        rejected = client.create_order(BTC, "LIMIT", "BUY", order_price=64000.05, order_quantity=0.001)
        assert (rejected["success"], rejected["code"]) == (False, -1103)
        data(client.create_order(BTC, "LIMIT", "BUY", order_price=64000, order_quantity=0.001, client_order_id="e"))
        with pytest.raises(ClientError) as caught:
            client.create_order(BTC, "LIMIT", "BUY", order_price=64000, order_quantity=0.001, client_order_id="e")
        assert caught.value.error_code == -1007

    with connector(paper) as client:
        await asyncio.to_thread(run, client)


@contextmanager
def stream(paper: PaperExchange, path: str, *, private: bool) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """The connector's threaded WebSocket client and the messages that it received."""
    from orderly_evm_connector.websocket.websocket_client import OrderlyWebsocketClient

    messages: list[dict[str, Any]] = []
    client = OrderlyWebsocketClient(
        paper.base_url.replace("http", "ws") + path,
        orderly_account_id=PAPER_ACCOUNT_ID,
        orderly_key=PAPER_ORDERLY_KEY,
        orderly_secret=PAPER_ORDERLY_SECRET,
        private=private,
        wss_id=str(uuid.uuid4()),
        timeout=5,
        on_message=lambda _manager, text: messages.append(json.loads(text)),
    )
    try:
        yield client, messages
    finally:
        client.stop()
        # Its close() leaves the socket to the garbage collector, whose warning would fail another test.
        client.socket_manager.ws.shutdown()


async def test_streams(paper: PaperExchange) -> None:
    """Login, reports, position and balance work on the private stream, mark prices on the public one."""
    with connector(paper) as rest:
        await asyncio.to_thread(_follow_streams, paper, rest)


def _follow_streams(paper: PaperExchange, rest: Any) -> None:
    with stream(paper, "/v2/ws/private/stream", private=True) as (client, messages):
        for topic in ("executionreport", "algoexecutionreportv2", "position", "balance"):
            client.send_message_to_server({"id": topic, "event": "subscribe", "topic": topic})
        eventually(lambda: {m.get("id") for m in messages if m.get("success")} >= {"executionreport", "balance"})
        order = data(rest.create_order(BTC, "MARKET", "BUY", order_quantity=0.01))

        def statuses() -> list[str]:
            reports = [m["data"] for m in messages if m.get("topic") == "executionreport"]
            return [r["status"] for r in reports if r["orderId"] == order["order_id"]]

        eventually(lambda: statuses() == ["NEW", "FILLED"])
        eventually(lambda: any(m.get("topic") == "position" for m in messages))
    with stream(paper, "/ws/stream", private=False) as (client, messages):
        client.send_message_to_server({"id": "m", "event": "subscribe", "topic": f"{BTC}@markprice"})
        eventually(lambda: any(m.get("topic") == f"{BTC}@markprice" for m in messages))
