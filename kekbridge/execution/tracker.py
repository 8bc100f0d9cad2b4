"""Track accepted orders to their final state: by the exchange's stream while it is live, by polling otherwise.

Stores order status reports, fills, exits and positions, and publishes the orders that changed. Never sends, cancels or sizes anything.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kekbridge.config import Queue
from kekbridge.errors import ExchangeUnavailable, StoreUnavailable
from kekbridge.exchange.base import Exchange
from kekbridge.execution.updates import OrderUpdates, TimedEvent
from kekbridge.log import get_logger
from kekbridge.model import AccountSnapshot, Fill, Order, OrderStatus
from kekbridge.model.orders import ExitStatus, OrderStatusReport
from kekbridge.store import fills, order_journal, order_lifecycle, order_queue, positions, protection
from kekbridge.store import orders as order_rows
from kekbridge.store.database import Database

log = get_logger("kekbridge.execution.tracker")

# A market order is matched within milliseconds: the first poll comes soon, later ones less and less often.
_FIRST_POLL_S = 0.02
_SLOWEST_POLL_S = 1.0
_POLL_WITH_STREAM_S = 0.5
_POSITIONS_PAUSE_S = 0.1
# While the stream is down: how often everything that it would have reported is polled.
_POLL_WITHOUT_STREAM_S = 2.0
# How far before the last known trade to fetch again: reports may come out of order.
_TRADE_OVERLAP = timedelta(seconds=10)


class OrderTracker:
    """Tracks the orders of one daemon; `run` takes what the stream reports, `track` stays with one order."""

    def __init__(
        self,
        *,
        database: Database,
        exchange: Exchange,
        updates: OrderUpdates,
        settings: Queue,
        clock: Callable[[], datetime],
        protection_changed: Callable[[], None],
    ) -> None:
        """`protection_changed` is called when an entry executed or an exit may have changed; it must not block."""
        self._database = database
        self._exchange = exchange
        self._updates = updates
        self._settings = settings
        self._clock = clock
        self._protection_changed = protection_changed
        self._expected: dict[str, _Expected] = {}  # by client order id, of the orders being sent or tracked
        # The newest snapshot that any queued write came with. Each write stores the positions of this one, not its own: a report that
        # joins an acceptance is written before what was queued in between, which must not bring older positions back.
        self._newest_snapshot: AccountSnapshot | None = None
        self._inbox: asyncio.Queue[OrderStatusReport] = asyncio.Queue(maxsize=10_000)
        self._sync_requested = asyncio.Event()
        self._positions_changed = asyncio.Event()
        exchange.listen_reports(self._on_report)
        exchange.listen_account(lambda _: self._positions_changed.set())
        exchange.listen_gaps(self._on_gap)

    # ---------------------------------------------------------------------------------------------------- one order

    @contextmanager
    def expect(self, order: Order) -> Iterator[None]:
        """Keep reports of this order for `track` inside the block: it is being sent, and the stream may be faster than the response."""
        client_order_id = order.client_order_id
        self._expected[client_order_id] = _Expected(may_rest=not order.intent.order_type.is_immediate)
        try:
            yield
        finally:
            report = self._expected.pop(client_order_id).report
            self._updates.unrecorded_fills.discard(client_order_id)
            if report is not None:
                self._on_report(report)  # `track` did not take it: handled like any other

    async def track(self, order: Order) -> Order:
        """Follow an accepted order until it is final or rests, at most `outcome_timeout_s`; returns it as last known."""
        client_order_id = order.client_order_id
        if client_order_id not in self._expected:
            with self.expect(order):
                return await self.track(order)
        deadline = asyncio.get_running_loop().time() + self._settings.outcome_timeout_s
        pause = _FIRST_POLL_S
        expected = self._expected[client_order_id]
        while True:
            await expected.changed.wait(_POLL_WITH_STREAM_S if self._exchange.stream_is_live else pause)
            expected.changed.clear()
            report, expected.report = expected.report, None
            if report is not None:
                order = await self.apply(order, report)
            else:
                # It may have been polled elsewhere meanwhile.
                order = self._database.read_now(order_rows.get, client_order_id)
                order = order if order.is_settled else await self.poll(order)
            if order.is_settled or asyncio.get_running_loop().time() >= deadline:
                return order
            pause = min(pause * 2, _SLOWEST_POLL_S)

    async def poll(self, order: Order) -> Order:
        """Query the exchange for one order and apply its report; the order unchanged if it is not found or the exchange does not answer."""
        try:
            report = await self._exchange.find(order)
        except ExchangeUnavailable as error:
            log.warning("order_not_readable", client_order_id=order.client_order_id, error=error.message)
            return order
        return order if report is None else await self.apply(order, report)

    async def apply(self, order: Order, report: OrderStatusReport) -> Order:
        """Record a report and its fills in one transaction, and publish the order. Raises StoreUnavailable."""
        new_fills: tuple[Fill, ...] = ()
        if report.executed_quantity > order.executed_quantity:
            try:
                new_fills = await self._exchange.fills(report)
            except ExchangeUnavailable as error:
                # The order's own figures suffice for the response; the trades come with the next reconciliation.
                log.warning("fills_not_readable", client_order_id=order.client_order_id, error=error.message)
        try:
            stored = self._store(order, report, new_fills)
        finally:
            self._updates.unrecorded_fills.discard(order.client_order_id)
        if self._updates.is_awaited(order.alert_id):
            self._database.flush_now()
        updated = await stored  # the write goes on even if this wait for it is cancelled
        self._updates.publish(updated)
        if new_fills and (updated.needs_stop or not self._exchange.carries_all_exits(updated.intent)):
            self._protection_changed()
        return updated

    def _store(self, order: Order, report: OrderStatusReport, new_fills: tuple[Fill, ...]) -> Awaitable[Order]:
        """Begin to write a report, in one write with the order's acceptance while that waits for its flush."""
        client_order_id, now = order.client_order_id, self._clock()
        has_later_exits = not self._exchange.carries_all_exits(order.intent)
        self._newest_snapshot = self._exchange.snapshot

        def write(
            connection: sqlite3.Connection, known: Order | order_journal.UnsavedTransition | None = None
        ) -> Order:
            return record_report(
                connection,
                client_order_id,
                report,
                new_fills,
                self._newest_snapshot,
                now=now,
                has_later_exits=has_later_exits,
                known=known,
            )

        acceptance = self._updates.acceptances.get(client_order_id)
        joined = None if acceptance is None else acceptance.join(write)
        return self._database.write_soon(write) if joined is None else joined

    async def poll_exits(self) -> None:
        """Query the stop losses and take-profits that were sent with entries, and record their states and fills."""
        for entry in await self._database.read(protection.entries_with_open_exits):
            report = await self._exchange.find(entry)
            if report is None or not report.exits:
                continue
            known = await self._database.read(protection.exits_of, entry.client_order_id)
            legs = report.exits
            if legs == known:
                continue
            exit_fills: tuple[Fill, ...] = ()
            if any(leg.executed_quantity for leg in legs):
                exit_fills = await self._exchange.exit_fills(report)
            await asyncio.shield(self._database.write(record_exits, entry, legs, exit_fills, now=self._clock()))
            log.info("exits", client_order_id=entry.client_order_id, legs=[f"{leg.kind} {leg.status}" for leg in legs])

    # ------------------------------------------------------------------------------------------------------- the stream

    def _on_report(self, report: OrderStatusReport) -> None:
        """Called by the exchange's stream at the moment its account snapshot reflects the report.

        A full inbox drops the report: the reconciliation finds the same facts.
        """
        client_order_id = report.client_order_id
        if client_order_id and report.executed_quantity > 0:
            self._updates.unrecorded_fills.add(client_order_id)
        try:
            self._inbox.put_nowait(report)
        except asyncio.QueueFull:
            self._updates.unrecorded_fills.discard(client_order_id or "")
            log.error("report_inbox_full", client_order_id=client_order_id)

    def _on_gap(self) -> None:
        """The stream was down, or reported a leg without its order: fetch what happened meanwhile."""
        self._sync_requested.set()
        self._protection_changed()

    async def run(self) -> None:
        """Until cancelled: handle reports, trades and positions as they come."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_reports())
            group.create_task(self._run_trades())
            group.create_task(self._run_positions())
            group.create_task(self._run_polling())

    async def _run_reports(self) -> None:
        """Apply the stream's reports of our orders; fills of other orders are fetched as trades."""
        while True:
            report = await self._inbox.get()
            client_order_id = report.client_order_id or ""
            if client_order_id in self._expected:
                self._expected[client_order_id].on_report(report)
                continue
            try:
                await self._handle_report(report)
            except StoreUnavailable as error:
                log.error("report_not_stored", client_order_id=client_order_id, error=error.message)
            finally:
                self._updates.unrecorded_fills.discard(client_order_id)

    async def _handle_report(self, report: OrderStatusReport) -> None:
        """Handle a report of an order that `track` does not follow."""
        client_order_id = report.client_order_id
        order = await self._database.read(order_rows.find, client_order_id) if client_order_id else None
        if order is None:
            if report.executed_quantity > 0:
                self._sync_requested.set()  # an exit of a bracket, or an order that kekbridge did not send
            return
        if not order.status.is_final:
            await (self.apply(order, report) if _is_complete(report) else self.poll(order))
            if (expected := self._expected.get(order.client_order_id)) is not None:
                expected.changed.set()  # tracking began while the report was applied
        if report.is_algo:
            self._sync_requested.set()
            self._protection_changed()

    async def _run_trades(self) -> None:
        """Poll open orders and exits and fetch the account's trades whenever that was requested."""
        while True:
            await self._sync_requested.wait()
            self._sync_requested.clear()
            try:
                await self.poll_open_orders()
                await self.poll_exits()
                await self.sync_fills()
            except (ExchangeUnavailable, StoreUnavailable) as error:
                log.warning("trades_not_synced", error=error.message)

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
                self._protection_changed()

    async def poll_open_orders(self) -> None:
        """Query every unfinished order that the exchange has or may have and that is not tracked already."""
        for order in await self._database.read(order_queue.unfinished):
            may_exist = order.order_id is not None or order.status is OrderStatus.UNKNOWN
            if may_exist and order.client_order_id not in self._expected:
                await self.poll(order)

    async def sync_fills(self) -> int:
        """Record every trade of the account since the last known one, ours and others'; returns the number of new ones."""
        now = self._clock()
        last = await self._database.read(fills.last_executed_at)
        since = (last or now - timedelta(days=1)) - _TRADE_OVERLAP
        trades = await self._exchange.trades_since(since)
        return await self._database.write(fills.record, trades)

    async def save_positions(self, snapshot: AccountSnapshot) -> None:
        """Keep the positions table as the exchange sees it, for `kekbridge positions`."""
        now = self._clock()
        self._newest_snapshot = newest = self._exchange.snapshot or snapshot
        await self._database.write_soon(
            lambda connection: positions.replace_all(connection, self._newest_snapshot or newest, now=now)
        )


