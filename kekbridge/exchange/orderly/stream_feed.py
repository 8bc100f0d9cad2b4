"""Handle stream messages: parse reports, fills, positions and marks; drop stale and repeated ones.

Gets messages by topic from `websocket.py`, updates the AccountState and calls back. No I/O.
Topics: docs/internals/orderly.md section 12.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from kekbridge.exchange.orderly import parsing
from kekbridge.exchange.orderly.account_api import SystemInfo, prices_of, system_info_of
from kekbridge.exchange.orderly.account_state import AccountState
from kekbridge.exchange.orderly.replies import read_json
from kekbridge.log import get_logger
from kekbridge.model import ZERO, Fill, MarginMode
from kekbridge.model.orders import OrderStatusReport

log = get_logger("kekbridge.exchange.orderly.stream_feed")

PRIVATE_TOPICS: Final = (
    *("executionreport", "algoexecutionreportv2", "position", "balance"),
    *("account", "liquidationsaccount", "wallet"),
)
#: Without these the stream does not show what becomes of orders and positions: they are polled.
ESSENTIAL_TOPICS: Final = frozenset({"executionreport", "algoexecutionreportv2", "position"})
PUBLIC_TOPICS: Final = ("markprices", "maintenance_status")
# Orders and executions whose repetitions are recognized. At the exchange's ten orders a second that covers more time than the account
# state is ever old: an older one is in the totals already, and the store knows it by its version or trade id.
_MAX_REMEMBERED: Final = 2_000


class StreamFeed:
    """Turns messages into callbacks.

    `on_report` gets each new order report; `on_account` is called when a position or balance changed; `on_leg` when a leg of an algo
    order was reported without its root, whose state must be queried; `on_system` gets the exchange's status; `on_leverage` the leverage
    of a market as the account has it; `on_records` is called for a liquidation or a transfer.
    """

    def __init__(
        self,
        account: AccountState,
        *,
        clock: Callable[[], datetime],
        on_report: Callable[[OrderStatusReport], None],
        on_account: Callable[[], None],
        on_leg: Callable[[], None],
        on_system: Callable[[SystemInfo], None],
        on_leverage: Callable[[str, MarginMode, Decimal], None],
        on_records: Callable[[], None],
    ) -> None:
        self._account = account
        self._clock = clock
        self._on_report = on_report
        self._on_account = on_account
        self._on_leg = on_leg
        self._on_system = on_system
        self._on_leverage = on_leverage
        self._on_records = on_records
        # By order: seq and version of the last report, and its hash (the report is twenty times as large).
        self._last_seen: OrderedDict[str, tuple[int, int, int]] = OrderedDict()
        self._trade_ids: OrderedDict[str, None] = OrderedDict()
        self._opening_fills: OrderedDict[str, Fill] = OrderedDict()

    def pop_opening_fill(self, order_id: str, quantity: Decimal) -> Fill | None:
        """The single execution of an order of that quantity, if it opened or enlarged a position and the stream reported it completely.

        Returned once, which saves a query; None in all other cases.
        """
        fill = self._opening_fills.pop(order_id, None)
        return fill if fill is not None and fill.quantity == quantity else None

    def handle(self, topic: str, data: bytes | msgspec.Raw) -> None:
        """Handle one message, its data as JSON. What cannot be read is logged and skipped: the next poll brings the same facts."""
        try:
            if topic == "executionreport":
                self._execution(parsing.execution(data))
            elif topic == "algoexecutionreportv2":
                self._algo(parsing.snake_keys(_value(data)))
            elif topic == "position":
                self._positions(_value(data))
            elif topic == "balance":
                self._on_account()  # does not contain the free collateral: the owner refreshes the totals
            elif topic == "account":
                self._account_detail(_mapping(_value(data)))
            elif topic in ("liquidationsaccount", "wallet"):
                self._on_account()
                self._on_records()
            elif topic == "markprices":
                self._marks(_value(data))
            elif topic == "maintenance_status":
                self._maintenance(_value(data))
        except parsing.ParseError as error:
            log.warning("stream_row_unreadable", topic=topic, error=str(error))

    def _execution(self, execution: parsing.ExecutionMessage) -> None:
        report, fill = execution.report, execution.fill
        # A fill counts once by its trade id, also if the report that contains it is stale.
        if fill is not None and fill.trade_id not in self._trade_ids:
            _remember(self._trade_ids, fill.trade_id, None)
            if fill.quantity == report.executed_quantity and self._account.is_opened_by(fill):
                # A report does not contain what a fill realized; one that opens or enlarges realizes nothing.
                _remember(self._opening_fills, fill.order_id, replace(fill, realized_pnl=ZERO))
            if self._account.apply_fill(fill):
                self._on_account()
        self._report(report, execution.seq)

    def _algo(self, row: Mapping[str, Any]) -> None:
        row = _mapping(row)
        if parsing.is_root(row):
            self._report(parsing.algo_report(row), 0)
        else:
            self._on_leg()  # the state of the whole order must be queried

    def _report(self, report: OrderStatusReport, seq: int) -> None:
        """Pass a report on unless it is older than the last one of this order (by seq, then time) or equal to it."""
        key = f"{'algo' if report.is_algo else 'order'} {report.order_id}"
        current = (seq, report.version, hash(report))
        last = self._last_seen.get(key)
        if last is not None and (current[:2] < last[:2] or current[2] == last[2]):
            return
        _remember(self._last_seen, key, current)
        self._on_report(report)

    def _positions(self, data: Any) -> None:
        rows = _mapping(data).get("positions")
        if isinstance(rows, list) and self._account.apply_positions(
            [parsing.snake_keys(row) for row in rows if isinstance(row, Mapping)]
        ):
            self._on_account()

    def _account_detail(self, data: Mapping[str, Any]) -> None:
        detail = data.get("accountDetail", data)
        chosen = _mapping(detail).get("symbolLeverage")
        if not isinstance(chosen, Mapping):
            return  # totals or fees: the owner reads them on its own schedule
        row = parsing.snake_keys(dict(chosen))
        leverage = parsing.decimal_or_none(row.get("leverage"))
        if leverage is not None and leverage > 0 and isinstance(row.get("symbol"), str):
            self._on_leverage(row["symbol"], parsing.margin_mode_or_cross(row), leverage)

    def _marks(self, data: Any) -> None:
        rows = [row for row in data if isinstance(row, Mapping)] if isinstance(data, list) else []
        # Local time: the age of a mark price is measured by our clock, which may differ from the exchange's.
        self._account.apply_marks(prices_of(rows, "price"), self._clock())

    def _maintenance(self, data: Any) -> None:
        entries = data if isinstance(data, list) else [data]
        for entry in entries:
            self._on_system(system_info_of(_mapping(entry)))


def _value(data: bytes | msgspec.Raw) -> Any:
    try:
        return read_json(data)
    except ValueError:
        raise parsing.ParseError("the message is not JSON") from None


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise parsing.ParseError("the message is not an object")
    return value


def _remember(memory: OrderedDict[str, Any], key: str, value: Any) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > _MAX_REMEMBERED:
        memory.popitem(last=False)
