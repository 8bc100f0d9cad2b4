"""What the streams say, made into reports, fills, positions and marks; stale and repeated messages are dropped here.

Takes messages by topic (stream.py brings them), updates the AccountView and calls back. No I/O.
Topics: docs/internals/orderly.md section 12.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from kekbridge.exchange.orderly import parsing
from kekbridge.exchange.orderly.account_api import SystemInfo, marks_of, system_info_of
from kekbridge.exchange.orderly.account_state import AccountState
from kekbridge.log import get_logger
from kekbridge.model import ZERO, Fill, MarginMode
from kekbridge.model.orders import OrderStatusReport

log = get_logger("kekbridge.exchange.orderly.stream_feed")

PRIVATE_TOPICS: Final = ("executionreport", "algoexecutionreportv2", "position", "balance")
PUBLIC_TOPICS: Final = ("markprices", "maintenance_status")
# Orders and executions that are told from their repetitions. At the exchange's ten orders a second that is longer than the picture of the
# account is ever old: what comes later still is in the totals already (AccountView), and known to the store by its version or trade id.
_REMEMBERED: Final = 2_000


class StreamFeed:
    """`on_report` gets each new order report, `on_account` is called whenever position or balance moved."""

    def __init__(
        self,
        account: AccountState,
        *,
        clock: Callable[[], datetime],
        on_report: Callable[[OrderStatusReport], None],
        on_account: Callable[[], None],
        on_leg: Callable[[], None],
        on_system: Callable[[SystemInfo], None],
    ) -> None:
        self._account = account
        self._clock = clock
        self._on_report = on_report
        self._on_account = on_account
        self._on_leg = on_leg
        self._on_system = on_system
        # By order: seq and version of the last report, and its hash instead of the report itself, which is twenty times as large.
        self._newest: OrderedDict[str, tuple[int, int, int]] = OrderedDict()
        self._filled: OrderedDict[str, None] = OrderedDict()
        self._opening: OrderedDict[str, Fill] = OrderedDict()

    def opening_fill(self, order_id: str, quantity: Decimal) -> Fill | None:
        """The one execution of an order that opened or added to a position, when the stream told all there is to say of it; given once."""
        fill = self._opening.pop(order_id, None)
        return fill if fill is not None and fill.quantity == quantity else None

    def handle(self, topic: str, data: Any) -> None:
        """One message. What cannot be read is logged and skipped: the next poll tells the same facts."""
        try:
            if topic == "executionreport":
                self._execution(parsing.snake_keys(data))
            elif topic == "algoexecutionreportv2":
                self._algo(parsing.snake_keys(data))
            elif topic == "position":
                self._positions(data)
            elif topic == "balance":
                self._on_account()  # holding says nothing of free collateral: the owner asks for the totals
            elif topic == "markprices":
                self._marks(data)
            elif topic == "maintenance_status":
                self._maintenance(data)
        except parsing.ParseError as error:
            log.warning("stream_row_unreadable", topic=topic, error=str(error))

    def _execution(self, row: Mapping[str, Any]) -> None:
        report = parsing.order_report(_mapping(row))
        fill = parsing.stream_fill(row)
        # A fill counts once by its trade id, also when its report comes late and is stale as a report.
        if fill is not None and fill.trade_id not in self._filled:
            _remember(self._filled, fill.trade_id, None)
            isolated = str(row.get("margin_mode")).upper() == MarginMode.ISOLATED
            mode = MarginMode.ISOLATED if isolated else MarginMode.CROSS
            if fill.quantity == report.executed_quantity and self._account.is_opened_by(fill, mode):
                # A report does not say what a fill realized; one that opens or adds realizes nothing.
                _remember(self._opening, fill.order_id, replace(fill, realized_pnl=ZERO))
            if self._account.apply_fill(fill, mode):
                self._on_account()
        self._pass_on(report, parsing.integer_or_none(row.get("seq")) or 0)

    def _algo(self, row: Mapping[str, Any]) -> None:
        row = _mapping(row)
        if parsing.is_root(row):
            self._pass_on(parsing.algo_report(row), 0)
        else:
            self._on_leg()  # a leg alone does not tell what became of the whole: ask

    def _pass_on(self, report: OrderStatusReport, seq: int) -> None:
        """Drop what is older than the last report of this order, by seq and then time, and what says the same again."""
        key = f"{'algo' if report.is_algo else 'order'} {report.order_id}"
        mark = (seq, report.version, hash(report))
        known = self._newest.get(key)
        if known is not None and (mark[:2] < known[:2] or mark[2] == known[2]):
            return
        _remember(self._newest, key, mark)
        self._on_report(report)

    def _positions(self, data: Any) -> None:
        rows = _mapping(data).get("positions")
        if isinstance(rows, list) and self._account.apply_positions(
            [parsing.snake_keys(row) for row in rows if isinstance(row, Mapping)]
        ):
            self._on_account()

    def _marks(self, data: Any) -> None:
        rows = [row for row in data if isinstance(row, Mapping)] if isinstance(data, list) else []
        # Our own clock: how old a mark is, is asked by our clock, and the exchange's may differ from it.
        self._account.apply_marks(marks_of(rows, price="price"), self._clock())

    def _maintenance(self, data: Any) -> None:
        entries = data if isinstance(data, list) else [data]
        for entry in entries:
            self._on_system(system_info_of(_mapping(entry)))


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise parsing.ParseError("the message carries no object")
    return value


def _remember(book: OrderedDict[str, Any], key: str, value: Any) -> None:
    book[key] = value
    book.move_to_end(key)
    if len(book) > _REMEMBERED:
        book.popitem(last=False)
