"""End to end: real processes and files, alerts over HTTP, results checked in the paper exchange's journal."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from tests.system.forked import forked_bridge
from tests.system.harness import WEBHOOK_PATH, BridgeProcess, timestamp, wait_until

SYMBOLS = ("BTCUSDT.P", "ETHUSDT.P", "SOLUSDT.P", "BNBUSDT.P", "XRPUSDT.P")
QUANTITIES = {"BTCUSDT.P": "0.001", "ETHUSDT.P": "0.01", "SOLUSDT.P": "0.2", "BNBUSDT.P": "0.05", "XRPUSDT.P": "20"}


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeProcess]:
    with forked_bridge(tmp_path_factory.mktemp("bridge")) as running:
        yield running


def test_an_alert_is_filled_and_its_resend_is_a_duplicate(bridge: BridgeProcess) -> None:
    """A market alert is answered 200 with its fill; the same alert again gets the first outcome and places no order."""
    at = timestamp()
    status, first = bridge.send(alertId="first", quantity="0.002", timestamp=at)
    assert (status, first["status"], first["executedQuantity"]) == (200, "filled", 0.002)
    assert first["executedPrice"] > 0

    status, second = bridge.send(alertId="first", quantity="0.002", timestamp=at)
    assert (status, second["duplicate"], second["clientOrderId"]) == (200, True, first["clientOrderId"])
    assert bridge.orders_received()[first["clientOrderId"]] == 1


def test_the_same_id_with_another_body_is_a_conflict(bridge: BridgeProcess) -> None:
    """An alertId that comes again at the same time and market with another order is answered 409 and places no order."""
    at = timestamp()
    bridge.send(alertId="reused", quantity="0.001", timestamp=at)
    before = sum(bridge.orders_received().values())
    status, answer = bridge.send(alertId="reused", quantity="0.004", timestamp=at)
    assert (status, answer["code"]) == (409, "alert_id_reused")
    assert sum(bridge.orders_received().values()) == before


def test_the_same_id_later_or_elsewhere_is_another_alert(bridge: BridgeProcess) -> None:
    """People put {{strategy.order.id}} there, and a watchlist fires many markets in one second: each trades."""
    at = timestamp()
    later = f"{datetime.fromisoformat(at) + timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}"
    fields = ({"timestamp": at}, {"timestamp": later}, {"timestamp": at, "symbol": "XRPUSDT.P", "quantity": "20"})
    answers = [bridge.send(**{"alertId": "Long", "quantity": "0.002"} | each) for each in fields]
    assert [status for status, _ in answers] == [200, 200, 200]
    assert len({answer["clientOrderId"] for _, answer in answers}) == 3


def test_suppressed_messages_are_found_in_logs_and_explain(bridge: BridgeProcess) -> None:
    """A duplicate is a line under the first alert's id, and part of its report."""
    at = timestamp()
    for quantity in ("0.002", "0.002", "0.003"):
        bridge.send(alertId="repeated", quantity=quantity, timestamp=at)
    (first,) = [entry for entry in bridge.logs("alert") if entry["alertId"] == "repeated"]
    found = [entry for entry in bridge.logs("repeat") if entry["firstId"] == first["id"]]
    assert [(entry["code"], entry["status"]) for entry in found] == [
        ("duplicate", "duplicate"),
        ("alert_id_reused", "refused"),
    ]
    explained = json.dumps(bridge.cli("explain", first["id"]))
    assert "alert_duplicate" in explained
    assert "alert_conflict" in explained


def _held(bridge: BridgeProcess, symbol: str) -> str | None:
    return next((each["quantity"] for each in bridge.cli("positions") if each["symbol"] == symbol), None)


def test_read_commands_agree_with_the_response(bridge: BridgeProcess) -> None:
    """orders, positions, logs and explain agree with the response."""
    _, answer = bridge.send(alertId="explained", action="buy", symbol="ETHUSDT.P", quantity="0.05")
    orders = {order["clientOrderId"]: order for order in bridge.cli("orders")}
    assert orders[answer["clientOrderId"]]["status"] == "filled"
    wait_until(
        lambda: _held(bridge, "PERP_ETH_USDC") == "0.05", what="the position, which is saved at most once a second"
    )
    assert any(alert["alertId"] == "explained" and alert["status"] == "filled" for alert in bridge.logs())
    report = bridge.cli("explain", "explained")
    assert report["status"] == "filled"
    assert {verdict["passed"] for verdict in report["verdicts"]} == {True}
    assert report["orders"][0]["clientOrderId"] == answer["clientOrderId"]


