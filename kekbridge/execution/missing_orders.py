"""Look for orders that the exchange should have and does not show, until its own records explain them.

Two kinds. An order that was accepted and that no report and no query shows: it is asked for again and again; trades that name it are its
outcome; and once orders, open orders, trades and position all speak against it for long enough, it is a ghost: an exit is sent again, any
other order ends as unknown and its room is free. Until then it keeps its room, and after a minute the trader hears of it. And an order that
ended as unknown: it is asked for with growing pauses for a day, and at once when a trade of its market belongs to no known order; if the
exchange has it after all, it is adopted with its fills.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from kekbridge.errors import ExchangeUnavailable, KekbridgeError
from kekbridge.exchange.base import Exchange
from kekbridge.execution import transitions
from kekbridge.execution.book import Book
from kekbridge.execution.tracker import OrderTracker
from kekbridge.formatting import amount
from kekbridge.log import get_logger
from kekbridge.model import ZERO, AccountSnapshot, Fill, MarginMode, Order, OrderStatus
from kekbridge.model.orders import OrderStatusReport
from kekbridge.store import conditions, orders
from kekbridge.store.codec import EXACT
from kekbridge.store.database import Database

log = get_logger("kekbridge.execution.missing_orders")

_LOOK_EVERY_S: Final = 1.0
# How long after its acceptance a report or a query may first show an order.
_SHOWN_WITHIN_S: Final = 2.0
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 8.0
# Nothing is proven by fewer queries, or in less time, than this.
_PROOF_AFTER_S: Final = 30.0
_PROOF_QUERIES: Final = 5
_REPORTED_AFTER_S: Final = 60.0
# Of orders that ended as unknown.
_LATE_PAUSE_S: Final = 5.0
_LONGEST_LATE_PAUSE_S: Final = 300.0
_LATE_FOR: Final = timedelta(days=1)
_CONDITION: Final = "ghost:"
# How far the exchange's clock may be behind ours: its trades may look earlier than the order.
_CLOCK_MARGIN: Final = timedelta(seconds=10)


@dataclass(slots=True)
class _Search:
    """An order that is looked for. Times are the loop's, in seconds."""

    order: Order
    since: float
    due: float
    queries: int = 0
    #: Why nothing is proven yet, on one line.
    doubt: str = "the exchange was not asked for long enough"


