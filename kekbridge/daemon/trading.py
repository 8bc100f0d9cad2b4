"""The services that trade, built from the opened resources: receiver, submitter, dispatcher, tracker, reconciler, protection.

Nothing trades before our view equals the exchange's. The public listener and the operator's side are the part of app.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from kekbridge.daemon.resources import Resources
from kekbridge.errors import KekbridgeError
from kekbridge.execution.canceller import OrderCanceller
from kekbridge.execution.dispatcher import OrderDispatcher
from kekbridge.execution.in_flight import InFlightOrders
from kekbridge.execution.orphan_stops import OrphanStopCanceller
from kekbridge.execution.reconciler import Reconciler
from kekbridge.execution.recorder import Recorder
from kekbridge.execution.stop_guard import StopLossGuard
from kekbridge.execution.submitter import OrderSubmitter
from kekbridge.execution.take_profits import TakeProfitPlacer
from kekbridge.execution.tracker import OrderTracker
from kekbridge.execution.updates import OrderUpdates
from kekbridge.ingress.audit import KeyUsageLog
from kekbridge.ingress.auth import Authenticator
from kekbridge.ingress.receiver import AlertReceiver
from kekbridge.log import get_logger
from kekbridge.risk.check import AccountPolicy
from kekbridge.risk.limits import account_limits
from kekbridge.store import webhooks

log = get_logger("kekbridge.daemon.trading")

_RECOVERY_PAUSE_S: Final = 1.0


class TradingServices:
    """One per daemon: `trade` and the `background` run as its tasks, `finish` ends them."""

    def __init__(self, resources: Resources) -> None:
        database, exchange, clock = resources.database, resources.exchange, resources.clock
        settings, policy = resources.settings, _account_policy(resources)
        self._settings = settings
        self._recovered = asyncio.Event()
        self._first_attempt = asyncio.Event()
        self.updates = updates = OrderUpdates()
        self.key_usage = KeyUsageLog(database)
        self.recorder = Recorder(database=database, updates=updates, settings=settings.queue, clock=clock)
        self.tracker = OrderTracker(
            database=database,
            exchange=exchange,
            outcomes=updates,
            settings=settings.queue,
            clock=clock,
            protection_changed=self._check_protection,
        )
        self.reconciler = Reconciler(
            database=database,
            exchange=exchange,
            follower=self.tracker,
            outcomes=updates,
            settings=settings,
            clock=clock,
        )
        self.canceller = OrderCanceller(
            database=database, exchange=exchange, follower=self.tracker, outcomes=updates, clock=clock
        )
        in_flight = InFlightOrders(settings.queue.concurrency)
        self.submitter = OrderSubmitter(
            database=database,
            exchange=exchange,
            recorder=self.recorder,
            updates=updates,
            policy=policy,
            in_flight=in_flight,
            clock=clock,
        )
        self.dispatcher = OrderDispatcher(
            database=database,
            submitter=self.submitter,
            in_flight=in_flight,
            tracker=self.tracker,
            reconciler=self.reconciler,
            canceller=self.canceller,
            updates=updates,
            clock=clock,
        )
        self.receiver = AlertReceiver(
            authentication=Authenticator(
                lambda lookup: database.read_now(webhooks.find_by_lookup, lookup, clock()),
                resources.sealer,
                used=self.key_usage.record,
            ),
            database=database,
            exchange=exchange,
            submitter=self.submitter,
            on_admitted=self.dispatcher.on_admitted,
            updates=updates,
            settings=settings,
            policy=policy,
            clock=clock,
            tell_price=resources.tell_price,
        )
        self.stop_guard = StopLossGuard(
            database=database,
            exchange=exchange,
            settings=settings.queue,
            clock=clock,
            submit=self.submitter.submit,
        )
        self.take_profits = TakeProfitPlacer(
            database=database, exchange=exchange, clock=clock, submit=self.submitter.submit
        )
        self.orphan_stops = OrphanStopCanceller(
            database=database, exchange=exchange, cancel=self.canceller.cancel, clock=clock
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

    async def wait_recovered(self) -> None:
        """Return once the bridge's view has equalled the exchange's."""
        await self._recovered.wait()

    async def wait_for_first_attempt(self, longest_s: float) -> None:
        """Return after the first reconciliation, whatever came of it, or after `longest_s` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._first_attempt.wait()

    async def trade(self) -> None:
        """Reconcile, say so, and send orders until stopped."""
        while not self.dispatcher.is_stopping:
            try:
                await self.reconciler.reconcile_at_start()
                break
            except* KekbridgeError as errors:
                log.warning("not_reconciled", error=str(errors.exceptions[0]))
            finally:
                self._first_attempt.set()
            await self.dispatcher.sleep_unless_stopping(_RECOVERY_PAUSE_S)
        if self.dispatcher.is_stopping:
            return
        self._recovered.set()
        self._check_protection()
        await self.dispatcher.run()

    def background(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What runs beside it until cancelled; whatever may send waits for the first reconciliation."""
        return (
            self.tracker.run(),
            self.key_usage.run(),
            self._when_recovered(self.stop_guard.run),
            self._when_recovered(self.take_profits.run),
            self._when_recovered(self.orphan_stops.run),
            self._when_recovered(self._resolve_orphans),
            self._when_recovered(self.canceller.run),
        )

    async def finish(self, trading: asyncio.Task[None]) -> None:
        """Take no more orders, and wait for those under way, at most `server.shutdown_timeout_s`, and for every note."""
        self.dispatcher.stop()
        _, late = await asyncio.wait({trading}, timeout=self._settings.server.shutdown_timeout_s)
        if late:
            log.warning("lanes_cut", detail="orders under way are looked up at the next start")
        await self.receiver.drain()
        await self.recorder.drain()
        await self.key_usage.flush()

    def is_moving(self, limit_s: float) -> bool:
        """For the watchdog: once trading has begun the worker must have moved within the limit."""
        return not self.is_recovered or self.dispatcher.is_stopping or self.dispatcher.idle_for_s() < limit_s

    async def _resolve_orphans(self) -> None:
        await self.reconciler.run(
            lambda name: name in self.submitter.submitting_ids or name in self.dispatcher.in_flight_ids
        )

    def _check_protection(self) -> None:
        """An entry executed, or an exit of one changed: are its stop and its take-profits there?"""
        self.stop_guard.wake()
        self.take_profits.wake()

    async def _when_recovered(self, work: Callable[[], Awaitable[None]]) -> None:
        await self._recovered.wait()
        await work()


def _account_policy(resources: Resources) -> AccountPolicy:
    settings = resources.settings
    return AccountPolicy(
        account_limits=account_limits(**settings.risk.limits()),
        max_snapshot_age_s=settings.exchange.max_snapshot_age_s,
        max_mark_age_s=settings.exchange.max_mark_age_s,
        max_waiting=settings.queue.max_waiting,
    )