def test_a_bracket_protects_its_entry(bridge: BridgeProcess) -> None:
    """An alert with stopLoss and takeProfit is one bracket request; the entry fills and the exits rest at the exchange."""
    status, answer = bridge.send(
        alertId="bracket", symbol="SOLUSDT.P", quantity="1", stopLoss="5%", takeProfit="10%", price=None
    )
    assert (status, answer["status"]) == (200, "filled")
    received = [
        event
        for event in bridge.journal()
        if event["event"] == "order_received" and event["client_order_id"] == answer["clientOrderId"]
    ]
    assert len(received) == 1
    assert received[0]["algo"] is True


def test_a_close_of_a_flat_position_is_no_error(bridge: BridgeProcess) -> None:
    """close closes the open position; a second close places no order and is answered 200."""
    bridge.send(symbol="BNBUSDT.P", quantity="0.1", alertId="open-bnb")
    status, answer = bridge.send(action="close", symbol="BNBUSDT.P", alertId="close-bnb", quantity=None)
    assert (status, answer["status"], answer["executedQuantity"]) == (200, "filled", 0.1)
    status, answer = bridge.send(action="close", symbol="BNBUSDT.P", alertId="close-bnb-again", quantity=None)
    assert (status, answer["code"], "orderId" in answer) == (200, "nothing_to_close", False)


def test_a_burst_of_fifty_is_stored_and_ordered(tmp_path: Path) -> None:
    """50 alerts at once on 5 symbols: no 5xx, 50 stored, 50 orders, those of a symbol in order of arrival."""
    with forked_bridge(tmp_path) as bridge:
        answers = asyncio.run(_burst(bridge, 50))
        assert all(status in (200, 202) for status, _ in answers), answers
        wait_until(lambda: len(bridge.orders_received()) == 50, what="50 orders at the exchange")
        assert set(bridge.orders_received().values()) == {1}
        rows = {alert["id"]: alert for alert in bridge.logs()}
        assert len(rows) == 50
        stored: defaultdict[str, list[str]] = defaultdict(list)
        for order in bridge.cli("orders", "--limit", "1000"):
            stored[order["symbol"]].append(order["clientOrderId"])
        sent: defaultdict[str, list[str]] = defaultdict(list)
        for event in bridge.journal():
            if event["event"] == "order_accepted":
                sent[event["symbol"]].append(event["client_order_id"])
        assert dict(sent) == dict(stored)
        assert {len(names) for names in sent.values()} == {10}


def test_a_stop_in_the_middle_of_a_burst_loses_nothing(tmp_path: Path) -> None:
    """After SIGTERM during a burst it exits in time; after the restart every acknowledged alert has one order and a final status."""
    with forked_bridge(tmp_path) as bridge:

        async def burst_and_stop() -> list[tuple[int | None, dict[str, object]]]:
            burst = asyncio.create_task(_burst(bridge, 50))
            while not burst.done() and not await asyncio.to_thread(bridge.orders_received):
                pass  # the first order at the exchange marks the middle of the burst; each check is a request
            os.kill(bridge.daemon.pid, signal.SIGTERM)
            return await burst

        answers = asyncio.run(burst_and_stop())
        assert bridge.daemon.wait() == 0
        bridge.start_daemon()
        bridge.wait_ready()
        acknowledged = {answer["alertId"] for status, answer in answers if status in (200, 202)}
        assert acknowledged
        states = wait_until(lambda: _all_ended(bridge), what="a final status for every alert")
        assert acknowledged <= set(states)
        assert set(bridge.orders_received().values()) <= {1}


def _all_ended(bridge: BridgeProcess) -> dict[str, str] | None:
    states = {alert["alertId"]: alert["status"] for alert in bridge.logs()}
    return None if {"queued", "submitting", "accepted", "unknown"} & set(states.values()) else states


async def _burst(bridge: BridgeProcess, count: int) -> list[tuple[int | None, dict[str, object]]]:
    """Send alerts at once, each on its own connection; the status is None for a broken or refused connection."""

    async def one(session: aiohttp.ClientSession, number: int) -> tuple[int | None, dict[str, object]]:
        symbol = SYMBOLS[number % len(SYMBOLS)]
        alert = bridge.alert(alertId=f"burst-{number}", symbol=symbol, quantity=QUANTITIES[symbol])
        try:
            async with session.post(bridge.url + WEBHOOK_PATH, data=json.dumps(alert).encode()) as answer:
                return answer.status, await answer.json()
        except (aiohttp.ClientError, OSError):
            return None, {}

    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        return list(await asyncio.gather(*(one(session, number) for number in range(count))))
