"""Writes down what was answered, to us by the exchange and by us to the sender. Sends nothing and decides nothing of an alert.

Each record is a task of its own: neither a shutdown nor whoever waits may stop an answer that was given from being written down.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar

from kekbridge.config import Queue
from kekbridge.errors import StoreUnavailable
from kekbridge.exchange.base import Accepted, Rejected, Retryable, SubmitResult, Unknown
from kekbridge.execution.updates import OrderUpdates, PendingAcceptance
from kekbridge.failpoints import hit
from kekbridge.log import get_logger
from kekbridge.model import Order, Purpose
from kekbridge.store import events, order_lifecycle
from kekbridge.store import settings as store_settings
from kekbridge.store.database import Database

T = TypeVar("T")
Step = Callable[[sqlite3.Connection], Order]

log = get_logger("kekbridge.execution.recorder")

# An exit does not sleep through the exchange's return; asking this often is far below every rate limit.
_LONGEST_EXIT_PAUSE_S: Final = 4.0
# Long enough for the picture of the position that the exchange has, and we have not, to arrive.
_SECOND_TRY_S: Final = 0.2


class Recorder:
    """What is written down after the fact; `drain` waits for all of it."""

    def __init__(
        self, *, database: Database, updates: OrderUpdates, settings: Queue, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._updates = updates
        self._settings = settings
        self._clock = clock
        self._tasks: set[asyncio.Future[Any]] = set()
        self.submitting_ids: set[str] = set()  # client order ids: claimed to be sent, no answer recorded yet

    def _track_task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self) -> None:
        """Wait until every answer is recorded."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def record(self, order: Order, result: SubmitResult, claim: Step | None = None) -> asyncio.Task[Order]:
        """Begin to write down what the exchange said of an order that was being sent; the task has the order as it then stands.

        It raises StoreUnavailable. Whoever waits for the order hears of it after the flush. `claim` claims an order that never was sent,
        because what it needs before (its leverage) was not to be had: the store never shows it as being sent.
        """
        return self._track_task(self._save(order, result, claim))

    async def _save(self, order: Order, result: SubmitResult, claim: Step | None) -> Order:
        reported: Order | None = None
        try:
            if isinstance(result, Accepted):
                recorded, reported = await self._commit_accepted(order.client_order_id, result)
            else:
                recorded = await self._commit(order, result, claim)
            hit("W9")
        finally:
            self.submitting_ids.discard(order.client_order_id)
            acceptance = self._updates.acceptances.pop(order.client_order_id, None)
        self._publish(order, result, recorded)
        if acceptance is not None and reported is not None:
            acceptance.report(reported)
        return recorded

    def _publish(self, order: Order, result: SubmitResult, recorded: Order) -> None:
        self._updates.publish(recorded)
        log.info(
            "order",
            alert_id=order.alert_id,
            client_order_id=order.client_order_id,
            outcome=type(result).__name__.lower(),
            status=recorded.status.value,
            code=recorded.code,
        )

    async def _commit_accepted(self, name: str, accepted: Accepted) -> tuple[Order, Order | None]:
        """Commit that the exchange took the order, and the report of its end if that comes before the flush.

        Until it is flushed a crash leaves the order "submitting", and the next start asks for it by its name.
        """
        self._updates.latency.on_signed(name, accepted.sent_at)
        acceptance = PendingAcceptance(name, order_id=accepted.order_id, now=self._clock(), signed_at=accepted.sent_at)
        self._updates.add_acceptance(acceptance)
        try:
            return await self._database.write_soon(acceptance.write)
        except StoreUnavailable as error:
            acceptance.fail(error)
            raise
        except Exception as error:
            acceptance.fail(error)  # the report's fault, perhaps: the acceptance stands all the same
            return await self._database.write_soon(acceptance.write_alone), None

    async def _commit(self, order: Order, result: Rejected | Retryable | Unknown, claim: Step | None) -> Order:
        """Commit why the order was not taken, or that nobody knows; with `claim`, in one transaction with the claim of a queued order."""
        now = self._clock()
        if claim is None:
            return await self._database.write(self._step(order, result, now))

        def claim_and_step(connection: sqlite3.Connection) -> Order:
            claimed = claim(connection)
            return claimed if claimed.status.is_final else self._step(claimed, result, now)(connection)

        return await self._database.write(claim_and_step)

    def _step(self, order: Order, result: Rejected | Retryable | Unknown, now: datetime) -> Step:
        """The write that follows from an answer."""
        name = order.client_order_id
        match result:
            case Rejected():
                return partial(_refuse, order=order, refused=result, now=now)
            case Retryable(code=code, message=message, retry_after_s=retry_after_s):
                return self._defer(order, code, message, retry_after_s, now)
            case Unknown(reason=reason, sent_at=sent_at):
                return lambda connection: order_lifecycle.mark_unknown(
                    connection, name, reason=reason, now=now, sent_at=sent_at
                )

    def _defer(self, order: Order, code: str, message: str, retry_after_s: float | None, now: datetime) -> Step:
        """Back to the queue while attempts and age allow it; the schedule is columns, so a restart forgets nothing.

        Protective orders do not wait: the position they were made for may be another one by then, and the guard looks again anyway.
        """
        name = order.client_order_id
        is_tired = order.attempt >= self._settings.attempts and order.is_entry
        if is_tired or order.intent.purpose is Purpose.PROTECT:
            known = code if code in ("exchange_unreachable", "leverage_not_set") else "exchange_busy"
            text = message if known == code else f"{code}: {message}"
            return lambda connection: order_lifecycle.mark_rejected(connection, name, code=known, error=text, now=now)
        pause = retry_after_s if retry_after_s is not None else backoff_s(self._settings.backoff_s, order.attempt)
        if not order.is_entry:
            pause = min(pause, _LONGEST_EXIT_PAUSE_S)
        due = now + timedelta(seconds=pause)
        return lambda connection: order_lifecycle.mark_deferred(
            connection, name, code=code, error=message, now=now, next_attempt_at=due
        )


def _refuse(connection: sqlite3.Connection, *, order: Order, refused: Rejected, now: datetime) -> Order:
    """A definite no: nothing is there, and the same again would be refused again (docs/internals/reliability.md section 5).

    An exit is sent once more, with size and price as the position then wants them. A key that is refused closes the account for entries.
    """
    name, code, error = order.client_order_id, refused.code, refused.message
    if refused.is_key_rejected:
        reason = f"the exchange refused the key ({code}): see `kekbridge keys check`, then `kekbridge resume`"
        store_settings.close_for_entries(connection, reason=reason, by="kekbridge", now=now)
    elif order.intent.purpose is Purpose.EXIT:
        if order.attempt <= 1:
            due = now + timedelta(seconds=_SECOND_TRY_S)
            return order_lifecycle.mark_deferred(connection, name, code=code, error=error, now=now, next_attempt_at=due)
        events.append(connection, "exit_refused", now=now, alert_id=order.alert_id, client_order_id=name)
    return order_lifecycle.mark_rejected(connection, name, code=code, error=error, now=now)


def backoff_s(base: float, attempt: int, jitter: float = 0.0) -> float:
    """Seconds before the next attempt: base, doubled per attempt, at most a minute; jitter is a fraction added."""
    return float(min(base * 2 ** max(attempt - 1, 0), 60.0) * (1 + jitter))
