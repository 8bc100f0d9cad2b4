"""X1: everything at once. Every kind of alert on several webhooks and markets, prices that fire stops, kills and faults of both sides.

Afterwards all three witnesses of mixed_oracles.py must agree, first as it is, then once more when everything was cancelled and closed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any

from tests.bridge import position_fields
from tests.equality import assert_rebuilt_equal
from tests.system.campaigns.run import SETTINGS, Outcome, Run
from tests.system.fault_proxy import FaultProxy, ProxyFault
from tests.system.forked import ForkedBridge, run_cli
from tests.system.harness import call, catch_up
from tests.system.mixed_oracles import Books, Cap, Outage, all_is_flat, judge, longest_exit_delay_s
from tests.system.oracles import Findings
from tests.waiting import measuring_stalls

#: Pass marks, of time in which the exchange and the daemon answer; a busy machine adds its stalls.
NAKED_S, EXIT_S = 5.0, 2.0
#: Kills of the release size: 60 in 5,000 alerts.
ALERTS_PER_KILL = 83
_AGREE_WITHIN_S = 60.0
_PASS_WITHIN_S = 10.0
_ENVIRONMENT = {
    **SETTINGS,
    "KEKBRIDGE_EXCHANGE_REFRESH_S": "0.5",
    "KEKBRIDGE_QUEUE_BACKOFF_S": "0.2",
    "KEKBRIDGE_QUEUE_CONCURRENCY": "20",
    "KEKBRIDGE_QUEUE_CLOCK_TOLERANCE_S": "0.3",
    "KEKBRIDGE_QUEUE_MAX_AGE_S": "30",
    "KEKBRIDGE_QUEUE_RECONCILE_EVERY_S": "2",
}


@dataclass(frozen=True)
class Market:
    """A market and the order size that the campaign trades there, about 40 USDC."""

    ticker: str
    symbol: str
    size: Decimal
    #: Decimals of a price.
    digits: int


def _market(base: str, size: str, digits: int) -> Market:
    return Market(f"{base}USDT.P", f"PERP_{base}_USDC", Decimal(size), digits)


BTC, ETH, SOL = _market("BTC", "0.001", 1), _market("ETH", "0.02", 2), _market("SOL", "0.3", 3)
XRP, DOGE = _market("XRP", "20", 4), _market("DOGE", "250", 5)
BNB, SUI = _market("BNB", "0.07", 2), _market("SUI", "12", 4)
AVAX, LINK = _market("AVAX", "2", 3), _market("LINK", "3", 3)
NEAR, LTC = _market("NEAR", "16", 4), _market("LTC", "0.5", 2)
MARKETS = (BTC, ETH, SOL, XRP, DOGE, BNB, SUI, AVAX, LINK, NEAR, LTC)


@dataclass(frozen=True)
class Role:
    """A webhook and what it does."""

    name: str
    markets: tuple[Market, ...]
    options: tuple[str, ...] = ()
    #: Share of the alerts.
    weight: int = 1


# `test` and `second` share markets; the others trade theirs alone, so that their limits and stops can be judged from the journal.
ROLES = (
    Role("test", (BTC, ETH, SOL, XRP), weight=8),
    Role("second", (ETH, SOL, DOGE), weight=4),
    Role("target", (AVAX, LINK), ("--follow", "position", "--resync"), weight=2),
    Role("guarded", (BNB, SUI), ("--require-stop-loss",), weight=4),
    Role("sized", (NEAR,), ("--max-position-size", "64"), weight=2),
    Role("losing", (LTC,), ("--max-daily-loss", "15"), weight=2),
)
CAPS = (
    Cap("sized", (NEAR.symbol,), max_position=Decimal(64)),
    Cap("losing", (LTC.symbol,), max_daily_loss=Decimal(15)),
)
GUARDED = frozenset({BNB.symbol, SUI.symbol})
_OPTIONS = (
    *("--no-require-signature", "--rate-per-minute", "100000", "--rate-per-hour", "1000000", "--rate-per-day", "1000000"),
    *("--max-notional", "none", "--max-open-positions", "1000", "--max-leverage", "50", "--min-order-size", "0.00000001"),
    *("--daily-orders", "1000000", "--daily-limit", "1000000000"),  # never reached: their use is compared
)  # fmt: skip


class MixedBridge(ForkedBridge):
    """A bridge with the webhooks of ROLES that reaches the exchange through a proxy with faults."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.proxy = FaultProxy(self.paper_port)
        #: Options of the exchange where Orderly's answer is not known.
        self.options: dict[str, bool] = {}
        self.keys: dict[str, str] = {}

    def start(self) -> None:
        self.environment["KEKBRIDGE_EXCHANGE_BASE_URL"] = self.proxy.start()
        super().start()

    def _create_webhook(self, arguments: list[str]) -> dict[str, Any]:
        for role in ROLES:
            allowed = ",".join(market.ticker.removesuffix("USDT.P") for market in role.markets)
            options = ["--allowed-symbols", allowed, *_OPTIONS, *role.options]
            created = super()._create_webhook(["webhook", "create", role.name, "--json", *options])
            self.keys[role.name] = created["apiKey"]
            if role.name == "test":
                first = created
        return first

    def stop(self) -> None:
        super().stop()
        self.proxy.stop()

    def start_paper(self) -> None:
        """Start the exchange again on its state."""
        self.paper = self._new_paper()
        self.paper.start()
        self.choose(**self.options)

    def choose(self, **options: bool) -> None:
        """Set options of the exchange, also for its next starts."""
        self.options = options
        call(f"{self.paper_url}/paper/options", options)


