"""Every request of the client validates against Orderly's OpenAPI file, except where that file is known to be wrong.

The file is large and not ours; it is read from ../shared beside the repository when it is there.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import jsonschema
import pytest
import yaml
from aiohttp import web

from kekbridge.exchange.orderly.client import OrderlyExchange
from kekbridge.exchange.orderly.requests import ALGO_TYPES, OrderKind, request_for
from kekbridge.model import OrderIntent, OrderType, Purpose, Side, TakeProfit
from kekbridge.paper.settings import PAPER_ACCOUNT_ID
from tests.paths import ROOT

SPEC = ROOT.parent / "shared" / "reference" / "orderly-openapi.yaml"
BTC = "PERP_BTC_USDC"
D = Decimal
ClientFor = Callable[..., OrderlyExchange]
# The file marks all of these as required for every algo order; its texts and docs/internals/orderly.md section 7 name those of each kind.
REQUIRED = {
    "STOP": ["symbol", "algo_type", "quantity", "side", "type", "trigger_price"],
    "BRACKET": ["symbol", "algo_type", "quantity", "side", "type", "child_orders"],
    "TP_SL": ["symbol", "algo_type", "quantity", "child_orders"],
    "TRAILING_STOP": ["symbol", "algo_type", "quantity", "side", "type"],
}


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    if not SPEC.is_file():
        pytest.skip("orderly-openapi.yaml is not beside this repository")
    loaded: dict[str, Any] = yaml.safe_load(SPEC.read_text(encoding="utf-8"))
    return loaded


def resolved(spec: dict[str, Any], node: Any) -> Any:
    """A schema with its references put in; objects say what they allow, so that a misspelt field is found."""
    if isinstance(node, list):
        return [resolved(spec, item) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target: Any = spec
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return resolved(spec, target)
    out = {key: resolved(spec, value) for key, value in node.items()}
    if out.get("type") == "object" and "properties" in out:
        out["additionalProperties"] = False
    return out


def as_numbers(value: Any) -> Any:
    """Numeric text as the number that it stands for: the API takes both, the file only names numbers (section 1)."""
    if isinstance(value, dict):
        return {key: as_numbers(item) if key != "client_order_id" else item for key, item in value.items()}
    if isinstance(value, list):
        return [as_numbers(item) for item in value]
    if isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value):
        return float(value)
    return value


def intents() -> Iterator[tuple[str, OrderIntent]]:
    """One intent of every shape that can be sent."""

    def make(**fields: Any) -> OrderIntent:
        base: dict[str, Any] = {
            "symbol": BTC, "side": Side.BUY, "order_type": OrderType.MARKET, "quantity": D("0.01"), "purpose": Purpose.ENTRY,
            "reference_price": D(65000),
        }  # fmt: skip
        return OrderIntent(**{**base, **fields})

    for kind in (OrderType.MARKET, OrderType.LIMIT, OrderType.IOC, OrderType.FOK, OrderType.POST_ONLY):
        yield kind.value, make(order_type=kind, limit_price=D("65000.1"))
    yield "slippage", make(slippage=D("0.01"))
    yield "close", make(side=Side.SELL, purpose=Purpose.EXIT, reduce_only=True)
    yield "stop", make(order_type=OrderType.STOP, trigger_price=D(66000))
    yield "stop limit", make(order_type=OrderType.STOP_LIMIT, trigger_price=D(66000), limit_price=D(66010))
    yield "protect", make(order_type=OrderType.STOP, side=Side.SELL, trigger_price=D(64000), purpose=Purpose.PROTECT)
    one, two = TakeProfit(D(67000), D("0.01")), TakeProfit(D(66000), D("0.005"))
    yield "bracket", make(stop_loss=D(64000), take_profits=(one,))
    yield "limit bracket", make(order_type=OrderType.LIMIT, limit_price=D(64500), stop_loss=D(64000))
    yield "several handle-profits", make(stop_loss=D(64000), take_profits=(one, two))
    yield (
        "pair",
        make(side=Side.SELL, purpose=Purpose.PROTECT, reduce_only=True, stop_loss=D(64000), take_profits=(one,)),
    )
    yield (
        "trailing",
        make(side=Side.SELL, purpose=Purpose.PROTECT, trailing_callback_rate=D("0.01"), trigger_price=D(66000)),
    )
    yield "trailing value", make(side=Side.SELL, purpose=Purpose.PROTECT, trailing_callback_value=D(100))


def camel_case_trailing(body: dict[str, Any]) -> dict[str, Any]:
    """The file's names and types for the three trailing fields, which SDK and CLI send in snake_case (section 7)."""
    names = {"callback_rate": "callbackRate", "callback_value": "callbackValue", "activated_price": "activatedPrice"}
    return {names.get(key, key): str(value) if key in names else value for key, value in body.items()}


