"""Rate limits: sliding windows (docs/internals/orderly.md, section 11)."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.paper.codec import ApiError
from kekbridge.paper.rate_limits import RequestLimiter
from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PaperSettings
from tests.paper.trader import BTC, Trader


@given(st.lists(st.integers(0, 400), max_size=60))
def test_no_window_ever_holds_more_than_the_limit(gaps: list[int]) -> None:
    """At most 10 calls pass in any 1000 ms, and every call within the limit passes."""
    limiter, now, passed = RequestLimiter(enabled=True), 0, list[int]()
    for gap in gaps:
        now += gap
        due = sum(1 for at in passed if at > now - 1000) < 10
        if due:
            limiter.check("k", (10, 1000), now)
            passed.append(now)
            continue
        with pytest.raises(ApiError) as caught:
            limiter.check("k", (10, 1000), now)
        assert (caught.value.code, caught.value.status) == (-1003, 429)


async def test_limits_are_on_by_default(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    """Of eleven orders at one instant ten pass; one is a 429 and is in the journal as rejected."""
    paper = PaperExchange(tmp_path, settings=PaperSettings(prices="static"), clock=lambda: 1_790_000_000_000)
    trader = Trader(session, await paper.start())
    body = '{"symbol":"PERP_BTC_USDC","side":"BUY","order_type":"MARKET","order_quantity":"0.001"}'
    codes: list[int] = []
    for _ in range(11):
        headers = trader.headers("POST", "/v1/order", body, stamp=1_790_000_000_000)
        async with session.post(trader.base_url + "/v1/order", data=body, headers=headers) as answer:
            codes.append(answer.status)
    journal = await trader.journal()
    await paper.close()
    assert codes == [200] * 10 + [429]
    assert sum(1 for e in journal if e["event"] == "order_received") == 11
    assert [e["code"] for e in journal if e["event"] == "order_refused"] == [-1003]


@pytest.mark.parametrize(
    ("method", "path", "count"),
    [
        ("POST", "/v1/algo/order", 1),
        ("POST", "/v1/batch-order", 1),
        ("POST", "/v1/client/leverages", 5),
        ("GET", "/v1/client/info", 10),
        ("GET", f"/v1/client/leverage?symbol={BTC}", 1),
        ("GET", "/v1/public/system_info", 1),
        ("GET", "/v1/positions", 30),
        ("GET", "/v1/client/key_info", 10),
    ],
    ids=range(8),
)
async def test_limits_of_endpoints(
    tmp_path: Path, session: aiohttp.ClientSession, method: str, path: str, count: int
) -> None:
    """Endpoints have their documented limits."""
    paper = PaperExchange(tmp_path, settings=PaperSettings(prices="static"), clock=lambda: 1_790_000_000_000)
    trader = Trader(session, await paper.start())
    statuses: list[int] = []
    for _ in range(count + 1):
        body = "{}" if method == "POST" else ""
        headers = trader.headers(method, path, body, stamp=1_790_000_000_000)
        async with session.request(method, trader.base_url + path, data=body or None, headers=headers) as answer:
            statuses.append(answer.status)
    await paper.close()
    assert 429 not in statuses[:-1]
    assert statuses[-1] == 429
