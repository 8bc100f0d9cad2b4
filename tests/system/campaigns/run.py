"""Common parts of the campaigns: a bridge that restarts fast, alerts sent as TradingView sends them, and the checks after the run.

Only settings that would make a run wait are changed: receive window and request timeout, which bound how long an order may stay unknown;
the paper exchange has no rate limits, and the client's own are a hundred times Orderly's.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

from tests.equality import assert_rebuilt_equal
from tests.system.forked import ForkedBridge
from tests.system.harness import BridgeProcess, Sent, TradingView, call, catch_up
from tests.system.oracles import Evidence, Findings, database_file, gather, judge

SETTINGS = {
    "KEKBRIDGE_EXCHANGE_RECV_WINDOW_MS": "500",
    "KEKBRIDGE_EXCHANGE_REQUEST_TIMEOUT_S": "1",
    "KEKBRIDGE_EXCHANGE_RATE_FACTOR": "100",
    "KEKBRIDGE_QUEUE_CLOCK_TOLERANCE_S": "0.2",
    "KEKBRIDGE_QUEUE_MAX_WAITING": "5000",
    "KEKBRIDGE_AUTH_MAX_TIMESTAMP_AGE_S": "600",
    "KEKBRIDGE_RISK_MAX_OPEN_POSITIONS": "0",
    "KEKBRIDGE_LOG_FORMAT": "json",
}
# For a webhook that trades every market; the default limits suit a few large ones.
WIDE = ("--max-open-positions", "1000", "--min-order-size", "0.00000001")
MARKETS = {"BTCUSDT.P": "0.001", "ETHUSDT.P": "0.01", "SOLUSDT.P": "0.2", "BNBUSDT.P": "0.05", "XRPUSDT.P": "20"}
_WAITING = (
    "SELECT count(*) FROM orders WHERE finished_at IS NULL AND (status IN ('queued', 'submitting', 'unknown')"
    " OR (order_type = 'market' AND status IN ('accepted', 'partially_filled')))"
)
SETTLE_S = 90.0


@dataclass
class Outcome:
    """One row of the table."""

    campaign: str
    trials: int
    findings: Findings
    seed: int
    seconds: float = 0.0
    note: str = ""


@dataclass
class Run:
    """One bridge under test, every alert sent to it, and every start of its daemon."""

    bridge: BridgeProcess
    rng: random.Random
    sent: list[Sent] = field(default_factory=list)
    starts_ms: list[int] = field(default_factory=list)
    number: int = 0
    markets: dict[str, str] = field(default_factory=lambda: dict(MARKETS))  # symbol -> order size of `any_alert`

    @property
    def sender(self) -> TradingView:
        """TradingView behind a proxy that answers 502 while the daemon is down."""
        return TradingView(self.bridge.url, behind_proxy=True, pause=self._pause)

    @property
    def direct_sender(self) -> TradingView:
        """TradingView without a proxy."""
        return TradingView(self.bridge.url, pause=self._pause)

    async def _pause(self) -> None:
        """Replace the 5 s between two deliveries: a short pause, and during a restart until the daemon runs, which takes less than 5 s."""
        await asyncio.sleep(self.rng.uniform(0.02, 0.3))
        await self.until(lambda: self.bridge.daemon.started and self.bridge.daemon.is_alive, deadline_s=5)

    def trade_everything(self) -> None:
        """Let `any_alert` trade every market of the exchange, in sizes of about 20 USDC."""
        marks = {row["symbol"]: Decimal(str(row["mark_price"])) for row in self._listed("futures")}
        for row in self._listed("info"):
            step = Decimal(str(row["base_tick"]))
            least = max(Decimal(str(row["base_min"])), max(20, int(row["min_notional"])) / marks[row["symbol"]])
            self.markets[row["symbol"]] = format((least / step).to_integral_value(ROUND_CEILING) * step, "f")

    def _listed(self, what: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = call(f"{self.bridge.paper_url}/v1/public/{what}")["data"]["rows"]
        return rows

    def alert(self, **fields: Any) -> dict[str, Any]:
        """Build an alert with a unique alertId."""
        self.number += 1
        return self.bridge.alert(alertId=f"a{self.number}", **fields)

    def any_alert(self) -> dict[str, Any]:
        """Build a random alert: mostly entries, some with a stop, some closes."""
        symbol = self.rng.choice(list(self.markets))
        kind = self.rng.random()
        if kind < 0.12:
            return self.alert(action="close", symbol=symbol, quantity=None)
        action = self.rng.choice(("buy", "sell"))
        if kind < 0.16:
            return self.alert(action=action, symbol=symbol, quantity=self.markets[symbol], stopLoss="5%")
        return self.alert(action=action, symbol=symbol, quantity=self.markets[symbol])

    async def send(self, alert: Mapping[str, Any]) -> Sent:
        """Send one alert with its resends; record it in `sent`."""
        sent = Sent(alert_id=str(alert["alertId"]), body=dict(alert))
        self.sent.append(sent)
        return await self.sender.send(alert, sent)

    def restart(self, **environment: str) -> None:
        """Start the daemon, which must not be running, with these settings in addition to the bridge's own."""
        before = dict(self.bridge.environment)
        self.bridge.environment.update(environment)
        self.starts_ms.append(time.time_ns() // 1_000_000)
        try:
            self.bridge.start_daemon()
        finally:
            self.bridge.environment.clear()
            self.bridge.environment.update(before)

    def faults(self, *faults: Mapping[str, Any]) -> None:
        """Replace the exchange's faults with these."""
        call(f"{self.bridge.paper_url}/paper/faults", {})
        if faults:
            call(f"{self.bridge.paper_url}/paper/faults", {"faults": list(faults)})

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Query the daemon's database from outside."""
        connection = sqlite3.connect(f"file:{database_file(self.bridge)}?mode=ro", uri=True, timeout=10)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def waiting(self, symbol: str | None = None) -> int:
        """Count unfinished orders, resting ones excepted, of one of the exchange's symbols or of all.

        The tables may lack the last alerts: none is in flight only if they know of none once they hold all that was answered.
        """
        statement, values = (_WAITING, ()) if symbol is None else (f"{_WAITING} AND symbol = ?", (symbol,))
        count = int(self.query(statement, *values)[0][0])
        if count:
            return count
        catch_up(self.bridge.data_dir)
        return int(self.query(statement, *values)[0][0])

    async def until(self, condition: Callable[[], Any], *, deadline_s: float = SETTLE_S) -> bool:
        """Wait until the condition holds; return False after the deadline (the oracles then report what is wrong)."""
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            if condition():
                return True
            await asyncio.sleep(0.02)
        return False

    async def settle(self, *, deadline_s: float = SETTLE_S) -> None:
        """Wait until no order is in flight."""
        await self.until(self.bridge.is_ready)
        await self.until(lambda: not self.waiting(), deadline_s=deadline_s)
        await asyncio.sleep(0.3)  # the last report's transaction, and responses saved in the background

    def evidence(self) -> Evidence:
        return gather(self.bridge, self.sent, self.starts_ms)

    def findings(self) -> Findings:
        return judge(self.evidence())


@contextmanager
def running(
    seed: int,
    *,
    environment: Mapping[str, str] | None = None,
    webhook: tuple[str, ...] = (),
    bridge_type: type[BridgeProcess] = ForkedBridge,
    small_disk: str | None = None,
) -> Iterator[Run]:
    """Run a new bridge in a temporary directory, ready to trade; at the end its tables must equal a rebuild from its journal.

    `small_disk`: size of an in-memory file system for the data directory, which needs the right to mount.
    """
    with tempfile.TemporaryDirectory(prefix="kekbridge-campaign-") as name, ExitStack() as stack:
        bridge = bridge_type(
            Path(name),
            environment={**SETTINGS, **(environment or {})},
            webhook_arguments=(*BridgeProcess.webhook_arguments, *webhook),
        )
        if small_disk is not None:
            bridge.data_dir.mkdir(mode=0o700)
            _mount_small(bridge.data_dir, small_disk)
            stack.callback(subprocess.run, ["umount", "-l", str(bridge.data_dir)], check=True)
        stack.callback(bridge.stop)
        run = Run(bridge, random.Random(seed))
        run.starts_ms.append(time.time_ns() // 1_000_000)
        bridge.start()
        call(f"{bridge.paper_url}/paper/limits", {"enabled": False})
        bridge.wait_ready()
        yield run
        bridge.daemon.kill()  # what is left then is what a crash leaves
        assert_rebuilt_equal(bridge.data_dir)


def _mount_small(directory: Path, size: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(directory)], check=True)
