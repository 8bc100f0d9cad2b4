"""Orders whose outcome is not known, and the start after a crash, which is the same thing.

An unknown order is resolved by asking for its client order id, never by sending it again blindly. Only when the acceptance
window is over is "does not exist" proof
(docs/internals/reliability.md section 4); then exits go back to the queue, entries as the setting says. An order
that was claimed in line behind one that never arrived did not leave either (lanes.py): it goes back, whatever the setting.
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

_FIRST_QUESTION_S = 0.5
_SLOWEST_QUESTION_S = 4.0
_LOOK_FOR_ORPHANS_S = 2.0
_ORPHAN_AGE = timedelta(seconds=5)


class Reconciler:
    """Resolves unknown orders, at start and in operation."""

    def __init__(
        self,
        *,
        database: Database,
        exchange: Exchange,
        follower: OrderTracker,
        outcomes: OrderUpdates,
        settings: Settings,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._exchange = exchange
        self._tracker = follower
        self._updates = outcomes
        self._settings = settings
        self._clock = clock
        self._under_way: set[str] = set()
        self._left_behind: set[str] = set()  # client order ids in flight at the start and not resolved yet
        self._last_chance = (
            0.0  # by the loop's clock: later than that nothing of those left behind can still be accepted
        )
        self._never_left: set[str] = set()  # of those left behind: what stood in line behind one that never arrived

    async def resolve_unknown(self, order: Order) -> Order:
        """Ask until the exchange knows the order, or until it is proven that it never will; returns the order as it then is."""
        name = order.client_order_id
        self._under_way.add(name)
        try:
            resolved = await self._resolve(order)
        finally:
            self._under_way.discard(name)
        self._left_behind.discard(name)
        self._never_left.discard(name)
        return resolved

    async def _resolve(self, order: Order) -> Order:
        now = asyncio.get_running_loop().time
        # Counted from here by a clock that nobody sets: the machine's own may jump while we wait.
        window_end = now() + self._window_left_s(order)
        if order.client_order_id in self._never_left:
            window_end = min(window_end, self._last_chance)
        asked = 0
        while True:
            asked_at = now()
            try:
                report = await self._exchange.find(order)
            except ExchangeUnavailable as error:
                log.warning("unknown_order_not_readable", client_order_id=order.client_order_id, error=error.message)
            else:
                if report is not None:
                    log.info("unknown_order_found", client_order_id=order.client_order_id, status=report.status.value)
                    return await self._tracker.apply(order, report)
                if asked_at > window_end:
                    return await self._not_found_after_window(order)
            asked += 1
            pause = min(backoff_s(_FIRST_QUESTION_S, asked, random.random() / 4), _SLOWEST_QUESTION_S)
            await asyncio.sleep(pause)

    def _window_left_s(self, order: Order) -> float:
        """How long a request sent before could still be accepted."""
        seconds = self._longest_window_s()
        since_s = (self._clock() - self._sent_by(order)).total_seconds()
        return min(max(seconds - since_s, 0.0), seconds)

    def _longest_window_s(self) -> float:
        """How long a request that leaves now could still be accepted: receive window, clock tolerance, and one request's time."""
        exchange = self._settings.exchange
        return exchange.recv_window_ms / 1000 + self._settings.queue.clock_tolerance_s + exchange.request_timeout_s

    def _sent_by(self, order: Order) -> datetime:
        """The latest moment at which the request can have left.

        An order that is still "submitting" was claimed by somebody who is gone. It may have waited for the rate window long after the
        claim, so it left at the latest now; never after its age, which `Exchange.place` checks last.
        """
        sent_at = order.submitted_at or order.created_at
        if order.status is OrderStatus.SUBMITTING:
            return max(sent_at, min(self._clock(), order.expires_at))
        return sent_at

    async def _not_found_after_window(self, order: Order) -> Order:
        """The acceptance window is over and the exchange does not know the order."""
        now = self._clock()
        if order.client_order_id in self._never_left:
            log.info("unsent_order_back_in_queue", client_order_id=order.client_order_id)
            updated = await self._database.write(order_lifecycle.requeue_unsent, order.client_order_id, now=now)
            self._updates.publish(updated)
            return updated
        await self._requeue_successors(order)
        # A protective order is not sent again: whoever guards the position has long sent the next one.
        may_resend = order.intent.purpose is Purpose.EXIT or (
            order.is_entry and self._settings.queue.resend_unknown_entries
        )
        if may_resend and now < order.expires_at:
            log.warning("unknown_order_sent_again", client_order_id=order.client_order_id, purpose=order.intent.purpose)
            updated = await self._database.write(
                order_lifecycle.mark_deferred,
                order.client_order_id,
                code="outcome_unknown",
                error="the exchange does not know the order and can no longer accept the first request: sent again",
                now=now,
                next_attempt_at=now,
            )
        else:
            log.error("unknown_order_left", client_order_id=order.client_order_id)
            updated = await self._database.write(
                order_lifecycle.close_unknown,
                order.client_order_id,
                reason="no answer came, and the exchange does not know the order; it was not sent again",
                now=now,
            )
        self._updates.publish(updated)
        return updated

    async def _requeue_successors(self, order: Order) -> None:
        """Whoever stood in line behind an order of a process that is gone did not leave: that process never heard that it was taken."""
        if order.client_order_id in self._left_behind:
            for other in await self._database.read(order_queue.interrupted):
                is_of_that_time = other.client_order_id in self._left_behind and other.status is OrderStatus.SUBMITTING
                if is_of_that_time and sent_only_after(other, order):
                    self._never_left.add(other.client_order_id)

    async def reconcile_at_start(self) -> None:
        """The start-up path, after a crash or not: ask for what was in flight, catch up with what happened meanwhile.

        An order that the exchange does not know yet stays in flight: it holds its symbol and its room in the limits, `run` goes on
        asking, and the rest may trade. Raises ExchangeUnavailable while the exchange cannot be asked; nothing may trade before this
        has returned.
        """
        await self._exchange.refresh()
        unfinished = await self._database.read(order_queue.unfinished)
        in_flight = [order for order in unfinished if order.status in (OrderStatus.SUBMITTING, OrderStatus.UNKNOWN)]
        open_at_exchange = [order for order in unfinished if order.order_id and order not in in_flight]
        self._left_behind = {order.client_order_id for order in in_flight}
        self._last_chance = asyncio.get_running_loop().time() + self._longest_window_s()
        async with asyncio.TaskGroup() as group:
            for symbol in {order.intent.symbol for order in in_flight}:
                group.create_task(self._query_in_order([each for each in in_flight if each.intent.symbol == symbol]))
            for order in open_at_exchange:
                group.create_task(self._tracker.poll(order))
        await self._tracker.poll_exits()  # first: a trade is then known as the exit it was
        await self._tracker.sync_fills()
        snapshot = await self._exchange.refresh()
        await self._tracker.save_positions(snapshot)
        log.info("reconciled", in_flight=len(in_flight), open=len(open_at_exchange))

    async def _query_in_order(self, orders: Sequence[Order]) -> None:
        """Ask for the orders of one symbol that were in flight, oldest first; what stands in line behind one that is not known waits."""
        missing: list[Order] = []
        for order in orders:
            if not any(sent_only_after(order, other) for other in missing) and not await self._exists_at_exchange(
                order
            ):
                missing.append(order)

    async def _exists_at_exchange(self, order: Order) -> bool:
        """One question about an order that was in flight; what is not known then is marked so, in the same state as after a lost answer."""
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
        """For ever: resolve every order in flight that nobody handles, such as those of a process that is gone.

        `is_handled` says whether an order, by its name, is being sent or asked for by somebody else.
        """
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    interrupted = await self._database.read(order_queue.interrupted)
                    for order in interrupted:
                        if self._is_orphan(order, is_handled) and not self._is_within_window(order, interrupted):
                            group.create_task(self._resolve_orphan(order))
                except StoreUnavailable as error:
                    log.warning("orders_in_flight_not_readable", error=error.message)
                await asyncio.sleep(_LOOK_FOR_ORPHANS_S)

    def _is_orphan(self, order: Order, is_handled: Callable[[str], bool]) -> bool:
        name = order.client_order_id
        if name in self._under_way or is_handled(name):
            return False
        # Between two steps of its own lane an order is nobody's for an instant.
        return name in self._left_behind or self._clock() - (order.submitted_at or order.created_at) > _ORPHAN_AGE

    def _is_within_window(self, order: Order, interrupted: Sequence[Order]) -> bool:
        """True while one that it stood in line behind is not resolved."""
        is_free = order.status is OrderStatus.UNKNOWN or order.client_order_id in self._never_left
        return not is_free and any(sent_only_after(order, other) for other in interrupted)

    async def _resolve_orphan(self, order: Order) -> None:
        try:
            await self.resolve_unknown(order)
        except KekbridgeError as error:
            log.error("order_not_resolved", client_order_id=order.client_order_id, error=error.message)
        except Exception:
            log.exception("order_not_resolved", client_order_id=order.client_order_id)

    async def reconcile(self) -> None:
        """The same comparison in operation: unfinished orders looked at, trades fetched, positions replaced."""
        await self._tracker.poll_open_orders()
        await self._tracker.poll_exits()  # first: a trade is then known as the exit it was
        await self._tracker.sync_fills()
        await self._tracker.save_positions(await self._exchange.refresh())
