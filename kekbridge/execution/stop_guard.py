"""Guard stop losses: a position opened with a stop loss has a live stop at the exchange, or is closed.

Every entry with a stop is checked when it executes, after each restart and with each reconciliation. A stop that is missing, rejected or
smaller than the position is placed again; if that does not succeed within `queue.protect_within_s`, the uncovered part is closed.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from kekbridge.config import Queue
from kekbridge.errors import ExchangeUnavailable, KekbridgeError
from kekbridge.exchange.base import Accepted, Exchange, SubmitResult
from kekbridge.failpoints import hit
from kekbridge.log import get_logger
from kekbridge.model import ZERO, Order, OrderIntent, OrderStatus, OrderType, Purpose
from kekbridge.model.orders import OrderStatusReport
from kekbridge.risk.exposure import went_flat
from kekbridge.store import fills, projector, protection
from kekbridge.store import orders as order_rows
from kekbridge.store.database import Database
from kekbridge.store.protection import ProtectionState

log = get_logger("kekbridge.execution.stop_guard")

_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 5.0
_READ_LAG_S = 4.0  # a position may be visible this much later than its fill: "flat" is trusted only after it
_PLACING_SHARE = 0.6  # share of protect_within_s spent on placing the stop; the rest is for closing the position
_PROTECTIVE_LIFE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class StopCoverage:
    """How much of an entry is still open, and how much of that no live stop covers."""

    #: Base units, unsigned.
    open: Decimal
    #: Base units, unsigned; at most `open`.
    uncovered: Decimal


@dataclass(frozen=True, slots=True)
class ReplacementOrders:
    """The effect of the orders that kekbridge placed for an entry after it executed."""

    #: What they closed, in base units.
    closed: Decimal
    #: What their live stops cover, in base units.
    covered: Decimal
    #: The outcome of at least one close is not known yet.
    is_unresolved: bool


class StopLossGuard:
    """Guards every entry with a stop loss; one per daemon."""

    def __init__(
        self,
        *,
        database: Database,
        exchange: Exchange,
        settings: Queue,
        clock: Callable[[], datetime],
        submit: Callable[..., Coroutine[Any, Any, tuple[Order, SubmitResult | None]]],
    ) -> None:
        """`submit` is OrderSubmitter.submit: protective orders are sent as all others, only without waiting in the queue."""
        self._database = database
        self._exchange = exchange
        self._settings = settings
        self._clock = clock
        self._submit = submit
        self._wake_event = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by the entry's client order id
        self._submissions: set[asyncio.Task[tuple[Order, SubmitResult | None]]] = set()
        self._check_again: set[str] = set()  # client order ids of entries that changed while their task was running

    def wake(self) -> None:
        """An entry with a stop executed, or a stop changed."""
        self._wake_event.set()

    async def run(self) -> None:
        """Until cancelled: guard every open protection whenever something changed."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._wake_event.wait()
                    self._wake_event.clear()
                    try:
                        for each in await self._database.read(protection.open_protections):
                            self._start_guarding(each.order, group)
                    except KekbridgeError as error:
                        log.error("protections_not_readable", error=error.message)
                        await asyncio.sleep(_PAUSE_S)
                        self._wake_event.set()
        finally:
            for task in self._submissions:
                task.cancel()

    def _start_guarding(self, entry: Order, group: asyncio.TaskGroup) -> None:
        client_order_id = entry.client_order_id
        if client_order_id in self._tasks:
            self._check_again.add(client_order_id)  # its task may have checked before this change
            return
        task = group.create_task(self._guard(entry))
        self._tasks[client_order_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(client_order_id, None))

    async def _guard(self, entry: Order) -> None:
        """Guard one entry until its stop is live or its position is gone. Errors of the exchange are retried."""
        client_order_id = entry.client_order_id
        now = asyncio.get_running_loop().time
        started = now()
        pause = _PAUSE_S
        while True:
            self._check_again.discard(client_order_id)
            try:
                state = await self._step(entry, started)
            except KekbridgeError as error:
                log.error("protection_stuck", client_order_id=client_order_id, error=error.message)
                state = None
            except Exception:
                log.exception("protection_failed", client_order_id=client_order_id)
                state = None
            if state is not None:
                if client_order_id not in self._check_again:
                    return
                started, pause = now(), _PAUSE_S  # another fill: its part has its own deadline
                continue
            await asyncio.sleep(pause)
            if now() - started > self._settings.protect_within_s:
                # Stop and close were both rejected more than once: keep trying, but more slowly, since each try is a stored order.
                pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def _step(self, entry: Order, started: float) -> ProtectionState | None:
        """Check the entry's stop and do the next thing; returns the state reached, or None if it must be checked again soon."""
        now = asyncio.get_running_loop().time
        entry = await self._database.read(order_rows.get, entry.client_order_id)
        hit("W7")  # the entry executed, its stop is not verified yet
        replacements = await self._poll_replacements(entry)
        if replacements.is_unresolved:
            return None  # a second close before the first is resolved could close a position that is not this entry's
        coverage, state = await self._coverage_of(entry, replacements)
        if coverage.open == ZERO:
            if now() - started < _READ_LAG_S and state is not ProtectionState.OVER:
                return None
            return await self._mark(entry, ProtectionState.OVER)
        if coverage.uncovered == ZERO:
            return await self._mark(entry, state)
        if await self._was_closed(entry):
            return await self._mark(entry, ProtectionState.OVER, "closed; what is open now was opened after that")
        await self._mark(entry, ProtectionState.WANTED, f"{coverage.uncovered} of {coverage.open} without a stop")
        log.warning("position_naked", client_order_id=entry.client_order_id, naked=str(coverage.uncovered))
        left_s = started + self._settings.protect_within_s * _PLACING_SHARE - now()
        if left_s > 0 and not self._is_past_stop(entry):
            await self._send(entry, _stop_of(entry, coverage.uncovered), within_s=left_s)
        else:
            await self._flatten(entry, coverage.uncovered)
        return None  # done only once it is seen at the exchange

    async def _poll_replacements(self, entry: Order) -> ReplacementOrders:
        """Query every order that was placed for this entry after it executed: replacement stops, take-profits, closes."""
        closed = covered = ZERO
        is_unresolved = False
        for order in await self._database.read(protection.orders_for, entry):
            if order.status.is_final or order.finished_at is not None:
                closed += order.executed_quantity
                continue
            report = await self._exchange.find(order)
            if report is None:
                # Rejected, or on its way. The reconciler finishes it when the acceptance window is over.
                is_unresolved = is_unresolved or order.intent.order_type is OrderType.MARKET
                continue
            closed += max(report.executed_quantity, order.executed_quantity)
            if order.intent.order_type is OrderType.STOP:
                covered += report.quantity - report.executed_quantity if report.status is OrderStatus.ACCEPTED else ZERO
            elif not order.intent.is_bracket and not report.status.is_final:
                is_unresolved = True  # a close that is being matched
        return ReplacementOrders(closed, covered, is_unresolved)

    async def _coverage_of(self, entry: Order, replacements: ReplacementOrders) -> tuple[StopCoverage, ProtectionState]:
        """Query the entry and its stop, and compare both with the position."""
        report = await self._exchange.find(entry)
        unclosed = max(entry.executed_quantity - _exited(report) - replacements.closed, ZERO)
        if unclosed == ZERO:
            return StopCoverage(ZERO, ZERO), ProtectionState.OVER
        held = min(self._position_on_side(entry), unclosed)
        if held == ZERO:
            return StopCoverage(ZERO, ZERO), ProtectionState.WANTED  # flat, or not visible yet
        covered = replacements.covered
        if report is not None and report.stop_is_live:
            own = report.live_stop_quantity or held
            if own >= held:
                return StopCoverage(held, ZERO), ProtectionState.LIVE
            covered += own
        return StopCoverage(held, max(held - covered, ZERO)), ProtectionState.REPLACED

    async def _was_closed(self, entry: Order) -> bool:
        """True if the entry's position was closed, together with its stop, and what is open now was opened by another order.

        Checked only when something looks uncovered. If the exchange does not answer, the position counts as the entry's: better a stop too
        many than one too few.
        """
        own = await self._database.read(fills.of_order, entry.client_order_id)
        if not own or not entry.status.is_final:
            return False
        try:
            trades = await self._exchange.trades_since(own[-1].executed_at)
        except ExchangeUnavailable:
            return False
        known = {fill.trade_id for fill in own}
        later = [fill for fill in trades if fill.symbol == entry.intent.symbol and fill.trade_id not in known]
        return went_flat(entry.intent.side, self._position_on_side(entry), later)

    def _position_on_side(self, entry: Order) -> Decimal:
        """How much is open in the direction of the entry in the last snapshot, in base units. Raises ExchangeUnavailable without one."""
        snapshot = self._exchange.snapshot
        if snapshot is None:
            raise ExchangeUnavailable("not_ready", "the account has not been read since the start")
        return max(snapshot.position_quantity(entry.intent.symbol) * entry.intent.side.sign, ZERO)

    def _is_past_stop(self, entry: Order) -> bool:
        """True if the mark price has reached the stop already: a stop order would be rejected, the position must be closed."""
        snapshot = self._exchange.snapshot
        mark = snapshot.mark_price(entry.intent.symbol) if snapshot else None
        stop = entry.intent.stop_loss
        return mark is not None and stop is not None and (mark - stop) * entry.intent.side.sign <= 0

    async def _flatten(self, entry: Order, uncovered: Decimal) -> None:
        log.error("position_flattened", client_order_id=entry.client_order_id, quantity=str(uncovered))
        result = await self._send(entry, _close_of(entry, uncovered))
        if isinstance(result, Accepted):
            await self._mark(entry, ProtectionState.FLATTENED, f"closed {uncovered}: no stop could be placed")
            await self._exchange.refresh()

    async def _send(self, entry: Order, intent: OrderIntent, *, within_s: float | None = None) -> SubmitResult | None:
        """Store an order and send it; None if its result is not known within `within_s` seconds, when it is time to close the position.

        A request that is on its way then goes on; the next check finds its result.
        """
        submission = asyncio.create_task(
            self._submit(entry, intent, expires_at=self._clock() + _PROTECTIVE_LIFE, within_s=within_s)
        )
        self._submissions.add(submission)
        submission.add_done_callback(self._on_submitted)
        await asyncio.wait({submission}, timeout=within_s)
        return submission.result()[1] if submission.done() else None

    def _on_submitted(self, submission: asyncio.Task[tuple[Order, SubmitResult | None]]) -> None:
        self._submissions.discard(submission)
        if not submission.cancelled():
            submission.exception()  # retrieved here: after the timeout nothing else would, and asyncio would log it

    async def _mark(self, entry: Order, state: ProtectionState, detail: str = "") -> ProtectionState:
        now = self._clock()
        await self._database.write(_record_state, entry, state, detail=detail, now=now)
        return state


