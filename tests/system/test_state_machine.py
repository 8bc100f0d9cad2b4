"""Random alerts, resends, faults, stops, kills and trading states against a model that predicts the result (M2; I2 to I8).

Daemon and paper exchange are processes. After every step the exchange's positions must equal the model's, and no client order id may have
been accepted twice. Unknown entries are sent again once it is proven that they never arrived (`queue.resend_unknown_entries`), so that
the model can predict the result of a kill in the middle of an alert.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kekbridge.cli.context import CliContext
from kekbridge.cli.control import run_operation
from kekbridge.config import Settings
from kekbridge.model import TradingState
from kekbridge.ops.trading_operations import ExitsOnly, Halt, Resume
from tests.system.campaigns.run import SETTINGS
from tests.system.forked import ForkedBridge
from tests.system.harness import WEBHOOK_PATH, call, catch_up, timestamp, wait_until
from tests.waiting import DEADLINE_S

_ENVIRONMENT = {
    **SETTINGS,
    "KEKBRIDGE_QUEUE_BACKOFF_S": "0.2",
    "KEKBRIDGE_QUEUE_ATTEMPTS": "10",
    "KEKBRIDGE_QUEUE_RESEND_UNKNOWN_ENTRIES": "true",
    "KEKBRIDGE_EXCHANGE_REFRESH_S": "0.3",
}
MARKETS = {"BTCUSDT.P": ("PERP_BTC_USDC", Decimal("0.001")), "SOLUSDT.P": ("PERP_SOL_USDC", Decimal("0.2"))}
SWITCHES = {TradingState.RUNNING: Resume, TradingState.EXITS_ONLY: ExitsOnly, TradingState.HALTED: Halt}
# Each occurs once, and none of them may change the result of an alert.
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


class BridgeStateMachine(RuleBasedStateMachine):
    """An account on one bridge. Model: a position per market, the trading state, and every alert that was taken, with its response."""

    def __init__(self) -> None:
        super().__init__()
        self.positions: dict[str, Decimal] = {}
        self.state = TradingState.RUNNING
        self.sent = 0
        self.alerts: list[tuple[dict[str, Any], int, dict[str, Any]]] = []
        self._directory = tempfile.TemporaryDirectory(prefix="kekbridge-machine-")
        self.bridge = ForkedBridge(Path(self._directory.name), environment=_ENVIRONMENT)
        self.bridge.start()
        call(f"{self.bridge.paper_url}/paper/limits", {"enabled": False})
        self.bridge.wait_ready()

    def teardown(self) -> None:
        self.bridge.stop()
        self._directory.cleanup()

    # ------------------------------------------------------------------------------------------------------------ rules

    @rule(market=markets, size=sizes, side=st.sampled_from(("buy", "sell")))
    def enter(self, market: str, size: int, side: str) -> None:
        """An entry fills; in HALTED it does nothing; in EXITS_ONLY it can only reduce the position (I6)."""
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
        """A close ends flat in every state except HALTED; closing a flat position is no error."""
        symbol, _ = MARKETS[market]
        answer = self._send(action="close", symbol=market)
        if self.state is not TradingState.HALTED:
            self._expect(answer, symbol, Decimal(0))

    @rule(market=markets, times=st.integers(2, 30))
    def close_too_much(self, market: str, times: int) -> None:
        """A close larger than the position never reverses it."""
        symbol, unit = MARKETS[market]
        held = self.positions.get(symbol, Decimal(0))
        answer = self._send(action="close", symbol=market, quantity=str(unit * times))
        if self.state is not TradingState.HALTED:
            left = max(abs(held) - unit * times, Decimal(0))
            self._expect(answer, symbol, left.copy_sign(held) if left else Decimal(0))

    @precondition(lambda self: self.alerts)
    @rule(data=st.data(), times=st.integers(1, 3))
    def send_again(self, data: st.DataObject, times: int) -> None:
        """A resend gets the first outcome and never places an order."""
        body, status, first = data.draw(st.sampled_from(self.alerts))
        for _ in range(times):
            again_status, again = self._post(body)
            assert again.get("clientOrderId") == first.get("clientOrderId")
            assert (again_status < 300) == (status < 300)

    @precondition(lambda self: self.alerts)
    @rule(data=st.data())
    def same_id_other_body(self, data: st.DataObject) -> None:
        """A reused alertId with another body is a conflict."""
        body, _, _ = data.draw(st.sampled_from(self.alerts))
        status, answer = self._post({**body, "comment": "another"})
        assert (status, answer["code"]) == (409, "alert_id_reused")

    @rule(fault=st.sampled_from(FAULTS))
    def fail_once(self, fault: dict[str, Any]) -> None:
        """Arm one fault at the exchange for its next occurrence."""
        call(f"{self.bridge.paper_url}/paper/faults", {**fault, "count": 1})

    @rule()
    def restart(self) -> None:
        """Stop the daemon with SIGTERM and start it again."""
        assert self.bridge.daemon.terminate() == 0
        self._start()

    @rule()
    def kill(self) -> None:
        """Kill the daemon while no order is in flight, and start it again."""
        self.bridge.daemon.kill()
        self._start()

    @precondition(lambda self: self.state is TradingState.RUNNING)
    @rule(market=markets, size=sizes, side=st.sampled_from(("buy", "sell")), after_ms=st.integers(0, 40))
    def kill_in_the_middle(self, market: str, size: int, side: str, after_ms: int) -> None:
        """Kill the daemon between request and response; the sender sends again, and there is one order."""
        symbol, unit = MARKETS[market]
        before = self.positions.get(symbol, Decimal(0))
        body = self._body(action=side, symbol=market, quantity=str(unit * size))
        cut = threading.Thread(target=self._post_ignoring_broken_connection, args=(body,))
        cut.start()
        time.sleep(after_ms / 1000)  # chooses the moment of the kill
        self.bridge.daemon.kill()
        cut.join()
        self._start()
        answer = self._deliver(body)
        self._expect(answer, symbol, before + unit * size * (1 if side == "buy" else -1))

    @rule(state=st.sampled_from(tuple(TradingState)))
    def switch(self, state: TradingState) -> None:
        """The trader halts, restricts or resumes."""
        run_operation(CliContext(self.bridge.data_dir, Settings(), None), SWITCHES[state](reason="the test"))
        self.state = state

    # -------------------------------------------------------------------------------------------------------- invariants

    @invariant()
    def the_exchange_agrees(self) -> None:
        """Positions equal the model's, and no client order id was accepted twice."""
        held = {symbol: quantity for symbol, quantity in self.positions.items() if quantity}
        assert self._held() == held
        accepted = Counter(
            e["client_order_id"]
            for e in self.bridge.journal()
            if e["event"] == "order_accepted" and e["client_order_id"]
        )
        assert [name for name, count in accepted.items() if count > 1] == []

    # ------------------------------------------------------------------------------------------------------------- inside

    def _expect(self, answer: tuple[int, dict[str, Any]], symbol: str, quantity: Decimal) -> None:
        status, body = answer
        assert status in (200, 202), body
        self.positions[symbol] = quantity

    def _position(self, symbol: str) -> Decimal:
        return self._held().get(symbol, Decimal(0))

    def _held(self) -> dict[str, Decimal]:
        """Return the open positions at the exchange."""
        positions = call(f"{self.bridge.paper_url}/paper/state")["positions"]
        return {symbol: Decimal(quantity) for symbol, quantity in positions.items() if Decimal(quantity)}

    def _body(self, **fields: Any) -> dict[str, Any]:
        self.sent += 1
        return {"apiKey": self.bridge.webhook["apiKey"], "alertId": f"a{self.sent}", "timestamp": timestamp(), **fields}

    def _send(self, **fields: Any) -> tuple[int, dict[str, Any]]:
        return self._deliver(self._body(**fields))

    def _deliver(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Send an alert and wait for its result."""
        status, answer = self._post(body)
        self._settle()
        if status < 300:  # one that was denied claims no identity: sent again, it is judged again
            self.alerts.append((body, status, answer))
        if self.state is TradingState.HALTED:
            assert "executedQuantity" not in answer, answer
        return status, answer

    def _post(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        request = Request(self.bridge.url + WEBHOOK_PATH, data=json.dumps(body).encode())  # noqa: S310 - loopback http only
        try:
            with urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310 - loopback http only
                return answer.status, json.load(answer)
        except HTTPError as error:
            return error.code, json.load(error)

    def _post_ignoring_broken_connection(self, body: dict[str, Any]) -> None:
        try:
            self._post(body)
        except (OSError, ValueError):
            return  # the kill breaks the connection

    def _start(self) -> None:
        self.bridge.start_daemon()
        self.bridge.wait_ready()
        self._settle()

    @property
    def _database(self) -> Path:
        return self.bridge.data_dir / "kekbridge.db"

    def _settle(self) -> None:
        """Wait until every order has ended and the bridge sees the exchange's positions."""
        wait_until(self._is_settled, what="the end of every order")

    def _is_settled(self) -> bool:
        catch_up(self.bridge.data_dir)
        with closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True, timeout=10)) as connection:
            (open_orders,) = connection.execute("SELECT count(*) FROM orders WHERE finished_at IS NULL").fetchone()
            rows = connection.execute("SELECT symbol, quantity FROM positions").fetchall()
        seen = {symbol: Decimal(quantity) for symbol, quantity in rows if Decimal(quantity)}
        return not open_orders and seen == self._held()


# A release runs more of them: KEKBRIDGE_TEST_SEQUENCES=2000.
SEQUENCES = int(os.environ.get("KEKBRIDGE_TEST_SEQUENCES", "6"))

BridgeStateMachine.TestCase.settings = settings(
    max_examples=SEQUENCES,
    stateful_step_count=14 if SEQUENCES == 6 else 50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=SEQUENCES == 6,
)
TestBridge = BridgeStateMachine.TestCase
