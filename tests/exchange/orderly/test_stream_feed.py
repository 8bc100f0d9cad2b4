"""Stream messages: every report and fill once, none stale, noise skipped."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.exchange.orderly.account_api import SystemInfo
from kekbridge.exchange.orderly.account_state import AccountState
from kekbridge.exchange.orderly.stream_feed import PRIVATE_TOPICS, PUBLIC_TOPICS, StreamFeed
from kekbridge.model import MarginMode, OrderStatus
from kekbridge.model.orders import OrderStatusReport
from tests.exchange.orderly.json_text import to_json

ETH = "PERP_ETH_USDC"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Recorded:
    """A feed and its callbacks, recorded."""

    def __init__(self) -> None:
        self.reports: list[OrderStatusReport] = []
        self.account_calls = 0
        self.leg_calls = 0
        self.record_calls = 0
        self.systems: list[SystemInfo] = []
        self.leverages: list[tuple[str, MarginMode, Decimal]] = []
        self.state = AccountState(lambda: NOW)
        self.feed = StreamFeed(
            self.state,
            clock=lambda: NOW,
            on_report=self.reports.append,
            on_account=self._on_account,
            on_leg=self._on_leg,
            on_system=self.systems.append,
            on_leverage=lambda *leverage: self.leverages.append(leverage),
            on_records=self._on_records,
        )

    def handle(self, topic: str, value: Any) -> None:
        self.feed.handle(topic, to_json(value).encode("utf-8", "surrogatepass"))

    def _on_account(self) -> None:
        self.account_calls += 1

    def _on_records(self) -> None:
        self.record_calls += 1

    def _on_leg(self) -> None:
        self.leg_calls += 1


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def execution(status: str, seq: int, *, trade_id: int = 0, total: str = "0", **fields: Any) -> dict[str, Any]:
    base = {
        "symbol": ETH, "clientOrderId": "kb-1", "orderId": 7, "type": "MARKET", "side": "BUY", "quantity": Decimal("0.5"),
        "tradeId": trade_id, "executedPrice": 2500 if trade_id else 0, "executedQuantity": Decimal("0.2") if trade_id else 0,
        "totalExecutedQuantity": Decimal(total), "avgExecutedPrice": 2500 if trade_id else 0, "fee": 0, "status": status,
        "timestamp": 1790000000000 + seq, "marginMode": "CROSS", "maker": False, "seq": 1790000000000000000 + seq,
    }  # fmt: skip
    return {**base, **fields}


def test_repeated_and_late_reports_are_dropped_but_their_fills_count_once(recorded: Recorded) -> None:
    """Repeated and stale reports are dropped; every fill is applied exactly once."""
    new = execution("NEW", 1)
    first = execution("PARTIAL_FILLED", 2, trade_id=101, total="0.2")
    second = execution("FILLED", 3, trade_id=102, total="0.5")
    for message in (new, new, second, first, second, first, new):
        recorded.handle("executionreport", message)
    assert [report.status for report in recorded.reports] == [OrderStatus.ACCEPTED, OrderStatus.FILLED]
    assert recorded.account_calls == 2


def test_a_repetition_after_the_memory_limit_does_no_harm(recorded: Recorded) -> None:
    """Later repetitions are passed on (the store knows them) and do not change positions read since."""
    first = execution("FILLED", 1, trade_id=1, total="0.2")
    recorded.handle("executionreport", first)
    for number in range(2, 2_100):
        fields = {"orderId": number + 100, "tradeId": number}
        recorded.handle("executionreport", execution("FILLED", number, total="0.2") | fields)
    held = {"symbol": ETH, "position_qty": Decimal("419.8"), "average_open_price": 2500, "mark_price": 2500}
    recorded.state.apply_account({"free_collateral": 1, "rows": [held]}, answered_ms=1790000060000)
    account_calls, reported = recorded.account_calls, len(recorded.reports)
    recorded.handle("executionreport", first)
    assert len(recorded.reports) == reported + 1
    assert recorded.account_calls == account_calls


def test_algo_report_with_children(recorded: Recorded) -> None:
    """v2 is one object with nested childOrders; a repetition in the same millisecond is dropped, a change is not."""
    leg = {"algoOrderId": 3, "parentAlgoOrderId": 2, "symbol": ETH, "algoType": "STOP_LOSS", "side": "SELL", "isActivated": True,
           "algoStatus": "NEW", "isTriggered": False, "quantity": 1}  # fmt: skip
    pair = {
        "algoOrderId": 2,
        "parentAlgoOrderId": 1,
        "symbol": ETH,
        "algoType": "TP_SL",
        "side": None,
        "algoStatus": "NEW",
        "childOrders": [leg],
    }
    root = {"algoOrderId": 1, "parentAlgoOrderId": 0, "clientOrderId": "kb-2", "symbol": ETH, "algoType": "BRACKET", "side": "BUY",
            "type": "MARKET", "quantity": 1,
            "totalExecutedQuantity": 0, "algoStatus": "NEW", "timestamp": 5, "childOrders": [pair]}  # fmt: skip
    recorded.handle("algoexecutionreportv2", root)
    recorded.handle("algoexecutionreportv2", root)
    recorded.handle("algoexecutionreportv2", {**root, "totalExecutedQuantity": 1, "averageExecutedPrice": 2500})
    recorded.handle("algoexecutionreportv2", {**root, "timestamp": 4})
    assert [report.status for report in recorded.reports] == [OrderStatus.ACCEPTED, OrderStatus.FILLED]
    assert recorded.reports[1].average_price == 2500
    assert recorded.reports[1].stop_is_live is True
    recorded.handle("algoexecutionreportv2", leg)
    assert recorded.leg_calls == 1


def test_positions_and_balance(recorded: Recorded) -> None:
    """A changed position and any change of balance notify; a repeated position does not."""
    message = {"positions": [{"symbol": ETH, "positionQty": 1, "averageOpenPrice": 2500, "seq": 5, "timestamp": 9}]}
    recorded.handle("position", message)
    recorded.handle("position", message)
    assert recorded.account_calls == 1
    recorded.handle("balance", {"balances": {"USDC": {"holding": 5}}})
    assert recorded.account_calls == 2


def test_maintenance(recorded: Recorded) -> None:
    """The topic is a list; status 2 is maintenance, with its announced end."""
    recorded.handle(
        "maintenance_status",
        [{"status": 2, "msg": "m", "scheduled_maintenance": {"startTime": 1790056800000, "endTime": 1790058600000}}],
    )
    (system,) = recorded.systems
    assert system.is_maintenance
    assert system.ends_at == datetime(2026, 9, 22, 6, 30, tzinfo=UTC)


noise = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.decimals(allow_nan=True),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [*execution("NEW", 1), "positions", "childOrders", "algoType", "algoOrderId", "positionQty", "status"]
            ),
            inner,
        )
    ),
    max_leaves=10,
)


@given(topic=st.sampled_from([*PRIVATE_TOPICS, *PUBLIC_TOPICS, "other"]), data=noise)
def test_noise_never_raises(topic: str, data: object) -> None:
    """No message ends the stream."""
    Recorded().handle(topic, data)


@pytest.mark.parametrize("topic", [*PRIVATE_TOPICS, *PUBLIC_TOPICS])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "null",
        "[]",
        '"text"',
        "7",
        '{"orderId":1e9999999999999999999}',
        '{"reason":"\\ud800"}',
        '{"a":' * 5_000,
        "[" * 5_000 + "]" * 5_000,
    ],
    ids=lambda text: text[:20],
)
def test_an_unreadable_message_is_one_line(topic: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Data that is no JSON, or JSON of another kind, changes nothing and is at most one line of the log."""
    recorded = Recorded()
    recorded.feed.handle(topic, text.encode())
    assert recorded.reports == []
    written = capsys.readouterr().err
    assert written.count("\n") <= 1
    if topic == "executionreport":
        assert "stream_row_unreadable" in written
