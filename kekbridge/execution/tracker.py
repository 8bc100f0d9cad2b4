"""Track accepted orders to their final state: by the exchange's stream while it is live, by polling otherwise.

Brings reports, fills and exits into the book, and positions into the store. Never sends, cancels or sizes anything.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from msgspec.structs import replace

from kekbridge.config import Queue
from kekbridge.errors import ExchangeUnavailable, KekbridgeError, StoreUnavailable
from kekbridge.exchange.base import Exchange
from kekbridge.execution import transitions
from kekbridge.execution.book import Book
from kekbridge.execution.complete_reads import CompleteReads
from kekbridge.log import get_logger
from kekbridge.model import ZERO, AccountSnapshot, Fill, MarginMode, Order, OrderStatus
from kekbridge.model.orders import ExitKind, ExitStatus, OrderStatusReport
from kekbridge.store import fills, incomplete_orders, orders, positions, protection
from kekbridge.store.database import Database
from kekbridge.store.facts import OwnedFill
from kekbridge.store.read_positions import RecordKind

log = get_logger("kekbridge.execution.tracker")

# A market order is matched within milliseconds: the first poll comes soon, later ones less and less often.
_FIRST_POLL_S = 0.02
_SLOWEST_POLL_S = 1.0
_POLL_WITH_STREAM_S = 0.5
_POSITIONS_PAUSE_S = 1.0
# While the stream is down: how often everything that it would have reported is polled.
_POLL_WITHOUT_STREAM_S = 2.0
# How long a decision waits for fills that are being fetched: what they realized counts against the daily loss.
LONGEST_WAIT_S = 0.2
# How far back the trades of a new data directory are read: the running day counts against daily limits.
_FIRST_TRADES = timedelta(days=1)
# What could not be read is asked for again after this time, then less and less often; the fills of an order that lacks one more rarely.
_FIRST_RETRY_S = 0.5
_SLOWEST_RETRY_S = 5.0
_SLOWEST_SEARCH_S = 60.0
# How long the exchange may take to list the trades of an execution that it has reported.
_LISTED_WITHIN_S = 60.0
# Positions are not compared with fills while one is missing, but not for ever.
_MISSING_FOR = timedelta(minutes=5)


_OPEN = (OrderStatus.ACCEPTED, OrderStatus.PARTIALLY_FILLED)


class OrderTracker:
    """Tracks the orders of one daemon."""

    def __init__(
        self,
        *,
        book: Book,
        database: Database,
        exchange: Exchange,
        settings: Queue,
        clock: Callable[[], datetime],
        protection_changed: Callable[[str | None], None],
        order_settled: Callable[[], None] = lambda: None,
        exit_canceled: Callable[[Order], Order] = lambda order: order,
    ) -> None:
        """`protection_changed` is called with the symbol in which an entry executed or an exit may have changed (None: any),
        `order_settled` when a report may have let the next order of a symbol go; neither may block. `exit_canceled` gets an exit that the
        exchange has canceled, before that is recorded, and returns it as it is to be recorded."""
        self._book = book
        self._database = database
        self._exchange = exchange
        self._settings = settings
        self._clock = clock
        self._protection_changed = protection_changed
        self._order_settled = order_settled
        self._exit_canceled = exit_canceled
        self._reads = CompleteReads(database, exchange)
        self._exits: dict[str, tuple[ExitStatus, ...]] = {}  # by entry, as last recorded
        self._polling: set[asyncio.Task[None]] = set()
        self._shown: set[str] = set()  # client order ids of open orders that the exchange has reported or shown
        self._unknown_fills: set[str] = set()  # client order ids of orders whose fills are being fetched
        self._unhandled_executions = 0  # reports of executions in the inbox
        # Executions of orders that are not in the store, by the exchange's id: quantity, and when it was reported (loop time).
        self._reported_executions: dict[str, tuple[Decimal, float]] = {}
        # How often all trades were asked for, and the last of these requests that was answered completely.
        self._trades_wanted = 0
        self._trades_read = 0
        self._fills_known = asyncio.Event()
        self._inbox: asyncio.Queue[OrderStatusReport] = asyncio.Queue(maxsize=10_000)
        self._sync_requested = asyncio.Event()
        self._positions_changed = asyncio.Event()
        #: Called with every new trade that belongs to no order of ours.
        self.on_foreign_trade: Callable[[Fill], None] = lambda _fill: None
        exchange.listen_reports(self._on_report)
        exchange.listen_account(lambda _: self._positions_changed.set())
        exchange.listen_gaps(self._on_gap)

    # ---------------------------------------------------------------------------------------------------- one order

    def watch(self, order: Order) -> None:
        """Poll an accepted order unless the stream reports its outcome soon, for at most `outcome_timeout_s`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.outcome_timeout_s
        self._check_later(order.client_order_id, _FIRST_POLL_S, deadline)

    def _check_later(self, name: str, pause: float, deadline: float) -> None:
        wait = _POLL_WITH_STREAM_S if self._exchange.stream_is_live else pause
        asyncio.get_running_loop().call_later(wait, self._check, name, pause, deadline)

    def _check(self, name: str, pause: float, deadline: float) -> None:
        order = self._book.orders.get(name)
        if order is None or order.is_settled:
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= deadline:
            self._order_settled()  # it holds back no other any more; the reconciliation goes on asking for it
            return
        task = loop.create_task(self._poll_and_check(order, min(pause * 2, _SLOWEST_POLL_S), deadline))
        self._polling.add(task)
        task.add_done_callback(self._polling.discard)

    async def _poll_and_check(self, order: Order, pause: float, deadline: float) -> None:
        try:
            await self.poll(order)
        except KekbridgeError as error:
            log.warning("order_not_polled", client_order_id=order.client_order_id, error=error.message)
        self._check_later(order.client_order_id, pause, deadline)

    async def poll(self, order: Order) -> Order:
        """Query the exchange for one order and apply its report; the order unchanged if it is not found or the exchange does not answer."""
        try:
            report = await self._exchange.find(order)
        except ExchangeUnavailable as error:
            log.warning("order_not_readable", client_order_id=order.client_order_id, error=error.message)
            return order
        if report is None:
            self._shown.discard(order.client_order_id)
            return order
        return await self.apply(order, report)

    def unshown(self) -> tuple[Order, ...]:
        """The orders that the exchange accepted and has never reported or shown, or does not show any more."""
        self._shown &= self._book.orders.keys()
        return tuple(
            order
            for order in self._book.orders.values()
            if order.order_id is not None and order.status in _OPEN and order.client_order_id not in self._shown
        )

    async def apply(self, order: Order, report: OrderStatusReport) -> Order:
        """Bring a report and its fills into the book; returns the order as it is then. Raises StoreUnavailable."""
        order = self._book.current(order)
        new_fills: tuple[Fill, ...] = ()
        if self._book.lacks_fills(order, report.executed_quantity):
            try:
                new_fills = await self._exchange.fills(report)
            except ExchangeUnavailable as error:
                # The order's own figures suffice for the response; its fills are looked for until they are complete.
                log.warning("fills_not_readable", client_order_id=order.client_order_id, error=error.message)
                self._sync_later()
        await self._learn(new_fills)
        legs: tuple[ExitStatus, ...] = ()
        if report.exits:
            legs = await self._changed_exits(order, report.exits)
        return self._apply(order, report, new_fills, legs)

    def _apply(
        self,
        order: Order,
        report: OrderStatusReport,
        new_fills: Sequence[Fill],
        legs: tuple[ExitStatus, ...] = (),
    ) -> Order:
        """The same in one turn of the loop, with everything known."""
        now = self._clock()
        order = self._book.current(order)  # it may have changed during a query
        self._shown.add(order.client_order_id)
        after = transitions.reported(order, report, now=now)
        if after.is_exit and after.status is OrderStatus.CANCELED and order.finished_at is None:
            after = self._exit_canceled(after)
        # Those that its own request carries are watched beside its stop loss; without one, for themselves.
        carries_all = self._exchange.carries_all_exits(after.intent)
        has_later_exits = bool(after.executed_quantity) and (not carries_all or after.has_only_take_profits)
        for fill in new_fills:
            self._book.record_fill(fill, order=order)
        position = self._position(after.intent.symbol, after.intent.margin_mode) if after.executed_quantity else None
        updated = self._book.change(order, after, now=now, has_later_exits=has_later_exits, position=position)
        if updated.executed_quantity and updated.status.is_final and not order.status.is_final:
            self._note_fired(updated)
        if legs and updated.is_entry and updated.executed_quantity:
            self._record_exits(updated, legs)
        if new_fills and (updated.needs_stop or has_later_exits):
            self._protection_changed(updated.intent.symbol)
        if updated.is_settled and self._book.queued:
            self._order_settled()
        return updated

    async def _changed_exits(self, entry: Order, legs: tuple[ExitStatus, ...]) -> tuple[ExitStatus, ...]:
        """The exits as reported, if they differ from the recorded ones; else none."""
        name = entry.client_order_id
        known = self._exits.get(name)
        if known is None:
            known = self._exits[name] = await self._database.read(protection.exits_of, name)
        return legs if legs != known else ()

    async def poll_exits(self) -> None:
        """Query the stop losses and take-profits that were sent with entries; record their states, and fills until none is missing."""
        for entry in await self._database.read(protection.entries_with_open_exits):
            report = await self._exchange.find(entry)
            if report is None or not report.exits:
                continue
            legs = await self._changed_exits(entry, report.exits)
            if not legs:
                continue
            exit_fills = await self._exit_fills(entry, report) if any(leg.executed_quantity for leg in legs) else ()
            self._record_exits(entry, legs, exit_fills)
            log.info("exits", client_order_id=entry.client_order_id, legs=[f"{leg.kind} {leg.status}" for leg in legs])
        for entry in await self._database.read(incomplete_orders.entries):
            report = await self._exchange.find(entry)
            if report is not None:
                for fill in await self._exit_fills(entry, report):
                    self._book.record_exit(fill, entry=entry)

    async def _exit_fills(self, entry: Order, report: OrderStatusReport) -> tuple[Fill, ...]:
        """The fills of an entry's own exits; none if they cannot be read: they are looked for until they are complete."""
        try:
            found = await self._exchange.exit_fills(report)
        except ExchangeUnavailable as error:
            log.warning("fills_not_readable", client_order_id=entry.client_order_id, error=error.message)
            self._sync_later()
            return ()
        await self._learn(found)
        return found

    def _record_exits(self, entry: Order, legs: tuple[ExitStatus, ...], exit_fills: Sequence[Fill] = ()) -> None:
        """Record the reported exits of an entry with their fills, and note which of them have executed."""
        ended = {(leg.kind, leg.trigger_price) for leg in self._exits.get(entry.client_order_id, ()) if _has_fired(leg)}
        self._book.record_exits(entry, legs, now=self._clock())
        self._exits[entry.client_order_id] = legs
        for fill in exit_fills:
            self._book.record_exit(fill, entry=entry)
        for leg in legs:
            if _has_fired(leg) and (leg.kind, leg.trigger_price) not in ended:
                data = {
                    "side": entry.intent.side.opposite.value.lower(),
                    "quantity": leg.executed_quantity,
                    "average_price": leg.average_price or leg.trigger_price,
                    "trigger_price": leg.trigger_price,
                    "position": self._position(entry.intent.symbol),
                }
                kind = "stop_fired" if leg.kind is ExitKind.STOP_LOSS else "take_profit_fired"
                self._book.note(kind, entry, now=self._clock(), data=data)

    def _note_fired(self, order: Order) -> None:
        """Write down that a stop or take-profit which kekbridge had placed was executed."""
        intent = order.intent
        kind = intent.fired_event
        if kind is None:
            return
        trigger = intent.take_profits[0].trigger_price if intent.take_profits else intent.trigger_price
        data = {
            "quantity": order.executed_quantity,
            "average_price": order.average_price,
            "trigger_price": trigger,
            "position": self._position(intent.symbol, intent.margin_mode),
        }
        self._book.note(kind, order, now=self._clock(), data=data)

    def _position(self, symbol: str, margin_mode: MarginMode = MarginMode.CROSS) -> Decimal | None:
        """The position in a market as the account shows it now, signed; None if it is not known."""
        snapshot = self._exchange.snapshot
        return None if snapshot is None else snapshot.position_quantity(symbol, margin_mode)

    async def complete_fills(self) -> None:
        """Query every order, open or ended, whose recorded fills do not add up to what it has executed, and record what is missing."""
        for order in list(self._book.incomplete.values()):
            await self.poll(order)

    async def _forget_recorded_executions(self) -> None:
        """Forget the reported executions of other orders whose trades are recorded; the exchange may list these some seconds later."""
        now = asyncio.get_running_loop().time()
        for order_id, (executed, since) in list(self._reported_executions.items()):
            is_recorded = await self._database.read(fills.quantity_of, order_id) >= executed
            if not is_recorded and now - since > _LISTED_WITHIN_S:
                log.warning("execution_without_trades", order_id=order_id, executed=executed)
            if is_recorded or now - since > _LISTED_WITHIN_S:
                self._reported_executions.pop(order_id, None)

    # ----------------------------------------------------------------------------------------------------------------- fills

    async def record_trades(self, trades: Iterable[Fill]) -> int:
        """Record trades of the account, ours and others'; returns the number of new ones. Raises StoreUnavailable."""
        trades = tuple(trades)
        await self._learn(trades)
        new = 0
        for fill in trades:
            order = self._order_of(fill)
            if order is None and not self._is_known(fill):
                order = await self._database.read(orders.owner_of, fill.client_order_id, fill.order_id)
                if order is None:
                    await self.find_entrant(fill.symbol)
            is_new = self._book.record_fill(fill, order=order)
            if is_new and order is None:
                self.on_foreign_trade(fill)
            new += is_new
        return new

    async def find_entrant(self, symbol: str) -> None:
        """Have the book know whose entry was the last in a market: what the exchange does to the position is the result of that webhook."""
        if self._book.entrant(symbol) is None:
            entrant = await self._database.read(orders.last_entrant, symbol)
            if entrant is not None:
                self._book.set_entrant(symbol, entrant)

    def _order_of(self, fill: Fill) -> Order | None:
        """The unfinished or incomplete order of ours that a fill belongs to."""
        name = fill.client_order_id
        order = None if name is None else self._book.orders.get(name) or self._book.incomplete.get(name)
        return order or self._book.order_of(fill.order_id)

    def _is_known(self, fill: Fill) -> bool:
        known = self._book.fill(fill.trade_id)
        return known is not None and (known.fill.client_order_id is not None or known.exit_of is not None)

    async def _learn(self, new_fills: Iterable[Fill]) -> None:
        """Look up the fills that may have been stored longer ago than the book remembers."""
        unknown = self._book.unknown_trades(new_fills)
        if unknown:
            self._book.remember(await self._database.read(_stored_fills, unknown))

    # ------------------------------------------------------------------------------------------------------- the stream

    def _on_report(self, report: OrderStatusReport) -> None:
        """Called by the exchange's stream at the moment its account snapshot reflects the report.

        A complete report of one of our orders is applied at once: no decision sees the position and the reservation of the same order. What
        needs a query goes to the inbox. A full inbox drops the report: the reconciliation finds the same facts.
        """
        name = report.client_order_id
        order = self._book.orders.get(name) if name else None
        if order is not None:
            self._shown.add(order.client_order_id)
            if _is_no_outcome(order, report):
                return
        if order is not None:
            try:
                if self._apply_streamed(order, report):
                    return
            except transitions.IllegalTransition:
                log.exception("report_not_applied", client_order_id=name)
        try:
            self._inbox.put_nowait(report)
        except asyncio.QueueFull:
            log.error("report_inbox_full", client_order_id=name)
            self._want_trades()
        else:
            self._unhandled_executions += report.executed_quantity > 0

    def _apply_streamed(self, order: Order, report: OrderStatusReport) -> bool:
        """Apply what a report says by itself; False if it must be completed by a query."""
        has_traded = self._book.lacks_fills(order, report.executed_quantity)
        if _needs_query(report):
            if report.executed_quantity > order.executed_quantity and order.attempt and not order.status.is_final:
                # The position shows it already, so its share of the reservation must go. Prices and state follow.
                status = OrderStatus.PARTIALLY_FILLED
                traded = replace(order, executed_quantity=report.executed_quantity, status=status)
                self._book.change(order, traded, now=self._clock())
            return False
        streamed = self._exchange.streamed_fills(report) if has_traded else ()
        self._apply(order, report, streamed or ())
        if streamed is None:
            self._query_fills(order, report)
        return True

    def _query_fills(self, order: Order, report: OrderStatusReport) -> None:
        """Fetch the fills behind a report; until they are recorded `wait_for_fills` waits, since what they realized is not known."""
        name = order.client_order_id
        self._unknown_fills.add(name)
        task = asyncio.get_running_loop().create_task(self._record_fills(order, report))
        self._polling.add(task)
        task.add_done_callback(self._polling.discard)

    async def _record_fills(self, order: Order, report: OrderStatusReport) -> None:
        try:
            found = await self._exchange.fills(report)
            await self._learn(found)
            for fill in found:
                self._book.record_fill(fill, order=order)
        except KekbridgeError as error:
            log.warning("fills_not_readable", client_order_id=order.client_order_id, error=error.message)
            self._sync_later()
        finally:
            self._unknown_fills.discard(order.client_order_id)
            if not self._unknown_fills:
                self._fills_known.set()
                self._order_settled()

    @property
    def fills_are_known(self) -> bool:
        """True if every fill that the account and its orders show is recorded; one that is missing for long does not count any more."""
        since = self._clock() - _MISSING_FOR
        return not self._unknown_fills and all(
            order.finished_at is not None and order.finished_at < since for order in self._book.incomplete.values()
        )

    async def wait_for_fills(self) -> None:
        """Return when every fill that the account shows is recorded, at the latest after LONGEST_WAIT_S. Usually all are already."""
        if not self._unknown_fills:
            return
        self._fills_known.clear()
        try:
            async with asyncio.timeout(LONGEST_WAIT_S):
                await self._fills_known.wait()
        except TimeoutError:
            pass  # an alert must not wait for the exchange

    @property
    def lacks_executions(self) -> bool:
        """True while the stream shows an execution, or may have missed one, whose fill is not recorded: what it realized is not known."""
        is_behind = self._trades_read != self._trades_wanted or bool(self._reported_executions)
        return is_behind or self._unhandled_executions > 0 or not self.fills_are_known

    def _want_trades(self) -> None:
        """Have all that the account's fills follow from queried; until then they count as incomplete."""
        self._trades_wanted += 1
        self._sync_requested.set()

    def _on_gap(self) -> None:
        """The stream was down, or reported a leg without its order: fetch what happened meanwhile."""
        self._want_trades()
        self._protection_changed(None)

    async def run(self) -> None:
        """Until cancelled: handle reports, trades and positions as they come."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_reports())
            group.create_task(self._run_trades())
            group.create_task(self._run_positions())
            group.create_task(self._run_polling())

    async def _run_reports(self) -> None:
        """Complete the stream's reports that need a query; fills of other orders are fetched as trades."""
        while True:
            report = await self._inbox.get()
            try:
                await self._handle_report(report)
            except KekbridgeError as error:
                log.error("report_not_stored", client_order_id=report.client_order_id, error=error.message)
                self._want_trades()
            except Exception:
                log.exception("report_failed", client_order_id=report.client_order_id)
                self._want_trades()
            finally:
                self._unhandled_executions -= report.executed_quantity > 0

    async def _handle_report(self, report: OrderStatusReport) -> None:
        name = report.client_order_id
        order = self._book.orders.get(name) if name else None
        if order is None and name:
            order = await self._database.read(orders.find, name)
        if order is None:
            if report.executed_quantity > 0:  # an exit of a bracket, or an order that kekbridge did not send
                if not report.is_algo:  # whose trades have the ids of its children
                    now = asyncio.get_running_loop().time()
                    self._reported_executions[report.order_id] = (report.executed_quantity, now)
                self._want_trades()
            return
        # Only an execution is behind the account's fills: orders come and go all the time, and entries may wait for what is behind.
        exit_has_traded = _executed_by_exits(report.exits) > _executed_by_exits(
            self._exits.get(order.client_order_id, ())
        )
        is_news = not order.status.is_final or self._book.lacks_fills(order, report.executed_quantity)
        if is_news:
            await (self.poll(order) if _needs_query(report) else self.apply(order, report))
        if exit_has_traded:
            self._want_trades()
        if report.is_algo:
            self._sync_requested.set()
            self._protection_changed(report.symbol)

    async def _run_trades(self) -> None:
        """Poll open orders and exits and fetch the account's trades whenever that was requested, and until no fill is missing."""
        pause: float | None = None
        while True:
            try:
                async with asyncio.timeout(pause):
                    await self._sync_requested.wait()
            except TimeoutError:
                pass  # what is missing is asked for again
            self._sync_requested.clear()
            longest = 0.0
            wanted = self._trades_wanted
            try:
                await self.sync()
                self._trades_read = wanted
                self._order_settled()  # an entry may have waited for what they realized
                longest = _SLOWEST_SEARCH_S if self._book.incomplete else 0.0
                longest = _SLOWEST_RETRY_S if self._reported_executions else longest
            except KekbridgeError as error:
                log.warning("trades_not_synced", error=error.message)
                longest = _SLOWEST_RETRY_S
            pause = min(_FIRST_RETRY_S if pause is None else pause * 2, longest) or None

    def _sync_later(self) -> None:
        """A fill could not be read: try again soon."""
        asyncio.get_running_loop().call_later(_FIRST_RETRY_S, self._sync_requested.set)

    async def sync(self) -> None:
        """Query all that the account's fills follow from. Every part is tried; raises the first ExchangeUnavailable or StoreUnavailable."""
        # Exits before trades: a fill is then known as that of the exit.
        failed: list[KekbridgeError] = []
        for part in (
            self.poll_open_orders,
            self.poll_exits,
            self.sync_fills,
            self.complete_fills,
            self._forget_recorded_executions,
        ):
            try:
                await part()
            except (ExchangeUnavailable, StoreUnavailable) as error:
                failed.append(error)
        if failed:
            raise failed[0]

    async def _run_positions(self) -> None:
        """Keep the positions table as the stream reports it; a burst of changes is one write."""
        while True:
            await self._positions_changed.wait()
            self._positions_changed.clear()
            snapshot = self._exchange.snapshot
            try:
                if snapshot is not None:
                    await self.save_positions(snapshot)
            except StoreUnavailable as error:
                log.warning("positions_not_saved", error=error.message)
            await asyncio.sleep(_POSITIONS_PAUSE_S)

    async def _run_polling(self) -> None:
        """While the stream is down, request every few seconds what it would have reported."""
        while True:
            await asyncio.sleep(_POLL_WITHOUT_STREAM_S)
            if not self._exchange.stream_is_live:
                self._sync_requested.set()
                self._protection_changed(None)

    async def poll_open_orders(self) -> None:
        """Query every unfinished order that the exchange has or may have."""
        for order in list(self._book.orders.values()):
            if order.order_id is not None or order.status is OrderStatus.UNKNOWN:
                await self.poll(order)

    async def sync_fills(self) -> None:
        """Record every trade of the account since the stored read position, ours and others'."""
        newest = await self._database.read(fills.last_executed_at)
        first = self._clock() - _FIRST_TRADES
        await self._reads.read(RecordKind.TRADES, self._record_since, first=min(newest or first, first))

    async def _record_since(self, since: datetime) -> bool:
        await self.record_trades(await self._exchange.trades_since(since))
        return True

    async def save_positions(self, snapshot: AccountSnapshot) -> None:
        """Keep the positions table as the exchange sees it, for `kekbridge positions`."""
        newest = self._exchange.snapshot or snapshot
        await self._database.write_soon(positions.replace_all, newest, now=self._clock())


def _is_no_outcome(order: Order, report: OrderStatusReport) -> bool:
    """True for the acceptance of a market order that is being sent: its final state follows at once."""
    return (
        report.status is OrderStatus.ACCEPTED
        and not report.is_algo
        and not report.executed_quantity
        and order.status is OrderStatus.SUBMITTING
        and order.intent.order_type.is_immediate
    )


def _executed_by_exits(exits: Iterable[ExitStatus]) -> Decimal:
    return sum((leg.executed_quantity for leg in exits), ZERO)


def _has_fired(leg: ExitStatus) -> bool:
    return leg.status.is_final and leg.executed_quantity > 0


def _needs_query(report: OrderStatusReport) -> bool:
    """True for a report that must be completed by a query: an algo order's, and one with fills but no price."""
    return report.is_algo or bool(report.executed_quantity and report.average_price is None)


def _stored_fills(connection: sqlite3.Connection, trade_ids: tuple[str, ...]) -> tuple[OwnedFill, ...]:
    found = (fills.find(connection, trade_id) for trade_id in trade_ids)
    return tuple(each for each in found if each is not None)
