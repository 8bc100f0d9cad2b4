"""Admit an alert: find duplicates, decide, reserve and append its row, all in one turn of the event loop.

Its first order is sent right after the flush. The decision is a pure function of the book's usage. What was reserved is returned if the row
cannot be stored, or if another alert has claimed the same identity.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final, Literal

import msgspec

from kekbridge.errors import StoreUnavailable
from kekbridge.exchange.base import Exchange, Permit, request_text
from kekbridge.execution import transitions
from kekbridge.execution.book import Book, with_ms_times
from kekbridge.execution.exit_watch import OVERTAKEN, ExitWatch
from kekbridge.execution.repeats import RecentAlerts, Taken
from kekbridge.execution.shared_exits import shared_exit_warnings
from kekbridge.execution.submitter import OrderSubmitter
from kekbridge.failpoints import hit
from kekbridge.model import (
    NEVER,
    Order,
    OrderStatus,
    Purpose,
    RateExcess,
    RateLimits,
    StrategyHistory,
    Usage,
    Webhook,
    client_order_id_of,
)
from kekbridge.model.admission import RATE_LIMITED, Decision, NewAlert
from kekbridge.store import alerts, codec, conditions, facts, journal, orders
from kekbridge.store.alerts import StoredAlert
from kekbridge.store.codec import amounts_to_json, storable
from kekbridge.store.database import Database
from kekbridge.store.facts import AlertFact

Kind = Literal["admitted", "denied", "refused", "ignored", "duplicate", "conflict", "rate_limited"]


_NOTHING: Final = Decision(status="refused")


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an alert."""

    kind: Kind
    #: For `duplicate` and `conflict`: alert and orders that were stored first.
    alert: StoredAlert
    orders: tuple[Order, ...] = ()
    #: Seconds until there is room again; only for `rate_limited`.
    retry_after_s: int | None = None


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """What an admission would do now."""

    kind: Kind
    #: None for `duplicate` and `conflict`.
    decision: Decision | None = None
    #: For `duplicate` and `conflict`: our id of the alert that was stored first.
    first_id: str | None = None
    #: Seconds until there is room again; only for `rate_limited`.
    retry_after_s: int | None = None


class _Pending(msgspec.Struct, kw_only=True, eq=False):
    """An alert whose row is not on disk yet, and what it has changed in the book."""

    admission: Admission
    decision: Decision
    histories_before: tuple[tuple[str, StrategyHistory | None], ...]
    permit: Permit | None
    version: int
    flushed: asyncio.Future[bool]


