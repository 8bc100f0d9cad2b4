"""Store the result of each submitted order, and publish the order. Sends nothing.

Each result is stored in a task of its own, which neither a shutdown nor a cancelled wait for it can stop.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

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

Step = Callable[[sqlite3.Connection], Order]

log = get_logger("kekbridge.execution.recorder")

# An exit must go soon after the exchange is back; trying this often is far below every rate limit.
_LONGEST_EXIT_PAUSE_S: Final = 4.0
# Long enough for the position that the exchange judged by, and we have not seen yet, to arrive.
_EXIT_RETRY_S: Final = 0.2


class Recorder:
    """Stores the submit results of one daemon; `drain` waits for all of them."""

    def __init__(
        self, *, database: Database, updates: OrderUpdates, settings: Queue, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._updates = updates
        self._settings = settings
        self._clock = clock
        self._tasks: set[asyncio.Future[Any]] = set()
        #: Client order ids of orders claimed for sending whose result is not recorded yet.
        self.submitting_ids: set[str] = set()

    def record(self, order: Order, result: SubmitResult, claim: Step | None = None) -> asyncio.Task[Order]:
        """Begin to store the result of a submit and publish the order after the flush; the task returns the order as stored.

        The task raises StoreUnavailable. `claim` claims, in the same transaction, an order that was never sent because its leverage could
        not be set: the store never shows it as being sent.
        """
        task = asyncio.create_task(self._save(order, result, claim))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self) -> None:
        """Wait until every result is recorded."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _save(self, order: Order, result: SubmitResult, claim: Step | None) -> Order:
        reported: Order | None = None
        try:
            if isinstance(result, Accepted):
                recorded, reported = await self._commit_accepted(order.client_order_id, result)
            else:
                recorded = await self._commit(order, result, claim)
            hit("W9")  # stored, not published yet
        finally:
            self.submitting_ids.discard(order.client_order_id)
            acceptance = self._updates.acceptances.pop(order.client_order_id, None)
        self._publish(order, result, recorded)
        if acceptance is not None and reported is not None:
            acceptance.resolve(reported)
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

    async def _commit_accepted(self, client_order_id: str, accepted: Accepted) -> tuple[Order, Order | None]:
        """Commit the acceptance, together with the report of the order's final state if that comes before the flush.

        A crash before the flush leaves the order "submitting", and the next start queries it by its client order id.
        """
        self._updates.latency.on_signed(client_order_id, accepted.sent_at)
        acceptance = PendingAcceptance(
            client_order_id, order_id=accepted.order_id, now=self._clock(), signed_at=accepted.sent_at
        )
        self._updates.add_acceptance(acceptance)
        try:
            return await self._database.write_soon(acceptance.write)
        except StoreUnavailable as error:
            acceptance.fail(error)
            raise
        except Exception as error:
            acceptance.fail(error)  # perhaps only the report cannot be written: write the acceptance without it
            return await self._database.write_soon(acceptance.write_alone), None

    async def _commit(self, order: Order, result: Rejected | Retryable | Unknown, claim: Step | None) -> Order:
        """Commit that the order was not accepted, or that its outcome is unknown; with `claim`, in one transaction with that claim."""
        now = self._clock()
        if claim is None:
            return await self._database.write(self._step(order, result, now))

        def claim_and_step(connection: sqlite3.Connection) -> Order:
            claimed = claim(connection)
            return claimed if claimed.status.is_final else self._step(claimed, result, now)(connection)

        return await self._database.write(claim_and_step)

    def _step(self, order: Order, result: Rejected | Retryable | Unknown, now: datetime) -> Step:
        """The write that follows from a result."""
        client_order_id = order.client_order_id
        match result:
            case Rejected():
                return partial(_reject, order=order, rejected=result, now=now)
            case Retryable(code=code, message=message, retry_after_s=retry_after_s):
                return self._defer(order, code, message, retry_after_s, now)
            case Unknown(reason=reason, sent_at=sent_at):
                return lambda connection: order_lifecycle.mark_unknown(
                    connection, client_order_id, reason=reason, now=now, sent_at=sent_at
                )

    def _defer(self, order: Order, code: str, message: str, retry_after_s: float | None, now: datetime) -> Step:
        """Requeue the order while its attempts allow it; the schedule is stored, so a restart keeps it.

        Protective orders do not wait: the position they were placed for may be another one by then, and the stop guard checks again anyway.
        """
        client_order_id = order.client_order_id
        is_exhausted = order.attempt >= self._settings.attempts and order.is_entry
        if is_exhausted or order.intent.purpose is Purpose.PROTECT:
            known = code if code in ("exchange_unreachable", "leverage_not_set") else "exchange_busy"
            text = message if known == code else f"{code}: {message}"
            return lambda connection: order_lifecycle.mark_rejected(
                connection, client_order_id, code=known, error=text, now=now
            )
        pause = retry_after_s if retry_after_s is not None else backoff_s(self._settings.backoff_s, order.attempt)
        if not order.is_entry:
            pause = min(pause, _LONGEST_EXIT_PAUSE_S)
        due = now + timedelta(seconds=pause)
        return lambda connection: order_lifecycle.mark_deferred(
            connection, client_order_id, code=code, error=message, now=now, next_attempt_at=due
        )


def _reject(connection: sqlite3.Connection, *, order: Order, rejected: Rejected, now: datetime) -> Order:
    """Store a definite rejection: nothing is at the exchange, and the same request would be rejected again (docs/internals/reliability.md
    section 5).

    An exit is sent once more, with size and price as the position then requires. A rejected key closes the account for entries.
    """
    client_order_id, code, error = order.client_order_id, rejected.code, rejected.message
    if rejected.is_key_rejected:
        reason = f"the exchange rejected the API key ({code}): run `kekbridge keys check`, then `kekbridge resume`"
        store_settings.close_for_entries(connection, reason=reason, by="kekbridge", now=now)
    elif order.intent.purpose is Purpose.EXIT:
        if order.attempt <= 1:
            due = now + timedelta(seconds=_EXIT_RETRY_S)
            return order_lifecycle.mark_deferred(
                connection, client_order_id, code=code, error=error, now=now, next_attempt_at=due
            )
        events.append(connection, "exit_refused", now=now, alert_id=order.alert_id, client_order_id=client_order_id)
    return order_lifecycle.mark_rejected(connection, client_order_id, code=code, error=error, now=now)


def backoff_s(base: float, attempt: int, jitter: float = 0.0) -> float:
    """Seconds before the next attempt: `base`, doubled with each attempt, at most a minute; `jitter` adds a fraction of that."""
    return float(min(base * 2 ** max(attempt - 1, 0), 60.0) * (1 + jitter))
