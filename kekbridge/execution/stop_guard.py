"""Protected or flat: a position that was opened with a stop loss has that stop at the exchange, or is closed.

Every entry with a stop is looked at when it executes, after each restart and with each reconciliation. A stop that is missing, refused or
smaller than the position is placed again; when that does not succeed within `protect_within_s`, the naked part is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from kekbridge.config import Queue
from kekbridge.errors import ExchangeUnavailable, KekbridgeError
from kekbridge.exchange.base import Accepted, Exchange, SubmitResult, request_text
from kekbridge.failpoints import hit
from kekbridge.log import get_logger
from kekbridge.model import ZERO, Order, OrderIntent, OrderStatus, OrderType, Purpose
from kekbridge.model.orders import OrderStatusReport
from kekbridge.risk.exposure import went_flat
from kekbridge.store import fills
from kekbridge.store import orders as order_rows
from kekbridge.store import protection as protections
from kekbridge.store.database import Database
from kekbridge.store.protection import Protection, ProtectionState

log = get_logger("kekbridge.execution.stop_guard")

_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 5.0
_READ_LAG_S = 4.0  # a position may be visible this much later than its fill: "flat" is believed only after it
_PATIENCE = 0.6  # share of protect_within_s spent on placing the stop; the rest is for closing the position
_PROTECTIVE_LIFE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class StopCoverage:
    """What of an entry is still open, and how much of it no live stop covers (base units, unsigned)."""

    open: Decimal
    uncovered: Decimal


@dataclass(frozen=True, slots=True)
class ReplacementOrders:
    """What orders of ours, made for an entry afterwards, do for it: closed already, covered by live stops, and not known yet."""

    closed: Decimal
    covered: Decimal
    is_unresolved: bool


class StopLossGuard:
    """One per daemon. `submit` is pipeline.submit: protective orders go the same way as all others, only without a queue.

    It gets the seconds that the order may wait for its place in the exchange's rate window; None: as long as it takes.
    """

    def __init__(
        self,
        *,
        database: Database,
        exchange: Exchange,
        settings: Queue,
        clock: Callable[[], datetime],
        submit: Callable[[Order, float | None], Coroutine[Any, Any, SubmitResult | None]],
    ) -> None:
        self._database = database
        self._exchange = exchange
        self._settings = settings
        self._clock = clock
        self._submit = submit
        self._wake_event = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._submissions: set[asyncio.Task[SubmitResult | None]] = set()
        self._changed_while_busy: set[str] = set()

    def wake(self) -> None:
        """An entry with a stop executed, or a stop changed."""
        self._wake_event.set()

    async def run(self) -> None:
        """For ever: look after every open protection whenever something changed."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._wake_event.wait()
                    self._wake_event.clear()
                    try:
                        for protection in await self._database.read(protections.open_protections):
                            self._start_guarding(protection, group)
                    except KekbridgeError as error:
                        log.error("protections_not_readable", error=error.message)
                        await asyncio.sleep(_PAUSE_S)
                        self._wake_event.set()
        finally:
            for task in self._submissions:
                task.cancel()

    def _start_guarding(self, protection: Protection, group: asyncio.TaskGroup) -> None:
        name = protection.order.client_order_id
        if name in self._tasks:
            self._changed_while_busy.add(name)  # it may have looked already: once more when it believes to be done
            return
        task = group.create_task(self._guard(protection))
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._tasks.pop(name, None))

    async def _guard(self, protection: Protection) -> None:
        """One entry, until its stop is live or its position is gone. Trouble with the exchange is no reason to give up."""
        name = protection.order.client_order_id
        now = asyncio.get_running_loop().time
        started = now()
        pause = _PAUSE_S
        while True:
            self._changed_while_busy.discard(name)
            try:
                state = await self._step(protection.order, started)
            except KekbridgeError as error:
                log.error("protection_stuck", client_order_id=name, error=error.message)
                state = None
            except Exception:
                log.exception("protection_failed", client_order_id=name)
                state = None
            if state is not None:
                if name not in self._changed_while_busy:
                    return
                started, pause = now(), _PAUSE_S  # another fill: its part has its own time
                continue
            await asyncio.sleep(pause)
            if now() - started > self._settings.protect_within_s:
                # Every way was refused more than once: go on trying, but each try is a stored order.
                pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def _step(self, entry: Order, started: float) -> ProtectionState | None:
        """Look, and do the next thing; the state reached, or None when it has to be looked at again soon."""
        now = asyncio.get_running_loop().time
        entry = await self._database.read(order_rows.get, entry.client_order_id)
        hit("W7")
        stand_ins = await self._poll_replacements(entry)
        if stand_ins.is_unresolved:
            return None  # one more of the kind, sent before the first is known, could close what others opened
        exposure, state = await self._coverage_of(entry, stand_ins)
        if exposure.open == ZERO:
            if now() - started < _READ_LAG_S and state is not ProtectionState.OVER:
                return None
            return await self._mark(entry, ProtectionState.OVER)
        if exposure.uncovered == ZERO:
            return await self._mark(entry, state)
        if await self._was_closed(entry):
            return await self._mark(entry, ProtectionState.OVER, "closed; what is open now was opened after that")
        await self._mark(entry, ProtectionState.WANTED, f"{exposure.uncovered} of {exposure.open} without a stop")
        log.warning("position_naked", client_order_id=entry.client_order_id, naked=str(exposure.uncovered))
        left_s = started + self._settings.protect_within_s * _PATIENCE - now()
        if left_s > 0 and not self._is_past_stop(entry):
            await self._send(entry, _stop_of(entry, exposure.uncovered), within_s=left_s)
        else:
            await self._flatten(entry, exposure.uncovered)
        return None  # believed only when it is seen at the exchange

    async def _poll_replacements(self, entry: Order) -> ReplacementOrders:
        """Ask for every order that was made for this entry afterwards: stops in its place, take-profits, closes."""
        closed = covered = ZERO
        is_undecided = False
        for order in await self._database.read(protections.orders_for, entry):
            if order.status.is_final or order.finished_at is not None:
                closed += order.executed_quantity
                continue
            report = await self._exchange.find(order)
            if report is None:
                # Not known there: refused, or on its way. Recovery finishes it when the acceptance window is over.
                is_undecided = is_undecided or order.intent.order_type is OrderType.MARKET
                continue
            closed += max(report.executed_quantity, order.executed_quantity)
            if order.intent.order_type is OrderType.STOP:
                covered += report.quantity - report.executed_quantity if report.status is OrderStatus.ACCEPTED else ZERO
            elif not order.intent.is_bracket and not report.status.is_final:
                is_undecided = True  # a close that is being matched
        return ReplacementOrders(closed, covered, is_undecided)

    async def _coverage_of(self, entry: Order, stand_ins: ReplacementOrders) -> tuple[StopCoverage, ProtectionState]:
        """Ask the exchange for the entry and its stop, and set both against the position."""
        report = await self._exchange.find(entry)
        unclosed = max(entry.executed_quantity - _exited(report) - stand_ins.closed, ZERO)
        if unclosed == ZERO:
            return StopCoverage(ZERO, ZERO), ProtectionState.OVER
        held = min(self._position_on_side(entry), unclosed)
        if held == ZERO:
            return StopCoverage(ZERO, ZERO), ProtectionState.WANTED  # flat, or not visible yet
        covered = stand_ins.covered
        if report is not None and report.stop_is_live:
            own = report.live_stop_quantity or held
            if own >= held:
                return StopCoverage(held, ZERO), ProtectionState.LIVE
            covered += own
        return StopCoverage(held, max(held - covered, ZERO)), ProtectionState.REPLACED

    async def _was_closed(self, entry: Order) -> bool:
        """True when the entry's position was closed and what is open now is somebody else's: its stop went with it, as it should.

        Asked only when something looks naked. Where the exchange does not answer, the position counts as the entry's: better a stop too
        many than one too few.
        """
        own = await self._database.read(fills.of_order, entry.client_order_id)
        if not own or not entry.status.is_final:
            return False
        try:
            told = await self._exchange.trades_since(own[-1].executed_at)
        except ExchangeUnavailable:
            return False
        known = {fill.trade_id for fill in own}
        later = [fill for fill in told if fill.symbol == entry.intent.symbol and fill.trade_id not in known]
        return went_flat(entry.intent.side, self._position_on_side(entry), later)

    def _position_on_side(self, entry: Order) -> Decimal:
        """How much is open in the direction of the entry, as the account was last seen."""
        snapshot = self._exchange.snapshot
        if snapshot is None:
            raise ExchangeUnavailable("not_ready", "the account has not been seen since the start")
        return max(snapshot.position_quantity(entry.intent.symbol) * entry.intent.side.sign, ZERO)

    def _is_past_stop(self, entry: Order) -> bool:
        """True when the mark has reached the stop already: a stop order would be refused, the position must be closed."""
        snapshot = self._exchange.snapshot
        mark = snapshot.mark_price(entry.intent.symbol) if snapshot else None
        stop = entry.intent.stop_loss
        return mark is not None and stop is not None and (mark - stop) * entry.intent.side.sign <= 0

    async def _flatten(self, entry: Order, naked: Decimal) -> None:
        log.error("position_flattened", client_order_id=entry.client_order_id, quantity=str(naked))
        answer = await self._send(entry, _close_of(entry, naked))
        if isinstance(answer, Accepted):
            await self._mark(entry, ProtectionState.FLATTENED, f"closed {naked}: no stop could be placed")
            await self._exchange.refresh()

    async def _send(self, entry: Order, intent: OrderIntent, *, within_s: float | None = None) -> SubmitResult | None:
        """Store it and send it. After `within_s` seconds it is waited for no longer: the time to close the position has come.

        A request that is on its way goes on; what became of it is seen with the next look.
        """
        now = self._clock()
        order = await self._database.write(
            protections.add_order,
            entry,
            intent,
            now=now,
            expires_at=now + _PROTECTIVE_LIFE,
            request_text=partial(request_text, self._exchange),
        )
        sending = asyncio.create_task(self._submit(order, within_s))
        self._submissions.add(sending)
        sending.add_done_callback(self._on_submitted)
        await asyncio.wait({sending}, timeout=within_s)
        return sending.result() if sending.done() else None

    def _on_submitted(self, sending: asyncio.Task[SubmitResult | None]) -> None:
        self._submissions.discard(sending)
        if not sending.cancelled():
            sending.exception()  # told by whoever still waits for it

    async def _mark(self, entry: Order, state: ProtectionState, detail: str = "") -> ProtectionState:
        await self._database.write(protections.set_state, entry, state, detail=detail, now=self._clock())
        return state


def _exited(report: OrderStatusReport | None) -> Decimal:
    """What the entry's own exits (stop loss, take-profit) have closed already, in base units."""
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
