"""Resolve orders whose outcome is unknown, and reconcile orders, fills and positions with the exchange, at start and later.

An unknown order is resolved by querying its client order id, never by sending it again blindly. "Does not exist" is proof only once the
acceptance window is over (docs/internals/reliability.md section 4); then exits are requeued, entries as the setting says.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import datetime, timedelta

from kekbridge.config import Settings
from kekbridge.errors import ExchangeUnavailable, KekbridgeError
from kekbridge.exchange.base import Exchange
from kekbridge.execution import transitions
from kekbridge.execution.book import Book
from kekbridge.execution.submitter import backoff_s
from kekbridge.execution.tracker import OrderTracker
from kekbridge.log import get_logger
from kekbridge.model import Order, OrderStatus, Purpose

log = get_logger("kekbridge.execution.reconciler")

_FIRST_QUERY_PAUSE_S = 0.5
_LONGEST_QUERY_PAUSE_S = 4.0
_AFTER_WINDOW_S = 0.01
# After the window only queries that fail are repeated: the first one that the exchange answers ends the matter.
_PAUSE_AFTER_WINDOW_S = 1.0
_CHECK_ORPHANS_EVERY_S = 2.0
# Between two steps of its own dispatch an order is handled by no task for an instant.
_ORPHAN_AGE = timedelta(seconds=5)


class Reconciler:
    """Reconciles one daemon's view with the exchange's; `run` resolves what no other task handles."""

    def __init__(
        self,
        *,
        book: Book,
        exchange: Exchange,
        tracker: OrderTracker,
        settings: Settings,
        clock: Callable[[], datetime],
    ) -> None:
        self._book = book
        self._exchange = exchange
        self._tracker = tracker
        self._settings = settings
        self._clock = clock
        self._resolving_ids: set[str] = set()
        #: Called when an order was resolved: the next one of its symbol may be sent.
        self.order_settled: Callable[[], None] = lambda: None
        #: Called with an order that ended without a known outcome.
        self.on_ended_unknown: Callable[[Order], None] = lambda _order: None
        self._tasks: set[asyncio.Task[None]] = set()
        self._inherited_ids: set[str] = set()  # in flight at the start and not resolved yet
        self._gap = asyncio.Event()  # the next time that the stream is back
        exchange.listen_gaps(self._on_gap)

    async def resolve_unknown(self, order: Order) -> Order:
        """Query the order until the exchange has it, or until it is proven that it never will; returns the order as then stored."""
        client_order_id = order.client_order_id
        self._resolving_ids.add(client_order_id)
        try:
            resolved = await self._resolve(order)
        finally:
            self._resolving_ids.discard(client_order_id)
        self._inherited_ids.discard(client_order_id)
        return resolved

    def resolve_soon(self, order: Order, *, on_resolved: Callable[[], None]) -> None:
        """Begin to resolve an order whose answer was lost; `on_resolved` is called once the exchange has answered about it."""
        if order.client_order_id in self._resolving_ids:
            return
        self._resolving_ids.add(order.client_order_id)
        task = asyncio.get_running_loop().create_task(self._resolve_orphan(order, on_resolved))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """End the queries; the next start continues them."""
        for task in self._tasks:
            task.cancel()

    async def _resolve(self, order: Order) -> Order:
        now = asyncio.get_running_loop().time
        # Measured on the monotonic clock from here on: the machine's own may jump meanwhile.
        window_end = now() + self._window_left_s(order)
        attempt = 0
        while True:
            queried_at = now()
            try:
                report = await self._exchange.find(order)
            except ExchangeUnavailable as error:
                log.warning("unknown_order_not_readable", client_order_id=order.client_order_id, error=error.message)
            else:
                if report is not None:
                    log.info("unknown_order_found", client_order_id=order.client_order_id, status=report.status.value)
                    return await self._tracker.apply(order, report)
                if queried_at > window_end:
                    return self._not_found_after_window(order)
            attempt += 1
            await self.pause(query_pause_s(attempt, window_end - now(), jitter=random.random() / 4))

    async def pause(self, seconds: float) -> None:
        """Wait before the next query, but only until the stream is back: then the exchange answers again, and exits may be waiting."""
        try:
            async with asyncio.timeout(seconds):
                await self._gap.wait()
        except TimeoutError:
            pass

    def _on_gap(self) -> None:
        gap, self._gap = self._gap, asyncio.Event()
        gap.set()

    def _window_left_s(self, order: Order) -> float:
        """Seconds for which the request of this order could still be accepted."""
        seconds = self._longest_window_s()
        since_s = (self._clock() - self._sent_by(order)).total_seconds()
        return min(max(seconds - since_s, 0.0), seconds)

    def _longest_window_s(self) -> float:
        """Seconds for which a request sent now could be accepted: receive window, clock tolerance, and one request's timeout."""
        exchange = self._settings.exchange
        return exchange.recv_window_ms / 1000 + self._settings.queue.clock_tolerance_s + exchange.request_timeout_s

    def _sent_by(self, order: Order) -> datetime:
        """The latest time at which the request can have been sent.

        An order that is still "submitting" was claimed by a process that is gone. It may have waited for the rate limiter long after the
        claim, so it may have been sent until now, but never after it expired, which `Exchange.submit` checks last.
        """
        sent_at = order.submitted_at or order.created_at
        if order.status is OrderStatus.SUBMITTING:
            return max(sent_at, min(self._clock(), order.expires_at))
        return sent_at

    def _not_found_after_window(self, order: Order) -> Order:
        """The acceptance window is over and the exchange does not have the order: requeue it, or close it as unknown."""
        now = self._clock()
        order = self._book.current(order)
        if order.status not in (OrderStatus.SUBMITTING, OrderStatus.UNKNOWN):
            return order  # the stream has reported it meanwhile
        # A protective order goes back to the protection controller, which sends it again as far as it is still needed.
        may_resend = not order.is_entry or self._settings.queue.resend_unknown_entries
        is_in_time = now < order.expires_at or order.intent.purpose is Purpose.PROTECT
        if may_resend and is_in_time and order.cancel_requested_at is None:
            log.warning("unknown_order_sent_again", client_order_id=order.client_order_id, purpose=order.intent.purpose)
            text = "the exchange does not have the order and can no longer accept the first request: sent again"
            after = transitions.deferred(order, code="outcome_unknown", error=text, next_attempt_at=now)
        else:
            log.error("unknown_order_left", client_order_id=order.client_order_id)
            text = "the exchange did not answer and does not have the order; it was not sent again"
            after = transitions.closed_unknown(order, reason=text, now=now)
            self.on_ended_unknown(after)
        return self._book.change(order, after, now=now)

    async def reconcile_at_start(self) -> None:
        """The start, after a crash or not: query what was in flight, and catch up with what happened meanwhile.

        An order that the exchange does not have yet stays in flight: it blocks its symbol and keeps its reservation, `run` goes on
        querying it, and the rest may trade. Nothing may trade before this returns. Raises ExchangeUnavailable while the exchange cannot
        be reached.
        """
        await self._exchange.refresh()
        unfinished = list(self._book.orders.values())
        in_flight = [order for order in unfinished if order.status in (OrderStatus.SUBMITTING, OrderStatus.UNKNOWN)]
        open_at_exchange = [order for order in unfinished if order.order_id and order not in in_flight]
        self._inherited_ids = {order.client_order_id for order in in_flight}
        async with asyncio.TaskGroup() as group:
            for order in in_flight:
                group.create_task(self._query_once(order))
            for order in open_at_exchange:
                group.create_task(self._tracker.poll(order))
        await self._tracker.poll_exits()  # first: a fill is then known as that of the exit
        await self._tracker.sync_fills()
        await self._tracker.complete_fills()
        await self._tracker.save_positions(await self._exchange.refresh())
        self._make_exits_due()
        log.info("reconciled", in_flight=len(in_flight), open=len(open_at_exchange))

    def _make_exits_due(self) -> None:
        """Let exits that the last process had deferred be sent at once: the exchange answers, and its rules have been read again."""
        now = self._clock()
        for order in list(self._book.queued.values()):
            if order.is_exit and order.next_attempt_at is not None and order.next_attempt_at > now:
                self._book.change(order, transitions.due_at(order, next_attempt_at=now), now=now)

    async def _query_once(self, order: Order) -> None:
        """Query an order that was in flight once; one that is not found becomes unknown, as after a lost response."""
        report = await self._exchange.find(order)
        if report is not None:
            await self._tracker.apply(order, report)
        elif (order := self._book.current(order)).status is OrderStatus.SUBMITTING:
            reason, sent_at = "the bridge stopped while the order was being sent", self._sent_by(order)
            self._book.change(order, transitions.unknown(order, reason=reason, sent_at=sent_at), now=self._clock())

    async def run(self, is_handled: Callable[[str], bool]) -> None:
        """Until cancelled: resolve every order in flight that no task handles, such as those of a process that is gone.

        `is_handled` is True for the client order id of an order that is being sent or queried elsewhere.
        """
        while True:
            for order in list(self._book.orders.values()):
                is_interrupted = order.status in (OrderStatus.SUBMITTING, OrderStatus.UNKNOWN)
                if is_interrupted and self._is_orphan(order, is_handled):
                    self.resolve_soon(order, on_resolved=lambda: None)
            await asyncio.sleep(_CHECK_ORPHANS_EVERY_S)

    def _is_orphan(self, order: Order, is_handled: Callable[[str], bool]) -> bool:
        client_order_id = order.client_order_id
        if client_order_id in self._resolving_ids or is_handled(client_order_id):
            return False
        is_old = self._clock() - (order.submitted_at or order.created_at) > _ORPHAN_AGE
        return is_old or client_order_id in self._inherited_ids

    async def _resolve_orphan(self, order: Order, on_resolved: Callable[[], None]) -> None:
        try:
            await self.resolve_unknown(order)
        except KekbridgeError as error:
            log.error("order_not_resolved", client_order_id=order.client_order_id, error=error.message)
        except Exception:
            log.exception("order_not_resolved", client_order_id=order.client_order_id)
        else:
            on_resolved()
            self.order_settled()
        finally:
            self._resolving_ids.discard(order.client_order_id)

    async def reconcile(self) -> None:
        """Repeat the comparison in operation: poll unfinished orders, fetch trades, replace positions."""
        await self._tracker.sync()
        await self._tracker.save_positions(await self._exchange.refresh())


def query_pause_s(attempt: int, window_left_s: float, *, jitter: float) -> float:
    """Seconds before the next query of an unknown order, longer with each attempt (from 1).

    The query that ends the matter, right after the acceptance window, is not late: exits may wait for it.
    """
    pause = backoff_s(_FIRST_QUERY_PAUSE_S, attempt, jitter)
    if window_left_s > 0:
        return min(pause, _LONGEST_QUERY_PAUSE_S, window_left_s + _AFTER_WINDOW_S)
    return min(pause, _PAUSE_AFTER_WINDOW_S)
