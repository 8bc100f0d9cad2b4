"""Orders whose outcome is not known, and the start after a crash, which is the same thing.

An unknown order is resolved by asking for its client order id, never by sending it again blindly. Only when the acceptance
window is over is "does not exist" proof (reliability.md section 4); then exits go back to the queue, entries as the setting says.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from kekbridge.config import Settings
from kekbridge.errors import ExchangeUnavailable
from kekbridge.exchange.protocol import Exchange
from kekbridge.following import Follower
from kekbridge.model import Order, OrderStatus
from kekbridge.outcomes import Outcomes
from kekbridge.pipeline import backoff_s
from kekbridge.store import orders as order_rows
from kekbridge.store.database import Database

log = structlog.get_logger("kekbridge.recovery")

_FIRST_QUESTION_S = 0.5
_SLOWEST_QUESTION_S = 4.0


class Breaker:
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

    def note(self, *, was_unknown: bool) -> None:
        self._last.append(was_unknown)
        recent = list(self._last)
        in_a_row = len(recent) >= self._IN_A_ROW and all(recent[-self._IN_A_ROW :])
        by_half = len(recent) == self._WINDOW and sum(recent) * 2 >= self._WINDOW
        self._is_open = self._is_open or in_a_row or by_half

    def close(self) -> None:
        """A question was answered: the exchange is back."""
        self._is_open = False
        self._last.clear()


class Recovery:
    """Resolves unknown orders, at start and in operation."""

    def __init__(
        self,
        *,
        database: Database,
        exchange: Exchange,
        follower: Follower,
        outcomes: Outcomes,
        settings: Settings,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._exchange = exchange
        self._follower = follower
        self._outcomes = outcomes
        self._settings = settings
        self._clock = clock

    async def resolve(self, order: Order) -> Order:
        """Ask until the exchange knows the order, or until it is proven that it never will; returns the order as it then is."""
        asked = 0
        while True:
            answered_at = self._clock()
            try:
                report = await self._exchange.find(order)
            except ExchangeUnavailable as error:
                log.warning("unknown_order_not_readable", client_order_id=order.client_order_id, error=error.message)
            else:
                if report is not None:
                    log.info("unknown_order_found", client_order_id=order.client_order_id, status=report.status.value)
                    return await self._follower.apply(order, report)
                if answered_at > self._window_end(order):
                    return await self._never_arrived(order)
            asked += 1
            pause = min(backoff_s(_FIRST_QUESTION_S, asked, random.random() / 4), _SLOWEST_QUESTION_S)
            await asyncio.sleep(pause)

    def _window_end(self, order: Order) -> datetime:
        """Until when a request sent before could still be accepted: receive window, clock tolerance, and one request's time."""
        sent_at = order.submitted_at or order.created_at
        exchange = self._settings.exchange
        seconds = exchange.recv_window_ms / 1000 + self._settings.queue.clock_tolerance_s + exchange.request_timeout_s
        return sent_at + timedelta(seconds=seconds)

    async def _never_arrived(self, order: Order) -> Order:
        """The acceptance window is over and the exchange does not know the order."""
        now = self._clock()
        may_resend = not order.is_entry or self._settings.queue.resend_unknown_entries
        if may_resend and now < order.expires_at:
            log.warning("unknown_order_sent_again", client_order_id=order.client_order_id, purpose=order.intent.purpose)
            updated = await self._database.write(
                order_rows.mark_deferred,
                order.client_order_id,
                code="outcome_unknown",
                error="the exchange does not know the order and can no longer accept the first request: sent again",
                now=now,
                next_attempt_at=now,
            )
        else:
            log.error("unknown_order_left", client_order_id=order.client_order_id)
            updated = await self._database.write(
                order_rows.give_up_unknown,
                order.client_order_id,
                reason="no answer came, and the exchange does not know the order; it was not sent again",
                now=now,
            )
        self._outcomes.publish(updated)
        return updated

    async def recover(self) -> None:
        """The start-up path, after a crash or not: resolve what was in flight, catch up with what happened meanwhile.

        Raises ExchangeUnavailable while the exchange cannot be asked; nothing may trade before this has returned.
        """
        await self._exchange.refresh()
        unfinished = await self._database.read(order_rows.unfinished)
        in_flight = [order for order in unfinished if order.status in (OrderStatus.SUBMITTING, OrderStatus.UNKNOWN)]
        open_at_exchange = [order for order in unfinished if order.order_id and order not in in_flight]
        async with asyncio.TaskGroup() as group:
            for order in in_flight:
                group.create_task(self.resolve(order))
            for order in open_at_exchange:
                group.create_task(self._follower.look(order))
        await self._follower.sync_trades()
        snapshot = await self._exchange.refresh()
        await self._follower.save_positions(snapshot)
        log.info("reconciled", in_flight=len(in_flight), open=len(open_at_exchange))

    async def reconcile(self) -> None:
        """The same comparison in operation: unfinished orders looked at, trades fetched, positions replaced."""
        await self._follower.look_at_all()
        await self._follower.sync_trades()
        await self._follower.save_positions(await self._exchange.refresh())
