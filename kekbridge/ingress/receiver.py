"""Handle one webhook request: authenticate, read, decide and store in one transaction, respond.

Touches no network. What an alert means and whether it may trade is decided by pure functions (alerts/, planning/, risk/), inside the
transaction that stores it; sending is the work of execution/, behind the durable queue.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Final

from msgspec.structs import replace
from ulid import ULID

from kekbridge.alerts import message as messages
from kekbridge.alerts.message import Message
from kekbridge.alerts.redaction import storable_text
from kekbridge.alerts.signal import Alert
from kekbridge.alerts.timestamps import check_age
from kekbridge.config import Settings
from kekbridge.errors import RequestRefused, StoreUnavailable
from kekbridge.exchange.base import Exchange, known_snapshot, request_text
from kekbridge.execution.submitter import OrderSubmitter
from kekbridge.execution.updates import OrderUpdates
from kekbridge.failpoints import hit
from kekbridge.ingress import dry_run, responses
from kekbridge.ingress.auth import Authenticator
from kekbridge.ingress.http import Sender, WebhookRequest, WebhookResponse
from kekbridge.log import get_logger
from kekbridge.model import AccountSnapshot, Mark, Order, Usage, Webhook, client_order_id_of
from kekbridge.model.admission import Decision, NewAlert
from kekbridge.planning import decide as decision
from kekbridge.risk.check import AccountPolicy
from kekbridge.store import alerts, claims
from kekbridge.store.admissions import Admission
from kekbridge.store.database import Database
from kekbridge.store.reservations import read_usage

log = get_logger("kekbridge.ingress.receiver")

# Turns of the event loop: in the first an order is signed and handed to its connection, which writes it in the second (before Python 3.12).
_LOOP_TURNS_TO_SEND: Final = 2
# Seconds in which equal content without id and timestamp is a resend: TradingView's come within 25 s, and a longer memory would
# swallow real alerts.
BODY_WINDOW_S: Final = 60


class AlertReceiver:
    """Receives the alerts of one daemon."""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        database: Database,
        exchange: Exchange,
        submitter: OrderSubmitter,
        on_admitted: Callable[[Admission], None],
        updates: OrderUpdates,
        settings: Settings,
        policy: AccountPolicy,
        clock: Callable[[], datetime],
        offer_price: Callable[[str, Decimal], bool],
    ) -> None:
        """`on_admitted` is called with every stored alert; `offer_price` offers the exchange a price, and is True if it became the mark."""
        self._authenticator = authenticator
        self._database = database
        self._exchange = exchange
        self._submitter = submitter
        self._on_admitted = on_admitted
        self._updates = updates
        self._settings = settings
        self._policy = policy
        self._clock = clock
        self._offer_price = offer_price
        self._reordering = AlertReordering()
        self._saving: set[asyncio.Future[None]] = set()  # responses being written to the store

    async def receive(self, request: WebhookRequest) -> WebhookResponse:
        """Take one POST to its stored verdict and respond.

        Raises RequestRefused for a request that cannot be read or authenticated, StoreUnavailable when nothing was stored.
        """
        started = time.perf_counter()
        message = messages.read_message(request.body)
        sender = dry_run.with_requested_limits(self._authenticator.authenticate(request, message))
        if not sender.is_dry_run and messages.has_position(message, sender.webhook.settings):
            await self._wait_for_predecessor(message, sender.webhook)
        await self._updates.unrecorded_fills.wait()
        alert, decide = self._prepare(request, message, sender, known_snapshot(self._exchange))
        if sender.is_dry_run:
            return await dry_run.dry_run(
                self._database, self._exchange, alert, decide, sender.webhook, self._settings.risk.rates
            )
        hit("W0")  # nothing stored yet
        admitted = await self._admit(alert, decide, sender.webhook, self._longest_wait_s(message, sender.webhook))
        hit("W1")  # stored, nothing sent or answered yet
        stages = {"stored": _milliseconds_since(started)}
        self._measure_stored(admitted, stages["stored"])
        self._on_admitted(admitted)
        for _ in range(_LOOP_TURNS_TO_SEND):
            await asyncio.sleep(0)  # an order that may be sent goes first: its price moves, the response does not
        self._reordering.on_admitted(admitted.alert.webhook_id or "")
        response = await self._respond(admitted, request)
        stages["answered"] = _milliseconds_since(started)
        self._save_response(admitted, response, stages)
        self._log_alert(admitted, response, sender, stages)
        return response

    async def drain(self) -> None:
        """Wait until every response is saved."""
        while self._saving:
            await asyncio.gather(*self._saving, return_exceptions=True)

    # -------------------------------------------------------------------------------------------------------- before storing

    async def _wait_for_predecessor(self, message: Message, webhook: Webhook) -> None:
        """Let an alert wait a moment for the one it may have overtaken; whether it is in order then is part of its decision."""
        try:
            alert = messages.interpret(message, webhook.settings)
        except RequestRefused:
            return
        if not decision.may_be_out_of_order(alert=alert, webhook=webhook, snapshot=known_snapshot(self._exchange)):
            return

        async def is_out_of_order() -> bool:
            usage = await self._database.read(read_usage, webhook.id, now=self._clock(), cooldown_s=0)
            return decision.is_out_of_order(
                usage, alert=alert, webhook=webhook, snapshot=known_snapshot(self._exchange)
            )

        await self._reordering.wait(webhook.id, is_out_of_order, reorder_ms=webhook.settings.reorder_ms)

    def _prepare(
        self, request: WebhookRequest, message: Message, sender: Sender, snapshot: AccountSnapshot
    ) -> tuple[NewAlert, Callable[[Usage], Decision]]:
        """The alert to be stored, and the pure function that decides it inside the transaction."""
        fired_at: datetime | None = None
        alert: Alert | None = None
        try:
            if sender.dry_run is None or not sender.dry_run.is_replay:
                fired_at = self._check_age(message, sender.webhook, request.received_at)
            alert = messages.interpret(message, sender.webhook.settings)
            if not sender.is_dry_run:
                snapshot = self._with_signal_prices(alert, sender.webhook, snapshot)
            decide: Callable[[Usage], Decision] = partial(
                decision.decide,
                alert=alert,
                webhook=sender.webhook,
                snapshot=snapshot,
                policy=self._policy,
                fired_at=fired_at,
            )
        except RequestRefused as refusal:
            refused = decision.refuse(refusal, alert)
            decide = lambda usage: refused  # noqa: E731 - the same shape as the partial above
        step = alert.steps[0] if alert else None
        return (
            NewAlert(
                id=str(ULID.from_datetime(request.received_at)),
                webhook_id=sender.webhook.id,
                webhook_name=sender.webhook.name,
                alert_id=message.sender_id,
                identity=_identity(message, fired_at),
                window_s=None if message.sender_id or fired_at else BODY_WINDOW_S,
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

    def _check_age(self, message: Message, webhook: Webhook, now: datetime) -> datetime | None:
        fired_at = messages.fired_at(message, webhook.settings.profile)
        if fired_at is None:
            if webhook.settings.require_timestamp:
                raise messages.timestamp_missing()
            return None
        check_age(
            fired_at,
            now=now,
            max_age_s=messages.allowed_age_s(message, webhook.settings, self._settings.auth.max_timestamp_age_s),
            max_future_s=self._settings.auth.max_future_s,
        )
        return fired_at

    # ------------------------------------------------------------------------------------------------------ storing and after

    def _longest_wait_s(self, message: Message, webhook: Webhook) -> float:
        """How old an alert's orders may become before they are sent: what the queue allows, or the alert's own age if that is more."""
        try:
            return max(self._settings.queue.max_age_s, messages.allowed_age_s(message, webhook.settings, 0))
        except RequestRefused:
            return self._settings.queue.max_age_s  # such an alert is refused and has no orders

    async def _admit(
        self, alert: NewAlert, decide: Callable[[Usage], Decision], webhook: Webhook, max_age_s: float
    ) -> Admission:
        """One transaction: find duplicates, decide, count, store, and claim the first order if it may be sent at once."""
        fired_at = min(alert.fired_at or alert.received_at, alert.received_at)
        self._updates.close_acceptances()
        # Decided by a snapshot that has not been compared with the exchange: queued, to be rechecked before it is sent.
        try_claim = self._submitter.try_claim if self._submitter.is_dispatching else _never
        try:
            return await self._database.write(
                claims.admit_and_claim,
                alert,
                decide,
                rates=webhook.settings.rates,
                account_rates=self._settings.risk.rates,
                now=alert.received_at,
                expires_at=fired_at + timedelta(seconds=max_age_s),
                cooldown_s=webhook.settings.limits.cooldown_s or 0,
                clock=self._clock,
                overlappable_ids=lambda: self._submitter.overlappable_ids,
                try_claim=try_claim,
                request_text=partial(request_text, self._exchange),
            )
        except Exception:
            self._submitter.cancel_claim(
                client_order_id_of(alert.id, 0)
            )  # the claim was rolled back with everything else
            raise

    def _measure_stored(self, admitted: Admission, milliseconds: float) -> None:
        """Record the stored stage; before the dispatcher can publish the order."""
        if admitted.kind not in ("duplicate", "conflict"):
            first = next((order.client_order_id for order in admitted.orders if order.leg == 0), None)
            alert = admitted.alert
            self._updates.latency.on_stored(alert.received_at, alert.fired_at, milliseconds, first)

    async def _respond(self, admitted: Admission, request: WebhookRequest) -> WebhookResponse:
        """The response to a stored alert; waits up to `respond_within_s` for the outcome of its orders."""
        known = responses.stored_response(admitted)
        if known is not None:
            return known
        alert = admitted.alert
        spent = (self._clock() - request.received_at).total_seconds()
        with self._updates.wait_for(alert.id, admitted.orders) as waiter:
            settled = await waiter.wait(self._settings.server.respond_within_s - max(spent, 0))
        return responses.order_response(
            settled,
            alert_id=alert.alert_id or alert.id,
            now=self._clock(),
            code=alert.code,
            error=alert.error,
            warnings=alert.warnings,
            is_duplicate=admitted.kind == "duplicate",
        )

    def _save_response(self, admitted: Admission, response: WebhookResponse, stages: Mapping[str, float]) -> None:
        """Save the response in the background; the sender does not wait for this write."""
        if admitted.kind in ("duplicate", "conflict"):
            return
        self._updates.latency.on_answered(stages["answered"])
        alert_id = admitted.alert.id
        try:
            saving = self._database.write_soon(
                alerts.set_response,
                alert_id,
                status=response.status,
                answer=response.body,
                stages=stages,
                now=self._clock(),
            )
        except StoreUnavailable as error:
            log.warning("answer_not_noted", alert_id=alert_id, error=error.message)
            return
        self._saving.add(saving)
        saving.add_done_callback(partial(self._on_saved, alert_id))

    def _on_saved(self, alert_id: str, saving: asyncio.Future[None]) -> None:
        self._saving.discard(saving)
        if saving.cancelled():
            return  # the wait for it was cut off; the write itself goes on
        try:
            saving.result()
        except StoreUnavailable as error:
            log.warning("answer_not_noted", alert_id=alert_id, error=error.message)

    def _log_alert(
        self, admitted: Admission, response: WebhookResponse, sender: Sender, stages: Mapping[str, float]
    ) -> None:
        log.info(
            "alert",
            alert_id=admitted.alert.id,
            webhook=sender.webhook.name,
            kind=admitted.kind,
            http_status=response.status,
            code=admitted.alert.code,
            orders=[order.client_order_id for order in admitted.orders],
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

    async def wait(self, webhook_id: str, is_out_of_order: Callable[[], Awaitable[bool]], *, reorder_ms: int) -> None:
        """Return once the alert follows from what is known, or after `reorder_ms`.

        Checks again whenever another alert of the webhook was admitted.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + reorder_ms / 1000
        while await is_out_of_order():
            left = deadline - loop.time()
            if left <= 0:
                break
            event = self._admitted[webhook_id]
            try:
                async with asyncio.timeout(left):
                    await event.wait()
            except TimeoutError:
                break


def _identity(message: Message, fired_at: datetime | None) -> str | None:
    """Identity by which a later message is the same alert: the sender's id, else the body if it has a timestamp."""
    if message.sender_id:
        return f"id:{message.sender_id}"
    return f"body:{message.body_digest}" if fired_at else None


def _never(_order: Order) -> bool:
    return False


def _milliseconds_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
