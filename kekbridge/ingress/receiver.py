"""From one authenticated message to what the admitting transaction needs: the row to be stored, and the function that decides it.

Reads the message and judges its age; touches no store and no network. What is decided stands in decision.py.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Final

from ulid import ULID

from kekbridge.alerts import message as payload
from kekbridge.alerts.message import Message
from kekbridge.alerts.redaction import storable_text
from kekbridge.alerts.signal import Alert
from kekbridge.alerts.timestamps import check_age
from kekbridge.config import Auth
from kekbridge.errors import RequestRefused
from kekbridge.ingress.http import Sender, WebhookRequest
from kekbridge.model import AccountSnapshot, Mark, Usage, Webhook
from kekbridge.model.admission import Decision, NewAlert
from kekbridge.planning import decide as decision
from kekbridge.planning.decide import AccountPolicy


class Reorder:
    """One per daemon. Memory only: an alert that waits was not answered yet."""

    def __init__(self) -> None:
        self._moved: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def moved(self, webhook_id: str) -> None:
        """An alert of this webhook was admitted: what waits may follow from it."""
        event = self._moved.pop(webhook_id, None)
        if event is not None:
            event.set()

    async def wait_for_turn(
        self, webhook_id: str, is_out_of_turn: Callable[[], Awaitable[bool]], *, reorder_ms: int
    ) -> bool:
        """Return once the alert follows from what is known, or after `reorder_ms`; True when it had to wait.

        Looks again whenever another alert of the webhook was admitted.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + reorder_ms / 1000
        has_waited = False
        while await is_out_of_turn():
            left = deadline - loop.time()
            if left <= 0:
                break
            has_waited = True
            event = self._moved[webhook_id]
            try:
                async with asyncio.timeout(left):
                    await event.wait()
            except TimeoutError:
                break
        return has_waited


# TradingView's resends come within 25 s; without a timestamp a longer memory would eat real alerts.
BODY_WINDOW_S: Final = 60


class Drafter:
    """Prepares alerts for their admission. `tell_price` offers a price to the venue and is True when it became the mark."""

    def __init__(
        self,
        *,
        settings: Auth,
        terms: AccountPolicy,
        clock: Callable[[], datetime],
        tell_price: Callable[[str, Decimal], bool],
    ) -> None:
        self._settings = settings
        self._terms = terms
        self._clock = clock
        self._tell_price = tell_price

    def prepare(
        self, delivery: WebhookRequest, message: Message, caller: Sender, snapshot: AccountSnapshot
    ) -> tuple[NewAlert, Callable[[Usage], Decision]]:
        """The row to be stored and the pure function that decides it, inside the transaction."""
        identifier = str(ULID.from_datetime(delivery.received_at))
        fired_at: datetime | None = None
        alert: Alert | None = None
        try:
            if caller.dry_run is None or not caller.dry_run.is_replay:
                fired_at = self._check_age(message, caller.webhook, delivery.received_at)
            alert = payload.interpret(message, caller.webhook.settings)
            if not caller.is_dry_run:
                snapshot = self._with_signal_prices(alert, caller.webhook, snapshot)
            decide: Callable[[Usage], Decision] = partial(
                decision.decide,
                alert=alert,
                webhook=caller.webhook,
                snapshot=snapshot,
                terms=self._terms,
                fired_at=fired_at,
            )
        except RequestRefused as refusal:
            refused = decision.refuse(refusal, alert)
            decide = lambda usage: refused  # noqa: E731 - the same shape as the partial above
        step = alert.steps[0] if alert else None
        return (
            NewAlert(
                id=identifier,
                webhook_id=caller.webhook.id,
                webhook_name=caller.webhook.name,
                alert_id=message.sender_id,
                identity=_identity(message, fired_at),
                window_s=None if message.sender_id or fired_at else BODY_WINDOW_S,
                fingerprint=message.fingerprint(),
                received_at=delivery.received_at,
                fired_at=fired_at,
                remote=delivery.remote,
                proof=caller.proof,
                payload=message.redacted() if alert is None else alert.redacted,
                action=step.action.value if step else None,
                symbol=storable_text(step.symbol) if step and step.symbol else None,
            ),
            decide,
        )

    def _with_signal_prices(self, alert: Alert, webhook: Webhook, snapshot: AccountSnapshot) -> AccountSnapshot:
        """The account as it looks when the venue believes the alert's own prices, which only the paper exchange may do."""
        told = decision.signal_prices(alert, webhook=webhook, snapshot=snapshot)
        believed = {
            symbol: Mark(price, self._clock()) for symbol, price in told.items() if self._tell_price(symbol, price)
        }
        return replace(snapshot, marks={**snapshot.marks, **believed}) if believed else snapshot

    def _check_age(self, message: Message, webhook: Webhook, now: datetime) -> datetime | None:
        fired_at = payload.fired_at(message, webhook.settings.profile)
        if fired_at is None:
            if webhook.settings.require_timestamp:
                raise payload.timestamp_missing()
            return None
        check_age(
            fired_at,
            now=now,
            max_age_s=webhook.settings.max_timestamp_age_s or self._settings.max_timestamp_age_s,
            max_future_s=self._settings.max_future_s,
        )
        return fired_at


def _identity(message: Message, fired_at: datetime | None) -> str | None:
    """What makes a second message the same alert for ever: the sender's id, else the body when it carries a timestamp."""
    if message.sender_id:
        return f"id:{message.sender_id}"
    return f"body:{message.body_digest}" if fired_at else None