def record_report(
    connection: sqlite3.Connection,
    client_order_id: str,
    report: OrderStatusReport,
    new_fills: tuple[Fill, ...],
    snapshot: AccountSnapshot | None,
    *,
    now: datetime,
    has_later_exits: bool = False,
    known: Order | order_journal.UnsavedTransition | None = None,
) -> Order:
    """Write, in one transaction, a report of an order, its fills, and the positions they led to.

    `has_later_exits`: take-profits must be placed after the fill. `known`: the order as this transaction has accepted it already.
    """
    known = known or order_rows.get(connection, client_order_id)
    fills.record(
        connection, new_fills, order=known.order if isinstance(known, order_journal.UnsavedTransition) else known
    )
    updated = order_lifecycle.apply_report(connection, client_order_id, report, now=now, known=known)
    if new_fills and snapshot is not None:
        positions.replace_all(connection, snapshot, now=now)
    if updated.needs_stop:
        protection.require_stop(connection, updated, now=now)
    if updated.executed_quantity and has_later_exits:
        protection.require_take_profits(connection, updated, now=now)
    if updated.is_entry and updated.executed_quantity:
        protection.record_exits(connection, updated, report.exits, now=now)
    return updated


def record_exits(
    connection: sqlite3.Connection,
    entry: Order,
    legs: tuple[ExitStatus, ...],
    exit_fills: tuple[Fill, ...],
    *,
    now: datetime,
) -> None:
    """Write, in one transaction, the states of an entry's exits and their fills."""
    protection.record_exits(connection, entry, legs, now=now)
    fills.record_exits(connection, exit_fills, entry=entry)


def _is_complete(report: OrderStatusReport) -> bool:
    """False for a report that must be completed by a query: an algo order's, and one with fills but no price."""
    return not report.is_algo and (not report.executed_quantity or report.average_price is not None)


@dataclass(slots=True)
class _Expected:
    """What the stream reported of an order that is being sent or tracked."""

    #: The order may rest in the book, so that an acceptance without fills is an outcome.
    may_rest: bool
    #: Set with each report that matters.
    changed: TimedEvent = field(default_factory=TimedEvent)
    #: The newest report that needs no query; None: query.
    report: OrderStatusReport | None = None

    def on_report(self, report: OrderStatusReport) -> None:
        if report.status is OrderStatus.ACCEPTED and not report.executed_quantity and not self.may_rest:
            return  # the acceptance of a market order is no outcome; its final state follows at once
        self.report = report if _is_complete(report) else None
        self.changed.set()
