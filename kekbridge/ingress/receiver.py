"""Handle one webhook request: authenticate, read, have it decided and stored in one turn of the event loop, respond.

Touches no network. What an alert means and whether it may trade is decided by pure functions (alerts/, planning/, risk/); storing and
sending is the work of execution/.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial

from msgspec.structs import replace
from ulid import ULID

from kekbridge.alerts import message as messages
from kekbridge.alerts.identity import Identity, identity_of
from kekbridge.alerts.message import Message
from kekbridge.alerts.redaction import storable_text
from kekbridge.alerts.signal import Alert
from kekbridge.alerts.timestamps import check_age
from kekbridge.config import Settings
from kekbridge.errors import RequestRefused, StoreUnavailable
from kekbridge.exchange.base import Exchange, known_snapshot
from kekbridge.execution.admission import Admission, AlertAdmissions
from kekbridge.execution.book import Book
from kekbridge.execution.tracker import OrderTracker
from kekbridge.execution.updates import OrderUpdates, OrderWaiter
from kekbridge.failpoints import hit
from kekbridge.ingress import dry_run, responses
from kekbridge.ingress.auth import Authenticator
from kekbridge.ingress.http import Sender, WebhookRequest, WebhookResponse
from kekbridge.log import get_logger
from kekbridge.model import AccountSnapshot, Mark, Usage, Webhook
from kekbridge.model.admission import Decision, NewAlert
from kekbridge.planning import decide as decision
from kekbridge.risk.check import AccountPolicy
from kekbridge.store.codec import amounts_to_json, truncate_to_ms
from kekbridge.store.database import Database
from kekbridge.store.facts import ResponseFact, response_entry

log = get_logger("kekbridge.ingress.receiver")


class AlertReceiver:
    """Receives the alerts of one daemon."""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        database: Database,
        book: Book,
        exchange: Exchange,
        admissions: AlertAdmissions,
        tracker: OrderTracker,
        updates: OrderUpdates,
        settings: Settings,
        policy: AccountPolicy,
        clock: Callable[[], datetime],
        offer_price: Callable[[str, Decimal], bool],
    ) -> None:
        """`offer_price` offers the exchange a price, and is True if it became the mark."""
        self._authenticator = authenticator
        self._database = database
        self._book = book
        self._exchange = exchange
        self._admissions = admissions
        self._tracker = tracker
        self._updates = updates
        self._settings = settings
        self._policy = policy
        self._clock = clock
        self._offer_price = offer_price
        self._reordering = AlertReordering()

    async def receive(self, request: WebhookRequest) -> WebhookResponse:
        """Take one POST to its stored verdict and respond.

        Raises RequestRefused for a request that cannot be read or authenticated, StoreUnavailable when nothing was stored.
        """
        started = time.perf_counter()
        message = messages.read_message(request.body)
        sender = dry_run.with_requested_limits(self._authenticator.authenticate(request, message))
        if not sender.is_dry_run and messages.has_position(message, sender.webhook.settings):
            await self._wait_for_predecessor(message, sender.webhook)
        await self._tracker.wait_for_fills()
        alert, decide = self._prepare(request, message, sender, known_snapshot(self._exchange))
        if sender.is_dry_run:
            preview = await self._admissions.preview(alert, decide, sender.webhook)
            return dry_run.response_to(preview, alert.id, self._exchange)
        hit("W0")  # nothing stored yet
        # From here to the row no other alert is decided: the limits that this one was judged by are those that it adds to.
        admission = self._admissions.begin(
            alert, decide, sender.webhook, expires_at=self._expiry(alert, message, sender.webhook)
        )
        if admission is not None:
            with self._updates.wait_for(alert.id, admission.orders) as waiter:
                if await self._admissions.finish(admission):
                    return await self._respond(admission, waiter, request, sender, started)
        repeated = await self._admissions.repeat(alert)
        with self._updates.wait_for(repeated.alert.id, repeated.orders) as waiter:
            response = await self._response_to(repeated, waiter, request)
        self._log_alert(repeated, response, sender, {"answered": _milliseconds_since(started)})
        return response

    # -------------------------------------------------------------------------------------------------------- before storing

    async def _wait_for_predecessor(self, message: Message, webhook: Webhook) -> None:
        """Let an alert wait a moment for the one it may have overtaken; whether it is in order then is part of its decision."""
        try:
            alert = messages.interpret(message, webhook.settings)
        except RequestRefused:
            return
        others = partial(self._book.held_by_others, webhook.id)
        snapshot = known_snapshot(self._exchange)
        if not decision.may_be_out_of_order(alert=alert, webhook=webhook, snapshot=snapshot, others=others):
            return

        def is_out_of_order() -> bool:
            usage = self._book.usage(webhook.id, now=self._clock(), cooldown_s=0)
            return decision.is_out_of_order(
                usage, alert=alert, webhook=webhook, snapshot=known_snapshot(self._exchange), others=others
            )

        await self._reordering.wait(webhook.id, is_out_of_order, reorder_ms=webhook.settings.reorder_ms)

    def _prepare(
        self, request: WebhookRequest, message: Message, sender: Sender, snapshot: AccountSnapshot
    ) -> tuple[NewAlert, Callable[[Usage], Decision]]:
        """The alert to be stored, and the pure function that decides it."""
        webhook = sender.webhook
        is_replay = sender.dry_run is not None and sender.dry_run.is_replay
        fired_at: datetime | None = None
        alert: Alert | None = None
        markets: tuple[str, ...] = ()
        identity = Identity(None)
        too_old: RequestRefused | None = None
        try:
            if not is_replay:
                fired_at = messages.fired_at(message, webhook.settings.profile)
                too_old = self._find_wrong_age(fired_at, message, webhook, request.received_at)
            alert = messages.interpret(message, webhook.settings)
            markets = decision.markets_of(alert, webhook=webhook, snapshot=snapshot)
            if not is_replay:
                identity = identity_of(message, fired_at=fired_at, markets=markets, headers=request.headers)
            if too_old is not None:
                raise too_old  # only now: a resend of an alert that was taken is a duplicate at any age
            if not sender.is_dry_run:
                snapshot = self._with_signal_prices(alert, webhook, snapshot)
            decide: Callable[[Usage], Decision] = partial(
                decision.decide,
                alert=alert,
                webhook=webhook,
                snapshot=snapshot,
                policy=self._policy,
                fired_at=fired_at,
                sums=self._book.exposure,
                others=partial(self._book.held_by_others, webhook.id),
            )
        except RequestRefused as refusal:
            refused = decision.refuse(too_old or refusal, alert)
            decide = lambda usage: refused  # noqa: E731 - the same shape as the partial above
        step = alert.steps[0] if alert else None
        return (
            NewAlert(
                id=str(ULID.from_datetime(request.received_at)),
                webhook_id=webhook.id,
                webhook_name=webhook.name,
                alert_id=message.sender_id,
                identity=identity.text,
                window_s=identity.window_s,
                markets=markets,
                fingerprint=message.fingerprint(),
                received_at=request.received_at,
                fired_at=fired_at,
                remote=request.remote,
                proof=sender.proof,
                payload=message.redacted() if alert is None else alert.redacted,
                action=step.action.value if step else None,
                symbol=storable_text(step.symbol) if step and step.symbol else None,
            ),
            decide,
        )

    def _with_signal_prices(self, alert: Alert, webhook: Webhook, snapshot: AccountSnapshot) -> AccountSnapshot:
        """The snapshot once the exchange uses the alert's own prices as marks, which only the paper exchange does."""
        offered = decision.signal_prices(alert, webhook=webhook, snapshot=snapshot)
        used = {
            symbol: Mark(price, self._clock()) for symbol, price in offered.items() if self._offer_price(symbol, price)
        }
        return replace(snapshot, marks={**snapshot.marks, **used}) if used else snapshot

    def _find_wrong_age(
        self, fired_at: datetime | None, message: Message, webhook: Webhook, now: datetime
    ) -> RequestRefused | None:
        """Why an alert that fired at this time is refused; None if its age is all right. Raises RequestRefused for an unreadable limit."""
        if fired_at is None:
            return messages.timestamp_missing() if webhook.settings.require_timestamp else None
        max_age_s = messages.allowed_age_s(message, webhook.settings, self._settings.auth.max_timestamp_age_s)
        try:
            check_age(fired_at, now=now, max_age_s=max_age_s, max_future_s=self._settings.auth.max_future_s)
        except RequestRefused as refusal:
            return refusal
        return None

    # ------------------------------------------------------------------------------------------------------ storing and after

    def _expiry(self, alert: NewAlert, message: Message, webhook: Webhook) -> datetime:
        """When the orders of an alert become too old to be sent: by what the queue allows, or by the alert's own age if that is more."""
        max_age_s: float = self._settings.queue.max_age_s
        with contextlib.suppress(RequestRefused):  # such an alert is refused and has no orders
            max_age_s = max(max_age_s, messages.allowed_age_s(message, webhook.settings, 0))
        return min(alert.fired_at or alert.received_at, alert.received_at) + timedelta(seconds=max_age_s)

    async def _respond(
        self, admission: Admission, waiter: OrderWaiter, request: WebhookRequest, sender: Sender, started: float
    ) -> WebhookResponse:
        """The response to an alert that was stored a moment ago; what is measured and answered becomes a row of the journal."""
        alert = admission.alert
        stages = {"stored": _milliseconds_since(started)}
        first = next((order.client_order_id for order in admission.orders if order.leg == 0), None)
        self._updates.latency.on_stored(request.received_at, alert.fired_at, stages["stored"], first)
        self._reordering.on_admitted(alert.webhook_id or "")
        response = await self._response_to(admission, waiter, request)
        stages["answered"] = _milliseconds_since(started)
        self._updates.latency.on_answered(stages["answered"])
        answered = ResponseFact(
            alert_id=alert.id,
            status=response.status,
            body=amounts_to_json(dict(response.body)),
            stages=stages,
            at=truncate_to_ms(self._clock()),
        )
        try:
            self._database.append_soon(response_entry(answered))
        except StoreUnavailable as error:
            log.warning("answer_not_noted", alert_id=alert.id, error=error.message)
        self._log_alert(admission, response, sender, stages)
        return response

    async def _response_to(self, admission: Admission, waiter: OrderWaiter, request: WebhookRequest) -> WebhookResponse:
        """The response to a stored alert; waits up to `respond_within_s` for the outcome of its orders."""
        known = responses.stored_response(admission)
        if known is not None:
            return known
        alert = admission.alert
        spent = (self._clock() - request.received_at).total_seconds()
        settled = await waiter.wait(self._settings.server.respond_within_s - max(spent, 0))
        return responses.order_response(
            settled,
            alert_id=alert.alert_id or alert.id,
            now=self._clock(),
            code=alert.code,
            error=alert.error,
            warnings=alert.warnings,
            is_duplicate=admission.kind == "duplicate",
        )

    def _log_alert(
        self, admission: Admission, response: WebhookResponse, sender: Sender, stages: Mapping[str, float]
    ) -> None:
        log.info(
            "alert",
            alert_id=admission.alert.id,
            webhook=sender.webhook.name,
            kind=admission.kind,
            http_status=response.status,
            code=admission.alert.code,
            orders=[order.client_order_id for order in admission.orders],
            **{f"{name}_ms": round(value, 1) for name, value in stages.items()},
        )


class AlertReordering:
    """Lets an alert that arrived too early wait for the one it overtook, so that swapped alerts are decided in their order.

    Two fills of one second leave TradingView as separate requests and may arrive swapped (docs/internals/tradingview.md section 2.2).
    Only alerts with a strategy's position wait, at most `reorder_ms`. In memory: an alert that waits was not answered yet.
    """

    def __init__(self) -> None:
        self._admitted: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)  # by webhook id, while any waits

    def on_admitted(self, webhook_id: str) -> None:
        """An alert of this webhook was admitted: those waiting may follow from it."""
        event = self._admitted.pop(webhook_id, None)
        if event is not None:
            event.set()

    async def wait(self, webhook_id: str, is_out_of_order: Callable[[], bool], *, reorder_ms: int) -> None:
        """Return once the alert follows from what is known, or after `reorder_ms`.

        Checks again whenever another alert of the webhook was admitted.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + reorder_ms / 1000
        while is_out_of_order():
            left = deadline - loop.time()
            if left <= 0:
                break
            event = self._admitted[webhook_id]
            try:
                async with asyncio.timeout(left):
                    await event.wait()
            except TimeoutError:
                break


def _milliseconds_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
