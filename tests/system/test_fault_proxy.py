"""The proxy's faults: what the client sees of each, and what the exchange has executed by then."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PaperSettings
from tests.paper.stream_client import StreamClient, logged_in
from tests.paper.trader import BTC, ETH, Trader
from tests.system.fault_proxy import HOLD_S, FaultProxy, ProxyFault
from tests.waiting import until

ORDER = {"symbol": BTC, "side": "BUY", "order_type": "MARKET", "order_quantity": "0.01"}


@pytest.fixture
async def paper(tmp_path: Path) -> AsyncIterator[PaperExchange]:
    running = PaperExchange(tmp_path, settings=PaperSettings(prices="static", rate_limits=False))
    await running.start()
    yield running
    await running.close()


@pytest.fixture
async def proxy(paper: PaperExchange) -> AsyncIterator[FaultProxy]:
    """A proxy of the paper exchange, which must not fail itself."""
    one = FaultProxy(int(paper.base_url.rpartition(":")[2]))
    one.start()
    yield one
    await asyncio.to_thread(one.stop)
    assert one.errors == []


@pytest.fixture
async def trader(proxy: FaultProxy) -> AsyncIterator[Trader]:
    """A client behind the proxy that gives up after 0.5 s."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.5)) as session:
        yield Trader(session, proxy.url)


def executed(paper: PaperExchange) -> int:
    """How many orders the exchange has accepted."""
    return sum(event["event"] == "order_accepted" for event in paper.journal())


async def post(trader: Trader, body: object = ORDER) -> tuple[int, str] | str:
    """Create an order; return status and content type, or the name of the error."""
    text = json.dumps(body)
    headers = trader.headers("POST", "/v1/order", text)
    try:
        async with trader.session.post(trader.base_url + "/v1/order", data=text, headers=headers) as response:
            await response.read()
            return response.status, response.content_type
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error).__name__


async def test_without_a_fault_everything_passes(paper: PaperExchange, proxy: FaultProxy, trader: Trader) -> None:
    """Requests, responses and reports pass unchanged, on one connection of the client."""
    order_id = await trader.order()
    assert (await trader.done(order_id))["status"] == "FILLED"
    assert executed(paper) == 1
    assert not proxy.hits


@pytest.mark.parametrize(
    ("fault", "answers", "orders"),
    [
        (ProxyFault(kind="cut_request"), {"ServerDisconnectedError", "ClientOSError"}, 0),
        (ProxyFault(kind="cut_before"), {"ServerDisconnectedError", "ClientOSError"}, 0),
        (ProxyFault(kind="cut_after"), {"ServerDisconnectedError", "ClientOSError"}, 1),
        (ProxyFault(kind="cut_inside"), {"ClientPayloadError", "ServerDisconnectedError", "ClientOSError"}, 1),
        (ProxyFault(kind="html"), {(502, "text/html")}, 0),
        (ProxyFault(kind="html", when="after", status=504), {(504, "text/html")}, 1),
        (ProxyFault(kind="answer", status=429, body=b"{}"), {(429, "application/json")}, 0),
        (ProxyFault(kind="swallow"), {"TimeoutError", "ConnectionTimeoutError", "SocketTimeoutError"}, 0),
        (ProxyFault(kind="delay", delay_s=0.05), {(200, "application/json")}, 1),
        (ProxyFault(kind="delay", when="after", delay_s=0.05), {(200, "application/json")}, 1),
    ],
    ids=lambda value: f"{value.kind}-{value.when}" if isinstance(value, ProxyFault) else "",
)
async def test_request_faults(
    paper: PaperExchange, proxy: FaultProxy, trader: Trader, fault: ProxyFault, answers: set[object], orders: int
) -> None:
    """Each fault of a request shows the client one of its errors, once, and executes the order or not as described."""
    fault.count = 1
    proxy.arm(fault)
    assert await post(trader) in answers
    await asyncio.sleep(0.05)  # what may still reach the exchange
    assert executed(paper) == orders
    assert proxy.hits == {fault.kind: 1}
    assert await post(trader) == (200, "application/json")