class MissingOrders:
    """Looks for the missing orders of one daemon."""

    def __init__(
        self,
        *,
        book: Book,
        database: Database,
        exchange: Exchange,
        tracker: OrderTracker,
        clock: Callable[[], datetime],
        order_settled: Callable[[], None] = lambda: None,
    ) -> None:
        """`order_settled` is called when an order was queued again or ended; it must not block."""
        self._book = book
        self._database = database
        self._exchange = exchange
        self._tracker = tracker
        self._clock = clock
        self._order_settled = order_settled
        self._unshown: dict[str, _Search] = {}  # by client order id: accepted, not shown
        self._reported: set[str] = set()  # client order ids of those of them whose condition is active
        self._late: dict[str, _Search] = {}  # by client order id: ended as unknown
        tracker.on_foreign_trade = self._on_foreign_trade

    @property
    def unshown(self) -> tuple[Order, ...]:
        """The orders that the exchange accepted and does not show, as far as a query has said so."""
        return tuple(self._book.current(search.order) for search in self._unshown.values() if search.queries)

    def on_ended_unknown(self, order: Order) -> None:
        """An order ended without a known outcome."""
        now = asyncio.get_running_loop().time()
        self._late[order.client_order_id] = _Search(order, since=now, due=now + _LATE_PAUSE_S)

    def _on_foreign_trade(self, fill: Fill) -> None:
        """A trade that belongs to no known order may be that of one that ended as unknown."""
        now = asyncio.get_running_loop().time()
        for search in self._late.values():
            intent = search.order.intent
            if intent.symbol == fill.symbol and intent.side is fill.side:
                search.due = now

    async def run(self) -> None:
        """Until cancelled: look for what is missing. Sends no query unless something is."""
        try:
            for order in await self._database.read(orders.ended_unknown, since=self._clock() - _LATE_FOR):
                self.on_ended_unknown(order)
            active = await self._database.read(conditions.list_active)
            self._reported = {name.removeprefix(_CONDITION) for name in active if name.startswith(_CONDITION)}
        except KekbridgeError as error:
            log.error("missing_orders_not_read", code=error.code, error=error.message)
        while True:
            try:
                await self._look()
            except KekbridgeError as error:
                log.warning("missing_orders_not_found", code=error.code, error=error.message)
            except Exception:
                log.exception("missing_orders_failed")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        unshown = {order.client_order_id: order for order in self._tracker.unshown()}
        for name in self._unshown.keys() - unshown.keys():
            del self._unshown[name]
        for name, order in unshown.items():
            self._unshown.setdefault(name, _Search(order, since=now, due=now + _SHOWN_WITHIN_S))
        for search in [each for each in self._unshown.values() if each.due <= now]:
            await self._look_for_unshown(search)
        for name in self._reported - unshown.keys():
            over = None if self._book.orders.get(name) is None else "ghost_cleared"
            data = {"client_order_id": name}
            await self._database.write(conditions.end, _CONDITION + name, over, now=self._clock(), data=data)
            self._reported.discard(name)
        for search in [each for each in self._late.values() if each.due <= now]:
            await self._look_for_late(search)

    # ------------------------------------------------------------------------------------------- accepted and not shown

    async def _look_for_unshown(self, search: _Search) -> None:
        now = asyncio.get_running_loop().time()
        order = self._book.current(search.order)
        search.due = now + min(_FIRST_PAUSE_S * 2**search.queries, _LONGEST_PAUSE_S)
        try:
            report = await self._exchange.find(order)
            if report is not None:
                await self._tracker.apply(order, report)
                return
            search.queries += 1
            if now - search.since >= _PROOF_AFTER_S and search.queries >= _PROOF_QUERIES:
                search.doubt = await self._judge(order)
        except ExchangeUnavailable as error:
            search.doubt = error.message
        if now - search.since >= _REPORTED_AFTER_S and self._is_open(order):
            await self._report(order, search.doubt)

    async def _report(self, order: Order, doubt: str) -> None:
        """Say once that an accepted order is not visible, and why nothing is proven yet."""
        name, intent = order.client_order_id, order.intent
        if name in self._reported:
            return
        self._reported.add(name)
        figures = {"client_order_id": name, "symbol": intent.symbol, "side": intent.side, "quantity": intent.quantity}
        await self._database.write(
            conditions.begin,
            _CONDITION + name,
            "ghost_suspected",
            now=self._clock(),
            alert_id=order.alert_id,
            data=figures | {"detail": doubt},
        )

    async def _judge(self, order: Order) -> str:
        """Adopt or end an order that no query has shown for long, as open orders, trades and position say; else why neither is proven.

        Raises ExchangeUnavailable.
        """
        for report in await self._exchange.open_orders():
            if report.order_id == order.order_id or report.client_order_id == order.client_order_id:
                await self._tracker.apply(order, report)
                return ""
        trades = await self._exchange.trades_since((order.submitted_at or order.created_at) - _CLOCK_MARGIN)
        await self._tracker.record_trades(trades)
        own = [fill for fill in trades if fill.order_id == order.order_id]
        if sum((fill.quantity for fill in own), ZERO) > order.executed_quantity:
            await self._tracker.apply(order, _report_of(order, own, now=self._clock()))
            return ""
        if order.intent.is_algo and (foreign := self._foreign_quantity(order, trades)):
            # Its executions have ids of their own at the exchange.
            return f"trades of {amount(foreign)} in its market belong to no known order"
        snapshot = await self._exchange.refresh()
        order = self._book.current(order)
        if not self._is_open(order):
            return ""
        unexplained = self._unexplained(order, snapshot)
        if unexplained:
            return f"no trade shows it, but {amount(unexplained)} of the position are explained by no trade"
        self._end(order)
        return ""

    def _foreign_quantity(self, order: Order, trades: Iterable[Fill]) -> Decimal:
        """What trades of its market and side that belong to no order of ours have executed, in base units."""
        found = ZERO
        for fill in trades:
            known = self._book.fill(fill.trade_id)
            is_foreign = known is None or (known.fill.client_order_id is None and known.exit_of is None)
            if is_foreign and (fill.symbol, fill.side) == (order.intent.symbol, order.intent.side):
                found += fill.quantity
        return found

    def _unexplained(self, order: Order, snapshot: AccountSnapshot) -> Decimal:
        """How much of the position, in base units, may be its execution, because the recorded fills do not lead to it."""
        intent = order.intent
        position = snapshot.position_quantity(intent.symbol, intent.margin_mode) * intent.side.sign
        if intent.margin_mode is MarginMode.CROSS:
            gap = position - self._book.holdings.total(intent.symbol) * intent.side.sign
            return gap if 0 < gap <= intent.quantity - order.executed_quantity else ZERO
        # Of isolated positions no sums are kept. One that an exit would have closed is still there, and closing it twice is not possible.
        return position if order.is_entry and position > 0 else ZERO

    def _is_open(self, order: Order) -> bool:
        current = self._book.orders.get(order.client_order_id)
        return current is not None and current.order_id == order.order_id and current.order_id is not None

    def _end(self, order: Order) -> None:
        """It is proven that the exchange has nothing of the order that is not recorded."""
        now = self._clock()
        text = f"the exchange accepted it as {order.order_id}, but shows it in no order, trade or position"
        if order.is_exit and order.status is OrderStatus.ACCEPTED and order.cancel_requested_at is None:
            outcome = "it is sent again"
            after = transitions.requeued_missing(order, reason=text, now=now)
        else:
            outcome = "it is given up and holds no room"
            after = transitions.closed_missing(order, reason=text, now=now)
        self._note(order, f"{text}: {outcome}")
        changed = self._book.change(order, after, now=now)
        if changed.status is OrderStatus.UNKNOWN:
            self.on_ended_unknown(changed)
        self._order_settled()

    def _note(self, order: Order, detail: str) -> None:
        self._book.note("ghost_order", order, now=self._clock(), data={"detail": detail})
        log.warning("ghost_order", client_order_id=order.client_order_id, order_id=order.order_id, detail=detail)

    # -------------------------------------------------------------------------------------------------- ended as unknown

    async def _look_for_late(self, search: _Search) -> None:
        now = asyncio.get_running_loop().time()
        name = search.order.client_order_id
        order = self._book.orders.get(name)
        if order is None:
            order = await self._database.read(orders.get, name)
        if order.status is not OrderStatus.UNKNOWN or self._clock() - order.created_at > _LATE_FOR:
            del self._late[name]
            return
        search.due = now + min(_LATE_PAUSE_S * 2**search.queries, _LONGEST_LATE_PAUSE_S)
        try:
            report = await self._exchange.find(order)
        except ExchangeUnavailable as error:
            log.warning("unknown_order_not_readable", client_order_id=name, error=error.message)
            return
        search.queries += 1
        if report is not None:
            adopted = await self._tracker.apply(order, report)
            log.warning("unknown_order_adopted", client_order_id=name, status=adopted.status.value)


def _report_of(order: Order, fills: list[Fill], *, now: datetime) -> OrderStatusReport:
    """The report that an order's trades stand for, where the exchange gives none."""
    quantity = sum((fill.quantity for fill in fills), ZERO)
    value = sum((EXACT.multiply(fill.price, fill.quantity) for fill in fills), ZERO)
    intent = order.intent
    return OrderStatusReport(
        order_id=order.order_id or "",
        client_order_id=order.client_order_id,
        is_algo=False,
        symbol=intent.symbol,
        side=intent.side,
        order_type=intent.order_type,
        venue_type=None,
        status=OrderStatus.FILLED if quantity >= intent.quantity else OrderStatus.PARTIALLY_FILLED,
        quantity=intent.quantity,
        executed_quantity=quantity,
        average_price=value / quantity,
        limit_price=intent.limit_price,
        trigger_price=intent.trigger_price,
        fee=sum((fill.fee for fill in fills), ZERO),
        realized_pnl=sum((fill.realized_pnl or ZERO for fill in fills), ZERO),
        reduce_only=intent.reduce_only,
        reason="",
        created_at=None,
        updated_at=now,
    )