def _record_state(
    connection: sqlite3.Connection, order: Order, state: ProtectionState, *, detail: str, now: datetime
) -> None:
    """Append and store a new state of an entry's protection; nothing if state and detail are unchanged."""
    entry = protection.state_entry(connection, order, state, detail=detail, now=now)
    if entry is not None:
        projector.record(connection, entry)


def _exited(report: OrderStatusReport | None) -> Decimal:
    """What the entry's own exits (stop loss, take-profit) have closed, in base units."""
    return ZERO if report is None else sum((each.executed_quantity for each in report.exits), ZERO)


def _stop_of(entry: Order, quantity: Decimal) -> OrderIntent:
    assert entry.intent.stop_loss is not None  # noqa: S101 - only entries with a stop get a protections row
    return OrderIntent(
        symbol=entry.intent.symbol,
        side=entry.intent.side.opposite,
        order_type=OrderType.STOP,
        quantity=quantity,
        purpose=Purpose.PROTECT,
        reference_price=entry.intent.stop_loss,
        reduce_only=True,
        trigger_price=entry.intent.stop_loss,
    )


def _close_of(entry: Order, quantity: Decimal) -> OrderIntent:
    return OrderIntent(
        symbol=entry.intent.symbol,
        side=entry.intent.side.opposite,
        order_type=OrderType.MARKET,
        quantity=quantity,
        purpose=Purpose.PROTECT,
        reference_price=entry.intent.reference_price,
        reduce_only=True,
    )