class AlertAdmissions:
    """Admits the alerts of one daemon."""

    def __init__(
        self,
        *,
        book: Book,
        database: Database,
        exchange: Exchange,
        submitter: OrderSubmitter,
        exits: ExitWatch,
        recent: RecentAlerts,
        account_rates: RateLimits,
        clock: Callable[[], datetime],
        on_queued: Callable[[], None],
        on_cancels: Callable[[], None],
    ) -> None:
        """`account_rates`: of all webhooks together. `on_queued` is called when orders were queued, `on_cancels` when cancels were."""
        self._book = book
        self._database = database
        self._exchange = exchange
        self._submitter = submitter
        self._exits = exits
        self._recent = recent
        self._account_rates = account_rates
        self._clock = clock
        self._on_queued = on_queued
        self._on_cancels = on_cancels
        self._arriving: dict[
            tuple[str, str], tuple[str, asyncio.Future[bool]]
        ] = {}  # identities whose rows are not on disk yet
        self._waiting: dict[str, asyncio.Future[bool]] = {}  # by our id of the alert, until `finish` takes it
        self._drifting: set[tuple[str, str]] | None = None  # webhook id and symbol of conditions that are active

    # ------------------------------------------------------------------------------------------------------------ deciding

    def usage(self, webhook: Webhook, *, now: datetime) -> Usage:
        """What the next alert of a webhook is decided by."""
        usage = self._book.usage(webhook.id, now=now, cooldown_s=webhook.settings.limits.cooldown_s or 0)
        excess = self._find_excess(webhook, now=now)
        return usage if excess is None else msgspec.structs.replace(usage, rate_excess=excess)

    async def preview(self, alert: NewAlert, decide: Callable[[Usage], Decision], webhook: Webhook) -> Preview:
        """Make the same checks and decision as `begin` without storing anything."""
        first_id = self._find_first(alert)
        if first_id is not None:
            first = await self._database.read(alerts.get, first_id)
            return Preview(kind=_kind_of_repeat(alert, first), first_id=first_id)
        decision, _ = self._decide(alert, decide, webhook)
        excess = self._blocking(decision, webhook, now=alert.received_at)
        if excess is not None:
            return Preview(kind=RATE_LIMITED, decision=decision, retry_after_s=excess.retry_after_s)
        return Preview(kind=decision.status, decision=decision)

    def begin(
        self, alert: NewAlert, decide: Callable[[Usage], Decision], webhook: Webhook, *, expires_at: datetime
    ) -> Admission | None:
        """Decide, reserve and hand over the row of an alert; None if it came before (`repeat`).

        `finish` waits for the flush. Entries expire at `expires_at`. Raises StoreUnavailable.
        """
        if self._find_first(alert) is not None:
            return None
        decision, overtaken = self._decide(alert, decide, webhook)
        excess = self._blocking(decision, webhook, now=alert.received_at)
        if excess is not None:
            return self._append(_rate_limited(alert, decision, excess), _NOTHING, None)
        planned = self._orders_of(alert, decision, expires_at=expires_at)
        permit: Permit | None = None
        if planned:
            now = self._clock()
            permit = self._submitter.try_permit(planned[0], now=now)
            if permit is not None:
                planned = (with_ms_times(transitions.claimed(planned[0], now=now)), *planned[1:])
        if decision.is_taken:
            self._recent.add(
                Taken(
                    id=alert.id,
                    webhook_id=alert.webhook_id,
                    fingerprint=alert.fingerprint,
                    markets=alert.markets,
                    received_at=alert.received_at,
                )
            )
        status: str = (
            decision.status if decision.status != "admitted" else "submitting" if permit is not None else "queued"
        )
        if overtaken and status == "ignored":
            # It did something, as a cancel: with its own orders, they say what.
            decision = msgspec.structs.replace(decision, status="admitted", code=None)
            status = "done"
        stored = _stored_alert(alert, decision, status=status)
        return self._append(
            Admission(kind=decision.status, alert=stored, orders=planned), decision, permit, overtaken=overtaken
        )

    def _decide(
        self, alert: NewAlert, decide: Callable[[Usage], Decision], webhook: Webhook
    ) -> tuple[Decision, tuple[Order, ...]]:
        """The decision, with warnings of exits that other webhooks share and of the entries that it cancels; and these entries."""
        decision = decide(self.usage(webhook, now=alert.received_at))
        shared = shared_exit_warnings(
            decision, webhook_id=webhook.id, book=self._book, database=self._database, exchange=self._exchange
        )
        overtaken = self._overtaken(decision, webhook.id) if decision.overtaken else ()
        ended = [
            f"{order.intent.symbol}: the {order.intent.order_type} entry {order.client_order_id} is cancelled"
            for order in overtaken
        ]
        more = (*shared, *ended)
        if more:
            decision = msgspec.structs.replace(decision, warnings=(*decision.warnings, *more))
        return decision, overtaken

    def _overtaken(self, decision: Decision, webhook_id: str) -> tuple[Order, ...]:
        """The entries of a webhook that the decision ends: those that rest at the exchange, or will if they are not cancelled."""
        return tuple(
            order
            for order in self._book.orders.values()
            if order.webhook_id == webhook_id and order.is_entry and order.intent.may_rest
            if order.cancel_requested_at is None
            if any(
                each.symbol in (None, order.intent.symbol) and each.side in (None, order.intent.side)
                for each in decision.overtaken
            )
        )

    async def finish(self, admission: Admission) -> bool:
        """Wait until the row is on disk; False if another alert has claimed its identity. Raises StoreUnavailable if nothing was stored."""
        return await self._waiting.pop(admission.alert.id)

    async def repeat(self, alert: NewAlert) -> Admission:
        """The first admission of an alert that came before. That it came again, and from where, is a row of the journal."""
        first_id = self._find_first(alert)
        arriving = next((flushed for name, flushed in self._arriving.values() if name == first_id), None)
        if arriving is not None:
            await asyncio.wait({arriving})
            first_id = self._find_first(alert)
        if first_id is None:
            raise StoreUnavailable(
                "store_unavailable", "the first alert of this identity could not be stored; send again"
            )
        first = await self._database.read(alerts.get, first_id)
        kind = _kind_of_repeat(alert, first)
        data = {
            "remote": alert.remote,
            "received_at": alert.received_at,
            "fingerprint": alert.fingerprint,
            "webhook_id": alert.webhook_id,
        }
        self._book.append(
            facts.plain_entry(f"alert_{kind}", at=codec.truncate_to_ms(alert.received_at), alert_id=first.id, data=data)
        )
        stored = await self._database.read(orders.of_alert, first.id)
        return Admission(
            kind=kind, alert=first, orders=tuple(self._book.orders.get(each.client_order_id, each) for each in stored)
        )

    def _find_first(self, alert: NewAlert) -> str | None:
        """Our id of the alert with the same identity, or of the first with the same content within the window."""
        if alert.identity is not None:
            arriving = self._arriving.get((alert.webhook_id, alert.identity))
            if arriving is not None:
                return arriving[0]
            return self._database.read_now(journal.find_identity, alert.webhook_id, alert.identity)
        if alert.window_s is None:
            return None
        return self._recent.find(
            alert.webhook_id,
            alert.fingerprint,
            markets=alert.markets,
            now=alert.received_at,
            window_s=alert.window_s,
        )

    def _find_excess(self, webhook: Webhook, *, now: datetime) -> RateExcess | None:
        return self._book.rates.find_excess(
            webhook.id, rates=webhook.settings.rates, account_rates=self._account_rates, now=now
        )

    def _blocking(self, decision: Decision, webhook: Webhook, *, now: datetime) -> RateExcess | None:
        """The full window of which nothing of an alert was admitted; None if something was, or if the limits had room."""
        is_limited = decision.status == "denied" and decision.code == RATE_LIMITED
        return self._find_excess(webhook, now=now) if is_limited else None

    def _orders_of(self, alert: NewAlert, decision: Decision, *, expires_at: datetime) -> tuple[Order, ...]:
        return tuple(
            with_ms_times(
                Order(
                    client_order_id=client_order_id_of(alert.id, leg),
                    alert_id=alert.id,
                    webhook_id=alert.webhook_id,
                    leg=leg,
                    sequence=self._book.next_sequence(),
                    intent=intent,
                    status=OrderStatus.QUEUED,
                    created_at=alert.received_at,
                    expires_at=expires_at if intent.purpose is Purpose.ENTRY else NEVER,
                )
            )
            for leg, intent in enumerate(decision.intents if decision.status == "admitted" else ())
        )

    # ------------------------------------------------------------------------------------------------------------- storing

    def _append(
        self,
        admission: Admission,
        decision: Decision,
        permit: Permit | None,
        *,
        overtaken: tuple[Order, ...] = (),
    ) -> Admission:
        """Reserve in the book and hand over the row, with those of the entries that are to be cancelled: they are written together."""
        alert, book = admission.alert, self._book
        webhook_id = alert.webhook_id or ""
        before = book.histories_of(webhook_id, (symbol for symbol, _ in decision.strategy_histories))
        fact = AlertFact(
            alert=alert,
            orders=admission.orders,
            cancels=decision.cancels,
            histories=decision.strategy_histories,
            message=amounts_to_json(alert.payload),
            request=None if permit is None else request_text(self._exchange, admission.orders[0]),
        )
        kind = "alert_rate_limited" if admission.kind == RATE_LIMITED else f"alert_{admission.kind}"
        entry = facts.alert_entry(fact, kind)
        pending = _Pending(
            admission=admission,
            decision=decision,
            histories_before=before,
            permit=permit,
            version=book.version,
            flushed=asyncio.get_running_loop().create_future(),
        )
        if alert.identity is not None:
            self._arriving[webhook_id, alert.identity] = (alert.id, pending.flushed)
        if alert.counts_as_entry:
            book.rates.count(webhook_id, at=alert.received_at)
        for order in admission.orders:
            book.add(order)
        book.set_histories(webhook_id, decision.strategy_histories)
        self._waiting[alert.id] = pending.flushed
        try:
            self._database.append(entry, partial(self._on_flushed, pending))
            for order in overtaken:
                self._book.request_cancel(
                    order,
                    now=alert.received_at,
                    code=OVERTAKEN,
                    reason=f"alert {alert.id} of its webhook left or replaced what it was for",
                )
            if overtaken:
                self._on_cancels()
        except StoreUnavailable as error:
            self._on_flushed(pending, error)
        for breach in decision.breaches:
            book.close_for_breach(breach, webhook_id=webhook_id, now=alert.received_at)
        return admission

    def _on_flushed(self, pending: _Pending, result: bool | StoreUnavailable) -> None:
        """The row is on disk: the first order leaves now, before anything else. Or it is not: give everything back."""
        alert = pending.admission.alert
        if alert.identity is not None:
            self._arriving.pop((alert.webhook_id or "", alert.identity), None)
        if result is True:
            hit("W1")  # stored, nothing sent or answered yet
            if pending.permit is not None:
                self._submitter.send(pending.admission.orders[0], pending.permit, version=pending.version)
            if pending.admission.orders:
                self._exits.on_admitted(pending.admission.orders, now=self._clock())
            if any(order.status is OrderStatus.QUEUED for order in pending.admission.orders):
                self._on_queued()
            if pending.decision.cancels:
                self._on_cancels()
            self._note_drift(alert)
        else:
            self._give_back(pending)
        if pending.flushed.done():
            return  # the request was cancelled
        if isinstance(result, StoreUnavailable):
            pending.flushed.set_exception(result)
            pending.flushed.exception()  # retrieved: a request that was cancelled meanwhile does not
        else:
            pending.flushed.set_result(result)

    def _give_back(self, pending: _Pending) -> None:
        """Undo what the alert changed in the book."""
        alert = pending.admission.alert
        webhook_id = alert.webhook_id or ""
        self._recent.remove(alert.id)
        if pending.permit is not None:
            pending.permit.release()
        for order in reversed(pending.admission.orders):
            self._book.remove(order)
        if alert.counts_as_entry:
            self._book.rates.uncount(webhook_id, at=alert.received_at)
        self._book.restore_histories(webhook_id, pending.histories_before)

    def _note_drift(self, alert: StoredAlert) -> None:
        """Begin or end the condition that account and strategy differ, where the alert says something new about it."""
        if alert.symbol is None or alert.status in ("refused", "denied"):
            return
        if self._drifting is None:
            self._drifting = set(self._database.read_now(conditions.drifting))
        key = (alert.webhook_id or "", alert.symbol)
        has_drifted = conditions.has_drift(alert)
        if not has_drifted and key not in self._drifting:
            return
        (self._drifting.add if has_drifted else self._drifting.discard)(key)
        try:
            self._database.write_soon(conditions.record_drift, alert, now=alert.received_at).add_done_callback(
                _retrieve
            )
        except StoreUnavailable:
            self._drifting = None  # read again with the next alert