@pytest.mark.parametrize("intent", [pytest.param(intent, id=name) for name, intent in intents()])
def test_create_bodies(spec: dict[str, Any], intent: OrderIntent) -> None:
    """Every create body fits its schema, with no field that the schema does not know."""
    request = request_for(intent, "kb-01JD000000000000000000000000")
    schema = resolved(spec, spec["paths"][request.path]["post"]["requestBody"]["content"]["application/json"]["schema"])
    if request.kind.is_algo:
        schema["required"] = REQUIRED[request.kind]
    if request.kind is OrderKind.TP_SL:
        # The file's schema knows the legs one level deeper only (as in a BRACKET); its own example has them here.
        legs = schema["properties"]["child_orders"]
        legs["items"] = legs["items"]["properties"]["child_orders"]["items"]
    jsonschema.validate(camel_case_trailing(as_numbers(json.loads(request.text))), schema)


async def test_paths_and_queries(spec: dict[str, Any], requests: list[tuple[str, str]]) -> None:
    """Every path and query parameter that the client uses is in the file, and every required parameter is given."""
    assert len(requests) == 26
    for method, target in requests:
        path, _, query = target.partition("?")
        operation = operation_of(spec, method, path)
        named = [resolved(spec, one) for one in operation.get("parameters", [])]
        known = {one["name"] for one in named if one["in"] == "query"}
        required = {one["name"] for one in named if one["in"] == "query" and one.get("required")}
        given = {pair.partition("=")[0] for pair in query.split("&") if pair}
        assert given <= known, f"{method} {target}"
        assert required <= given, f"{method} {target}"


def operation_of(spec: dict[str, Any], method: str, path: str) -> dict[str, Any]:
    """The file's operation for a concrete path; literal paths win over templates."""
    candidates = sorted(spec["paths"], key=lambda template: template.count("{"))
    for template in candidates:
        pattern = re.sub(r"\{[^}]+\}", "[^/]+", template)
        if re.fullmatch(pattern, path) and method.lower() in spec["paths"][template]:
            found: dict[str, Any] = spec["paths"][template][method.lower()]
            return found
    raise AssertionError(f"{method} {path} is not in the OpenAPI file")


@pytest.fixture
async def requests(client_for: ClientFor) -> AsyncIterator[list[tuple[str, str]]]:
    """Method and target of every call of the client, received by a server that answers each with an empty success."""
    received: list[tuple[str, str]] = []

    async def handle(request: web.Request) -> web.Response:
        received.append((request.method, request.raw_path))
        return web.Response(text='{"success":true,"timestamp":1,"data":{"rows":[]}}', content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    exchange = client_for(f"http://127.0.0.1:{runner.addresses[0][1]}")
    await exchange._transport.open()
    await asyncio.gather(
        *calls(exchange), return_exceptions=True
    )  # an empty success is no order: only the requests count
    yield received
    await exchange.close()
    await runner.cleanup()


def calls(exchange: OrderlyExchange) -> list[Coroutine[Any, Any, Any]]:
    orders, account, since = exchange.orders_api, exchange.account_api, datetime.now(UTC)
    return [
        orders.order_by_client_id("kb-1"), orders.orders(), orders.order_trades("5"), orders.trades(since),
        orders.cancel_order(BTC, "5"), orders.cancel_orders(), orders.cancel_orders(BTC), orders.algo_by_client_id("kb-1"),
        orders.algos(), orders.algos(symbol=BTC), orders.algo_trades("5"), orders.cancel_algo(BTC, "5"),
        *(orders.cancel_algos(algo_type, BTC) for algo_type in ALGO_TYPES[:2]),
        account.system_info(), account.rules(), account.marks(), account.owner(PAPER_ACCOUNT_ID),
        account.key(PAPER_ACCOUNT_ID, "ed25519:x"), account.positions(), account.client_info(), account.keys(),
        account.leverages(), account.set_leverage(BTC, 5), account.funding_payments(since), account.transfers(since),
    ]  # fmt: skip
