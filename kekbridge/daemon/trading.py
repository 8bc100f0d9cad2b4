"""The services that trade, built from the opened resources: receiver, submitter, dispatcher, tracker, reconciler, protection.

Nothing trades before the bridge's view equals the exchange's. The listener and the operator services are built in app.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from kekbridge.daemon.resources import Resources
from kekbridge.errors import KekbridgeError
from kekbridge.execution.account_events import AccountEvents
from kekbridge.execution.account_records import AccountRecords
from kekbridge.execution.admission import AlertAdmissions
from kekbridge.execution.book import Book
from kekbridge.execution.canceller import OrderCanceller
from kekbridge.execution.dispatcher import OrderDispatcher
from kekbridge.execution.exit_watch import ExitWatch
from kekbridge.execution.history_check import HistoryCheck
from kekbridge.execution.key_watch import KeyWatch
from kekbridge.execution.load_book import load_book, load_recent, load_webhook
from kekbridge.execution.manual_orders import ManualOrders
from kekbridge.execution.missing_orders import MissingOrders
from kekbridge.execution.protection_controller import ProtectionController
from kekbridge.execution.reconciler import Reconciler
from kekbridge.execution.submitter import OrderSubmitter
from kekbridge.execution.tracker import OrderTracker
from kekbridge.execution.updates import OrderUpdates
from kekbridge.ingress.audit import KeyUsageLog
from kekbridge.ingress.auth import Authenticator
from kekbridge.ingress.receiver import AlertReceiver
from kekbridge.log import get_logger
from kekbridge.model import Order
from kekbridge.risk.check import AccountPolicy
from kekbridge.risk.limits import account_limits
from kekbridge.store import settings as store_settings
from kekbridge.webhooks.known import KnownWebhooks

log = get_logger("kekbridge.daemon.trading")

_RECONCILE_PAUSE_S: Final = 1.0


class TradingServices:
    """One per daemon: `trade` and `background` run as its tasks, `finish` ends them."""

    def __init__(self, resources: Resources) -> None:
        database, exchange, clock = resources.database, resources.exchange, resources.clock
        settings, policy = resources.settings, _account_policy(resources)
        self._settings, self._database, self._clock = settings, database, clock
        self._reconciled = asyncio.Event()
        self._first_attempt = asyncio.Event()
        self.updates = updates = OrderUpdates()
        self.book = book = Book(append=database.append_soon, publish=self._publish)
        self.webhooks = KnownWebhooks(database, clock)
        self.key_usage = KeyUsageLog(database)
        self.tracker = OrderTracker(
            book=book,
            database=database,
            exchange=exchange,
            settings=settings.queue,
            clock=clock,
            protection_changed=lambda symbol: self.protection.wake(symbol),
            order_settled=lambda: self.dispatcher.wake(),
            exit_canceled=lambda order: self.exits.continue_canceled(order),
        )
        self.reconciler = Reconciler(book=book, exchange=exchange, tracker=self.tracker, settings=settings, clock=clock)
        self._history = HistoryCheck(book=book, database=database, exchange=exchange, clock=clock)
        self.records = AccountRecords(
            book=book, database=database, exchange=exchange, tracker=self.tracker, clock=clock
        )
        self.account_events = AccountEvents(book=book, database=database, exchange=exchange, clock=clock)
        self._keys = keys = KeyWatch(book=book, exchange=exchange, clock=clock)
        self.canceller = OrderCanceller(
            database=database,
            exchange=exchange,
            book=book,
            tracker=self.tracker,
            updates=updates,
            keys=keys,
            clock=clock,
        )
        self.exits = ExitWatch(book=book, exchange=exchange, clock=clock, on_cancels=self.canceller.wake)
        self.submitter = OrderSubmitter(
            book=book,
            database=database,
            exchange=exchange,
            exits=self.exits,
            lacks_executions=lambda: self.tracker.lacks_executions,
            keys=keys,
            policy=policy,
            settings=settings.queue,
            find_webhook=self.webhooks.find,
            clock=clock,
            on_signed=updates.latency.on_signed,
        )
        self.dispatcher = OrderDispatcher(
            book=book,
            exchange=exchange,
            submitter=self.submitter,
            tracker=self.tracker,
            reconciler=self.reconciler,
            exits=self.exits,
            settings=settings.queue,
            clock=clock,
        )
        self.reconciler.order_settled = self.dispatcher.wake
        self.missing_orders = MissingOrders(
            book=book,
            database=database,
            exchange=exchange,
            tracker=self.tracker,
            clock=clock,
            order_settled=self.dispatcher.wake,
        )
        self.reconciler.on_ended_unknown = self.missing_orders.on_ended_unknown
        self.receiver = AlertReceiver(
            authenticator=Authenticator(
                self.webhooks.find_by_lookup, resources.sealer, on_key_used=self.key_usage.record
            ),
            database=database,
            book=book,
            exchange=exchange,
            admissions=AlertAdmissions(
                book=book,
                database=database,
                exchange=exchange,
                submitter=self.submitter,
                exits=self.exits,
                recent=database.read_now(load_recent, now=clock()),
                account_rates=settings.risk.rates,
                clock=clock,
                on_queued=self.dispatcher.wake,
                on_cancels=self.canceller.wake,
            ),
            tracker=self.tracker,
            updates=updates,
            settings=settings,
            policy=policy,
            clock=clock,
            offer_price=resources.offer_price,
        )
        self.protection = ProtectionController(
            book=book,
            database=database,
            exchange=exchange,
            settings=settings.queue,
            clock=clock,
            submit=self.submitter.submit,
            cancel=self.canceller.cancel,
        )
        self.manual_orders = ManualOrders(
            book=book,
            database=database,
            exchange=exchange,
            submitter=self.submitter,
            updates=updates,
            cancel=self.canceller.cancel,
            clock=clock,
        )
        database.read_now(load_book, book, account_rates=settings.risk.rates, now=clock())
        database.listen_changes(self._on_changed)

    def _publish(self, order: Order) -> None:
        """An order changed: tell those who wait for its alert, and the protection controller."""
        self.updates.publish(order)
        self.protection.on_order(order)

    def _on_changed(self, changed: frozenset[str]) -> None:
        """A job changed what is held in memory."""
        if "webhooks" in changed:
            self.book.version += 1
            for webhook in self.webhooks.forget():
                self._database.read_now(load_webhook, self.book, webhook, now=self._clock())
        if "settings" in changed:
            self.book.equity_peak = self._database.read_now(store_settings.equity_peak)

    # ------------------------------------------------------------------------------------------------------------- life

    @property
    def is_reconciled(self) -> bool:
        """True once the bridge's view has equalled the exchange's."""
        return self._reconciled.is_set()

    async def wait_until_reconciled(self, longest_s: float | None = None) -> None:
        """Return after the first reconciliation, or after `longest_s` seconds: an entry sent before it is refused as not_ready."""
        try:
            async with asyncio.timeout(longest_s):
                await self._reconciled.wait()
        except TimeoutError:
            log.warning(
                "announced_unreconciled", detail="the exchange does not answer; entries are refused until it does"
            )

    async def wait_for_first_attempt(self, longest_s: float) -> None:
        """Return after the first attempt to reconcile, successful or not, or after `longest_s` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._first_attempt.wait()

    async def trade(self) -> None:
        """Reconcile, then send orders until stopped."""
        while not self.dispatcher.is_stopping:
            try:
                await self._history.run()
                await self.reconciler.reconcile_at_start()
                await self.canceller.resume()
                break
            except* KekbridgeError as errors:
                log.warning("not_reconciled", error=str(errors.exceptions[0]))
            finally:
                self._first_attempt.set()
            await self.dispatcher.sleep_unless_stopping(_RECONCILE_PAUSE_S)
        if self.dispatcher.is_stopping:
            return
        self._reconciled.set()
        self.protection.wake()
        await self.dispatcher.run()

    def background(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What runs beside `trade` until cancelled; everything that may send orders waits for the first reconciliation."""
        return (
            self.tracker.run(),
            self.key_usage.run(),
            self._keys.run(),
            self._when_reconciled(self.account_events.note_leaving_markets),
            self._when_reconciled(self.protection.run),
            self._when_reconciled(self._resolve_orphans),
            self._when_reconciled(self.canceller.run),
            self._when_reconciled(self.missing_orders.run),
        )

    async def finish(self, trading: asyncio.Task[None]) -> None:
        """Send no more orders; wait for those in flight, at most `server.shutdown_timeout_s`, and for every write."""
        self.dispatcher.stop()
        self.reconciler.stop()
        await asyncio.wait({trading}, timeout=self._settings.server.shutdown_timeout_s)
        if not await self.submitter.drain(self._settings.server.shutdown_timeout_s):
            log.warning("lanes_cut", detail="orders in flight are looked up at the next start")
        await self.key_usage.flush()

    def is_moving(self, limit_s: float) -> bool:
        """For the watchdog: once trading has begun, the dispatcher must have polled the queue within `limit_s` seconds."""
        return not self.is_reconciled or self.dispatcher.is_stopping or self.dispatcher.idle_for_s() < limit_s

    async def _resolve_orphans(self) -> None:
        await self.reconciler.run(self.dispatcher.is_handling)

    async def _when_reconciled(self, work: Callable[[], Awaitable[None]]) -> None:
        await self._reconciled.wait()
        await work()


def _account_policy(resources: Resources) -> AccountPolicy:
    settings = resources.settings
    return AccountPolicy(
        account_limits=account_limits(**settings.risk.limits()),
        max_snapshot_age_s=settings.exchange.max_snapshot_age_s,
        max_mark_age_s=settings.exchange.max_mark_age_s,
        max_waiting=settings.queue.max_waiting,
    )
