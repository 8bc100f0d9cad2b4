"""The parts that trade, built from what was opened: pipeline, worker, follower, recovery, guard, take-profits, and their one life.

Nothing trades before the bridge's view equals the exchange's. Who knocks at the door, and who is told, is the business of daemon.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from kekbridge.daemon.resources import Opened
from kekbridge.errors import KekbridgeError
from kekbridge.execution.canceller import Canceller
from kekbridge.execution.dispatcher import Worker
from kekbridge.execution.orphan_stops import Leftovers
from kekbridge.execution.reconciler import Recovery
from kekbridge.execution.stop_guard import Guard
from kekbridge.execution.submitter import Pipeline
from kekbridge.execution.take_profits import TakeProfits
from kekbridge.execution.tracker import Follower
from kekbridge.execution.updates import Outcomes
from kekbridge.ingress.audit import KeyUse
from kekbridge.ingress.auth import Authenticator
from kekbridge.log import get_logger
from kekbridge.planning.decide import Terms
from kekbridge.risk.limits import account_limits
from kekbridge.store import webhooks

log = get_logger("kekbridge.daemon.trading")

_RECOVERY_PAUSE_S: Final = 1.0


class Engine:
    """One per daemon: `trade` and the `background` run as its tasks, `stop` and `drain` end it."""

    def __init__(self, opened: Opened) -> None:
        terms = _terms(opened)
        self._settings = opened.settings
        self._recovered = asyncio.Event()
        self._tried = asyncio.Event()
        self.outcomes = Outcomes()
        self.key_use = KeyUse(opened.database)
        self._build_followers(opened)
        self.pipeline = self._pipeline(opened, terms)
        self.guard = Guard(
            database=opened.database,
            exchange=opened.exchange,
            settings=opened.settings.queue,
            clock=opened.clock,
            submit=self.pipeline.submit,
        )
        self.take_profits = TakeProfits(
            database=opened.database, exchange=opened.exchange, clock=opened.clock, submit=self.pipeline.submit
        )
        self.leftovers = Leftovers(
            database=opened.database, exchange=opened.exchange, cancel=self.canceller.cancel, clock=opened.clock
        )

    def _build_followers(self, opened: Opened) -> None:
        """Those that ask and are told what becomes of orders, and the worker that sends them."""
        database, exchange, clock, outcomes = opened.database, opened.exchange, opened.clock, self.outcomes
        self.follower = Follower(
            database=database,
            exchange=exchange,
            outcomes=outcomes,
            settings=opened.settings.queue,
            clock=clock,
            protection_changed=self._look_after_positions,
        )
        self.recovery = Recovery(
            database=database,
            exchange=exchange,
            follower=self.follower,
            outcomes=outcomes,
            settings=opened.settings,
            clock=clock,
        )
        self.canceller = Canceller(
            database=database, exchange=exchange, follower=self.follower, outcomes=outcomes, clock=clock
        )
        self.worker = Worker(
            database=database,
            follower=self.follower,
            recovery=self.recovery,
            canceller=self.canceller,
            outcomes=outcomes,
            settings=opened.settings.queue,
            clock=clock,
        )

    def _pipeline(self, opened: Opened, terms: Terms) -> Pipeline:
        database, clock = opened.database, opened.clock
        return Pipeline(
            door=Authenticator(
                lambda lookup: database.read_now(webhooks.find_by_lookup, lookup, clock()),
                opened.sealer,
                used=self.key_use.note,
            ),
            database=database,
            exchange=opened.exchange,
            outcomes=self.outcomes,
            settings=opened.settings,
            terms=terms,
            clock=clock,
            departures=self.worker,
            tell_price=opened.tell_price,
        )

    # ------------------------------------------------------------------------------------------------------------- life

    @property
    def is_recovered(self) -> bool:
        """True once the bridge's view has equalled the exchange's."""
        return self._recovered.is_set()

    async def wait_until_recovered(self, longest_s: float) -> None:
        """Give the first reconciliation a moment: whoever reads "Ready" may send an entry at once, which not_ready would refuse."""
        try:
            async with asyncio.timeout(longest_s):
                await self._recovered.wait()
        except TimeoutError:
            log.warning(
                "announced_unreconciled", detail="the exchange does not answer; entries are refused until it does"
            )

    async def recovered(self) -> None:
        """Return once the bridge's view has equalled the exchange's."""
        await self._recovered.wait()

    async def tried_to_recover(self, longest_s: float) -> None:
        """Return after the first reconciliation, whatever came of it, or after `longest_s` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._tried.wait()

    async def trade(self) -> None:
        """Reconcile, say so, and send orders until stopped."""
        while not self.worker.is_stopping:
            try:
                await self.recovery.recover()
                break
            except* KekbridgeError as errors:
                log.warning("not_reconciled", error=str(errors.exceptions[0]))
            finally:
                self._tried.set()
            await self.worker.sleep_unless_stopping(_RECOVERY_PAUSE_S)
        if self.worker.is_stopping:
            return
        self._recovered.set()
        self._look_after_positions()
        await self.worker.run(self.pipeline)

    def background(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What runs beside it until cancelled; whatever may send waits for the first reconciliation."""
        return (
            self.follower.run(),
            self.key_use.run(),
            self._when_recovered(self.guard.run),
            self._when_recovered(self.take_profits.run),
            self._when_recovered(self.leftovers.run),
            self._when_recovered(self._resolve_orphans),
            self._when_recovered(self.canceller.run),
        )

    async def finish(self, trading: asyncio.Task[None]) -> None:
        """Take no more orders, and wait for those under way, at most `server.shutdown_timeout_s`, and for every note."""
        self.worker.stop()
        _, late = await asyncio.wait({trading}, timeout=self._settings.server.shutdown_timeout_s)
        if late:
            log.warning("lanes_cut", detail="orders under way are looked up at the next start")
        await self.pipeline.drain()
        await self.key_use.flush()

    def is_moving(self, limit_s: float) -> bool:
        """For the watchdog: once trading has begun the worker must have moved within the limit."""
        return not self.is_recovered or self.worker.is_stopping or self.worker.idle_for_s() < limit_s

    async def _resolve_orphans(self) -> None:
        await self.recovery.run(lambda name: name in self.pipeline.being_sent or name in self.worker.under_way)

    def _look_after_positions(self) -> None:
        """An entry executed, or an exit of one changed: are its stop and its take-profits there?"""
        self.guard.wake()
        self.take_profits.wake()

    async def _when_recovered(self, work: Callable[[], Awaitable[None]]) -> None:
        await self._recovered.wait()
        await work()


def _terms(opened: Opened) -> Terms:
    settings = opened.settings
    return Terms(
        account_limits=account_limits(**settings.risk.limits()),
        max_snapshot_age_s=settings.exchange.max_snapshot_age_s,
        max_mark_age_s=settings.exchange.max_mark_age_s,
        max_waiting=settings.queue.max_waiting,
    )
