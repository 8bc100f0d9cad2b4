"""Random alerts, resends, faults, restarts and trading states against a model that knows what must come of each (M2; I2 to I8).

The daemon runs in this process, the paper exchange beside it is the witness: after every step its positions must be the model's, and
no client order id may have been accepted twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kekbridge import webhooks
from kekbridge.config import load_settings
from kekbridge.daemon import Daemon
from kekbridge.delivery import WEBHOOK_PATH
from kekbridge.model import Mode, RateLimits, TradingState, WebhookSettings
from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PaperSettings
from kekbridge.store import orders as order_rows
from kekbridge.store import settings as stored
from tests.waiting import until

MARKETS = {"BTCUSDT.P": ("PERP_BTC_USDC", Decimal("0.001")), "SOLUSDT.P": ("PERP_SOL_USDC", Decimal("0.2"))}
# Each strikes once, and none of them may change what becomes of an alert.
FAULTS = (
    {"fault": "lose_answer", "path": "/v1/order", "method": "POST"},
    {"fault": "reset_inside", "path": "/v1/order", "method": "POST"},
    {"fault": "html", "path": "/v1/order", "method": "POST", "when": "after"},
    {"fault": "rate_limit", "path": "/v1/order", "method": "POST"},
    {"fault": "partial_fills", "parts": 3},
    {"fault": "duplicate_reports"},
    {"fault": "withhold_reports"},
    {"fault": "stream_drop"},
)
markets = st.sampled_from(sorted(MARKETS))
sizes = st.integers(1, 9)


class Bridge(RuleBasedStateMachine):
    """One life of an account. The model: a position per market, the trading state, and what each alert was."""

    def __init__(self) -> None:
        super().__init__()
        self.positions: dict[str, Decimal] = {}
        self.state = TradingState.RUNNING
        self.alerts: list[tuple[dict[str, Any], int, dict[str, Any]]] = []
        self._directory = tempfile.TemporaryDirectory()
        self._runner = asyncio.Runner()
        self._runner.run(self._open())

    def teardown(self) -> None:
        self._runner.run(self._close())
        self._runner.close()
        self._directory.cleanup()

    # ------------------------------------------------------------------------------------------------------------ rules

    @rule(market=markets, size=sizes, side=st.sampled_from(("buy", "sell")))
    def enter(self, market: str, size: int, side: str) -> None:
        """An entry fills; halted nothing happens; with exits only it makes a position smaller at most (I6)."""
        symbol, unit = MARKETS[market]
        before = self.positions.get(symbol, Decimal(0))
        answer = self._send(action=side, symbol=market, quantity=str(unit * size))
        if self.state is TradingState.RUNNING:
            self._expect(answer, symbol, before + unit * size * (1 if side == "buy" else -1))
        elif self.state is TradingState.EXITS_ONLY:
            after = self._position(symbol)
            assert abs(after) <= abs(before)
            assert after * before >= 0
            self.positions[symbol] = after

    @rule(market=markets)
    def close(self, market: str) -> None:
        """A close ends flat in every state but halted; flat already is no error."""
        symbol, _ = MARKETS[market]
        answer = self._send(action="close", symbol=market)
        if self.state is not TradingState.HALTED:
            self._expect(answer, symbol, Decimal(0))

    @rule(market=markets, times=st.integers(2, 30))
    def close_too_much(self, market: str, times: int) -> None:
        """A close of more than there is never turns the position round."""
        symbol, unit = MARKETS[market]
        held = self.positions.get(symbol, Decimal(0))
        answer = self._send(action="close", symbol=market, quantity=str(unit * times))
        if self.state is not TradingState.HALTED:
            left = max(abs(held) - unit * times, Decimal(0))
            self._expect(answer, symbol, left.copy_sign(held) if left else Decimal(0))

    @precondition(lambda self: self.alerts)
    @rule(data=st.data(), times=st.integers(1, 3))
    def send_again(self, data: st.DataObject, times: int) -> None:
        """A resend gets the first outcome and never makes an order."""
        body, status, first = data.draw(st.sampled_from(self.alerts))
        for _ in range(times):
            again_status, again = self._run(self._post(body))
            assert again.get("clientOrderId") == first.get("clientOrderId")
            assert (again_status < 300) == (status < 300)

    @precondition(lambda self: self.alerts)
    @rule(data=st.data())
    def same_id_other_body(self, data: st.DataObject) -> None:
        """An alertId with another content is a conflict."""
        body, _, _ = data.draw(st.sampled_from(self.alerts))
        status, answer = self._run(self._post({**body, "comment": "another"}))
        assert (status, answer["code"]) == (409, "alert_id_reused")

    @rule(fault=st.sampled_from(FAULTS))
    def fail_once(self, fault: dict[str, Any]) -> None:
        """Something at the exchange goes wrong once."""
        self._run(self._control("faults", {**fault, "count": 1}))

    @rule()
    def restart(self) -> None:
        """The daemon stops and starts."""
        self._run(self._stop())
        self._run(self._start())

    @rule(state=st.sampled_from(tuple(TradingState)))
    def switch(self, state: TradingState) -> None:
        """The trader halts, restricts or resumes."""
        with self._daemon.database.transaction() as connection:
            stored.set_trading_state(connection, state, reason="the test", by="operator", now=datetime.now(UTC))
        self.state = state

    # -------------------------------------------------------------------------------------------------------- invariants

    @invariant()
    def the_exchange_agrees(self) -> None:
        """Positions are the model's, nothing is doubled, and every order has an end."""
        held = {symbol: quantity for symbol, quantity in self.positions.items() if quantity}
        state, journal = self._run(self._look())
        assert {symbol: Decimal(quantity) for symbol, quantity in state["positions"].items()} == held
        accepted = Counter(
            e["client_order_id"] for e in journal if e["event"] == "order_accepted" and e["client_order_id"]
        )
        assert [name for name, count in accepted.items() if count > 1] == []

    # ------------------------------------------------------------------------------------------------------------- inside

    def _expect(self, answer: tuple[int, dict[str, Any]], symbol: str, quantity: Decimal) -> None:
        status, body = answer
        assert status in (200, 202), body
        self.positions[symbol] = quantity

    def _position(self, symbol: str) -> Decimal:
        state, _ = self._run(self._look())
        return Decimal(state["positions"].get(symbol, "0"))

    def _send(self, **fields: Any) -> tuple[int, dict[str, Any]]:
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {"apiKey": self._key, "alertId": f"a{len(self.alerts)}", "timestamp": stamp, **fields}
        status, answer = self._run(self._post(body))
        self._run(self._settle())
        self.alerts.append((body, status, answer))
        if self.state is TradingState.HALTED:
            assert "executedQuantity" not in answer, answer
        return status, answer

    def _run(self, story: Any) -> Any:
        return self._runner.run(story)

    async def _open(self) -> None:
        self._stack = AsyncExitStack()
        root = Path(self._directory.name)
        self._data_dir = root / "data"
        paper = PaperExchange(root / "paper", settings=PaperSettings(prices="static", rate_limits=False))
        self._paper_url = await paper.start(port=0)
        self._stack.push_async_callback(paper.close)
        self._session = await self._stack.enter_async_context(aiohttp.ClientSession())
        await self._start()
        hook = WebhookSettings(require_signature=False, rates=RateLimits(per_minute=9999, per_hour=9999, per_day=9999))
        with self._daemon.database.transaction() as connection:
            _, credentials = webhooks.create(
                connection, self._daemon.sealer, name="model", settings=hook, mode=Mode.PAPER, now=datetime.now(UTC)
            )
        self._key = credentials.api_key

    async def _close(self) -> None:
        await self._stop()
        await self._stack.aclose()

    async def _start(self) -> None:
        self._stopping, started = asyncio.Event(), asyncio.Event()
        self._life = asyncio.create_task(self._live(started))
        await asyncio.wait({self._life, asyncio.create_task(started.wait())}, return_when=asyncio.FIRST_COMPLETED)
        await until(lambda: self._daemon.readiness().is_ready)

    async def _live(self, started: asyncio.Event) -> None:
        """The daemon's life is one task: what it entered there it also leaves there."""
        chosen = load_settings(
            environment={},
            overrides={
                "server.port": 0,
                "exchange.base_url": self._paper_url,
                "exchange.recv_window_ms": 500,
                "exchange.request_timeout_s": 1.0,
                "queue.clock_tolerance_s": 0.2,
                "queue.backoff_s": 0.2,
                "auth.max_timestamp_age_s": 600,
                "risk.max_open_positions": 0,
                "vault.backend": "key_file",
                "log.level": "error",
                "risk.rate_per_minute": 0,
                "risk.rate_per_hour": 0,
                "risk.rate_per_day": 0,
            },
        )
        async with AsyncExitStack() as stack:
            self._daemon = await Daemon.build(chosen, self._data_dir, stack)
            async with self._daemon.running():
                started.set()
                await self._stopping.wait()

    async def _stop(self) -> None:
        self._stopping.set()
        await self._life

    async def _post(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        url = self._daemon.started.url + WEBHOOK_PATH
        async with self._session.post(url, data=json.dumps(body).encode()) as answer:
            return answer.status, await answer.json()

    async def _control(self, path: str, body: Any = None) -> Any:
        method = "GET" if body is None else "POST"
        async with self._session.request(method, f"{self._paper_url}/paper/{path}", json=body) as answer:
            return await answer.json()

    async def _look(self) -> tuple[Any, Any]:
        return await self._control("state"), await self._control("journal")

    async def _settle(self) -> None:
        """Until every order has ended, and the bridge sees what the exchange holds."""

        async def all_ended() -> bool:
            orders = await self._daemon.database.read(order_rows.list_orders, limit=1000)
            return all(order.status.is_final for order in orders)

        await until(all_ended)
        snapshot = await self._daemon.exchange.refresh()
        state = await self._control("state")
        seen = {name: each.quantity for name, each in snapshot.positions.items() if each.quantity}
        assert seen == {name: Decimal(quantity) for name, quantity in state["positions"].items()}


# A release runs more of them: KEKBRIDGE_TEST_SEQUENCES=2000.
SEQUENCES = int(os.environ.get("KEKBRIDGE_TEST_SEQUENCES", "6"))

Bridge.TestCase.settings = settings(
    max_examples=SEQUENCES,
    stateful_step_count=14 if SEQUENCES == 6 else 50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=SEQUENCES == 6,
)
TestBridge = Bridge.TestCase
