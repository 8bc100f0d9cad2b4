"""Fault injection (docs/internals/reliability.md, section 6)."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.paper.trader import BTC, Trader, until

MARKET = {"symbol": BTC, "side": "BUY", "order_type": "MARKET", "order_quantity": "0.01", "client_order_id": "kb-f"}


async def events(trader: Trader, name: str) -> int:
    """Return how many events of a name are in the journal."""
    return sum(1 for event in await trader.journal() if event["event"] == name)


async def test_lose_answer_leaves_an_accepted_order(trader: Trader) -> None:
    """lose_answer: the connection is cut, but the order is accepted."""
    await trader.control("/paper/faults", {"fault": "lose_answer", "path": "/v1/order", "count": 1})
    with pytest.raises(aiohttp.ClientError):
        await trader.call("POST", "/v1/order", MARKET)
    found = await trader.ok("GET", "/v1/client/order/kb-f")
    assert (await trader.done(found["order_id"]))["status"] == "FILLED"
    assert await trader.raw("GET", "/paper/faults") == (200, {"faults": []})


async def test_reset_before_leaves_nothing(trader: Trader) -> None:
    """reset_before: the connection is cut before the request is read; there is no order and no event."""
    await trader.control("/paper/faults", {"fault": "reset_before", "path": "/v1/order", "count": 1})
    with pytest.raises(aiohttp.ClientError):
        await trader.call("POST", "/v1/order", MARKET)
    assert await trader.rejected("GET", "/v1/client/order/kb-f") == (400, -1006)
    assert await trader.journal() == []


async def test_reset_inside_cuts_the_response(trader: Trader) -> None:
    """reset_inside: the request is executed, the response is incomplete."""
    await trader.control("/paper/faults", {"fault": "reset_inside", "path": "/v1/order", "count": 1})
    with pytest.raises(aiohttp.ClientError):
        await trader.call("POST", "/v1/order", MARKET)
    assert (await trader.ok("GET", "/v1/client/order/kb-f"))["client_order_id"] == "kb-f"


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"fault": "rate_limit"}, 429, -1003),
        ({"fault": "server_error"}, 500, -1000),
        ({"fault": "server_error", "code": -1011, "status": 400}, 400, -1011),
        ({"fault": "refuse", "code": -1101}, 400, -1101),
        ({"fault": "key_revoked"}, 401, -1002),
        ({"fault": "maintenance"}, 400, -1011),
    ],
    ids=["429", "500", "1011", "refuse", "revoked", "maintenance"],
)
async def test_rejecting_faults_create_no_order(
    trader: Trader, fault: dict[str, object], status: int, code: int
) -> None:
    """These faults answer with their code and create no order."""
    await trader.control("/paper/faults", {**fault, "path": "/v1/order"})
    assert await trader.rejected("POST", "/v1/order", MARKET) == (status, code)
    await trader.control("/paper/faults", {})
    assert await trader.rejected("GET", "/v1/client/order/kb-f") == (400, -1006)
    assert await events(trader, "order_accepted") == 0


@pytest.mark.parametrize("fault", ["rate_limit", "server_error"])
async def test_retry_after_of_any_length(trader: Trader, fault: str) -> None:
    """rate_limit and server_error send the Retry-After that was asked for, and none without."""
    sent: list[str | None] = []
    for seconds in (300, None):
        await trader.control("/paper/faults", {"fault": fault, "retry_after_s": seconds, "count": 1})
        async with trader.session.get(trader.base_url + "/v1/public/info") as answer:
            assert answer.status in (429, 500)
            sent.append(answer.headers.get("Retry-After"))
    assert sent == ["300", None]


async def test_server_error_after_acceptance(trader: Trader) -> None:
    """server_error with when=after: a 500, but the order is accepted."""
    await trader.control("/paper/faults", {"fault": "server_error", "path": "/v1/order", "when": "after", "count": 1})
    assert await trader.rejected("POST", "/v1/order", MARKET) == (500, -1000)
    assert (await trader.ok("GET", "/v1/client/order/kb-f"))["client_order_id"] == "kb-f"


async def test_html_page(trader: Trader) -> None:
    """html: a 403 with an HTML page, as some networks answer."""
    await trader.control("/paper/faults", {"fault": "html", "path": "/v1/public/info", "count": 1})
    async with trader.session.get(trader.base_url + "/v1/public/info") as answer:
        assert (answer.status, answer.content_type) == (403, "text/html")
    assert (await trader.raw("GET", "/v1/public/info"))[0] == 200


async def test_maintenance_shows_in_system_info(trader: Trader) -> None:
    """maintenance: status 2 while armed, 0 afterwards."""
    await trader.control("/paper/faults", {"fault": "maintenance"})
    assert (await trader.raw("GET", "/v1/public/system_info"))[1]["data"]["status"] == 2
    await trader.control("/paper/faults", {})
    assert (await trader.raw("GET", "/v1/public/system_info"))[1]["data"]["status"] == 0


async def test_delay_holds_only_its_own_response(trader: Trader) -> None:
    """delay: a delayed response does not delay other requests."""
    await trader.control("/paper/faults", {"fault": "delay", "path": "/v1/order", "delay_ms": 300, "when": "after"})
    slow = asyncio.create_task(trader.call("POST", "/v1/order", MARKET))

    async def accepted() -> bool | None:
        return True if await events(trader, "order_accepted") else None

    await until(accepted)
    assert not slow.done()
    assert (await slow)[0] == 200


async def test_read_lag_hides_orders_fills_and_positions(trader: Trader) -> None:
    """read_lag: a new order is -1006 at first and the position is the old one."""
    await trader.control("/paper/faults", {"fault": "read_lag", "delay_ms": 60_000})
    order_id = await trader.order(client_order_id="kb-lag")
    assert await trader.rejected("GET", "/v1/client/order/kb-lag") == (400, -1006)
    assert await trader.rejected("GET", f"/v1/order/{order_id}") == (400, -1006)

    async def filled() -> bool | None:
        return True if await events(trader, "fill") else None

    await until(filled)
    assert (await trader.ok("GET", "/v1/orders"))["rows"] == []
    assert (await trader.ok("GET", "/v1/trades"))["rows"] == []
    assert (await trader.ok("GET", "/v1/positions"))["rows"] == []
    assert await trader.position() == 0
    await trader.control("/paper/faults", {})
    assert (await trader.ok("GET", "/v1/client/order/kb-lag"))["status"] == "FILLED"
    await trader.until_position(BTC, "0.01")


async def test_partial_fills_add_up(trader: Trader) -> None:
    """partial_fills: the parts add up to the order quantity exactly."""
    await trader.control("/paper/faults", {"fault": "partial_fills", "parts": 4, "count": 1})
    order = await trader.done(await trader.order(order_quantity="0.00103"))
    trades = (await trader.ok("GET", f"/v1/order/{order['order_id']}/trades"))["rows"]
    assert order["status"] == "FILLED"
    assert len(trades) >= 4
    assert sum(t["executed_quantity"] for t in trades) == order["quantity"]


async def test_no_fill_until_cleared(trader: Trader) -> None:
    """no_fill: MARKET orders stay NEW until it is cleared, then fill."""
    await trader.control("/paper/faults", {"fault": "no_fill"})
    order_id = await trader.order()
    assert (await trader.ok("GET", f"/v1/order/{order_id}"))["status"] == "NEW"
    await trader.control("/paper/faults", {})
    assert (await trader.done(order_id))["status"] == "FILLED"


async def test_refuse_can_be_limited_to_an_algo_type(trader: Trader) -> None:
    """refuse with algo_type rejects only these creates: a stop fails while entries pass."""
    await trader.control("/paper/faults", {"fault": "refuse", "code": -1005, "algo_type": "STOP"})
    stop = {
        "symbol": BTC,
        "algo_type": "STOP",
        "type": "MARKET",
        "side": "SELL",
        "quantity": "0.01",
        "trigger_price": "60000",
    }
    assert await trader.rejected("POST", "/v1/algo/order", stop) == (400, -1005)
    await trader.order()


async def test_lose_stop_leaves_the_entry_without_stop(trader: Trader) -> None:
    """lose_stop: the entry of a bracket fills and its stop is rejected; the next bracket keeps its stop."""
    await trader.control("/paper/faults", {"fault": "lose_stop", "count": 1})
    stop = {"symbol": BTC, "algo_type": "STOP_LOSS", "side": "SELL", "type": "MARKET", "trigger_price": "60000"}
    pair = {"symbol": BTC, "algo_type": "TP_SL", "child_orders": [{**stop, "reduce_only": True}]}
    bracket = {"symbol": BTC, "algo_type": "BRACKET", "side": "BUY", "type": "MARKET", "quantity": "0.01"}
    for quantity, ended in (("0.01", 1), ("0.02", 1)):
        await trader.ok("POST", "/v1/algo/order", {**bracket, "child_orders": [pair]})
        await trader.until_position(BTC, quantity)
        journal = await trader.journal()
        gone = [e for e in journal if e["event"] == "order_refused" and e.get("algo_type") == "STOP_LOSS"]
        assert len(gone) == ended


async def test_lose_order_accepts_what_never_exists(trader: Trader) -> None:
    """lose_order: the answer has an id, and no order, algo order or fill follows; later creates are kept."""
    await trader.control("/paper/faults", {"fault": "lose_order", "count": 2})
    stop = {"symbol": BTC, "algo_type": "STOP", "type": "MARKET", "side": "BUY", "quantity": "0.01"}
    stop |= {"trigger_price": "70000", "client_order_id": "lost-stop"}
    assert await trader.order(client_order_id="lost")
    assert (await trader.ok("POST", "/v1/algo/order", stop))["order_id"]
    assert await trader.rejected("GET", "/v1/client/order/lost") == (400, -1006)
    assert await trader.rejected("GET", "/v1/algo/client/order/lost-stop") == (400, -1006)
    assert [event["client_order_id"] for event in await trader.journal() if event["event"] == "order_lost"] == [
        "lost",
        "lost-stop",
    ]
    await trader.order()
    await trader.until_position(BTC, "0.01")
    assert len((await trader.ok("GET", "/v1/trades"))["rows"]) == 1


async def test_hide_orders_shows_fills_only(trader: Trader) -> None:
    """hide_orders: an order that was filled is in no list and cannot be queried, while its trade and position show."""
    await trader.order(client_order_id="hidden")
    await trader.until_position(BTC, "0.01")
    await trader.control("/paper/faults", {"fault": "hide_orders"})
    assert await trader.rejected("GET", "/v1/client/order/hidden") == (400, -1006)
    assert (await trader.ok("GET", "/v1/orders"))["rows"] == []
    assert len((await trader.ok("GET", "/v1/trades"))["rows"]) == 1
    await trader.control("/paper/faults", {})
    assert len((await trader.ok("GET", "/v1/orders"))["rows"]) == 1


async def test_probability_is_seeded(trader: Trader) -> None:
    """The same seed gives the same sequence of hits."""

    async def sequence() -> list[int]:
        body = {"fault": "rate_limit", "path": "/v1/orders", "probability": 0.5, "seed": 7}
        await trader.control("/paper/faults", {})
        await trader.control("/paper/faults", body)
        return [(await trader.call("GET", "/v1/orders"))[0] for _ in range(12)]

    first = await sequence()
    assert set(first) == {200, 429}
    assert await sequence() == first


@pytest.mark.parametrize(
    "body",
    [{"fault": "nonsense"}, {"fault": "delay", "colour": 1}, {"faults": 5}, {"fault": "delay", "when": "now"}],
    ids=["kind", "field", "list", "when"],
)
async def test_invalid_faults_are_rejected(trader: Trader, body: dict[str, object]) -> None:
    """A misspelled fault is a 400 with one line, so that a test cannot run without its fault."""
    status, answer = await trader.raw("POST", "/paper/faults", body)
    assert (status, answer["success"]) == (400, False)
    assert "\n" not in answer["error"]
