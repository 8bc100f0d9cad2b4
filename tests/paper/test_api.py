"""REST API: error responses, content types, age of requests."""

from __future__ import annotations

import json

from tests.paper.trader import BTC, Trader


async def test_errors_of_the_http_layer_are_json(trader: Trader) -> None:
    """Unknown paths and wrong content types are answered in Orderly's JSON; a charset suffix is accepted."""
    status, answer = await trader.raw("GET", "/v1/nothing")
    assert (status, answer["success"]) == (404, False)
    text = json.dumps({"symbol": BTC, "side": "BUY", "order_type": "MARKET", "order_quantity": "0.01"})
    for kind, expected in (("text/plain", 400), ("application/json;charset=utf-8", 200)):
        headers = {**trader.headers("POST", "/v1/order", text), "Content-Type": kind}
        async with trader.session.post(trader.base_url + "/v1/order", data=text, headers=headers) as one:
            assert one.status == expected


async def test_recv_window_rejects_old_requests(trader: Trader) -> None:
    """A create older than its x-recv-window is rejected."""
    body = {"symbol": BTC, "side": "BUY", "order_type": "MARKET", "order_quantity": "0.01"}
    status, answer = await trader.call("POST", "/v1/order", body, **{"x-recv-window": "-1"})
    assert (status, answer["code"]) == (400, -1005)
    status, _ = await trader.call("POST", "/v1/order", body, **{"x-recv-window": "10000"})
    assert status == 200
