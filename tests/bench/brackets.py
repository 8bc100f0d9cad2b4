"""A burst of brackets at the paper exchange, which accepts one algo order a second, followed by closes of open positions."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.system.harness import BridgeProcess, bridge_process, wait_until

_HELD = ("TRXUSDT.P", "NEARUSDT.P")
_ENTERED = ("BTCUSDT.P", "ETHUSDT.P", "SOLUSDT.P", "BNBUSDT.P", "XRPUSDT.P", "DOGEUSDT.P", "LINKUSDT.P", "AVAXUSDT.P")
_WIDE = (*BridgeProcess.webhook_arguments, "--min-order-size", "0.00000001")


def brackets(count: int) -> dict[str, float]:
    """Send entries with a stop in `count` markets at once, then two closes; return when they were accepted, and the rejections."""
    with tempfile.TemporaryDirectory(prefix="kekbridge-bench-") as directory:
        environment = {"KEKBRIDGE_SERVER_RESPOND_WITHIN_S": "0"}
        with bridge_process(Path(directory), environment=environment, webhook_arguments=_WIDE) as bridge:
            return _measure(bridge, _ENTERED[:count])


def _measure(bridge: BridgeProcess, symbols: tuple[str, ...]) -> dict[str, float]:
    for symbol in _HELD:
        bridge.send(symbol=symbol, quantity="100")
    wait_until(lambda: len(_accepted(bridge)) == len(_HELD), what="the positions to be closed")
    entries = [{"symbol": symbol, "quantity": _size(symbol), "stopLoss": "5%"} for symbol in symbols]
    closes = [{"symbol": symbol, "action": "close", "quantity": None} for symbol in _HELD]
    started = time.time() * 1000
    with ThreadPoolExecutor(len(entries) + len(closes)) as senders:
        answers = [sender.result() for sender in [senders.submit(bridge.send, **fields) for fields in entries + closes]]
    if any(status not in (200, 202) for status, _ in answers):
        raise AssertionError(f"the bridge rejected an alert of the benchmark: {answers}")
    wait_until(
        lambda: len(_accepted(bridge)) == 2 * len(_HELD) + len(entries),
        deadline_s=5 * len(entries) + 20,
        what="all orders",
    )
    accepted = [event for event in _accepted(bridge) if event["t"] >= started]
    return {
        "last bracket s": max(event["t"] - started for event in accepted if event.get("algo")) / 1000,
        "last close s": max(event["t"] - started for event in accepted if not event.get("algo")) / 1000,
        "refused": float(sum(event["event"] == "order_refused" for event in bridge.journal())),
    }


def _accepted(bridge: BridgeProcess) -> list[dict[str, Any]]:
    """Return our orders that the exchange accepted, a bracket counted once."""
    return [event for event in bridge.journal() if event["event"] == "order_accepted" and event["client_order_id"]]


def _size(symbol: str) -> str:
    """Return an order size of about 100 USDC."""
    return {"BTCUSDT.P": "0.002", "ETHUSDT.P": "0.05", "SOLUSDT.P": "1", "BNBUSDT.P": "0.2", "DOGEUSDT.P": "500"}.get(
        symbol, "10"
    )
