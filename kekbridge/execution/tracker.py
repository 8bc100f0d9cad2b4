"""What becomes of orders the exchange took: by its stream when that lives, by asking when it does not.

Writes what the exchange says into the store and tells whoever waits. It never sends, cancels or sizes anything.
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
from kekbridge.store import protection as ladders
from kekbridge.store import protection as protections
from kekbridge.store.database import Database

log = get_logger("kekbridge.execution.tracker")

# A market order is matched within milliseconds: ask soon, then less and less often.
_FIRST_LOOK_S = 0.02
_SLOWEST_LOOK_S = 1.0
_LOOK_WITH_STREAM_S = 0.5
_POSITIONS_PAUSE_S = 0.1
# While the stream is away: how often to ask for what it would have told.
_POLL_S = 2.0
# How far before the last known trade to look again: reports may come out of order.
_TRADE_OVERLAP = timedelta(seconds=10)


class OrderTracker:
    """Follows orders to their end; one per daemon."""

    def __init__(
        self,
        *,
        database: Database,
        exchange: Exchange,
        outcomes: OrderUpdates,
        settings: Queue,
        clock: Callable[[], datetime],
        protection_changed: Callable[[], None],
    ) -> None:
        self._database = database
        self._exchange = exchange
        self._updates = outcomes
        self._settings = settings
        self._clock = clock
        self._protection_changed = protection_changed
        self._expected: dict[str, _Expected] = {}  # by client order id, of the orders being sent or followed
        # The newest picture of the account that anything to be written brought along. Each write stores this one, not its own: a report
        # that joins an acceptance is written before what was queued in between, which must not bring an older picture back.
        self._newest_snapshot: AccountSnapshot | None = None
        self._inbox: asyncio.Queue[OrderStatusReport] = asyncio.Queue(maxsize=10_000)
        self._trades_wanted = asyncio.Event()
        self._positions_moved = asyncio.Event()
        exchange.listen(self._on_report)
        exchange.listen_positions(lambda _: self._positions_moved.set())
        exchange.listen_gaps(self._on_gap)

    # ---------------------------------------------------------------------------------------------------- one order

    @contextmanager
    def expect(self, order: Order) -> Iterator[None]:
        """While inside, reports of this order are kept for `follow`: it is being sent, and the stream may be quicker than the answer."""
        name = order.client_order_id
        self._expected[name] = _Expected(may_rest=not order.intent.order_type.is_immediate)
        try:
            yield
        finally:
            told = self._expected.pop(name).report
            self._updates.unrecorded_fills.discard(name)
            if told is not None:
                self._on_report(told)  # nobody followed it: it is taken like any other

    async def track(self, order: Order) -> Order:
        """Stay with an order that the exchange took until it is final or rests, at most `outcome_timeout_s`; returns it as last known."""
        name = order.client_order_id
        if name not in self._expected:
            with self.expect(order):
                return await self.track(order)
        deadline = asyncio.get_running_loop().time() + self._settings.outcome_timeout_s
        pause = _FIRST_LOOK_S
        expected = self._expected[name]
        while True:
            # Without a report in that time: ask.
            await expected.bell.wait(_LOOK_WITH_STREAM_S if self._exchange.stream_is_live else pause)
            expected.bell.clear()
            told, expected.report = expected.report, None
            if told is not None:
                order = await self.apply(order, told)
            else:
                # Somebody else may have asked meanwhile.
                order = self._database.read_now(order_rows.get, name)
                order = order if order.is_settled else await self.poll(order)
            if order.is_settled or asyncio.get_running_loop().time() >= deadline:
                return order
            pause = min(pause * 2, _SLOWEST_LOOK_S)

    async def poll(self, order: Order) -> Order:
        """Ask the exchange about one order and record what it says; the order unchanged when there is no answer."""
        try:
            report = await self._exchange.find(order)
        except ExchangeUnavailable as error:
            log.warning("order_not_readable", client_order_id=order.client_order_id, error=error.message)
            return order
        return order if report is None else await self.apply(order, report)

    async def apply(self, order: Order, report: OrderStatusReport) -> Order:
        """Record a report and its fills in one transaction, and tell whoever waits."""
        executions: tuple[Fill, ...] = ()
        if report.executed_quantity > order.executed_quantity:
            try:
                executions = await self._exchange.fills(report)
            except ExchangeUnavailable as error:
                # The order's own figures suffice for the answer; the trades come with the next reconciliation.
                log.warning("fills_not_readable", client_order_id=order.client_order_id, error=error.message)
        try:
            stored = self._store(order, report, executions)
        finally:
            self._updates.unrecorded_fills.discard(order.client_order_id)
        if self._updates.is_awaited(order.alert_id):
            self._database.flush_now()
        updated = await stored  # the write stands, also when the wait for it is cut off
        self._updates.publish(updated)
        if executions and (updated.needs_stop or not self._exchange.carries_all_exits(updated.intent)):
            self._protection_changed()
        return updated

    def _store(self, order: Order, report: OrderStatusReport, executions: tuple[Fill, ...]) -> Awaitable[Order]:
        """Begin to write down a report; one write with the order's acceptance while that waits for its flush."""
        name, now = order.client_order_id, self._clock()
        has_later_exits = not self._exchange.carries_all_exits(order.intent)
        self._newest_snapshot = self._exchange.snapshot

        def write(
            connection: sqlite3.Connection, known: Order | order_journal.UnsavedTransition | None = None
        ) -> Order:
            return record_report(
                connection,
                name,
                report,
                executions,
                self._newest_snapshot,
                now=now,
                has_later_exits=has_later_exits,
                known=known,
            )

        acceptance = self._updates.acceptances.get(name)
        joined = None if acceptance is None else acceptance.join(write)
        return self._database.write_soon(write) if joined is None else joined

    async def poll_exits(self) -> None:
        """Ask what became of the stop losses and take-profits that travelled with entries, and record their executions."""
        for entry in await self._database.read(protection.entries_with_open_exits):
            report = await self._exchange.find(entry)
            if report is None or not report.exits:
                continue
            known = await self._database.read(protection.exits_of, entry.client_order_id)
            legs = report.exits
            if legs == known:
                continue
            executions: tuple[Fill, ...] = ()
            if any(leg.executed_quantity for leg in legs):
                executions = await self._exchange.exit_fills(report)
            await asyncio.shield(self._database.write(record_exits, entry, legs, executions, now=self._clock()))
            log.info("exits", client_order_id=entry.client_order_id, legs=[f"{leg.kind} {leg.status}" for leg in legs])

    # ------------------------------------------------------------------------------------------------------- the stream

    def _on_report(self, report: OrderStatusReport) -> None:
        """From the exchange's stream, in the moment in which the account shows what it tells.

        A full inbox drops the report: the reconciliation finds the same facts.
        """
        name = report.client_order_id
        if name and report.executed_quantity > 0:
            self._updates.unrecorded_fills.add(name)
        try:
            self._inbox.put_nowait(report)
        except asyncio.QueueFull:
            self._updates.unrecorded_fills.discard(name or "")
            log.error("report_inbox_full", client_order_id=report.client_order_id)

    def _on_gap(self) -> None:
        """The stream was away, or told of a leg alone: whatever happened meanwhile is asked for."""
        self._trades_wanted.set()
        self._protection_changed()

    async def run(self) -> None:
        """The follower's whole life: reports, trades and positions as they come."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_reports())
            group.create_task(self._run_trades())
            group.create_task(self._run_positions())
            group.create_task(self._run_polling())

    async def _run_reports(self) -> None:
        """Take reports from the stream for ever: ours are applied, executions of others are fetched as trades."""
        while True:
            report = await self._inbox.get()
            name = report.client_order_id or ""
            if name in self._expected:
                self._expected[name].take(report)
                continue
            try:
                await self._handle_report(report)
            except StoreUnavailable as error:
                log.error("report_not_stored", client_order_id=name, error=error.message)
            finally:
                self._updates.unrecorded_fills.discard(name)

    async def _handle_report(self, report: OrderStatusReport) -> None:
        """A report of an order that nobody stays with."""
        name = report.client_order_id
        order = await self._database.read(order_rows.find, name) if name else None
        if order is None:
            if report.executed_quantity > 0:
                self._trades_wanted.set()  # an exit of a bracket, or an order of somebody else
            return
        if not order.status.is_final:
            await (self.apply(order, report) if _is_whole(report) else self.poll(order))
            if (expected := self._expected.get(order.client_order_id)) is not None:
                expected.bell.set()  # it began to be followed in this very moment
        if report.is_algo:
            self._trades_wanted.set()
            self._protection_changed()

    async def _run_trades(self) -> None:
        """Fetch the account's trades whenever something traded that was not one of our plain orders."""
        while True:
            await self._trades_wanted.wait()
            self._trades_wanted.clear()
            try:
                await self.poll_open_orders()
                await self.poll_exits()
                await self.sync_fills()
            except (ExchangeUnavailable, StoreUnavailable) as error:
                log.warning("trades_not_synced", error=error.message)

    async def _run_positions(self) -> None:
        """Keep the positions table as the stream tells it; a burst of changes is one write."""
        while True:
            await self._positions_moved.wait()
            self._positions_moved.clear()
            snapshot = self._exchange.snapshot
            try:
                if snapshot is not None:
                    await self.save_positions(snapshot)
            except StoreUnavailable as error:
                log.warning("positions_not_saved", error=error.message)
            await asyncio.sleep(_POSITIONS_PAUSE_S)

    async def _run_polling(self) -> None:
        """While the stream is silent, wish for everything that it would have told, every few seconds."""
        while True:
            await asyncio.sleep(_POLL_S)
            if not self._exchange.stream_is_live:
                self._trades_wanted.set()
                self._protection_changed()

    async def poll_open_orders(self) -> None:
        """Ask for every order of ours that the exchange has or may have, and that nobody is following already."""
        for order in await self._database.read(order_queue.unfinished):
            is_there = order.order_id is not None or order.status is OrderStatus.UNKNOWN
            if is_there and order.client_order_id not in self._expected:
                await self.poll(order)

    async def sync_fills(self) -> int:
        """Record every trade of the account since the last known one, ours and others'; returns how many were new."""
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
    executions: tuple[Fill, ...],
    snapshot: AccountSnapshot | None,
    *,
    now: datetime,
    has_later_exits: bool = False,
    known: Order | order_journal.UnsavedTransition | None = None,
) -> Order:
    """One transaction: what the exchange reports about the order, its fills, and the positions they led to.

    `has_later_exits`: take-profits have to be placed after its fill. `known` is the order as this transaction has it already,
    accepted a moment ago.
    """
    known = known or order_rows.get(connection, client_order_id)
    fills.record(
        connection, executions, order=known.order if isinstance(known, order_journal.UnsavedTransition) else known
    )
    updated = order_lifecycle.apply_report(connection, client_order_id, report, now=now, known=known)
    if executions and snapshot is not None:
        positions.replace_all(connection, snapshot, now=now)
    if updated.needs_stop:
        protections.require_stop(connection, updated, now=now)
    if updated.executed_quantity and has_later_exits:
        ladders.require_take_profits(connection, updated, now=now)
    if updated.is_entry and updated.executed_quantity:
        protection.record_exits(connection, updated, report.exits, now=now)
    return updated


def record_exits(
    connection: sqlite3.Connection,
    entry: Order,
    legs: tuple[ExitStatus, ...],
    executions: tuple[Fill, ...],
    *,
    now: datetime,
) -> None:
    """One transaction: what became of an entry's exits, and their executions."""
    protection.record_exits(connection, entry, legs, now=now)
    fills.record_exits(connection, executions, entry=entry)


def _is_whole(report: OrderStatusReport) -> bool:
    """True for a report that says all there is to say now; an algo order's, and one that traded without a price, must be asked for."""
    return not report.is_algo and (not report.executed_quantity or report.average_price is not None)


@dataclass(slots=True)
class _Expected:
    """What the stream told of an order that somebody stays with: the newest report that needs no asking, and that there was one."""

    may_rest: bool
    bell: TimedEvent = field(default_factory=TimedEvent)
    report: OrderStatusReport | None = None

    def take(self, report: OrderStatusReport) -> None:
        if report.status is OrderStatus.ACCEPTED and not report.executed_quantity and not self.may_rest:
            return  # that an order at market is there says nothing of its end, which follows at once
        self.report = report if _is_whole(report) else None
        self.bell.set()