async def test_headers_of_a_made_up_answer(proxy: FaultProxy, trader: Trader) -> None:
    """A Retry-After of any length can be sent."""
    proxy.arm(ProxyFault(kind="answer", status=429, headers={"Retry-After": "300"}, body=b'{"success":false}'))
    async with trader.session.get(trader.base_url + "/v1/public/info") as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "300")


async def test_faults_match_method_and_path(paper: PaperExchange, proxy: FaultProxy, trader: Trader) -> None:
    """A fault of GETs below a path leaves every other request alone: reads are blind, orders pass."""
    proxy.arm(ProxyFault(kind="html", status=503, method="GET", path="/v1/order"))
    assert await post(trader) == (200, "application/json")
    async with trader.session.get(trader.base_url + "/v1/orders") as response:
        assert response.status == 503
    async with trader.session.get(trader.base_url + "/v1/public/system_info") as response:
        assert response.status == 200
    assert executed(paper) == 1


async def test_faults_end_by_time(proxy: FaultProxy, trader: Trader) -> None:
    """A fault with `seconds` is over when they have passed."""
    proxy.arm(ProxyFault(kind="html", seconds=0.1))
    assert await post(trader) == (502, "text/html")
    await until(lambda: _answers(trader))


async def _answers(trader: Trader) -> bool:
    async with trader.session.get(trader.base_url + "/v1/public/system_info") as response:
        return response.status == 200


async def test_probability_follows_the_seed(proxy: FaultProxy, trader: Trader) -> None:
    """The same seed hits the same requests."""

    async def statuses() -> list[int]:
        proxy.clear()
        proxy.arm(ProxyFault(kind="html", probability=0.5, seed=3))
        found = []
        for _ in range(12):
            async with trader.session.get(trader.base_url + "/v1/public/system_info") as response:
                found.append(response.status)
        return found

    first = await statuses()
    assert set(first) == {200, 502}
    assert await statuses() == first


async def test_stale_reads(proxy: FaultProxy, trader: Trader) -> None:
    """A GET repeats what it said before the fault, at the present time; what was never asked is asked; afterwards all is fresh."""
    assert await trader.ok("GET", "/v1/positions")
    proxy.arm(ProxyFault(kind="stale"))
    await trader.done(await trader.order())  # asks for an order that nobody asked for before
    before = time.time_ns() // 1_000_000
    _, answer = await trader.call("GET", "/v1/positions")
    assert answer["data"]["rows"] == []
    assert answer["timestamp"] >= before
    proxy.clear()
    assert [row["symbol"] for row in (await trader.ok("GET", "/v1/positions"))["rows"]] == [BTC]


async def test_refused_connections(proxy: FaultProxy, trader: Trader) -> None:
    """New connections are reset, kept ones go on."""
    proxy.arm(ProxyFault(kind="refuse"))
    async with aiohttp.ClientSession() as other:
        with pytest.raises(aiohttp.ClientError):
            await other.get(proxy.url + "/v1/public/system_info")
    proxy.clear()
    assert await _answers(trader)
    proxy.arm(ProxyFault(kind="refuse"))
    assert await _answers(trader)


async def test_a_deaf_network_delivers_late(paper: PaperExchange, proxy: FaultProxy, trader: Trader) -> None:
    """While the proxy is deaf a client waits in vain; its request reaches the exchange afterwards, though the client has gone."""
    proxy.arm(ProxyFault(kind="deaf"))
    assert await post(trader) in ("TimeoutError", "ConnectionTimeoutError", "SocketTimeoutError")
    assert executed(paper) == 0
    proxy.clear()
    await until(lambda: executed(paper) == 1)


async def test_half_open_connections(paper: PaperExchange, proxy: FaultProxy, trader: Trader) -> None:
    """A half-open connection looks alive and nothing reaches the exchange on it; a new connection works."""
    assert await _answers(trader)
    assert await asyncio.to_thread(proxy.half_open) == 1
    assert await post(trader) in ("TimeoutError", "ConnectionTimeoutError", "SocketTimeoutError")
    assert executed(paper) == 0
    assert await post(trader) == (200, "application/json")


