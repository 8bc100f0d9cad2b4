"""How soon a market close reaches the exchange while other orders are in its way: what they wait for holds no exit."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

from ulid import ULID

from tests.system.harness import BridgeProcess, bridge_process, call, wait_until

# A position of its own for each situation.
_HELD = {"TRX": "100", "NEAR": "100", "LINK": "10", "AVAX": "10", "DOGE": "500"}
_OTHERS = {"ETH": "0.05", "SOL": "1", "BNB": "0.2", "XRP": "50", "BTC": "0.002"}
_WIDE = (*BridgeProcess.webhook_arguments, "--min-order-size", "0.00000001", "--max-open-positions", "50")
_CREATE = {"path": "/v1/order", "method": "POST"}


def exits(entries: int, brackets: int) -> dict[str, float]:
    """Close a position in each situation; return the milliseconds from each alert to its acceptance."""
    with tempfile.TemporaryDirectory(prefix="kekbridge-bench-") as directory:
        environment = {"KEKBRIDGE_SERVER_RESPOND_WITHIN_S": "0"}
        with bridge_process(Path(directory), environment=environment, webhook_arguments=_WIDE) as bridge:
            answers: list[dict[str, Any]] = []
            figures = {
                "beside lost answers ms": _close_in(bridge, "TRX", lambda: _lose_answers(bridge)),
                "behind a resting leg ms": _close_in(bridge, "NEAR", lambda: _rest_a_leg(bridge, "NEAR")),
                "behind brackets ms": _close_in(
                    bridge, "LINK", lambda: answers.extend(_queue_brackets(bridge, "LINK", brackets))
                ),
                "beside slow entries ms": _close_in(bridge, "AVAX", lambda: _send_slow_entries(bridge, entries)),
                # The last: entries wait for minutes.
                "during Retry-After ms": _close_in(bridge, "DOGE", lambda: _earn_a_retry_after(bridge)),
            }
            late = _sent_after_close(bridge, "LINK", {answer["clientOrderId"] for answer in answers})
            if late:
                raise AssertionError(f"{late} entries reached the exchange after the close that had overtaken them")
            return figures


def _close_in(bridge: BridgeProcess, base: str, situation: Callable[[], object]) -> float:
    """Open a position, bring the situation about, close the position; return when the close was accepted, in ms."""
    symbol = f"{base}USDT.P"
    bridge.send(symbol=symbol, quantity=_HELD[base])
    wait_until(lambda: _position(bridge, base) == Decimal(_HELD[base]), what="the position to be closed")
    time.sleep(0.3)  # the bridge has heard of it
    situation()
    started = time.time() * 1000
    status, answer = bridge.send(symbol=symbol, action="close", quantity=None)
    if status not in (200, 202):
        raise AssertionError(f"the bridge rejected a close of the benchmark: {answer}")
    name = answer["clientOrderId"]
    wait_until(lambda: name in bridge.orders_received(), what=f"the close of {symbol}")
    (accepted,) = [event["t"] for event in _accepted(bridge) if event["client_order_id"] == name]
    wait_until(lambda: _position(bridge, base) == 0, what=f"{symbol} to be flat")
    call(f"{bridge.paper_url}/paper/faults", {})
    return float(accepted - started)


def _lose_answers(bridge: BridgeProcess) -> None:
    """Five orders of other markets whose outcome is not known, and cannot be found out yet."""
    lost = {"fault": "lose_answer", "count": len(_OTHERS), **_CREATE}
    _arm(bridge, {"fault": "read_lag", "delay_ms": 4000}, {"fault": "withhold_reports"}, lost)
    _send_all(bridge, [{"symbol": f"{base}USDT.P", "quantity": size} for base, size in _OTHERS.items()])
    wait_until(lambda: "lose_answer" not in _armed(bridge), what="the lost answers")


def _rest_a_leg(bridge: BridgeProcess, base: str) -> None:
    """A limit order that reduces the position rests, and the leg that turns it waits behind it."""
    before = len(_accepted(bridge))
    mark = Decimal(str(call(f"{bridge.paper_url}/v1/public/futures/PERP_{base}_USDC")["data"]["mark_price"]))
    limit = str((mark * Decimal("1.02")).quantize(Decimal("0.001")))
    bridge.send(symbol=f"{base}USDT.P", action="flip", quantity=None, orderType="limit", limitPrice=limit)
    wait_until(lambda: len(_accepted(bridge)) == before + 1, what="the resting leg")


def _queue_brackets(bridge: BridgeProcess, base: str, count: int) -> list[dict[str, Any]]:
    """Entries with a stop in the market of the position, of which the exchange takes one a second; return the answers to them."""
    return _send_all(bridge, [{"symbol": f"{base}USDT.P", "quantity": "2", "stopLoss": "5%"} for _ in range(count)])


def _send_slow_entries(bridge: BridgeProcess, count: int) -> None:
    """Entries of one other market, each answered after a second."""
    _arm(bridge, {"fault": "delay", "delay_ms": 1000, "when": "after", **_CREATE})
    before = len(_accepted(bridge))
    _send_all(bridge, [{"symbol": "ETHUSDT.P", "quantity": "0.02"} for _ in range(count)])
    wait_until(lambda: len(_accepted(bridge)) > before, what="the first entry")


def _earn_a_retry_after(bridge: BridgeProcess) -> None:
    """An entry is answered 429 with a Retry-After of 300 s."""
    _arm(bridge, {"fault": "rate_limit", "retry_after_s": 300, "count": 1, **_CREATE})
    bridge.send(symbol="SOLUSDT.P", quantity="1")
    wait_until(lambda: "rate_limit" not in _armed(bridge), what="the refused entry")


def _sent_after_close(bridge: BridgeProcess, base: str, names: set[str]) -> int:
    """How many of these entries reached the exchange after the close that had overtaken them."""
    accepted = [event for event in _accepted(bridge) if event["symbol"] == f"PERP_{base}_USDC"]
    closed_at = min(event["t"] for event in accepted if event.get("reduce_only"))
    return sum(event["client_order_id"] in names and event["t"] > closed_at for event in accepted)


def _send_all(bridge: BridgeProcess, alerts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(min(len(alerts), 10)) as senders:
        answers = [
            sender.result()
            for sender in [senders.submit(bridge.send, alertId=str(ULID()), **fields) for fields in alerts]
        ]
    if any(status not in (200, 202) for status, _ in answers):
        raise AssertionError(f"the bridge rejected an alert of the benchmark: {answers}")
    return [answer for _, answer in answers]


def _arm(bridge: BridgeProcess, *faults: dict[str, Any]) -> None:
    call(f"{bridge.paper_url}/paper/faults", {"faults": list(faults)})


def _armed(bridge: BridgeProcess) -> set[str]:
    return {fault["fault"] for fault in call(f"{bridge.paper_url}/paper/faults")["faults"]}


def _position(bridge: BridgeProcess, base: str) -> Decimal:
    return Decimal(call(f"{bridge.paper_url}/paper/state")["positions"].get(f"PERP_{base}_USDC", "0"))


def _accepted(bridge: BridgeProcess) -> list[dict[str, Any]]:
    """Our orders that the exchange accepted, oldest first."""
    return [event for event in bridge.journal() if event["event"] == "order_accepted" and event["client_order_id"]]