# ------------------------------------------------------------------------------------------------------------------ alerts


@dataclass
class Trader:
    """Writes the alerts of all webhooks, and moves the prices."""

    run: Run
    keys: dict[str, str]
    marks: dict[str, Decimal] = field(default_factory=dict)
    first_marks: dict[str, Decimal] = field(default_factory=dict)
    targets: dict[str, Decimal] = field(default_factory=dict)
    comments: list[str] = field(default_factory=list)

    @property
    def rng(self) -> random.Random:
        return self.run.rng

    def alert(self, role: Role, **fields: Any) -> dict[str, Any]:
        """An alert of a webhook; fields given as None are left out."""
        whole = self.run.alert(**{"quantity": None, **fields, "apiKey": self.keys[role.name]})
        return {name: value for name, value in whole.items() if value is not None}

    def any_alert(self) -> dict[str, Any]:
        """A random alert of a random webhook."""
        role = self.rng.choices(ROLES, [one.weight for one in ROLES])[0]
        market = self.rng.choice(role.markets)
        match role.name:
            case "target":
                return self._target(role, market, self._size(market) * self.rng.choice((-2, -1, 0, 1, 2)))
            case "guarded":
                return self._one_of(role, market, (self._bracket, 6), (self._close, 3), (self._part, 1))
            case "sized":
                return self._one_of(role, market, (self._entry, 6), (self._limit, 2), (self._close, 2))
            case "losing":
                return self._one_of(role, market, (self._bracket, 3), (self._entry, 2), (self._close, 3))
            case _:
                return self._one_of(role, market, *self._everything)

    def last_entries(self) -> list[dict[str, Any]]:
        """An entry of every webhook in each of its markets, the size of the others."""
        alerts = []
        for role in ROLES:
            for market in role.markets:
                stop = "5%" if role.name == "guarded" else None
                alert = self.alert(role, action="buy", symbol=market.ticker, quantity=str(market.size), stopLoss=stop)
                alerts.append(self._target(role, market, market.size * 3) if role.name == "target" else alert)
        return alerts

    def closing_alerts(self) -> list[dict[str, Any]]:
        """What ends everything: a cancel and a close of all markets by every webhook."""
        others = [role for role in ROLES if role.name != "target"]
        alerts = [self.alert(role, action="cancel_all", symbol=None) for role in others]
        for role in ROLES:
            for market in role.markets:
                if role.name == "target":
                    alerts.append(self._target(role, market, Decimal(0)))
                alerts.append(self.alert(role, action="close", symbol=market.ticker, orderType="market"))
        return alerts

    def _one_of(
        self, role: Role, market: Market, *choices: tuple[Callable[[Role, Market], dict[str, Any]], int]
    ) -> dict[str, Any]:
        write = self.rng.choices([choice for choice, _ in choices], [weight for _, weight in choices])[0]
        return write(role, market)

    @property
    def _everything(self) -> tuple[tuple[Callable[[Role, Market], dict[str, Any]], int], ...]:
        return (
            (self._entry, 16), (self._limit, 10), (self._waiting_stop, 4), (self._bracket, 10), (self._limit_bracket, 4),
            (self._ladder, 5), (self._trailing, 6), (self._close, 10), (self._part, 4), (self._close_side, 4),
            (self._flip, 6), (self._add, 3), (self._cancel, 5), (self._all, 2), (self._reduce, 5), (self._value, 4),
            (self._leverage, 2), (self._steps, 3), (self._ping, 1),
        )  # fmt: skip

    def _size(self, market: Market) -> Decimal:
        return market.size * self.rng.randint(1, 4)

    def _side(self) -> str:
        return self.rng.choice(("buy", "sell"))

    def _price(self, market: Market, away: float) -> str:
        """A price `away` (a fraction) from the mark, in the market's ticks."""
        exact = self.marks[market.symbol] * (1 + Decimal(repr(away)))
        return str(exact.quantize(Decimal(1).scaleb(-market.digits), ROUND_DOWN))

    def _percent(self, low: float, high: float) -> str:
        return f"{self.rng.uniform(low, high):.2f}%"

    def _entry(self, role: Role, market: Market) -> dict[str, Any]:
        kind = self.rng.choice(("market", "market", "market", "ioc", "fok"))
        side = self._side()
        price = self._price(market, 0.01 if side == "buy" else -0.01) if kind != "market" else None
        return self.alert(
            role, action=side, symbol=market.ticker, quantity=str(self._size(market)), orderType=kind, limitPrice=price
        )

    def _limit(self, role: Role, market: Market, **fields: Any) -> dict[str, Any]:
        side = self._side()
        away = self.rng.uniform(-0.004, 0.015) * (-1 if side == "buy" else 1)  # mostly resting, some cross at once
        comment = f"c{self.run.number}" if self.rng.random() < 0.5 else None
        if comment:
            self.comments.append(comment)
        kind = self.rng.choice(("limit", "limit", "post_only"))
        return self.alert(
            role, action=side, symbol=market.ticker, quantity=str(self._size(market)), orderType=kind,
            limitPrice=self._price(market, away), comment=comment, **fields,
        )  # fmt: skip

    def _waiting_stop(self, role: Role, market: Market) -> dict[str, Any]:
        side = self._side()
        away = self.rng.uniform(0.003, 0.02) * (1 if side == "buy" else -1)
        is_limit = self.rng.random() < 0.5
        return self.alert(
            role, action=side, symbol=market.ticker, quantity=str(self._size(market)),
            orderType="stop_limit" if is_limit else "stop", triggerPrice=self._price(market, away),
            limitPrice=self._price(market, away * 1.2) if is_limit else None,
        )  # fmt: skip

    def _bracket(self, role: Role, market: Market) -> dict[str, Any]:
        target = self._percent(0.8, 4) if self.rng.random() < 0.7 else None
        return self.alert(
            role, action=self._side(), symbol=market.ticker, quantity=str(self._size(market)),
            stopLoss=self._percent(0.8, 4), takeProfit=target,
        )  # fmt: skip

    def _limit_bracket(self, role: Role, market: Market) -> dict[str, Any]:
        return self._limit(role, market, stopLoss=self._percent(2, 5))

    def _ladder(self, role: Role, market: Market) -> dict[str, Any]:
        levels = [{"percent": 1, "share": 40}, {"percent": 2, "share": 30}, {"percent": 3, "share": 30}]
        return self.alert(
            role, action=self._side(), symbol=market.ticker, quantity=str(market.size * 4),
            stopLoss=self._percent(1, 4), takeProfit=levels[: self.rng.randint(2, 3)],
        )  # fmt: skip

    def _trailing(self, role: Role, market: Market) -> dict[str, Any]:
        stop = self._percent(3, 6) if self.rng.random() < 0.4 else None
        return self.alert(
            role, action=self._side(), symbol=market.ticker, quantity=str(self._size(market)),
            trailingStop=self._percent(0.8, 3), stopLoss=stop,
        )  # fmt: skip

    def _close(self, role: Role, market: Market) -> dict[str, Any]:
        return self.alert(role, action="close", symbol=market.ticker)

    def _part(self, role: Role, market: Market) -> dict[str, Any]:
        quantity = self.rng.choice(("25%", "50%", str(market.size)))
        return self.alert(role, action="close", symbol=market.ticker, quantity=quantity)

    def _close_side(self, role: Role, market: Market) -> dict[str, Any]:
        return self.alert(role, action=self.rng.choice(("close_long", "close_short")), symbol=market.ticker)

    def _flip(self, role: Role, market: Market) -> dict[str, Any]:
        quantity = str(self._size(market)) if self.rng.random() < 0.5 else None
        return self.alert(role, action="flip", symbol=market.ticker, quantity=quantity)

    def _add(self, role: Role, market: Market) -> dict[str, Any]:
        return self.alert(role, action="add", symbol=market.ticker, quantity=str(market.size))

    def _cancel(self, role: Role, market: Market) -> dict[str, Any]:
        comment = self.rng.choice(self.comments) if self.comments and self.rng.random() < 0.5 else None
        return self.alert(role, action="cancel", symbol=market.ticker, comment=comment)

    def _all(self, role: Role, market: Market) -> dict[str, Any]:
        action = self.rng.choice(("cancel_all", "close_all"))
        return self.alert(role, action=action, symbol=market.ticker if self.rng.random() < 0.7 else None)

    def _reduce(self, role: Role, market: Market) -> dict[str, Any]:
        is_limit = self.rng.random() < 0.5
        return self.alert(
            role, action=self._side(), symbol=market.ticker, quantity=str(market.size), reduceOnly=True,
            orderType="limit" if is_limit else "market", limitPrice=self._price(market, 0.004) if is_limit else None,
        )  # fmt: skip

    def _value(self, role: Role, market: Market) -> dict[str, Any]:
        kind, quantity = self.rng.choice((("usd", "60"), ("percent_equity", "0.08"), ("percent_position", "50")))
        return self.alert(role, action=self._side(), symbol=market.ticker, quantity=quantity, quantityType=kind)

    def _leverage(self, role: Role, market: Market) -> dict[str, Any]:
        return self.alert(
            role,
            action=self._side(),
            symbol=market.ticker,
            quantity=str(market.size),
            leverage=self.rng.choice((5, 10)),
        )

    def _steps(self, role: Role, market: Market) -> dict[str, Any]:
        steps = [{"action": "close"}, {"action": self._side(), "quantity": str(self._size(market))}]
        return self.alert(role, action=None, symbol=market.ticker, steps=steps)

    def _ping(self, role: Role, market: Market) -> dict[str, Any]:
        return self.alert(role, action="ping", symbol=market.ticker)

    def _target(self, role: Role, market: Market, target: Decimal) -> dict[str, Any]:
        before = self.targets.get(market.symbol, Decimal(0))
        self.targets[market.symbol] = target
        action = "buy" if target >= before else "sell"
        return self.alert(role, symbol=market.ticker, **position_fields(action, str(before), str(target)))

    # ------------------------------------------------------------------------------------------------------------- prices

    def read_marks(self) -> None:
        """Learn the start prices."""
        found = call(f"{self.run.bridge.paper_url}/paper/state")["marks"]
        self.marks = {market.symbol: Decimal(found[market.symbol]) for market in MARKETS}
        self.first_marks = dict(self.marks)

    async def move_prices(self) -> None:
        """Move one or two prices every so often, for ever: small steps, now and then a jump, always near the start price."""
        while True:
            await asyncio.sleep(self.rng.uniform(0.02, 0.15))
            for market in self.rng.sample(MARKETS, self.rng.randint(1, 2)):
                first = self.first_marks[market.symbol]
                away = float(self.marks[market.symbol] / first) - 1
                step = self.rng.gauss(0, 0.004) - away * 0.1
                if self.rng.random() < 0.08:
                    step += self.rng.choice((-1, 1)) * self.rng.uniform(0.01, 0.03)
                self.marks[market.symbol] = Decimal(self._price(market, step))
                with suppress(OSError, ValueError):  # the exchange is down or stopped
                    await asyncio.to_thread(self._set_price, market)

    def _set_price(self, market: Market) -> None:
        prices = {market.symbol: str(self.marks[market.symbol])}
        call(f"{self.run.bridge.paper_url}/paper/prices", prices, timeout=1)


