"""Every alert of the shared collection through the real listener, against the paper exchange, with the collection's clock and markets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from ulid import ULID

from kekbridge.config import load_settings
from kekbridge.daemon.app import Daemon
from kekbridge.model import Order, RateLimits, WebhookSettings
from kekbridge.model.webhooks import WEBHOOK_PATH
from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PaperSettings
from kekbridge.store import orders as order_rows
from kekbridge.store import webhooks
from tests.paths import DATA
from tests.waiting import until

COLLECTION = json.loads((DATA / "alert-payloads.json").read_text(encoding="utf-8"))
FIXTURE = COLLECTION["fixture"]
CASES = {case["id"]: case for case in COLLECTION["cases"]}
CLOCK = datetime.fromisoformat(FIXTURE["clock"])

# Where the collection leaves a choice, docs/internals/architecture.md section 5 makes it: these differ from the collection's own default.
REFUSED_BY_POLICY = {"percent-quantity-string", "time-missing"}
# The collection trades 0.01 of everything; Orderly's real smallest sizes would refuse that for some symbols.
SMALL_SIZES = {"base_min": Decimal("0.001"), "base_tick": Decimal("0.001"), "min_notional": Decimal(0)}
ORDER_TYPES = {"MARKET": "market", "LIMIT": "limit"}


@dataclass
class Room:
    """A daemon in this process, its paper exchange, and one webhook with the collection's secret."""

    daemon: Daemon
    paper_url: str
    url: str
    session: aiohttp.ClientSession

    async def post(self, case: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        headers = {"Content-Type": case["content_type"]}
        async with self.session.post(self.url, data=case["body"].encode(), headers=headers) as answer:
            return answer.status, await answer.json()

    async def control(self, path: str, body: Any = None) -> Any:
        method = "GET" if body is None else "POST"
        async with self.session.request(method, f"{self.paper_url}/paper/{path}", json=body) as answer:
            return await answer.json()

    async def set_positions(self, state: dict[str, str]) -> None:
        await self.control("positions", state)
        wanted = {symbol: Decimal(quantity) for symbol, quantity in state.items()}

        async def agrees() -> bool:
            snapshot = await self.daemon.exchange.refresh()
            return {name: each.quantity for name, each in snapshot.positions.items() if each.quantity} == wanted

        await until(agrees)

    async def positions(self) -> dict[str, Decimal]:
        state = await self.control("state")
        return {symbol: Decimal(quantity) for symbol, quantity in state["positions"].items()}

    async def orders(self) -> tuple[Order, ...]:
        return await self.daemon.database.read(order_rows.list_orders, limit=100)

    async def settled_orders(self) -> tuple[Order, ...]:
        async def all_settled() -> bool:
            return all(order.is_settled for order in await self.orders())

        await until(all_settled)
        return await self.orders()


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with AsyncExitStack() as stack:
        offset = CLOCK - datetime.now(UTC)

        def clock() -> datetime:
            return datetime.now(UTC) + offset  # the collection's clock, ticking

        paper = PaperExchange(
            tmp_path / "paper",
            settings=PaperSettings(
                prices="static",
                instruments=tuple(FIXTURE["live_symbols"]),
                rules=dict.fromkeys(FIXTURE["live_symbols"], SMALL_SIZES),
                rate_limits=False,
            ),
            clock=lambda: int(clock().timestamp() * 1000),
        )
        paper_url = await paper.start(port=0)
        stack.push_async_callback(paper.close)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        async with session.post(f"{paper_url}/paper/prices", json=FIXTURE["mark_prices"]) as answer:
            assert answer.status == 200
        settings = load_settings(
            environment={},
            overrides={
                "server.port": 0,
                "exchange.base_url": paper_url,
                "vault.backend": "key_file",
                "log.level": "error",
            },
        )
        daemon = await Daemon.build(settings, tmp_path / "data", stack, clock=clock)
        _make_webhook(daemon)
        await stack.enter_async_context(daemon.running())
        yield Room(daemon, paper_url, daemon.info.url + WEBHOOK_PATH, session)


def _make_webhook(daemon: Daemon) -> None:
    settings = WebhookSettings(require_signature=False, rates=RateLimits(per_minute=1000, per_hour=1000, per_day=1000))
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


@pytest.mark.parametrize("case_id", list(CASES))
async def test_case(room: Room, case_id: str) -> None:
    """Each alert gets the decision of the collection: the order it names, or none; never a 5xx."""
    case = CASES[case_id]
    before = CASES.get(case.get("sequence_after", ""))
    await room.set_positions((before or case).get("state", {}))
    earlier: tuple[Order, ...] = ()
    if before is not None:
        status, _ = await room.post(before)
        assert status < 300
        earlier = await room.settled_orders()
    status, answer = await room.post(case)
    assert status < 500, answer
    new = tuple(order for order in await room.settled_orders() if order not in earlier)
    expected = _expectation(case)
    if expected == "reject":
        assert 400 <= status < 500, answer
        assert new == ()
    elif expected in ("duplicate", "ignore"):
        assert 200 <= status < 300, answer
        assert new == ()
    else:
        assert status in (200, 202), answer
        await _check_orders(room, case, new)


def _expectation(case: dict[str, Any]) -> str:
    expect = case["expect"]
    if case["id"] in REFUSED_BY_POLICY:
        return "reject"
    if expect["decision"] != "policy":
        return str(expect["decision"])
    if expect.get("orders") == 0:
        return "ignore"
    return "accept" if expect["default"].startswith(("accept", "target")) else "reject"


async def _check_orders(room: Room, case: dict[str, Any], orders: tuple[Order, ...]) -> None:
    expect = case["expect"]
    state = {symbol: Decimal(value) for symbol, value in case.get("state", {}).items()}
    final = expect.get("final_state_after_both")
    if final is not None and "sequence_after" in case:
        wanted = {symbol: Decimal(value) for symbol, value in final.items() if Decimal(value)}
        assert await room.positions() == wanted
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
        assert await room.positions() == {expect["symbol"]: Decimal(expect["target"]["value"])}


def _check_quantity(expect: dict[str, Any], orders: tuple[Order, ...], state: dict[str, Decimal]) -> None:
    quantity = expect.get("quantity")
    if quantity is None:
        return
    total = sum(order.intent.quantity for order in orders)
    if quantity["mode"] == "base":
        assert total == Decimal(quantity["value"])
    else:
        assert total == abs(state[expect["symbol"]]) * Decimal(quantity["value"]) / 100
