"""The JSON API of a running bridge: authentication, strict requests, controls, and answers as docs/api.yaml describes them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from jsonschema import Draft202012Validator

from kekbridge.admin.api import Api
from kekbridge.admin.service import AdminService
from kekbridge.model import Limits, TradingState
from kekbridge.store import settings
from tests.admin.client import ApiClient, description
from tests.bridge import BTC, running_bridge
from tests.waiting import until

# Requests that are refused: method, path, body, status, code, field.
WRONG: tuple[tuple[str, str, Any, int, str, str | None], ...] = (
    ("POST", "/api/trading", {"state": "runing"}, 422, "field_invalid", "state"),
    ("POST", "/api/trading", {}, 422, "field_missing", "state"),
    ("POST", "/api/trading", {"state": "halted", "resetPeak": True}, 422, "field_invalid", "resetPeak"),
    ("POST", "/api/trading", {"state": "running", "webhook": "mainn"}, 404, "not_found", None),
    ("POST", "/api/trading", {"stat": "halted"}, 422, "field_unknown", "stat"),
    ("POST", "/api/positions/close", {"symbol": "BTC1!"}, 422, "field_invalid", "symbol"),
    ("POST", "/api/positions/close", {"symbol": "BTCC"}, 404, "not_found", None),
    ("POST", "/api/positions/close", {"symbol": "BTC", "quantity": -1}, 422, "field_invalid", "quantity"),
    ("POST", "/api/positions/close", {"symbol": "BTC", "quantity": True}, 422, "field_invalid", "quantity"),
    ("POST", "/api/positions/close", {"symbol": "BTC", "share": 101}, 422, "field_invalid", "share"),
    ("POST", "/api/positions/close", {"symbol": 7}, 422, "field_invalid", "symbol"),
    ("POST", "/api/orders/cancel", {"order": "nope"}, 404, "not_found", None),
    ("POST", "/api/lockouts/lift", {"address": "x"}, 422, "field_invalid", "address"),
    ("GET", "/api/orders?limt=1", None, 422, "field_unknown", "limt"),
    ("GET", "/api/orders?limit=0", None, 422, "field_invalid", "limit"),
    ("GET", "/api/orders?limit=1&limit=2", None, 422, "field_invalid", "limit"),
    ("GET", "/api/orders?open=yes", None, 422, "field_invalid", "open"),
    ("GET", "/api/orders?status=fild", None, 422, "field_invalid", "status"),
    ("GET", "/api/orders?since=tomorrow", None, 422, "field_invalid", "since"),
    ("GET", "/api/orders/nope", None, 404, "not_found", None),
    ("GET", "/api/alerts/nope", None, 404, "not_found", None),
    ("GET", "/api/statistics?webhook=mian", None, 404, "not_found", None),
    ("GET", "/api/history?kind=streamdown", None, 422, "field_invalid", "kind"),
    ("GET", "/api/nothing", None, 404, "not_found", None),
    ("PUT", "/api/state", None, 405, "method_not_allowed", None),
)
# Bodies that are refused, with status and code.
UNREADABLE: tuple[tuple[bytes, int, str], ...] = (
    (b"", 400, "empty_body"),
    (b"nonsense", 400, "invalid_json"),
    (b"[]", 400, "invalid_json"),
    (b"[" * 60_000, 400, "invalid_json"),
    (b'{"state":NaN}', 400, "invalid_json"),
    (b'{"state":"halted","state":"running"}', 400, "duplicate_key"),
    (b'{"state":"\xff"}', 400, "invalid_encoding"),
    (b'{"reason":"\\ud800","state":"halted"}', 400, "invalid_encoding"),
    (b'{"reason":"' + b"x" * 70_000 + b'"}', 413, "body_too_large"),
    (b'{"reason":' + b"9" * 5000 + b',"state":"halted"}', 422, "field_invalid"),
)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiClient]:
    """A bridge that trades on paper, with the webhook "main"."""
    async with running_bridge(tmp_path, admin__port=0) as bridge:
        bridge.add_webhook("main", limits=Limits(max_notional=None))
        yield ApiClient.of(bridge)


def trading_state(api: ApiClient) -> TradingState:
    with api.bridge.daemon.database.snapshot() as connection:
        return settings.trading_control(connection, now=api.bridge.clock()).state


def test_every_path_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """The OpenAPI document has each path and method of the API, and no other; each refers to schemas that exist."""
    router = web.UrlDispatcher()
    service: Any = object.__new__(AdminService)
    object.__setattr__(service, "clock", lambda: None)
    Api(service).register(router)
    served = {
        (route.resource.canonical, route.method)
        for route in router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    methods = ("get", "post", "patch", "delete", "put")
    described = {
        (re.sub(r"/webhooks/\{name\}", "/webhooks/{webhook}", path), method.upper())
        for path, item in description()["paths"].items()
        for method in item
        if method in methods
    }
    assert described == served | {("/metrics", "GET"), ("/api/events", "GET")}
    for schema in description()["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    text = (Path(__file__).parents[2] / "kekbridge" / "docs" / "api.yaml").read_text(encoding="utf-8")
    for kind, name in re.findall(r"#/components/(\w+)/(\w+)", text):
        assert name in description()["components"][kind], f"{kind}/{name}"


async def test_reads_answer_as_described(api: ApiClient) -> None:
    """Positions, orders, alerts and figures of what was traded, by the names and schemas of the document; live, not as last stored."""
    await api.bridge.send(quantity="0.02", stopLoss="5%")
    await api.bridge.send(orderType="limit", limitPrice="60000")
    await api.bridge.send(symbol="NOPE")
    await api.bridge.until_settled()

    async def is_open() -> bool:
        return len((await api.get("/api/positions"))["positions"]) == 1

    await until(is_open)
    (position,) = (await api.get("/api/positions"))["positions"]
    assert (position["symbol"], position["quantity"]) == (BTC, "0.02")
    state = await api.get("/api/state")
    assert state["account"]["positions"][0]["quantity"] == "0.02"
    (resting,) = (await api.get("/api/orders?open=true&symbol=btc&webhook=main"))["orders"]
    assert await api.get(f"/api/orders/{resting['clientOrderId']}") == resting
    alerts = (await api.get("/api/alerts?since=1h&limit=2"))["alerts"]
    assert [one["status"] for one in alerts] == ["accepted", "refused"]
    story = await api.get(f"/api/alerts/{alerts[0]['id']}")
    assert story["orders"][0]["clientOrderId"] == resting["clientOrderId"]
    assert (await api.get("/api/alerts?code=symbol_unknown"))["alerts"][0]["id"] == alerts[1]["id"]
    assert (await api.get("/api/statistics?since=all"))["counts"]["received"] == 3
    assert (await api.get("/api/statistics?since=24h&webhook=main"))["counts"]["received"] == 3
    assert {scope["name"] for scope in (await api.get("/api/limits"))["scopes"]} == {"account", "main"}
    assert {job["name"] for job in (await api.get("/api/jobs"))["jobs"]} >= {"backup", "equity"}
    assert await api.get("/api/lockouts") == []
    assert "heldExits" in await api.get("/api/trading")


async def test_history_pages_back_to_its_beginning(api: ApiClient) -> None:
    """Following `older` gives every event once, newest page first; filters are those of `kekbridge history list`."""
    await api.bridge.send()
    await api.bridge.until_settled()
    await api.bridge.daemon.database.flush()
    found: list[int] = []
    page = await api.get("/api/history?limit=3")
    while True:
        found = [event["sequence"] for event in page["events"]] + found
        if page["older"] is None:
            break
        page = await api.get(f"/api/history?limit=3&before={page['older']}")
    assert found == list(range(1, len(found) + 1))
    filled = (await api.get("/api/history?kind=order_filled"))["events"]
    assert [(event["severity"], "BTC" in event["words"]) for event in filled] == [("info", True)]
    assert (await api.get("/api/history?trouble=true&kind=order_filled"))["events"] == []


async def test_alerts_and_orders_page_back(api: ApiClient) -> None:
    """Following `older` gives each once, also of those that arrived in the same millisecond."""
    bodies = [json.dumps(api.bridge.message(quantity="0.01")).encode() for _ in range(7)]
    await asyncio.gather(*map(api.bridge.post, bodies))
    await api.bridge.until_settled()
    for kind, name in (("alerts", "id"), ("orders", "clientOrderId")):
        seen: list[str] = []
        page = await api.get(f"/api/{kind}?limit=3&webhook=main")
        while page[kind]:
            seen = [one[name] for one in page[kind]] + seen
            if page["older"] is None:
                break
            page = await api.get(f"/api/{kind}?limit=3&webhook=main&before={page['older']}")
        whole = [one[name] for one in (await api.get(f"/api/{kind}"))[kind]]
        assert seen == whole
        assert len(whole) == 7
    await api.get("/api/alerts?before=nope", 404)


async def test_controls(api: ApiClient) -> None:
    """Halt, exits only, resume, close and cancel take effect before the answer; a dry run sends nothing."""
    await api.bridge.send(quantity="0.02")
    await api.bridge.until_positions({BTC: Decimal("0.02")})
    for state, known in (("halted", TradingState.HALTED), ("exits_only", TradingState.EXITS_ONLY)):
        _, shown = await api.call("POST", "/api/trading", {"state": state, "reason": "lunch"})
        assert (shown["state"], shown["reason"], shown["by"], trading_state(api)) == (state, "lunch", "API", known)
    status, shown = await api.call("POST", "/api/trading", {"state": "running"})
    assert (status, shown["heldExits"], trading_state(api)) == (200, [], TradingState.RUNNING)
    _, resting = await api.bridge.send(orderType="limit", limitPrice="60000")  # halting would cancel it
    _, canceled = await api.call("POST", "/api/orders/cancel", {"order": resting["clientOrderId"]})
    assert canceled["canceled"] is True
    _, planned = await api.call("POST", "/api/positions/close", {"symbol": "BTC", "dryRun": True})
    assert [order["status"] for order in planned["orders"]] == ["planned"]
    _, closed = await api.call("POST", "/api/positions/close", {"symbol": "BTC", "quantity": 0.005})
    assert (closed["closed"], closed["positionsLeft"][0]["quantity"]) == (True, "0.015")
    _, closed = await api.call("POST", "/api/positions/close", {"symbol": "BTC", "share": "100"})
    assert closed["closed"] is True
    assert await api.bridge.position() == 0


async def test_a_request_with_a_key_is_done_once(api: ApiClient) -> None:
    """Two at once and one later: one close, one answer. Other content under the key is refused; a failed request may be repeated."""
    await api.bridge.send(quantity="0.02")
    await api.bridge.until_positions({BTC: Decimal("0.02")})
    key, body = {"Idempotency-Key": "close-1"}, {"symbol": "BTC", "quantity": "0.005"}
    path = "/api/positions/close"
    first, second = await asyncio.gather(*(api.call("POST", path, body, headers=key) for _ in range(2)))
    assert first == second == await api.call("POST", path, body, headers=key)
    assert await api.bridge.position() == Decimal("0.015")
    status, error = await api.call("POST", path, {"symbol": "BTC"}, headers=key)
    assert (status, error["code"]) == (422, "key_reused")
    again = {"Idempotency-Key": "w"}
    status, _ = await api.call("DELETE", "/api/portfolio/webhooks/later", headers=again)
    assert status == 404
    api.bridge.add_webhook("later")
    assert (await api.call("DELETE", "/api/portfolio/webhooks/later", headers=again))[0] == 200
    assert (await api.call("DELETE", "/api/portfolio/webhooks/later", headers=again))[0] == 200


async def test_jobs_and_checks_run(api: ApiClient) -> None:
    """A job is run and recorded; an unknown one is 404 with a suggestion; the checks are those of `kekbridge doctor`."""
    status, job = await api.call("POST", "/api/jobs/equity/run", {})
    assert (status, job["error"]) == (200, None)
    status, error = await api.call("POST", "/api/jobs/equty/run", {})
    assert (status, "did you mean equity?" in error["error"]) == (404, True)
    _, found = await api.call("POST", "/api/doctor", {})
    assert {"database", "vault", "exchange"} <= {check["name"] for check in found["checks"]}


async def test_wrong_requests_are_refused_by_name(api: ApiClient) -> None:
    """4xx in one shape, with a stable code and the field that is wrong; what cannot be read changes nothing. Never a 5xx."""
    for method, path, body, status, code, field in WRONG:
        found, data = await api.call(method, path, body)
        assert (found, data["code"], data["field"]) == (status, code, field), data
    for raw, status, code in UNREADABLE:
        found, data = await api.call("POST", "/api/trading", raw=raw)
        assert (found, data["code"]) == (status, code), data
    # A page of another site can send text/plain without asking first; JSON it cannot.
    headers = {"Content-Type": "text/plain"}
    status, data = await api.call("POST", "/api/trading", raw=b'{"state":"halted"}', headers=headers)
    assert (status, data["code"]) == (415, "unsupported_media_type")
    assert trading_state(api) is TradingState.RUNNING


async def test_who_may_call(api: ApiClient) -> None:
    """The token; or a session, which may read, and changes only from a page of this address. Foreign origins and hosts never."""
    assert (await api.call("GET", "/api/state", headers={"Authorization": "Bearer wrong"}))[0] == 401
    for header, status, code in (("Origin", 403, "forbidden"), ("Host", 421, "wrong_host")):
        value = "http://evil.example" if header == "Origin" else "evil.example"
        found, data = await api.call("GET", "/api/state", headers={header: value})
        assert (found, data["code"]) == (status, code)
    body = {"state": "exits_only"}
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as session:

        async def post(headers: dict[str, str]) -> int:
            async with session.post(api.url + "/api/trading", json=body, headers=headers) as answer:
                return answer.status

        assert await post({}) == 401
        async with session.post(api.url + "/login", data={"token": api.token}, allow_redirects=False) as answer:
            assert answer.status == 303
        async with session.get(api.url + "/api/state") as answer:
            assert answer.status == 200
        assert await post({}) == 403
        assert await post({"Origin": "http://evil.example"}) == 403
        assert await post({"Origin": api.url.replace("127.0.0.1", "localhost")}) == 403
        assert trading_state(api) is TradingState.RUNNING
        assert await post({"Origin": api.url}) == 200
        assert (await api.get("/api/trading"))["by"] == "web page"
    assert trading_state(api) is TradingState.EXITS_ONLY
    await api.call("POST", "/api/trading", {"state": "running"})


async def test_the_description_is_served(api: ApiClient) -> None:
    """`GET /api/openapi` is the document that `kekbridge docs api` prints."""
    headers = {"Authorization": f"Bearer {api.token}"}
    async with aiohttp.ClientSession() as session, session.get(api.url + "/api/openapi", headers=headers) as answer:
        assert answer.content_type == "application/yaml"
        assert "openapi: 3.1.0" in await answer.text()
