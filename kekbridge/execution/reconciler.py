"""Resolve orders whose outcome is unknown, and reconcile orders, fills and positions with the exchange, at start and later.

An unknown order is resolved by querying its client order id, never by sending it again blindly. "Does not exist" is proof only once the
acceptance window is over (docs/internals/reliability.md section 4); then exits are requeued, entries as the setting says. An order that
was claimed behind one that never arrived was not sent either (in_flight.py): it is requeued, whatever the setting.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from kekbridge.config import Settings
from kekbridge.errors import ExchangeUnavailable, KekbridgeError, StoreUnavailable
from kekbridge.exchange.base import Exchange
from kekbridge.execution.in_flight import sent_only_after
from kekbridge.execution.recorder import backoff_s
from kekbridge.execution.tracker import OrderTracker
from kekbridge.execution.updates import OrderUpdates
from kekbridge.log import get_logger
from kekbridge.model import Order, OrderStatus, Purpose
from kekbridge.store import order_lifecycle, order_queue
from kekbridge.store.database import Database

log = get_logger("kekbridge.execution.reconciler")

_FIRST_QUERY_PAUSE_S = 0.5
_LONGEST_QUERY_PAUSE_S = 4.0
_CHECK_ORPHANS_EVERY_S = 2.0
# Between two steps of its own dispatch an order is handled by no task for an instant.
_ORPHAN_AGE = timedelta(seconds=5)


class Reconciler:
    """Reconciles one daemon's view with the exchange's; `run` resolves what no other task handles."""

    def __init__(
        self,
        *,
        database: Database,
        exchange: Exchange,
        tracker: OrderTracker,
        updates: OrderUpdates,
        settings: Settings,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._exchange = exchange
        self._tracker = tracker
        self._updates = updates
        self._settings = settings
        self._clock = clock
        self._resolving_ids: set[str] = set()
        self._inherited_ids: set[str] = set()  # in flight at the start and not resolved yet
        self._inherited_until = 0.0  # loop time after which no inherited order can still be accepted
        self._unsent_ids: set[str] = set()  # inherited, and claimed behind an order that never arrived

    async def resolve_unknown(self, order: Order) -> Order:
        """Query the order until the exchange has it, or until it is proven that it never will; returns the order as then stored."""
        client_order_id = order.client_order_id
        self._resolving_ids.add(client_order_id)
        try:
            resolved = await self._resolve(order)
        finally:
            self._resolving_ids.discard(client_order_id)
        self._inherited_ids.discard(client_order_id)
        self._unsent_ids.discard(client_order_id)
        return resolved

    async def _resolve(self, order: Order) -> Order:
        now = asyncio.get_running_loop().time
        # Measured on the monotonic clock from here on: the machine's own may jump meanwhile.
        window_end = now() + self._window_left_s(order)
        if order.client_order_id in self._unsent_ids:
            window_end = min(window_end, self._inherited_until)
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
                    return await self._not_found_after_window(order)
            attempt += 1
            pause = min(backoff_s(_FIRST_QUERY_PAUSE_S, attempt, random.random() / 4), _LONGEST_QUERY_PAUSE_S)
            await asyncio.sleep(pause)

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

    async def _not_found_after_window(self, order: Order) -> Order:
        """The acceptance window is over and the exchange does not have the order: requeue it, or close it as unknown."""
        now = self._clock()
        if order.client_order_id in self._unsent_ids:
            log.info("unsent_order_back_in_queue", client_order_id=order.client_order_id)
            updated = await self._database.write(order_lifecycle.requeue_unsent, order.client_order_id, now=now)
            self._updates.publish(updated)
            return updated
        await self._mark_successors_unsent(order)
        # A protective order is not sent again: the stop guard has long sent the next one.
        may_resend = order.intent.purpose is Purpose.EXIT or (
            order.is_entry and self._settings.queue.resend_unknown_entries
        )
        if may_resend and now < order.expires_at:
            log.warning("unknown_order_sent_again", client_order_id=order.client_order_id, purpose=order.intent.purpose)
            updated = await self._database.write(
                order_lifecycle.mark_deferred,
                order.client_order_id,
                code="outcome_unknown",
                error="the exchange does not have the order and can no longer accept the first request: sent again",
                now=now,
                next_attempt_at=now,
            )
        else:
            log.error("unknown_order_left", client_order_id=order.client_order_id)
            updated = await self._database.write(
                order_lifecycle.close_unknown,
                order.client_order_id,
                reason="the exchange did not answer and does not have the order; it was not sent again",
                now=now,
            )
        self._updates.publish(updated)
        return updated

    async def _mark_successors_unsent(self, order: Order) -> None:
        """Mark what was claimed behind an inherited order as unsent: the process that is gone never saw this one accepted."""
        if order.client_order_id in self._inherited_ids:
            for other in await self._database.read(order_queue.interrupted):
                is_inherited = other.client_order_id in self._inherited_ids and other.status is OrderStatus.SUBMITTING
                if is_inherited and sent_only_after(other, order):
                    self._unsent_ids.add(other.client_order_id)

    async def reconcile_at_start(self) -> None:
        """The start, after a crash or not: query what was in flight, and catch up with what happened meanwhile.

        An order that the exchange does not have yet stays in flight: it blocks its symbol and keeps its reservation, `run` goes on
        querying it, and the rest may trade. Nothing may trade before this returns. Raises ExchangeUnavailable while the exchange cannot
        be reached.
        """
        await self._exchange.refresh()
        unfinished = await self._database.read(order_queue.unfinished)
        in_flight = [order for order in unfinished if order.status in (OrderStatus.SUBMITTING, OrderStatus.UNKNOWN)]
        open_at_exchange = [order for order in unfinished if order.order_id and order not in in_flight]
        self._inherited_ids = {order.client_order_id for order in in_flight}
        self._inherited_until = asyncio.get_running_loop().time() + self._longest_window_s()
        async with asyncio.TaskGroup() as group:
            for symbol in {order.intent.symbol for order in in_flight}:
                group.create_task(self._query_in_order([each for each in in_flight if each.intent.symbol == symbol]))
            for order in open_at_exchange:
                group.create_task(self._tracker.poll(order))
        await self._tracker.poll_exits()  # first: a fill is then known as that of the exit
        await self._tracker.sync_fills()
        await self._tracker.save_positions(await self._exchange.refresh())
        log.info("reconciled", in_flight=len(in_flight), open=len(open_at_exchange))

    async def _query_in_order(self, orders: Sequence[Order]) -> None:
        """Query the orders of one symbol that were in flight, oldest first; not those sent only after a missing one."""
        missing: list[Order] = []
        for order in orders:
            if not any(sent_only_after(order, other) for other in missing) and not await self._exists_at_exchange(
                order
            ):
                missing.append(order)

    async def _exists_at_exchange(self, order: Order) -> bool:
        """Query an order that was in flight once; one that is not found becomes unknown, as after a lost response."""
        report = await self._exchange.find(order)
        if report is not None:
            await self._tracker.apply(order, report)
            return True
        if order.status is OrderStatus.SUBMITTING:
            await self._database.write(
                order_lifecycle.mark_unknown,
                order.client_order_id,
                reason="the bridge stopped while the order was being sent",
                now=self._clock(),
                sent_at=self._sent_by(order),
            )
        return False

    async def run(self, is_handled: Callable[[str], bool]) -> None:
        """Until cancelled: resolve every order in flight that no task handles, such as those of a process that is gone.

        `is_handled` is True for the client order id of an order that is being sent or queried elsewhere.
        """
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    interrupted = await self._database.read(order_queue.interrupted)
                    for order in interrupted:
                        if self._is_orphan(order, is_handled) and not self._has_open_predecessor(order, interrupted):
                            group.create_task(self._resolve_orphan(order))
                except StoreUnavailable as error:
                    log.warning("orders_in_flight_not_readable", error=error.message)
                await asyncio.sleep(_CHECK_ORPHANS_EVERY_S)

    def _is_orphan(self, order: Order, is_handled: Callable[[str], bool]) -> bool:
        client_order_id = order.client_order_id
        if client_order_id in self._resolving_ids or is_handled(client_order_id):
            return False
        is_old = self._clock() - (order.submitted_at or order.created_at) > _ORPHAN_AGE
        return is_old or client_order_id in self._inherited_ids

    def _has_open_predecessor(self, order: Order, interrupted: Sequence[Order]) -> bool:
        """True while an order that this one can only have been sent after is not resolved."""
        is_independent = order.status is OrderStatus.UNKNOWN or order.client_order_id in self._unsent_ids
        return not is_independent and any(sent_only_after(order, other) for other in interrupted)

    async def _resolve_orphan(self, order: Order) -> None:
        try:
            await self.resolve_unknown(order)
        except KekbridgeError as error:
            log.error("order_not_resolved", client_order_id=order.client_order_id, error=error.message)
        except Exception:
            log.exception("order_not_resolved", client_order_id=order.client_order_id)

    async def reconcile(self) -> None:
        """Repeat the comparison in operation: poll unfinished orders, fetch trades, replace positions."""
        await self._tracker.poll_open_orders()
        await self._tracker.poll_exits()  # first: a fill is then known as that of the exit
        await self._tracker.sync_fills()
        await self._tracker.save_positions(await self._exchange.refresh())