# ----------------------------------------------------------------------------------------------------------- kills, faults


@dataclass
class Nemesis:
    """Kills and stops processes, arms faults, and notes when the exchange or the daemon could not answer."""

    run: Run
    bridge: MixedBridge
    outages: list[Outage] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)

    @property
    def rng(self) -> random.Random:
        return self.run.rng

    async def kill(self) -> None:
        """Kill, end or stop the daemon or the exchange, and bring it back."""
        actions: dict[str, tuple[Callable[[], Awaitable[None]], int]] = {
            "daemon killed": (self._kill_daemon, 9),
            "daemon terminated": (self._terminate_daemon, 2),
            "daemon stopped": (self._stop_daemon, 3),
            "exchange killed": (self._kill_paper, 3),
            "exchange terminated": (self._terminate_paper, 1),
            "exchange stopped": (self._stop_paper, 3),
        }
        what = self.rng.choices(list(actions), [weight for _, weight in actions.values()])[0]
        await self._outage(what, actions[what][0])

    async def _outage(self, what: str, action: Callable[[], Awaitable[None]]) -> None:
        """Do it, and note the time until the bridge is ready again."""
        self.done[what] += 1
        start = _now_ms()
        await action()
        await self.run.until(self.bridge.is_ready)
        self.outages.append(Outage(start, _now_ms(), what))

    async def _kill_daemon(self) -> None:
        await asyncio.to_thread(self.bridge.daemon.kill)
        await asyncio.to_thread(self.run.restart)

    async def _terminate_daemon(self) -> None:
        await asyncio.to_thread(self.bridge.daemon.terminate)
        await asyncio.to_thread(self.run.restart)

    async def _stop_daemon(self) -> None:
        await self._stop(self.bridge.daemon.pid)

    async def _kill_paper(self) -> None:
        await asyncio.to_thread(self.bridge.paper.kill)
        await asyncio.sleep(self.rng.uniform(0, 1))
        await asyncio.to_thread(self.bridge.start_paper)

    async def _terminate_paper(self) -> None:
        await asyncio.to_thread(self.bridge.paper.terminate)
        await asyncio.to_thread(self.bridge.start_paper)

    async def _stop_paper(self) -> None:
        await self._stop(self.bridge.paper.pid)

    async def _stop(self, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(self.rng.uniform(0.2, 2))
        finally:
            os.kill(pid, signal.SIGCONT)

    async def fault(self) -> None:
        """Arm one or two faults of the exchange, its network or its stream for a moment."""
        choices: dict[str, tuple[Callable[[], Awaitable[None]], int]] = {
            "orders cut": (self._cut_orders, 5),
            "blind reads": (self._blind_reads, 3),
            "stale reads": (self._stale_reads, 2),
            "deaf": (self._deaf, 2),
            "half-open": (self._half_open, 3),
            "slow": (self._slow, 3),
            "stream": (self._stream, 5),
            "maintenance": (self._maintenance, 1),
            "rate limit": (self._rate_limit, 2),
        }
        what = self.rng.choices(list(choices), [weight for _, weight in choices.values()])[0]
        await self._outage(what, choices[what][0])

    async def harmless(self) -> None:
        """Arm faults under which the exchange goes on answering: lost stops, partial fills, reports lost, doubled and out of order."""
        kind = self.rng.choice(("lose_stop", "partial_fills", "read_lag", "reports", "refuse"))
        self.done[kind] += 1
        faults: dict[str, list[dict[str, Any]]] = {
            "lose_stop": [{"fault": "lose_stop", "count": 2}],
            "partial_fills": [{"fault": "partial_fills", "parts": 3, "count": 5}],
            "read_lag": [{"fault": "read_lag", "delay_ms": 250}],
            "reports": [
                {"fault": name, "probability": 0.3, "seed": self.rng.randint(1, 10**6)}
                for name in ("duplicate_reports", "reorder_reports", "withhold_reports")
            ],
            "refuse": [{"fault": "refuse", "algo_type": "STOP", "code": -1101, "message": "margin", "count": 1}],
        }
        with suppress(OSError, ValueError):
            await asyncio.to_thread(self.run.faults, *faults[kind])
        await asyncio.sleep(self.rng.uniform(0.3, 1.5))
        with suppress(OSError, ValueError):
            await asyncio.to_thread(self.run.faults)

    async def _with(self, *faults: ProxyFault, longest_s: float) -> None:
        self.bridge.proxy.arm(*faults)
        try:
            await asyncio.sleep(self.rng.uniform(0.1, longest_s))
        finally:
            self.bridge.proxy.clear()

    async def _cut_orders(self) -> None:
        kind = self.rng.choice(("cut_request", "cut_before", "cut_after", "cut_inside", "html", "swallow"))
        when, seed = self.rng.choice(("before", "after")), self.rng.randint(1, 10**6)
        method = self.rng.choice(("POST", "DELETE", None))
        await self._with(
            ProxyFault(kind=kind, method=method, path="/v1/", when=when, probability=0.6, seed=seed), longest_s=1.5
        )

    async def _blind_reads(self) -> None:
        kind = self.rng.choice(("html", "answer", "cut_after"))
        await self._with(ProxyFault(kind=kind, method="GET", path="/v1/", status=503), longest_s=2.5)

    async def _stale_reads(self) -> None:
        await self._with(ProxyFault(kind="stale", path="/v1/"), longest_s=0.25)  # below the clock tolerance

    async def _deaf(self) -> None:
        await self._with(ProxyFault(kind="deaf"), longest_s=1.5)

    async def _half_open(self) -> None:
        seconds, only_streams = self.rng.uniform(0.3, 2), self.rng.random() < 0.5
        await asyncio.to_thread(lambda: self.bridge.proxy.half_open(only_streams=only_streams, seconds=seconds))
        await asyncio.sleep(seconds)

    async def _slow(self) -> None:
        when = self.rng.choice(("before", "after"))
        await self._with(
            ProxyFault(kind="delay", path="/v1/", when=when, delay_s=self.rng.uniform(0.05, 0.9), probability=0.5),
            longest_s=1.5,
        )

    async def _stream(self) -> None:
        kinds = ("drop_message", "duplicate_message", "reorder_message", "delay_message", "cut_stream")
        faults = [
            ProxyFault(kind=kind, probability=0.15, delay_s=0.2, seed=self.rng.randint(1, 10**6)) for kind in kinds
        ]
        await self._with(*faults, longest_s=2)

    async def _maintenance(self) -> None:
        with suppress(OSError, ValueError):
            await asyncio.to_thread(self.run.faults, {"fault": "maintenance"})
        await asyncio.sleep(self.rng.uniform(0.3, 1.5))
        with suppress(OSError, ValueError):
            await asyncio.to_thread(self.run.faults)

    async def _rate_limit(self) -> None:
        await self._with(
            ProxyFault(
                kind="answer", method="POST", path="/v1/", status=429, headers={"Retry-After": "1"},
                body=b'{"success":false,"code":-1003,"message":"too many"}', count=3,
            ),
            longest_s=0.5,
        )  # fmt: skip

    async def calm(self) -> None:
        """End every fault."""
        self.bridge.proxy.clear()
        await asyncio.to_thread(self.run.faults)


# ---------------------------------------------------------------------------------------------------------------- campaign


async def mixed(seed: int, alerts: int, *, kills: int | None = None) -> Outcome:
    """X1: `alerts` alerts with `kills` (default: one for ALERTS_PER_KILL) kills, ends and stops of daemon and exchange."""
    wanted_kills = max(2, alerts // ALERTS_PER_KILL) if kills is None else kills
    with tempfile.TemporaryDirectory(prefix="kekbridge-campaign-") as name:
        bridge = MixedBridge(Path(name), environment=dict(_ENVIRONMENT), paper_arguments=("--no-rate-limits",))
        try:
            run = Run(bridge, random.Random(seed))
            run.starts_ms.append(_now_ms())
            await asyncio.to_thread(bridge.start)
            await run.until(bridge.is_ready)
            trader, nemesis = Trader(run, bridge.keys), Nemesis(run, bridge)
            trader.read_marks()
            chosen = {name: run.rng.random() < 0.5 for name in ("reduce_only_needs_position", "bracket_exits_count")}
            await asyncio.to_thread(lambda: bridge.choose(**chosen))
            async with measuring_stalls(bridge.processes) as stalled_s:
                await _trade(trader, nemesis, alerts, wanted_kills)
                outcome = await _end(trader, nemesis, seed, stalled_s)
            await asyncio.to_thread(bridge.daemon.kill)
            await asyncio.to_thread(assert_rebuilt_equal, bridge.data_dir)
            return outcome
        finally:
            await asyncio.to_thread(bridge.stop)


async def _trade(trader: Trader, nemesis: Nemesis, alerts: int, kills: int) -> None:
    """Send the alerts in batches while prices move; between two kills, faults."""
    rng, run = trader.rng, trader.run
    prices = asyncio.create_task(trader.move_prices())
    sending: set[asyncio.Task[Any]] = set()
    per_kill = max(alerts // max(kills, 1), 1)
    sent, killed = 0, 0
    try:
        while sent < alerts:
            batch = min(rng.randint(4, 16), alerts - sent)
            sending |= {asyncio.create_task(_send_soon(trader)) for _ in range(batch)}
            sent += batch
            if killed < kills and sent >= min((killed + 1) * per_kill, alerts):
                killed += 1
                await nemesis.kill()
            elif (event := rng.random()) < 0.35:
                await nemesis.fault()
            elif event < 0.65:
                await nemesis.harmless()
            else:
                await asyncio.sleep(rng.uniform(0.1, 1))
            sending -= {task for task in sending if task.done()}
        while killed < kills:
            killed += 1
            await nemesis.kill()
        await asyncio.gather(*sending)
    finally:
        prices.cancel()
    await nemesis.calm()
    await run.until(run.bridge.is_ready)


async def _send_soon(trader: Trader) -> None:
    await asyncio.sleep(trader.rng.uniform(0, 0.4))
    await trader.run.send(trader.any_alert())


async def _end(trader: Trader, nemesis: Nemesis, seed: int, stalled_s: Callable[[], float]) -> Outcome:
    """Judge what is there, close everything, and judge that."""
    books, findings = await _agreement(trader, nemesis, judge)
    exit_s, slowest = longest_exit_delay_s(books)
    naked_s = findings.longest_naked_s or 0.0
    if naked_s > NAKED_S + stalled_s():
        findings.breaches += 1
        findings.failures.append(f"naked for {naked_s:.2f} s while the exchange answered")
    if exit_s > EXIT_S + stalled_s():
        findings.breaches += 1
        findings.failures.append(f"exit {slowest} arrived {exit_s:.2f} s after its alert while the exchange answered")
    findings.failures += await _entries_pass(trader)
    await _close_everything(trader)
    _, at_end = await _agreement(trader, nemesis, lambda last: _with_flat(judge(last), last))
    findings.failures += [
        f"after closing: {failure}" for failure in at_end.failures if failure not in findings.failures
    ]
    findings.failures += [f"proxy: {error}" for error in nemesis.bridge.proxy.errors]
    statuses = Counter(alert["status"] for alert in books.alerts)
    notes = [
        f"{sum(nemesis.done.values())} faults and kills, longest exit delay {exit_s:.2f} s",
        ", ".join(f"{count} {status}" for status, count in statuses.most_common(6)),
        f"{len(books.fills)} fills",
    ]
    return Outcome("X1 everything at once", len(books.sent), findings, seed, note="; ".join(notes))


def _with_flat(findings: Findings, books: Books) -> Findings:
    findings.failures += all_is_flat(books)
    return findings


async def _entries_pass(trader: Trader) -> list[str]:
    """When all faults are over, an entry of every webhook is sent or denied at once: none is held back by what is past."""
    run = trader.run
    entries = trader.last_entries()
    await asyncio.gather(*(run.send(alert) for alert in entries))
    names = [str(alert["alertId"]) for alert in entries]
    waiting = f"SELECT alert_id FROM alerts WHERE status IN ('queued', 'submitting') AND alert_id IN ({','.join('?' * len(names))})"

    def held() -> list[str]:
        catch_up(run.bridge.data_dir)  # else the tables may lack them
        return [name for (name,) in run.query(waiting, *names)]

    await run.until(lambda: not held(), deadline_s=_PASS_WITHIN_S)
    return [f"held: entry {name} waits though all faults are over" for name in held()]


async def _close_everything(trader: Trader) -> None:
    run = trader.run
    for _ in range(2):  # what the cancels leave to be filled is closed by the second round
        await asyncio.gather(*(run.send(alert) for alert in trader.closing_alerts()))
        await run.settle(deadline_s=5)


async def _agreement(
    trader: Trader, nemesis: Nemesis, judge_books: Callable[[Books], Findings]
) -> tuple[Books, Findings]:
    """Read the witnesses until they agree, for at most _AGREE_WITHIN_S; what they still differ in then is a failure."""
    end = time.monotonic() + _AGREE_WITHIN_S
    while True:
        await asyncio.sleep(1)
        books = await asyncio.to_thread(_read_books, trader.run, nemesis)
        findings = judge_books(books)
        if not findings.failures or time.monotonic() > end:
            return books, findings


def _read_books(run: Run, nemesis: Nemesis) -> Books:
    """Ask the exchange and the command line."""
    commands: Sequence[tuple[str, ...]] = (
        ("logs", "--json", "--limit", "100000"),
        ("orders", "--json", "--limit", "100000"),
        ("positions", "--json"),
        ("export", "fills", "--json"),
        ("stats", "--since", "all", "--json"),
        ("risk", "show", "--json"),
    )
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(lambda command: run_cli(*command, data_dir=run.bridge.data_dir), commands))
    logs = [json.loads(line) for line in texts[0].splitlines()]
    orders, positions, fills, stats, risk = (json.loads(text) for text in texts[1:])
    return Books(
        sent=list(run.sent),
        journal=run.bridge.journal(),
        state=call(f"{run.bridge.paper_url}/paper/state"),
        alerts=[entry for entry in logs if entry["kind"] == "alert"],
        orders=orders,
        positions=positions,
        fills=fills,
        stats=stats,
        risk=risk,
        outages=list(nemesis.outages),
        caps=CAPS,
        guarded=GUARDED,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
