"""Takes queued orders to the exchange: first in, first out within a symbol, side by side across symbols, exits first.

A lane is one symbol with an order under way; while it is busy the later orders of that symbol wait. The worker decides only when an
order goes; whether it goes, and what became of it, is told by pipeline.submit(), following.py and recovery.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

import structlog

from kekbridge.canceling import Canceller
from kekbridge.config import Queue
from kekbridge.errors import KekbridgeError
from kekbridge.exchange.protocol import Accepted, Unknown
from kekbridge.following import Follower
from kekbridge.model import Order, OrderStatus
from kekbridge.outcomes import Outcomes
from kekbridge.pipeline import Pipeline
from kekbridge.recovery import Breaker, Recovery
from kekbridge.store import orders as order_rows
from kekbridge.store import sweeping
from kekbridge.store.admission import Admission
from kekbridge.store.database import Database

log = structlog.get_logger("kekbridge.worker")

# How long to sleep when nothing wakes us: deferred orders come due, and another process may have changed the trading state.
_IDLE_LOOK_S = 0.5
_PAUSE_AFTER_TROUBLE_S = 1.0
_SWEEP_S = 0.5


class Worker:
    """One per daemon; run() is its whole life. It is the pipeline's `Lanes`."""

    def __init__(
        self,
        *,
        database: Database,
        follower: Follower,
        recovery: Recovery,
        canceller: Canceller,
        outcomes: Outcomes,
        settings: Queue,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._follower = follower
        self._recovery = recovery
        self._canceller = canceller
        self._outcomes = outcomes
        self._settings = settings
        self._clock = clock
        self._awake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._claimed: list[Order] = []  # claimed by their admission, not yet in a lane
        self._is_trading = False
        self._moved_at = float("inf")  # it has not begun
        self.breaker = Breaker()

    # --------------------------------------------------------------------------------------------- for the pipeline (Lanes)

    def may_claim(self, order: Order) -> bool:
        """True when an order of this symbol may leave at once. Called on the writer thread: only reads."""
        if not self._is_trading or self._stopping.is_set() or (order.is_entry and self.breaker.is_open):
            return False
        return len(self._busy) < self._settings.concurrency and order.intent.symbol not in self._busy

    def take(self, admitted: Admission) -> None:
        """Orders were stored: those claimed by their admission go first, the queue is looked at for the others."""
        if admitted.kind == "admitted":
            self._claimed += [order for order in admitted.orders if order.status is OrderStatus.SUBMITTING]
            self._awake.set()
            self._canceller.wake()

    def has_claimed(self, name: str) -> bool:
        """True for an order that waits here for its lane."""
        return any(order.client_order_id == name for order in self._claimed)

    # ------------------------------------------------------------------------------------------------------------ life

    @property
    def lanes(self) -> int:
        """How many orders are under way."""
        return len(self._busy)

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

    async def sleep_unless_stopping(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass  # slept as long as asked

    async def run(self, pipeline: Pipeline) -> None:
        """Until stopped: give every free lane the next order of its symbol."""
        self._is_trading = True
        async with asyncio.TaskGroup() as lanes:
            sweeper = lanes.create_task(self._sweep())
            while not self._stopping.is_set():
                self._moved_at = asyncio.get_running_loop().time()
                self._awake.clear()
                try:
                    await self._fill_lanes(lanes, pipeline)
                except KekbridgeError as error:
                    log.error("queue_not_readable", code=error.code, error=error.message)
                    await self.sleep_unless_stopping(_PAUSE_AFTER_TROUBLE_S)
                await self._sleep()
            sweeper.cancel()
        self._is_trading = False
        await self._return_claimed()

    async def _sweep(self) -> None:
        """For ever: finish queued orders that may not be sent any more (too old, trading stopped), wherever they stand in the queue."""
        while True:
            try:
                now = self._clock()
                if await self._database.read(sweeping.is_due, now=now):
                    for order in await self._database.write(sweeping.sweep, now=now):
                        log.info("order_not_sent", client_order_id=order.client_order_id, code=order.code)
                        self._outcomes.publish(order)
            except KekbridgeError as error:
                log.error("queue_not_swept", code=error.code, error=error.message)
            await asyncio.sleep(_SWEEP_S)

    async def _fill_lanes(self, lanes: asyncio.TaskGroup, pipeline: Pipeline) -> None:
        claimed, self._claimed = self._claimed, []
        for order in claimed:
            self._start_lane(order, lanes, pipeline)
        free = self._settings.concurrency - len(self._busy)
        if free <= 0:
            return
        waiting = await self._database.read(
            order_rows.claimable,
            now=self._clock(),
            busy_symbols=frozenset(self._busy),
            entries_allowed=not self.breaker.is_open,
            limit=free,
        )
        for order in waiting:
            if order.intent.symbol not in self._busy:  # a claimed one may have come while we were reading
                self._start_lane(order, lanes, pipeline)

    def _start_lane(self, order: Order, lanes: asyncio.TaskGroup, pipeline: Pipeline) -> None:
        self._busy[order.intent.symbol] = lanes.create_task(self._run_lane(order, pipeline))

    async def _run_lane(self, order: Order, pipeline: Pipeline) -> None:
        """One order from the queue to its outcome. Whatever goes wrong here stays in this lane."""
        try:
            submission = await pipeline.submit(order)
            if submission is not None:
                self.breaker.note(was_unknown=isinstance(submission, Unknown))
            if isinstance(submission, Accepted):
                await self._follow(order)
            elif isinstance(submission, Unknown):
                await self._resolve(order)
        except KekbridgeError as error:
            log.error("order_stuck", client_order_id=order.client_order_id, code=error.code, error=error.message)
            await self.sleep_unless_stopping(_PAUSE_AFTER_TROUBLE_S)
        except Exception:
            log.exception("order_failed", client_order_id=order.client_order_id)
            await self.sleep_unless_stopping(_PAUSE_AFTER_TROUBLE_S)
        finally:
            del self._busy[order.intent.symbol]
            self._awake.set()

    async def _follow(self, order: Order) -> None:
        current = await self._database.read(order_rows.get, order.client_order_id)
        if not current.is_settled:
            await self._until_stopped(self._follower.follow(current))

    async def _resolve(self, order: Order) -> None:
        current = await self._database.read(order_rows.get, order.client_order_id)
        await self._until_stopped(self._recovery.resolve(current))
        self.breaker.close()

    async def _until_stopped(self, story: Coroutine[Any, Any, Order]) -> None:
        """Follow a story, but leave it when the daemon stops: the store knows where it stands, the next start goes on."""
        told = asyncio.create_task(story)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({told, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if told.done():
                told.result()
        finally:
            told.cancel()
            stopping.cancel()
            await asyncio.gather(told, stopping, return_exceptions=True)

    async def _return_claimed(self) -> None:
        """Orders claimed while we stopped were never sent: give them back to the queue, so that the next start need not ask."""
        for order in self._claimed:
            await self._database.write(
                order_rows.mark_deferred, order.client_order_id, next_attempt_at=self._clock(), now=self._clock()
            )

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(_IDLE_LOOK_S):
                await self._awake.wait()
        except TimeoutError:
            pass  # look again: deferred orders may have come due
