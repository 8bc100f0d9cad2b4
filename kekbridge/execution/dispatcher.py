"""Decide when a queued order is sent: exits first; else first in, first out within a symbol, in parallel across symbols.

Which orders may be sent beside each other is decided in order_queue.py; sending an order and recording its result is the submitter's work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from kekbridge.config import Queue
from kekbridge.errors import KekbridgeError
from kekbridge.exchange.base import Accepted, Exchange, SubmitResult, Unknown
from kekbridge.execution import order_queue, transitions
from kekbridge.execution.book import Book
from kekbridge.execution.exit_watch import ExitWatch, resting_entries
from kekbridge.execution.reconciler import Reconciler
from kekbridge.execution.submitter import OrderSubmitter, forbidden_by
from kekbridge.execution.tracker import OrderTracker
from kekbridge.execution.updates import TimedEvent
from kekbridge.log import get_logger
from kekbridge.model import Order, OrderStatus
from kekbridge.model.admission import Recheck

log = get_logger("kekbridge.execution.dispatcher")

# How long to sleep when nothing wakes us: orders expire, and trading states end.
_IDLE_POLL_S = 0.5
_PAUSE_AFTER_ERROR_S = 1.0


class OrderDispatcher:
    """Dispatches the queued orders of one daemon while `run` runs."""

    def __init__(
        self,
        *,
        book: Book,
        exchange: Exchange,
        submitter: OrderSubmitter,
        tracker: OrderTracker,
        reconciler: Reconciler,
        exits: ExitWatch,
        settings: Queue,
        clock: Callable[[], datetime],
    ) -> None:
        self._book = book
        self._exchange = exchange
        self._submitter = submitter
        self._tracker = tracker
        self._reconciler = reconciler
        self._exits = exits
        self._settings = settings
        self._clock = clock
        self._wake_event = TimedEvent()
        self._stopping = asyncio.Event()
        self._preparing: dict[
            str, asyncio.Task[None]
        ] = {}  # by client order id, orders that wait for a leverage or a permit
        self._last_poll_at = float("inf")  # loop time; not started yet
        self._losses_checked_at = float("-inf")  # loop time
        submitter.on_result = self._on_result
        submitter.on_due = self.wake

    # ------------------------------------------------------------------------------------------------ state, for others

    @property
    def in_flight_count(self) -> int:
        """Orders being prepared or sent."""
        return len(self._preparing) + self._submitter.in_flight_count

    @property
    def entries_are_held(self) -> bool:
        """True while the circuit breaker holds entries back."""
        return self._submitter.breaker.is_open

    def is_handling(self, client_order_id: str) -> bool:
        """True while an order is being prepared or sent, or its result is awaited."""
        return client_order_id in self._preparing or self._submitter.is_handling(client_order_id)

    def idle_for_s(self) -> float:
        """Seconds since the queue was last polled; with nothing to do that happens twice a second."""
        return asyncio.get_running_loop().time() - self._last_poll_at

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    # ------------------------------------------------------------------------------------------------------------ life

    def wake(self) -> None:
        """An order was queued, or one that held others back was settled."""
        self._wake_event.set()

    def stop(self) -> None:
        """Take no more orders; `run` returns."""
        self._stopping.set()
        self._submitter.stop()
        self._wake_event.set()
        for task in self._preparing.values():
            task.cancel()

    async def sleep_unless_stopping(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass  # slept as long as asked

    async def run(self) -> None:
        """Until stopped: give every free symbol its next order."""
        self._submitter.is_dispatching = not self._stopping.is_set()
        while not self._stopping.is_set():
            self._last_poll_at = asyncio.get_running_loop().time()
            self._wake_event.clear()
            try:
                self._sweep()
                self._dispatch()
            except KekbridgeError as error:
                log.error("queue_not_readable", code=error.code, error=error.message)
                await self.sleep_unless_stopping(_PAUSE_AFTER_ERROR_S)
            except Exception:
                log.exception("dispatch_failed")
                await self.sleep_unless_stopping(_PAUSE_AFTER_ERROR_S)
            due = order_queue.next_due(self._book, now=self._clock())
            await self._wake_event.wait(_IDLE_POLL_S if due is None else min(max(due, 0.001), _IDLE_POLL_S))
        await asyncio.gather(*self._preparing.values(), return_exceptions=True)

    def _sweep(self) -> None:
        """Finish queued orders that may no longer be sent (too old, trading stopped), wherever they are in the queue."""
        self._exits.forget_ended()
        now = self._clock()
        self._check_losses(now=now)
        self._exits.check_resting(now=now)
        for order in list(self._book.queued.values()):
            if order.is_exit:
                self._exits.check(order, now=now)
                continue
            if order.client_order_id in self._preparing:
                continue
            if now >= order.expires_at and not self._lives_on(order, now=now):
                self._book.change(order, transitions.expired(order, now=now), now=now)
                log.info("order_not_sent", client_order_id=order.client_order_id, code=transitions.ALERT_EXPIRED)
                continue
            # A breach does not count: the order had room when it was admitted, and the limits are checked again when it is claimed.
            control = self._book.control(order.webhook_id, now=now, ignore_breaches=True)
            reason = forbidden_by(control.state, order.intent.purpose)
            if reason is not None:
                code, error = reason
                self._book.change(order, transitions.denied(order, code=code, error=error, now=now), now=now)
                log.info("order_not_sent", client_order_id=order.client_order_id, code=code)

    def _check_losses(self, *, now: datetime) -> None:
        """Close scopes whose limit of losses is reached while entries rest at the exchange; an entry that is denied closes them, too."""
        if self._last_poll_at - self._losses_checked_at < _IDLE_POLL_S:
            return
        self._losses_checked_at = self._last_poll_at
        for order in {order.webhook_id: order for order in resting_entries(self._book.orders.values())}.values():
            for breach in self._submitter.loss_breaches(order, now=now):
                self._book.close_for_breach(breach, webhook_id=order.webhook_id, now=now)

    def _lives_on(self, order: Order, *, now: datetime) -> bool:
        """True for an order past its age whose age does not count yet: the leg that it waits for rests at the exchange, or did so."""
        leg = order_queue.leg_before(self._book, order)
        if leg is not None and order_queue.is_resting(leg):
            return True
        expiry = order_queue.later_expiry(self._book, order, max_age_s=self._settings.max_age_s)
        if expiry is None or now >= expiry:
            return False
        self._book.change(order, transitions.prolonged(order, expires_at=expiry), now=now)
        return True

    def _dispatch(self) -> None:
        """Claim what may be sent, and prepare what needs a leverage or a permit first."""
        has_moved = True
        while has_moved and not self._stopping.is_set():
            has_moved = False
            for head in order_queue.heads(
                self._book,
                now=self._clock(),
                settle_within_s=self._settings.outcome_timeout_s,
                concurrency=self._settings.concurrency,
                entries_allowed=not self._submitter.breaker.is_open,
                preparing=self._preparing.keys(),
                position_of=self._exits.position_of,
                is_held=lambda order: self._exits.is_held(order) or self._submitter.awaits_fills(order),
            ):
                order = self._book.queued.get(head.order.client_order_id)
                if order is None:
                    continue  # denied by an exit that overtook it
                if head.next_step != "send":
                    self._finish(order, head.next_step)
                    has_moved = True  # the next one of that symbol may be sent
                elif not self._try_claim(order):
                    has_moved = True

    def _finish(self, order: Order, next_step: str) -> None:
        now = self._clock()
        if next_step == "expired":
            decided = self._submitter.recheck(order, now=now)
        else:
            text = "an earlier step of this alert did not succeed"
            decided = Recheck(status=OrderStatus.DENIED, code="earlier_leg_failed", error=text)
        self._submitter.finish_unsent(order, decided, now=now)

    def _try_claim(self, order: Order) -> bool:
        """Claim an order that can be sent this instant, else prepare it; False if it ended instead."""
        if not self._submitter.lacks_leverage(order):
            permit = self._exchange.try_acquire_permit(order)
            if permit is not None:
                return self._submitter.claim(order, permit)
        name = order.client_order_id
        task = asyncio.get_running_loop().create_task(self._prepare(order))
        self._preparing[name] = task
        task.add_done_callback(lambda _: self._on_prepared(name))
        return True

    def _on_prepared(self, name: str) -> None:
        self._preparing.pop(name, None)
        self._wake_event.set()

    async def _prepare(self, order: Order) -> None:
        """Set the order's leverage, wait for a permit, and claim it. Errors affect only this order."""
        name = order.client_order_id
        try:
            failure = await self._submitter.ensure_leverage(order)
            if failure is None:
                permit = await self._exchange.acquire_permit(order)
            current = self._book.queued.get(name)
            if failure is not None and current is not None:
                self._submitter.record_unsent(current, failure)
            elif failure is None and current is None:
                permit.release()
            elif failure is None and current is not None:
                if self._may_be_claimed(current):
                    self._submitter.claim(current, permit)
                else:
                    permit.release()  # back to its place in the queue
        except KekbridgeError as error:
            log.error("order_stuck", client_order_id=name, code=error.code, error=error.message)
            await self.sleep_unless_stopping(_PAUSE_AFTER_ERROR_S)
        except Exception:
            log.exception("order_failed", client_order_id=name)
            await self.sleep_unless_stopping(_PAUSE_AFTER_ERROR_S)

    def _may_be_claimed(self, order: Order) -> bool:
        return not self._submitter.awaits_fills(order) and order_queue.may_be_claimed(
            self._book,
            order,
            now=self._clock(),
            settle_within_s=self._settings.outcome_timeout_s,
            position_of=self._exits.position_of,
        )

    def _on_result(self, order: Order, result: SubmitResult) -> None:
        """A result was recorded: follow the order to its outcome, and give its symbol the next one."""
        if isinstance(result, Accepted):
            if not order.is_settled and not order.is_protective:
                self._tracker.watch(order)
        elif isinstance(result, Unknown) and order.status is OrderStatus.UNKNOWN:
            self._reconciler.resolve_soon(order, on_resolved=self._submitter.breaker.close)
        if self._book.queued:
            self._wake_event.set()
