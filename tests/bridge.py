"""A whole daemon in this process, with a real database and a real paper exchange: what the core's own tests talk to."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
from ulid import ULID

from kekbridge.config import Settings, load_settings
from kekbridge.daemon.app import Daemon
from kekbridge.model import Limits, Order, RateLimits, TradingState, WebhookSettings
from kekbridge.model.webhooks import WEBHOOK_PATH
from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PaperSettings
from kekbridge.store import orders as order_rows
from kekbridge.store import settings as store_settings
from kekbridge.store import webhooks
from tests.waiting import until

KEY = "wh_test_house"
BTC, ETH, SOL = "PERP_BTC_USDC", "PERP_ETH_USDC", "PERP_SOL_USDC"

# Short, so that an unknown order is decided within a second; the rules are the same.
QUICK = {
    "server.port": 0,
    "vault.backend": "key_file",
    "log.level": "error",
    "exchange.recv_window_ms": 500,
    "exchange.request_timeout_s": 0.6,
    "queue.clock_tolerance_s": 0.1,
    "queue.backoff_s": 0.2,
    "queue.attempts": 10,
    "risk.rate_per_minute": 0,
    "risk.rate_per_hour": 0,
    "risk.rate_per_day": 0,
}


@dataclass
class Clock:
    """Real time that can be moved."""

    offset: timedelta = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset


@dataclass
class House:
    """A daemon, its paper exchange and one webhook without signature."""

    daemon: Daemon
    paper_url: str
    session: aiohttp.ClientSession
    clock: Clock
    _numbers: Any = field(default_factory=itertools.count)

    async def send(self, **fields: Any) -> tuple[int, dict[str, Any]]:
        """POST one alert; `timestamp` and `alertId` are given unless named."""
        alert = {
            "apiKey": KEY,
            "alertId": f"alert-{next(self._numbers)}",
            "action": "buy",
            "symbol": "BTCUSDT.P",
            "quantity": "0.01",
            "timestamp": self.clock().isoformat(),
            **fields,
        }
        async with self.session.post(self.daemon.info.url + WEBHOOK_PATH, json=alert) as answer:
            return answer.status, await answer.json()

    async def control(self, path: str, body: Any = None) -> Any:
        """Call one of the paper exchange's control paths."""
        method = "GET" if body is None else "POST"
        async with self.session.request(method, f"{self.paper_url}/paper/{path}", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def fault(self, kind: str, **fields: Any) -> None:
        """Arm one fault of the exchange."""
        await self.control("faults", {"fault": kind, **fields})

    async def clear_faults(self) -> None:
        await self.control("faults", {})

    async def positions(self) -> dict[str, Decimal]:
        """What the exchange itself holds, flat symbols left out."""
        state = await self.control("state")
        return {symbol: Decimal(text) for symbol, text in state["positions"].items() if Decimal(text)}

    async def journal(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """The exchange's own record of one kind of event."""
        return [
            row
            for row in await self.control("journal")
            if row["event"] == event and all(row.get(name) == value for name, value in fields.items())
        ]

    async def orders(self) -> tuple[Order, ...]:
        return await self.daemon.database.read(order_rows.list_orders, limit=1000)

    async def order(self, answer: dict[str, Any]) -> Order:
        """The stored order that an answer names."""
        return await self.daemon.database.read(order_rows.get, answer["clientOrderId"])

    async def until_stored(self, answer: dict[str, Any], *statuses: str) -> Order:
        """Wait until the answered order has one of these statuses."""

        async def has_come() -> bool:
            return (await self.order(answer)).status.value in statuses

        await until(has_come)
        return await self.order(answer)

    async def until_flat(self, symbol: str) -> None:
        async def is_flat() -> bool:
            return symbol not in await self.positions()

        await until(is_flat)

    async def set_state(self, state: TradingState) -> None:
        """What `kekbridge halt` and its sisters do, from another connection."""
        with self.daemon.database.transaction() as connection:
            store_settings.set_trading_state(connection, state, reason="test", by="test", now=self.clock())

    async def until_ready(self) -> None:
        await until(lambda: self.daemon.readiness().is_ready)


def quick_settings(paper_url: str, **overrides: Any) -> Settings:
    """Settings with short waits; overrides by dotted name with __ for the dot."""
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_settings(environment={}, overrides={**QUICK, "exchange.base_url": paper_url, **named})


def add_webhook(daemon: Daemon, limits: Limits | None = None) -> None:
    """The one webhook of the house; nothing when it is there already."""
    now = datetime.now(UTC)
    settings = WebhookSettings(
        require_signature=False,
        rates=RateLimits(per_minute=10_000, per_hour=10_000, per_day=10_000),
        limits=limits or Limits(max_leverage=None),
    )
    with daemon.database.transaction() as connection:
        if webhooks.list_all(connection):
            return
        webhook = webhooks.create(connection, webhook_id=str(ULID()), name="house", settings=settings, now=now)
        webhooks.add_key(
            connection,
            key_id=str(ULID()),
            webhook_id=webhook.id,
            lookup=daemon.sealer.lookup(KEY),
            prefix=KEY[:8],
            sealed_key=daemon.sealer.seal(KEY.encode()),
            sealed_secret=daemon.sealer.seal(b"whs_unused"),
            now=now,
        )


@asynccontextmanager
async def running_paper(directory: Path, **settings: Any) -> AsyncIterator[str]:
    """A paper exchange with built-in prices; gives its address."""
    paper = PaperExchange(directory, settings=PaperSettings(prices="static", **settings))
    try:
        yield await paper.start(port=0)
    finally:
        await paper.close()


@asynccontextmanager
async def running_house(
    directory: Path, paper_url: str, *, ready: bool = True, **overrides: Any
) -> AsyncIterator[House]:
    """A daemon on `directory`, ready to trade unless told otherwise."""
    clock = Clock()
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        daemon = await Daemon.build(quick_settings(paper_url, **overrides), directory, stack, clock=clock)
        add_webhook(daemon)
        await stack.enter_async_context(daemon.running())
        house = House(daemon, paper_url, session, clock)
        if ready:
            await house.until_ready()
        yield house