async def test_half_open_connections_are_reset_at_last(proxy: FaultProxy, trader: Trader) -> None:
    """With `seconds` a half-open stream is reset after them."""
    async with logged_in(trader, "executionreport") as stream:
        await asyncio.to_thread(lambda: proxy.half_open(seconds=0.05))
        await stream.closed()


async def test_a_dead_exchange_is_noticed(paper: PaperExchange, proxy: FaultProxy, trader: Trader) -> None:
    """When the exchange ends, kept connections are cut, and new requests fail at once."""
    assert await _answers(trader)
    await paper.close()
    assert await post(trader) in ("ServerDisconnectedError", "ClientOSError")


# ----------------------------------------------------------------------------------------------------------------- streams


async def _reports(stream: StreamClient, trader: Trader, wanted: int) -> list[str]:
    """Buy BTC, then ETH; return the symbols of the first `wanted` execution reports as they arrive."""
    await trader.done(await trader.order())
    await trader.done(await trader.order(symbol=ETH, order_quantity="0.1"))
    found: list[str] = []
    await stream.receive(lambda message: _collect(message, found) >= wanted)
    return found


def _collect(message: dict[str, Any], found: list[str]) -> int:
    if message.get("topic") == "executionreport":
        found.append(f"{message['data']['symbol']} {message['data']['status']}")
    return len(found)


ORDINARY = [f"{BTC} NEW", f"{BTC} FILLED", f"{ETH} NEW", f"{ETH} FILLED"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("drop_message", ORDINARY[1:]),
        ("duplicate_message", [ORDINARY[0], *ORDINARY]),
        ("reorder_message", [ORDINARY[1], ORDINARY[0], *ORDINARY[2:]]),
        ("delay_message", ORDINARY),
    ],
)
async def test_message_faults(proxy: FaultProxy, trader: Trader, kind: str, expected: list[str]) -> None:
    """The first report of a topic is lost, doubled, late or in the wrong place; other topics and later reports are not touched."""
    async with logged_in(trader, "executionreport", "position") as stream:
        proxy.arm(ProxyFault(kind=kind, topic="executionreport", count=1, delay_s=0.02))
        assert await _reports(stream, trader, len(expected)) == expected
        assert proxy.hits == {kind: 1}


async def test_the_last_message_is_not_held_for_ever(proxy: FaultProxy, trader: Trader) -> None:
    """A report held back for its successor arrives when none follows."""
    async with logged_in(trader, "executionreport") as stream:
        proxy.arm(ProxyFault(kind="reorder_message", count=1))
        started = time.monotonic()
        await trader.order(order_type="LIMIT", order_price="60000")
        await stream.topic("executionreport", lambda data: data["status"] == "NEW")
        assert time.monotonic() - started >= HOLD_S * 0.9


async def test_cut_stream(proxy: FaultProxy, trader: Trader) -> None:
    """The stream is cut at a report."""
    async with logged_in(trader, "executionreport") as stream:
        proxy.arm(ProxyFault(kind="cut_stream", count=1))
        await trader.order()
        await stream.closed()


async def test_a_half_open_stream_is_silent(proxy: FaultProxy, trader: Trader) -> None:
    """A half-open stream stays open and brings nothing; requests pass."""
    async with logged_in(trader, "executionreport") as stream:
        assert await asyncio.to_thread(lambda: proxy.half_open(only_streams=True)) == 1
        await trader.done(await trader.order())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await stream.topic("executionreport")
        assert not stream.socket.closed


def test_unknown_faults_are_named() -> None:
    """A fault of another name, or another time, is refused with what is expected."""
    with pytest.raises(ValueError, match="found fault 'cut', expected one of answer"):
        ProxyFault(kind="cut")
    with pytest.raises(ValueError, match="found when='later', expected before or after"):
        ProxyFault(kind="html", when="later")
