"""Every alert of the shared collection through a running bridge, with the collection's clock and markets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from ulid import ULID

from kekbridge.daemon.app import Daemon
from kekbridge.model import Limits, Order, RateLimits, WebhookSettings
from kekbridge.store import webhooks
from tests.bridge import Bridge, Clock, running_bridge, running_paper
from tests.paths import DATA

COLLECTION = json.loads((DATA / "alert-payloads.json").read_text(encoding="utf-8"))
FIXTURE = COLLECTION["fixture"]
CASES = {case["id"]: case for case in COLLECTION["cases"]}
CLOCK = datetime.fromisoformat(FIXTURE["clock"])

# The collection leaves these to the implementation; docs/internals/architecture.md section 5 decides against its default.
REFUSED_BY_POLICY = {"percent-quantity-string", "time-missing"}
# The collection trades 0.01 of every symbol, which is below Orderly's minimum size for some.
SMALL_SIZES = {"base_min": Decimal("0.001"), "base_tick": Decimal("0.001"), "min_notional": Decimal(0)}
ORDER_TYPES = {"MARKET": "market", "LIMIT": "limit"}


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    """A bridge with the collection's clock, markets and mark prices, and one webhook with the collection's secret."""
    clock = Clock.starting_at(CLOCK)
    markets: dict[str, Any] = {
        "instruments": tuple(FIXTURE["live_symbols"]),
        "rules": dict.fromkeys(FIXTURE["live_symbols"], SMALL_SIZES),
    }
    async with running_paper(tmp_path / "paper", clock=clock, **markets) as paper_url:
        async with aiohttp.request("POST", f"{paper_url}/paper/prices", json=FIXTURE["mark_prices"]) as response:
            assert response.status == 200
        async with running_bridge(tmp_path, paper_url, clock=clock) as bridge:
            _add_webhook(bridge.daemon)
            yield bridge


def _add_webhook(daemon: Daemon) -> None:
    rates = RateLimits(per_minute=1000, per_hour=1000, per_day=1000)
    settings = WebhookSettings(require_signature=False, rates=rates, limits=Limits(max_notional=None))
    with daemon.database.transaction() as connection:
        webhook = webhooks.create(connection, webhook_id=str(ULID()), name="shared", settings=settings, now=CLOCK)
        webhooks.add_key(
            connection,
            key_id=str(ULID()),
            webhook_id=webhook.id,
            lookup=daemon.sealer.lookup(FIXTURE["secret"]),
            prefix=FIXTURE["secret"][:8],
            sealed_key=daemon.sealer.seal(FIXTURE["secret"].encode()),
            sealed_secret=daemon.sealer.seal(b"whs_unused"),
            now=CLOCK,
        )


async def _set_positions(bridge: Bridge, state: dict[str, str]) -> None:
    await bridge.control("positions", state)
    await bridge.until_positions({symbol: Decimal(quantity) for symbol, quantity in state.items()})


async def _post(bridge: Bridge, case: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return await bridge.post(case["body"].encode(), {"Content-Type": case["content_type"]})


@pytest.mark.parametrize("case_id", list(CASES))
async def test_case(bridge: Bridge, case_id: str) -> None:
    """Each alert leads to the collection's decision: the order it names, or none; never a 5xx."""
    case = CASES[case_id]
    before = CASES.get(case.get("sequence_after", ""))
    await _set_positions(bridge, (before or case).get("state", {}))
    earlier: tuple[Order, ...] = ()
    if before is not None:
        status, _ = await _post(bridge, before)
        assert status < 300
        earlier = await bridge.until_settled()
    status, answer = await _post(bridge, case)
    assert status < 500, answer
    new = tuple(order for order in await bridge.until_settled() if order not in earlier)
    expected = _expectation(case)
    if expected == "reject":
        assert 400 <= status < 500, answer
        assert new == ()
    elif expected in ("duplicate", "ignore"):
        assert 200 <= status < 300, answer
        assert new == ()
    else:
        assert status in (200, 202), answer
        await _check_orders(bridge, case, new)


def _expectation(case: dict[str, Any]) -> str:
    expect = case["expect"]
    if case["id"] in REFUSED_BY_POLICY:
        return "reject"
    if expect["decision"] != "policy":
        return str(expect["decision"])
    if expect.get("orders") == 0:
        return "ignore"
    return "accept" if expect["default"].startswith(("accept", "target")) else "reject"


async def _check_orders(bridge: Bridge, case: dict[str, Any], orders: tuple[Order, ...]) -> None:
    expect = case["expect"]
    state = {symbol: Decimal(value) for symbol, value in case.get("state", {}).items()}
    final = expect.get("final_state_after_both")
    if final is not None and "sequence_after" in case:
        wanted = {symbol: Decimal(value) for symbol, value in final.items() if Decimal(value)}
        assert await bridge.positions() == wanted
        return
    assert orders, "an order was expected"
    entry = orders[-1]
    if "symbol" in expect:
        assert {order.intent.symbol for order in orders} == {expect["symbol"]}
        assert {order.intent.side.value for order in orders} == {expect["side"]}
    if "order_type" in expect:
        assert entry.intent.order_type.value == ORDER_TYPES[expect["order_type"]]
    if "reduce_only" in expect:
        assert {order.intent.reduce_only for order in orders} == {expect["reduce_only"]}
    if "price" in expect:
        assert entry.intent.limit_price == Decimal(expect["price"])
    if "signal_price" in expect:
        assert entry.intent.signal_price == Decimal(expect["signal_price"])
    if "stop_loss" in expect:
        assert entry.intent.stop_loss == Decimal(expect["stop_loss"])
    if "take_profit" in expect:
        assert entry.intent.take_profits[0].trigger_price == Decimal(expect["take_profit"])
    _check_quantity(expect, orders, state)
    if "target" in expect:
        assert await bridge.positions() == {expect["symbol"]: Decimal(expect["target"]["value"])}


def _check_quantity(expect: dict[str, Any], orders: tuple[Order, ...], state: dict[str, Decimal]) -> None:
    quantity = expect.get("quantity")
    if quantity is None:
        return
    total = sum(order.intent.quantity for order in orders)
    if quantity["mode"] == "base":
        assert total == Decimal(quantity["value"])
    else:
        assert total == abs(state[expect["symbol"]]) * Decimal(quantity["value"]) / 100
