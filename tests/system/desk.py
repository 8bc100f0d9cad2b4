"""A whole bridge in this process with a clock that can be moved: daemon, paper exchange, webhooks made by the test, alerts over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp

from kekbridge.config import load_settings
from kekbridge.daemon.app import Daemon
from kekbridge.model import Mode, Order, RateLimits, Webhook, WebhookSettings
from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PaperSettings
from kekbridge.store import orders as order_rows
from kekbridge.webhooks import registry
from tests.waiting import until

PATIENT = RateLimits(per_minute=1000, per_hour=1000, per_day=1000)


class Clock:
    """The real clock, moved: time goes on by itself and jumps when told."""

    def __init__(self, start: datetime | None = None) -> None:
        self._offset = timedelta(0) if start is None else start - datetime.now(UTC)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self._offset

    def jump_to(self, moment: datetime) -> None:
        self._offset = moment - datetime.now(UTC)


@dataclass
class Desk:
    """What a test does with a running bridge."""

    daemon: Daemon
    paper_url: str
    session: aiohttp.ClientSession
    clock: Clock
    data_dir: Path
    keys: dict[str, registry.Credentials] = field(default_factory=dict)
    made: dict[str, Webhook] = field(default_factory=dict)
    sent: int = 0

    def add_webhook(self, name: str, **settings: Any) -> registry.Credentials:
        """A webhook that needs no signature unless the test says so, and takes many alerts."""
        chosen = WebhookSettings(**{"require_signature": False, "rates": PATIENT, **settings})
        with self.daemon.database.transaction() as connection:
            webhook, credentials = registry.create(
                connection, self.daemon.sealer, name=name, settings=chosen, mode=Mode.PAPER, now=self.clock()
            )
        self.keys[name], self.made[name] = credentials, webhook
        return credentials

    def message(self, webhook: str = "main", **fields: Any) -> dict[str, Any]:
        """The seed's shape, fired now and never the same twice; a field given as None is left out."""
        self.sent += 1
        stamp = self.clock().strftime("%Y-%m-%dT%H:%M:%SZ")
        whole = {
            "apiKey": self.keys[webhook].api_key,
            "timestamp": stamp,
            "alertId": f"desk-{self.sent}",
            "symbol": "BTCUSDT.P",
        } | fields
        return {name: value for name, value in whole.items() if value is not None}

    async def send(self, webhook: str = "main", **fields: Any) -> tuple[int, dict[str, Any]]:
        return await self.post(json.dumps(self.message(webhook, **fields)).encode())

    async def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        async with self.session.post(self.daemon.info.webhook_url, data=body, headers=headers or {}) as answer:
            return answer.status, await answer.json()

    async def control(self, path: str, body: Any = None) -> Any:
        """A control path of the paper exchange."""
        method = "GET" if body is None else "POST"
        async with self.session.request(method, f"{self.paper_url}/paper/{path}", json=body) as answer:
            return await answer.json()

    async def position(self, symbol: str = "PERP_BTC_USDC") -> Decimal:
        """What the exchange holds."""
        state = await self.control("state")
        return Decimal(state["positions"].get(symbol, "0"))

    async def hold(self, **quantities: str) -> None:
        """Let the account hold this, and the bridge know it: `BTC="0.5"`."""
        wanted = {f"PERP_{base}_USDC": quantity for base, quantity in quantities.items()}
        await self.control("positions", wanted)
        await self.seen({symbol: Decimal(quantity) for symbol, quantity in wanted.items() if Decimal(quantity)})

    async def seen(self, wanted: Mapping[str, Decimal]) -> None:
        """Wait until the bridge sees exactly these positions."""

        async def agrees() -> bool:
            snapshot = await self.daemon.exchange.refresh()
            return {name: each.quantity for name, each in snapshot.positions.items() if each.quantity} == dict(wanted)

        await until(agrees)

    async def orders(self) -> tuple[Order, ...]:
        return await self.daemon.database.read(order_rows.list_orders, limit=1000)

    async def jump_to(self, moment: datetime) -> None:
        """Move the clock, and wait until the bridge has heard the exchange at the new time."""
        self.clock.jump_to(moment)
        await self.daemon.exchange.refresh()

        def is_fresh() -> bool:
            snapshot = self.daemon.exchange.snapshot
            return snapshot is not None and all(mark.at >= moment for mark in snapshot.marks.values())

        await until(is_fresh)

    async def settled(self) -> tuple[Order, ...]:
        """Every order, once all are settled."""

        async def all_settled() -> bool:
            return all(order.is_settled for order in await self.orders())

        await until(all_settled)
        return await self.orders()


@asynccontextmanager
async def open_desk(directory: Path, *, start: datetime | None = None, **overrides: Any) -> AsyncIterator[Desk]:
    """A bridge that is ready to trade; `overrides` are settings by dotted name with `__` for the dot."""
    async with AsyncExitStack() as stack:
        clock = Clock(start)
        paper = PaperExchange(
            directory / "paper",
            settings=PaperSettings(prices="static", rate_limits=False),
            clock=lambda: int(clock().timestamp() * 1000),
        )
        paper_url = await paper.start(port=0)
        stack.push_async_callback(paper.close)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        given = {name.replace("__", "."): value for name, value in overrides.items()}
        settings = load_settings(
            environment={},
            overrides={
                "server.port": 0,
                "exchange.base_url": paper_url,
                "vault.backend": "key_file",
                "log.level": "error",
                "risk.rate_per_minute": 0,
                "risk.rate_per_hour": 0,
                "risk.rate_per_day": 0,
                **given,
            },
        )
        daemon = await Daemon.build(settings, directory / "data", stack, clock=clock)
        await stack.enter_async_context(daemon.running())
        desk = Desk(daemon, paper_url, session, clock, directory / "data")
        await until(lambda: daemon.readiness().is_ready)
        yield desk


def fill(action: str, before: str, after: str) -> dict[str, Any]:
    """What a strategy says of one fill; sizes signed: `-0.1` is a short."""
    change = abs(Decimal(after) - Decimal(before))

    def side(size: str) -> str:
        return "flat" if Decimal(size) == 0 else "long" if Decimal(size) > 0 else "short"

    return {
        "action": action,
        "quantity": str(change),
        "marketPosition": side(after),
        "marketPositionSize": str(abs(Decimal(after))),
        "prevMarketPosition": side(before),
        "prevMarketPositionSize": str(abs(Decimal(before))),
    }
