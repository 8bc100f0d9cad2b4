"""A daemon and a paper exchange inside the test's process, with a real database, alerts over HTTP and a clock that tests can move."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
from ulid import ULID

from kekbridge.config import load_settings
from kekbridge.daemon.app import Daemon
from kekbridge.exchange.base import Accepted
from kekbridge.exchange.orderly.client import OrderlyExchange
from kekbridge.model import (
    Limits,
    MarginMode,
    Mode,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Purpose,
    RateLimits,
    Side,
    TradingState,
    WebhookSettings,
)
from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PaperSettings
from kekbridge.store import journal, webhooks
from kekbridge.store import orders as order_rows
from kekbridge.store.settings import ACCOUNT
from kekbridge.webhooks import registry
from tests.fresh_database import put_database
from tests.waiting import until

BTC, ETH, SOL = "PERP_BTC_USDC", "PERP_ETH_USDC", "PERP_SOL_USDC"
_BASES = (
    "BTC",
    "ETH",
    "SOL",
    "BNB",
    "XRP",
    "DOGE",
    "TRX",
    "AVAX",
    "NEAR",
    "LINK",
    "1000PEPE",
    "1000BONK",
    "XAU",
    "TSLA",
)
#: What tests trade. The exchange's other fifty take much of the time that a bridge needs to start; tests with processes have them all.
MARKETS = tuple(f"PERP_{base}_USDC" for base in _BASES)

_SETTINGS: dict[str, Any] = {
    "server.port": 0,
    "admin.port": 0,
    "vault.backend": "key_file",
    "log.level": "error",
    "risk.rate_per_minute": 0,
    "risk.rate_per_hour": 0,
    "risk.rate_per_day": 0,
    # Ten times the published limits: tests send in bursts.
    "exchange.rate_factor": 10,
}
# Short waits: an unknown order is resolved within a second, by the same rules.
_QUICK: dict[str, Any] = {
    "exchange__recv_window_ms": 500,
    "exchange__request_timeout_s": 0.6,
    "queue__clock_tolerance_s": 0.1,
    "queue__backoff_s": 0.2,
    "queue__attempts": 10,
}
_MANY_ALERTS = RateLimits(per_minute=10_000, per_hour=10_000, per_day=10_000)


@dataclass
class Clock:
    """Real time plus an offset that tests change."""

    offset: timedelta = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset

    @classmethod
    def starting_at(cls, moment: datetime) -> Clock:
        return cls(moment - datetime.now(UTC))

    def jump_to(self, moment: datetime) -> None:
        self.offset = moment - datetime.now(UTC)


@dataclass
class Bridge:
    """A running daemon, the paper exchange it trades on, and what tests do with them."""

    daemon: Daemon
    paper_url: str
    session: aiohttp.ClientSession
    clock: Clock
    data_dir: Path
    #: By webhook name; those of an earlier run on the same data directory are included.
    credentials: dict[str, registry.Credentials] = field(default_factory=dict)
    #: Number of messages built so far.
    sent: int = 0

    def add_webhook(self, name: str = "main", **settings: Any) -> registry.Credentials:
        """Create a webhook with high rate limits, any value of an order and, unless `settings` require one, without signature."""
        limits = Limits(max_notional=None)
        chosen = WebhookSettings(**{"require_signature": False, "rates": _MANY_ALERTS, "limits": limits, **settings})
        with self.daemon.database.transaction() as connection:
            _, self.credentials[name] = registry.create(
                connection, self.daemon.sealer, name=name, settings=chosen, mode=Mode.PAPER, now=self.clock()
            )
        return self.credentials[name]

    def message(self, webhook: str = "main", **fields: Any) -> dict[str, Any]:
        """Build an alert as TradingView sends it, with a unique alertId and the present time; a field given as None is left out.

        Without `action` and `steps` it is a market order: buy 0.01 BTC.
        """
        self.sent += 1
        order = {} if {"action", "steps"} & fields.keys() else {"action": "buy", "quantity": "0.01"}
        whole = {
            "apiKey": self.credentials[webhook].api_key,
            "timestamp": self.clock().strftime("%Y-%m-%dT%H:%M:%SZ"),
            "alertId": str(ULID()),
            "symbol": "BTCUSDT.P",
            **order,
            **fields,
        }
        return {name: value for name, value in whole.items() if value is not None}

    async def send(self, webhook: str = "main", **fields: Any) -> tuple[int, dict[str, Any]]:
        """POST one alert; return the response's status and body. `fields`: see `message`."""
        return await self.post(json.dumps(self.message(webhook, **fields)).encode())

    async def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        async with self.session.post(self.daemon.info.webhook_url, data=body, headers=headers or {}) as response:
            return response.status, await response.json()

    async def control(self, path: str, body: Any = None) -> Any:
        """Call one of the paper exchange's control paths: GET without a body, else POST."""
        method = "GET" if body is None else "POST"
        async with self.session.request(method, f"{self.paper_url}/paper/{path}", json=body) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def fault(self, kind: str, **fields: Any) -> None:
        """Arm one fault of the exchange."""
        await self.control("faults", {"fault": kind, **fields})

    async def clear_faults(self) -> None:
        await self.control("faults", {})

    async def positions(self) -> dict[str, Decimal]:
        """Return the open positions at the exchange by symbol."""
        state = await self.control("state")
        return {symbol: Decimal(text) for symbol, text in state["positions"].items() if Decimal(text)}

    async def position(self, symbol: str = BTC) -> Decimal:
        return (await self.positions()).get(symbol, Decimal(0))

    async def set_positions(self, **quantities: str) -> None:
        """Set positions at the exchange, and wait until the bridge sees them and no others: `BTC="0.5"`."""
        wanted = {f"PERP_{base}_USDC": quantity for base, quantity in quantities.items()}
        await self.control("positions", wanted)
        await self.until_positions({name: Decimal(quantity) for name, quantity in wanted.items() if Decimal(quantity)})

    async def isolated_positions(self) -> dict[str, Decimal]:
        """Return the open isolated positions at the exchange by symbol."""
        state = await self.control("state")
        return {symbol: Decimal(text) for symbol, text in state["isolated_positions"].items()}

    async def set_isolated(self, symbol: str, quantity: str, *, leverage: int = 5) -> None:
        """Open an isolated position as by hand in the front end, and wait until the bridge sees it."""
        await self.control("isolated-positions", {symbol: {"quantity": quantity, "leverage": leverage}})

        async def is_seen() -> bool:
            snapshot = await self.daemon.exchange.refresh()
            return snapshot.position_quantity(symbol, MarginMode.ISOLATED) == Decimal(quantity)

        await until(is_seen)

    async def place_elsewhere(self, **fields: Any) -> str:
        """Send an order as the front end does: it is in no store. `fields`: of the intent, a buy of 0.1 BTC at market. Its id there."""
        self.sent += 1
        now = self.clock()
        wanted = {"symbol": BTC, "side": Side.BUY, "order_type": OrderType.MARKET, "quantity": Decimal("0.1"), **fields}
        order = Order(
            client_order_id=f"front-end-{self.sent}",
            alert_id="",
            webhook_id="",
            leg=0,
            sequence=0,
            intent=OrderIntent(purpose=Purpose.ENTRY, reference_price=Decimal(65_000), **wanted),
            status=OrderStatus.SUBMITTING,
            created_at=now,
            expires_at=now + timedelta(seconds=30),
        )
        result = await self.daemon.exchange.submit(order)
        assert isinstance(result, Accepted)
        return result.order_id

    async def until_positions(self, wanted: Mapping[str, Decimal]) -> None:
        """Wait until the bridge sees exactly these positions."""

        async def agrees() -> bool:
            snapshot = await self.daemon.exchange.refresh()
            return {name: each.quantity for name, each in snapshot.positions.items() if each.quantity} == dict(wanted)

        await until(agrees)

    async def until_flat(self, symbol: str) -> None:
        """Wait until the exchange holds no position of this symbol."""

        async def is_flat() -> bool:
            return symbol not in await self.positions()

        await until(is_flat)

    async def journal(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the exchange's own records of one kind of event, oldest first."""
        return [
            row
            for row in await self.control("journal")
            if row["event"] == event and all(row.get(name) == value for name, value in fields.items())
        ]

    async def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the figures of every event of one kind in the bridge's history."""
        return [dict(event.data) for event in await self.daemon.database.read(journal.latest, kinds=[kind])]

    async def heard(self, kind: str) -> dict[str, Any]:
        """Wait until the bridge's history has an event of this kind, which must be the only one; return its figures."""

        async def is_written() -> bool:
            return bool(await self.events(kind))

        await until(is_written)
        (found,) = await self.events(kind)
        return found

    async def orders(self) -> tuple[Order, ...]:
        return await self.daemon.database.read(order_rows.list_orders, limit=1000)

    async def order(self, answer: dict[str, Any]) -> Order:
        """Return the stored order that a response names."""
        return await self.daemon.database.read(order_rows.get, answer["clientOrderId"])

    async def until_stored(self, answer: dict[str, Any], *statuses: str) -> Order:
        """Wait until the order that a response names has one of these statuses."""

        async def has_status() -> bool:
            return (await self.order(answer)).status.value in statuses

        await until(has_status)
        return await self.order(answer)

    async def until_settled(self) -> tuple[Order, ...]:
        """Return all orders as soon as every one is settled."""

        async def all_settled() -> bool:
            return all(order.is_settled for order in await self.orders())

        await until(all_settled)
        return await self.orders()

    async def set_state(self, state: TradingState) -> None:
        """Set the trading state of the account."""
        self.daemon.trading.book.set_state(ACCOUNT, state, reason="test", by="test", now=self.clock())
        await self.daemon.database.flush()

    async def until_ready(self) -> None:
        await until(lambda: self.daemon.readiness().is_ready)

    async def until_synced(self) -> None:
        """Wait until everything that happened before the stream was there has been read, which a bridge that is ready may still do."""
        exchange, tracker = self.daemon.exchange, self.daemon.trading.tracker
        assert isinstance(exchange, OrderlyExchange)
        await until(lambda: exchange._sync._is_stream_synced and not tracker.lacks_executions)

    async def jump_to(self, moment: datetime) -> None:
        """Move the clock, and wait until the bridge has market data of the new time."""
        self.clock.jump_to(moment)
        await self.daemon.exchange.refresh()

        def is_fresh() -> bool:
            snapshot = self.daemon.exchange.snapshot
            return snapshot is not None and all(mark.at >= moment for mark in snapshot.marks.values())

        await until(is_fresh)


@asynccontextmanager
async def running_paper(
    directory: Path, *, clock: Callable[[], datetime] | None = None, rate_limits: bool = False, **settings: Any
) -> AsyncIterator[str]:
    """Run a paper exchange with MARKETS and built-in prices; yields its address. Without `clock` it uses the real time.

    With `rate_limits` a bridge needs `exchange__rate_factor=1`.
    """
    clock = clock or Clock()
    paper = PaperExchange(
        directory,
        settings=PaperSettings(**{"prices": "static", "rate_limits": rate_limits, "instruments": MARKETS, **settings}),
        clock=lambda: int(clock().timestamp() * 1000),
    )
    try:
        yield await paper.start(port=0)
    finally:
        await paper.close()


@asynccontextmanager
async def running_bridge(
    directory: Path,
    paper_url: str | None = None,
    *,
    ready: bool = True,
    clock: Clock | None = None,
    **overrides: Any,
) -> AsyncIterator[Bridge]:
    """Run a daemon without webhooks on `directory`/data, ready to trade unless `ready` is False.

    Without `paper_url` it gets a paper exchange of its own, which shares the movable clock.
    `overrides`: settings by dotted name, with `__` for the dot.
    """
    clock = clock or Clock()
    async with AsyncExitStack() as stack:
        if paper_url is None:
            paper = running_paper(directory / "paper", clock=clock)
            paper_url = await stack.enter_async_context(paper)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        named = {name.replace("__", "."): value for name, value in overrides.items()}
        settings = load_settings(environment={}, overrides={**_SETTINGS, "exchange.base_url": paper_url, **named})
        put_database(directory / "data")
        daemon = await Daemon.build(settings, directory / "data", stack, clock=clock)
        await stack.enter_async_context(daemon.running())
        with daemon.database.snapshot() as connection:
            credentials = {
                webhook.name: registry.credentials_of(connection, daemon.sealer, webhook, now=clock())
                for webhook in webhooks.list_all(connection)
            }
        bridge = Bridge(daemon, paper_url, session, clock, directory / "data", credentials)
        if ready:
            await bridge.until_ready()
        yield bridge


@asynccontextmanager
async def quick_bridge(directory: Path, paper_url: str, **options: Any) -> AsyncIterator[Bridge]:
    """Run a bridge with short waits and the webhook "main", which has no leverage limit. `options`: see `running_bridge`."""
    async with running_bridge(directory, paper_url, **{**_QUICK, **options}) as bridge:
        if not bridge.credentials:
            bridge.add_webhook(limits=Limits(max_leverage=None, max_notional=None))
        yield bridge


def position_fields(action: str, before: str, after: str) -> dict[str, Any]:
    """Return the fields of a strategy's alert about one fill; sizes are signed: `-0.1` is a short."""
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
