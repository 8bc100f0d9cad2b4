"""Takes queued orders to the exchange: first in, first out within a symbol, side by side across symbols, exits first.

The worker decides only when an order goes (what may go beside what: lanes.py); whether it goes, and what became of it, is told by
pipeline.py, following.py and recovery.py.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

from kekbridge.config import Queue
from kekbridge.errors import KekbridgeError
from kekbridge.exchange.base import Accepted, Rejected, SubmitResult, Unknown
from kekbridge.execution.canceller import OrderCanceller
from kekbridge.execution.in_flight import CLAIM_TTL_S, InFlightOrders
from kekbridge.execution.reconciler import Reconciler
from kekbridge.execution.submitter import Pipeline
from kekbridge.execution.tracker import OrderTracker
from kekbridge.execution.updates import OrderUpdates, TimedEvent
from kekbridge.log import get_logger
from kekbridge.model import Order, OrderStatus
from kekbridge.store import order_lifecycle, order_queue
from kekbridge.store import order_lifecycle as sweeping
from kekbridge.store.admissions import Admission
from kekbridge.store.database import Database

T = TypeVar("T")

log = get_logger("kekbridge.execution.dispatcher")

# How long to sleep when nothing wakes us: deferred orders come due, and another process may have changed the trading state.
_IDLE_LOOK_S = 0.5
_PAUSE_AFTER_TROUBLE_S = 1.0
_SWEEP_S = 0.5


class OrderDispatcher:
    """One per daemon; run() is its whole life. It is the pipeline's `Departures`."""

    def __init__(
        self,
        *,
        database: Database,
        follower: OrderTracker,
        recovery: Reconciler,
        canceller: OrderCanceller,
        outcomes: OrderUpdates,
        settings: Queue,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._follower = follower
        self._recovery = recovery
        self._canceller = canceller
        self._outcomes = outcomes
        self._clock = clock
        self._lanes = InFlightOrders(settings.concurrency)
        self._awake = TimedEvent()
        self._stopping = asyncio.Event()
        self._stories: set[asyncio.Timeout] = set()  # what a stop leaves
        self._in_line: set[TimedEvent] = set()  # of the orders that wait to be in front
        self._start: Callable[[Order], object] | None = None  # while trading: puts an order on its way
        self._claimed: list[Order] = []  # claimed by their admission when nobody could start them
        self._has_waiting = True  # orders that stood in the queue at the last look, or came since
        self._moved_at = float("inf")  # it has not begun
        self.breaker = CircuitBreaker()

    # ---------------------------------------------------------------------------------------- for the pipeline (Departures)

    def enter(self, order: Order) -> bool:
        """Put an order that is being claimed under way, if it may leave at once or in line. Called on the writer thread."""
        return self.is_trading and not (order.is_entry and self.breaker.is_open) and self._lanes.line_up(order)

    def leave(self, order: Order) -> None:
        """It does not leave after all. Any thread."""
        self._lanes.remove(order)

    @property
    def is_trading(self) -> bool:
        """Orders may leave: the bridge's view has equalled the exchange's, and nobody stops. Any thread."""
        return self._start is not None and not self._stopping.is_set()

    @property
    def passable(self) -> frozenset[str]:
        """Client order ids under way that another order may stand behind. Any thread."""
        return self._lanes.overlappable_ids

    @property
    def under_way(self) -> frozenset[str]:
        """Client order ids that have a place in a lane."""
        return self._lanes.ids

    def take(self, admitted: Admission) -> None:
        """Orders were stored: those claimed by their admission go at once, the queue is looked at for the others."""
        if admitted.has_cancels:
            self._canceller.wake()
        if admitted.kind != "admitted":
            return
        for order in admitted.orders:
            if order.status is not OrderStatus.SUBMITTING:
                self._has_waiting = True
                self._awake.set()
            elif self._start is None:
                self._claimed.append(order)
            else:
                self._start(order)

    # ------------------------------------------------------------------------------------------------------------ life

    @property
    def orders_under_way(self) -> int:
        """How many orders are under way."""
        return len(self._lanes)

    def idle_for_s(self) -> float:
        """Seconds since the worker last looked at the queue; it looks twice a second when nothing happens."""
        return asyncio.get_running_loop().time() - self._moved_at

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        """Take no more orders; run() returns when those under way are recorded."""
        self._stopping.set()
        self._awake.set()
        for story in self._stories:
            story.reschedule(0)
        self._stories.clear()
        for place in self._in_line:
            place.set()

    async def sleep_unless_stopping(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass  # slept as long as asked

    async def run(self, pipeline: Pipeline) -> None:
        """Until stopped: give every free lane the next order of its symbol."""
        async with asyncio.TaskGroup() as ways:
            self._start = lambda order: ways.create_task(self._run_order(order, pipeline))
            sweeper = ways.create_task(self._sweep())
            is_woken = True
            while not self._stopping.is_set():
                self._moved_at = asyncio.get_running_loop().time()
                self._awake.clear()
                try:
                    if is_woken or await self._is_anything_ready():
                        await self._fill_lanes(pipeline)
                except KekbridgeError as error:
                    log.error("queue_not_readable", code=error.code, error=error.message)
                    await self.sleep_unless_stopping(_PAUSE_AFTER_TROUBLE_S)
                is_woken = await self._sleep()
            self._start = None
            sweeper.cancel()
        await self._return_claimed()

    async def _sweep(self) -> None:
        """For ever: finish queued orders that may not be sent any more (too old, trading stopped), wherever they stand in the queue."""
        while True:
            try:
                now = self._clock()
                if await self._database.read(sweeping.is_sweep_due, now=now):
                    for order in await self._database.write(sweeping.expire_unsendable, now=now):
                        log.info("order_not_sent", client_order_id=order.client_order_id, code=order.code)
                        self._outcomes.publish(order)
            except KekbridgeError as error:
                log.error("queue_not_swept", code=error.code, error=error.message)
            await asyncio.sleep(_SWEEP_S)

    async def _is_anything_ready(self) -> bool:
        """Look at the queue without touching it, for what nobody told of: deferred orders come due, other processes write, too."""
        is_ready, self._has_waiting = await self._database.read(
            _look, now=self._clock(), passable=self._lanes.overlappable_ids, entries_allowed=not self.breaker.is_open
        )
        return is_ready

    async def _fill_lanes(self, pipeline: Pipeline) -> None:
        """Start whatever may go: what may leave at once is claimed, all of it with one flush; the others wait for their turn."""
        has_moved = True
        while has_moved and self._start is not None and not self._stopping.is_set():
            claimed = await pipeline.claim_next(entries_allowed=not self.breaker.is_open)
            self._has_waiting = claimed.has_more
            for order in claimed.to_send_now:
                self._start(order)
            for order in claimed.to_send_in_turn:
                if self._lanes.try_add(order):
                    self._start(order)
            has_moved = bool(claimed.finished)  # the next one of that symbol may go

    async def _run_order(self, order: Order, pipeline: Pipeline) -> None:
        """One order from its place in a lane to its outcome. Whatever goes wrong here stays in this lane."""
        submission: SubmitResult | None = None
        try:
            with self._follower.expect(order):
                submission = await self._send(order, pipeline)
        except KekbridgeError as error:
            log.error("order_stuck", client_order_id=order.client_order_id, code=error.code, error=error.message)
            await self.sleep_unless_stopping(_PAUSE_AFTER_TROUBLE_S)
        except Exception:
            log.exception("order_failed", client_order_id=order.client_order_id)
            await self.sleep_unless_stopping(_PAUSE_AFTER_TROUBLE_S)
        finally:
            self._lanes.remove(order)
            # What is neither taken nor refused may stand in the queue again.
            self._has_waiting |= not isinstance(submission, Accepted | Rejected)
            if self._has_waiting:
                self._awake.set()

    async def _send(self, order: Order, pipeline: Pipeline) -> SubmitResult | None:
        if order.status is OrderStatus.SUBMITTING:
            if not await self._is_in_front(order):
                await pipeline.give_back(order)
                return None
            turn = await pipeline.wait_turn(order)  # given with its claim
        else:
            waited = await self._until_stopped(pipeline.wait_turn(order))
            if waited is None:
                return None  # not claimed yet: the next start finds it queued
            turn = waited
        now = asyncio.get_running_loop().time
        in_front_at = now()
        sent = await pipeline.send(order, turn)
        if sent is None:
            return None
        self.breaker.record(was_unknown=isinstance(sent.result, Unknown))
        if isinstance(sent.result, Accepted):
            self._lanes.mark_accepted(order, now() - in_front_at)
            if self._has_waiting:
                self._awake.set()
            # Its end may be known before the answer is written down: both share a flush then.
            try:
                await self._until_stopped(self._follower.track(order))
            finally:
                await sent.recorded
        else:
            self._lanes.mark_blocked(order)
            recorded = await sent.recorded
            if isinstance(sent.result, Unknown):
                await self._until_stopped(self._recovery.resolve_unknown(recorded))
                self.breaker.close()
        return sent.result

    async def _is_in_front(self, order: Order) -> bool:
        """True once the exchange took all that stand before a claimed order; False when that will not happen while its claim holds, or
        the daemon stops."""
        said: list[bool] = []
        place = TimedEvent()

        def tell(is_in_front: bool) -> None:
            said.append(is_in_front)
            place.set()

        self._lanes.on_clear(order, tell)
        if not said and not self._stopping.is_set():
            self._in_line.add(place)
            try:
                await place.wait(CLAIM_TTL_S)
            finally:
                self._in_line.discard(place)
        return said[:1] == [True]  # what was said first

    async def _until_stopped(self, story: Awaitable[T]) -> T | None:
        """Follow a story, but leave it when the daemon stops (None): the store knows where it stands, the next start goes on."""
        scope = asyncio.timeout(None)  # without a time: a stop gives it one
        try:
            async with scope:
                self._stories.add(scope)
                if self._stopping.is_set():
                    scope.reschedule(0)
                return await story
        except TimeoutError:
            if not scope.expired():
                raise
            return None
        finally:
            self._stories.discard(scope)

    async def _return_claimed(self) -> None:
        """Orders claimed while we stopped were never sent: give them back to the queue, so that the next start need not ask."""
        for order in self._claimed:
            await self._database.write(
                order_lifecycle.mark_deferred, order.client_order_id, next_attempt_at=self._clock(), now=self._clock()
            )

    async def _sleep(self) -> bool:
        """Until something may be startable: True when an order came, or one moved on while others waited; False after half a second."""
        return await self._awake.wait(_IDLE_LOOK_S)


def _look(
    connection: sqlite3.Connection, *, now: datetime, passable: frozenset[str], entries_allowed: bool
) -> tuple[bool, bool]:
    """Whether anything in the queue is to be done now, and whether it holds anything at all."""
    heads = order_queue.claimable(connection, now=now, passable=passable, entries_allowed=entries_allowed)
    return bool(heads), bool(heads) or order_queue.is_any_waiting(connection)


class CircuitBreaker:
    """Holds entries back when the exchange stopped answering: after 5 unknown in a row, or half of the last 20.

    It closes again by one successful question, never by trying an order. Exits always pass.
    """

    _IN_A_ROW = 5
    _WINDOW = 20

    def __init__(self) -> None:
        self._last: deque[bool] = deque(maxlen=self._WINDOW)
        self._is_open = False

    @property
    def is_open(self) -> bool:
        return self._is_open

    def record(self, *, was_unknown: bool) -> None:
        self._last.append(was_unknown)
        recent = list(self._last)
        in_a_row = len(recent) >= self._IN_A_ROW and all(recent[-self._IN_A_ROW :])
        by_half = len(recent) == self._WINDOW and sum(recent) * 2 >= self._WINDOW
        self._is_open = self._is_open or in_a_row or by_half

    def close(self) -> None:
        """A question was answered: the exchange is back."""
        self._is_open = False
        self._last.clear()
