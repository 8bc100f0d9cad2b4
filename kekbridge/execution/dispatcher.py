"""Decide when a queued order is sent: first in, first out within a symbol, in parallel across symbols, exits first.

Which orders may be sent beside each other is decided in in_flight.py; sending an order and following it to its outcome is the work of
submitter.py, tracker.py and reconciler.py.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

from kekbridge.errors import KekbridgeError
from kekbridge.exchange.base import Accepted, Rejected, SubmitResult, Unknown
from kekbridge.execution.canceller import OrderCanceller
from kekbridge.execution.in_flight import CLAIM_TTL_S, InFlightOrders
from kekbridge.execution.reconciler import Reconciler
from kekbridge.execution.submitter import OrderSubmitter
from kekbridge.execution.tracker import OrderTracker
from kekbridge.execution.updates import OrderUpdates, TimedEvent
from kekbridge.log import get_logger
from kekbridge.model import Order, OrderStatus
from kekbridge.store import order_lifecycle, order_queue
from kekbridge.store.admissions import Admission
from kekbridge.store.database import Database

T = TypeVar("T")

log = get_logger("kekbridge.execution.dispatcher")

# How long to sleep when nothing wakes us: deferred orders come due, and another process may have changed the trading state.
_IDLE_POLL_S = 0.5
_PAUSE_AFTER_ERROR_S = 1.0
_SWEEP_EVERY_S = 0.5


class OrderDispatcher:
    """Dispatches the queued orders of one daemon while `run` runs. It owns the submitter: nothing else claims orders."""

    def __init__(
        self,
        *,
        database: Database,
        submitter: OrderSubmitter,
        in_flight: InFlightOrders,
        tracker: OrderTracker,
        reconciler: Reconciler,
        canceller: OrderCanceller,
        updates: OrderUpdates,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._submitter = submitter
        self._in_flight = in_flight
        self._tracker = tracker
        self._reconciler = reconciler
        self._canceller = canceller
        self._updates = updates
        self._clock = clock
        self._new_order_event = TimedEvent()
        self._stopping = asyncio.Event()
        self._cancel_scopes: set[asyncio.Timeout] = set()  # of the waits that a stop cuts short
        self._waiting_for_predecessor: set[TimedEvent] = set()
        self._spawn: Callable[[Order], object] | None = None  # while dispatching: starts the task of one order
        self._claimed_before_start: list[Order] = []  # claimed by their admission while no task could be started
        self._has_waiting = True  # orders were queued at the last poll, or came since
        self._last_poll_at = float("inf")  # loop time; not started yet

    # ------------------------------------------------------------------------------------------------ state, for others

    @property
    def in_flight_ids(self) -> frozenset[str]:
        """Client order ids of the orders in flight."""
        return self._in_flight.ids

    @property
    def in_flight_count(self) -> int:
        return len(self._in_flight)

    @property
    def entries_are_held(self) -> bool:
        """True while the circuit breaker holds entries back."""
        return self._submitter.breaker.is_open

    def idle_for_s(self) -> float:
        """Seconds since the queue was last polled; with nothing to do that happens twice a second."""
        return asyncio.get_running_loop().time() - self._last_poll_at

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    # ------------------------------------------------------------------------------------------------------------ life

    def on_admitted(self, admitted: Admission) -> None:
        """An alert was stored: send the order claimed by its admission at once, and poll the queue for the others."""
        if admitted.has_cancels:
            self._canceller.wake()
        if admitted.kind != "admitted":
            return
        for order in admitted.orders:
            if order.status is not OrderStatus.SUBMITTING:
                self._has_waiting = True
                self._new_order_event.set()
            elif self._spawn is None:
                self._claimed_before_start.append(order)
            else:
                self._spawn(order)

    def stop(self) -> None:
        """Take no more orders; `run` returns once those in flight are recorded."""
        self._stopping.set()
        self._submitter.is_dispatching = False
        self._new_order_event.set()
        for scope in self._cancel_scopes:
            scope.reschedule(0)
        self._cancel_scopes.clear()
        for event in self._waiting_for_predecessor:
            event.set()

    async def sleep_unless_stopping(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass  # slept as long as asked

    async def run(self) -> None:
        """Until stopped: give every free symbol its next order."""
        async with asyncio.TaskGroup() as tasks:
            self._spawn = lambda order: tasks.create_task(self._run_order(order))
            self._submitter.is_dispatching = not self._stopping.is_set()
            sweeper = tasks.create_task(self._sweep())
            is_woken = True
            while not self._stopping.is_set():
                self._last_poll_at = asyncio.get_running_loop().time()
                self._new_order_event.clear()
                try:
                    if is_woken or await self._is_anything_ready():
                        await self._dispatch_ready()
                except KekbridgeError as error:
                    log.error("queue_not_readable", code=error.code, error=error.message)
                    await self.sleep_unless_stopping(_PAUSE_AFTER_ERROR_S)
                is_woken = await self._new_order_event.wait(_IDLE_POLL_S)
            self._spawn = None
            sweeper.cancel()
        await self._requeue_claimed()

    async def _sweep(self) -> None:
        """Until cancelled: finish queued orders that may no longer be sent (too old, trading stopped), wherever they are in the queue."""
        while True:
            try:
                now = self._clock()
                if await self._database.read(order_lifecycle.has_unsendable, now=now):
                    for order in await self._database.write(order_lifecycle.expire_unsendable, now=now):
                        log.info("order_not_sent", client_order_id=order.client_order_id, code=order.code)
                        self._updates.publish(order)
            except KekbridgeError as error:
                log.error("queue_not_swept", code=error.code, error=error.message)
            await asyncio.sleep(_SWEEP_EVERY_S)

    async def _is_anything_ready(self) -> bool:
        """Poll the queue without claiming, for what no event announces: deferred orders come due, other processes write too."""
        is_ready, self._has_waiting = await self._database.read(
            _poll_queue,
            now=self._clock(),
            overlappable_ids=self._in_flight.overlappable_ids,
            entries_allowed=not self._submitter.breaker.is_open,
        )
        return is_ready

    async def _dispatch_ready(self) -> None:
        """Start what may be sent: orders that can be sent at once are claimed with one flush; the others wait for a permit each."""
        has_moved = True
        while has_moved and self._spawn is not None and not self._stopping.is_set():
            claimed = await self._submitter.claim_ready(entries_allowed=not self._submitter.breaker.is_open)
            self._has_waiting = claimed.has_more
            for order in claimed.to_send_now:
                self._spawn(order)
            for order in claimed.to_send_in_turn:
                if self._in_flight.try_add(order):
                    self._spawn(order)
            has_moved = bool(claimed.finished)  # the next one of that symbol may be sent

    async def _run_order(self, order: Order) -> None:
        """Send one order that is in flight, and follow it to its outcome. Errors affect only this order."""
        result: SubmitResult | None = None
        try:
            with self._tracker.expect(order):
                result = await self._send(order)
        except KekbridgeError as error:
            log.error("order_stuck", client_order_id=order.client_order_id, code=error.code, error=error.message)
            await self.sleep_unless_stopping(_PAUSE_AFTER_ERROR_S)
        except Exception:
            log.exception("order_failed", client_order_id=order.client_order_id)
            await self.sleep_unless_stopping(_PAUSE_AFTER_ERROR_S)
        finally:
            self._in_flight.remove(order)
            # What is neither accepted nor rejected may be in the queue again.
            self._has_waiting |= not isinstance(result, Accepted | Rejected)
            if self._has_waiting:
                self._new_order_event.set()

    async def _send(self, order: Order) -> SubmitResult | None:
        if order.status is OrderStatus.SUBMITTING:
            if not await self._is_clear(order):
                await self._submitter.requeue(order)
                return None
            permit = await self._submitter.acquire_permit(order)  # granted with its claim
        else:
            acquired = await self._unless_stopped(self._submitter.acquire_permit(order))
            if acquired is None:
                return None  # not claimed yet: the next start finds it queued
            permit = acquired
        now = asyncio.get_running_loop().time
        started = now()
        sent = await self._submitter.send(order, permit)
        if sent is None:
            return None
        self._submitter.breaker.record(was_unknown=isinstance(sent.result, Unknown))
        if isinstance(sent.result, Accepted):
            self._in_flight.mark_accepted(order, now() - started)
            if self._has_waiting:
                self._new_order_event.set()
            # Its final state may be known before the acceptance is written: both share a flush then.
            try:
                await self._unless_stopped(self._tracker.track(order))
            finally:
                await sent.recorded
        else:
            self._in_flight.mark_blocked(order)
            recorded = await sent.recorded
            if isinstance(sent.result, Unknown):
                await self._unless_stopped(self._reconciler.resolve_unknown(recorded))
                self._submitter.breaker.close()
        return sent.result

    async def _is_clear(self, order: Order) -> bool:
        """True once the exchange has accepted every order before a claimed one; False if that does not happen while the claim is valid,
        or the daemon stops."""
        answers: list[bool] = []
        event = TimedEvent()

        def on_clear(is_clear: bool) -> None:
            answers.append(is_clear)
            event.set()

        self._in_flight.on_clear(order, on_clear)
        if not answers and not self._stopping.is_set():
            self._waiting_for_predecessor.add(event)
            try:
                await event.wait(CLAIM_TTL_S)
            finally:
                self._waiting_for_predecessor.discard(event)
        return answers[:1] == [True]  # the first callback counts

    async def _unless_stopped(self, work: Awaitable[T]) -> T | None:
        """Wait for work; None if the daemon stops first, since the next start continues from what is stored."""
        scope = asyncio.timeout(None)  # no deadline until a stop sets one
        try:
            async with scope:
                self._cancel_scopes.add(scope)
                if self._stopping.is_set():
                    scope.reschedule(0)
                return await work
        except TimeoutError:
            if not scope.expired():
                raise
            return None
        finally:
            self._cancel_scopes.discard(scope)

    async def _requeue_claimed(self) -> None:
        """Requeue orders that were claimed during the stop: they were never sent, so the next start need not look them up."""
        for order in self._claimed_before_start:
            await self._database.write(
                order_lifecycle.mark_deferred, order.client_order_id, next_attempt_at=self._clock(), now=self._clock()
            )


def _poll_queue(
    connection: sqlite3.Connection, *, now: datetime, overlappable_ids: frozenset[str], entries_allowed: bool
) -> tuple[bool, bool]:
    """Whether anything in the queue can be done now, and whether it holds anything at all."""
    heads = order_queue.claimable(
        connection, now=now, overlappable_ids=overlappable_ids, entries_allowed=entries_allowed
    )
    return bool(heads), bool(heads) or order_queue.is_any_waiting(connection)