def _retrieve(written: asyncio.Future[None]) -> None:
    if not written.cancelled():
        written.exception()


def _kind_of_repeat(alert: NewAlert, first: StoredAlert) -> Literal["duplicate", "conflict"]:
    return "duplicate" if first.fingerprint == alert.fingerprint else "conflict"


def _identity_of(alert: NewAlert, decision: Decision) -> str | None:
    """The stored identity: an alert that is counted and not taken, or has no identity of its own, claims only itself."""
    if not decision.is_counted:
        return None
    return storable(alert.identity) if decision.is_taken and alert.identity is not None else f"alert:{alert.id}"


def _rate_limited(alert: NewAlert, decision: Decision, excess: RateExcess) -> Admission:
    """An alert of which a rate limit left nothing: it claims no identity, so that the same message may be sent again."""
    error = excess.describe()
    refused = Decision(
        status="refused",
        code=RATE_LIMITED,
        error=error,
        action=decision.action,
        symbol=decision.symbol,
        is_counted=False,
    )
    stored = _stored_alert(alert, refused, status="refused")
    return Admission(kind=RATE_LIMITED, alert=stored, retry_after_s=excess.retry_after_s)


def _stored_alert(alert: NewAlert, decision: Decision, *, status: str) -> StoredAlert:
    return StoredAlert(
        id=alert.id,
        webhook_id=alert.webhook_id,
        webhook_name=alert.webhook_name,
        alert_id=_optional(alert.alert_id),
        identity=_identity_of(alert, decision),
        fingerprint=alert.fingerprint,
        received_at=codec.truncate_to_ms(alert.received_at),
        fired_at=None if alert.fired_at is None else codec.truncate_to_ms(alert.fired_at),
        remote=alert.remote,
        proof=alert.proof,
        payload=alert.payload,
        action=_optional(decision.action or alert.action),
        symbol=_optional(decision.symbol or alert.symbol),
        is_exit=decision.is_exit,
        status=status,
        # An alert that was not admitted always has a code.
        code=decision.code or (None if decision.status == "admitted" else decision.status),
        error=_optional(decision.error),
        field=_optional(decision.field),
        verdicts=decision.verdicts,
        warnings=decision.warnings,
        answer_status=None,
        answer=None,
        stages={},
        updated_at=codec.truncate_to_ms(alert.received_at),
    )


def _optional(text: str | None) -> str | None:
    return None if text is None else storable(text)
