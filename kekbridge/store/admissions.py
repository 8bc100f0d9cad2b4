"""The heart of the store: one alert becomes one stored verdict, in one transaction, or nothing at all.

Known already? Room left? Too many? Then the alert, its orders, their reservations, the day's totals and the history are written
together. What may trade is decided by the pure function handed in; nothing here knows a rule, a network or a clock.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from kekbridge.model import (
    Order,
    OrderStatus,
    RateLimits,
    Usage,
    client_order_id_of,
)
from kekbridge.model.admission import Decision, NewAlert
from kekbridge.store import (
    alerts,
    cancels,
    codec,
    conditions,
    events,
    order_lifecycle,
    rate_limits,
    settings,
    strategy_positions,
)
from kekbridge.store import orders as order_rows
from kekbridge.store.alerts import StoredAlert
from kekbridge.store.codec import plain, storable
from kekbridge.store.orders import ImmediateClaim
from kekbridge.store.rate_limits import UNLIMITED, Excess
from kekbridge.store.reservations import read_usage

RATE_LIMITED: Final = "rate_limited"
_QUEUED: Final = OrderStatus.QUEUED.value
_SUBMITTING: Final = OrderStatus.SUBMITTING.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What became of it. For `duplicate` and `conflict`, `alert` and `orders` are those stored first."""

    kind: Literal["admitted", "denied", "refused", "ignored", "duplicate", "conflict", "rate_limited"]
    alert: StoredAlert
    orders: tuple[Order, ...] = ()
    retry_after_s: int | None = None
    has_cancels: bool = False  # it stored cancel steps, to be carried out now


def _stay(_connection: sqlite3.Connection, _order: Order) -> ImmediateClaim | None:
    """Every order is queued."""
    return None


def admit(
    connection: sqlite3.Connection,
    draft: NewAlert,
    decide: Callable[[Usage], Decision],
    *,
    rates: RateLimits,
    account_rates: RateLimits = UNLIMITED,
    now: datetime,
    expires_at: datetime,
    cooldown_s: int = 86_400,
    depart: Callable[[sqlite3.Connection, Order], ImmediateClaim | None] = _stay,
) -> Admission:
    """Store an alert with everything that follows from it; call it inside one write transaction.

    `decide` gets the usage as it is at this instant and must be pure. Orders of an admitted alert expire at `expires_at`.
    `rates` are the webhook's, `account_rates` those of all webhooks together. `cooldown_s`: how far back Usage.last_entry_at looks
    (0: not at all). `depart` is asked once, last, whether the first order leaves at once, and is then stored as being sent.
    """
    first = _claimed_before(connection, draft)
    if first is not None:
        return _repeated(connection, draft, first, now=now)
    decision = decide(read_usage(connection, draft.webhook_id, now=now, cooldown_s=cooldown_s))
    excess = rate_limits.find_excess(
        connection, draft.webhook_id, rates=rates, account_rates=account_rates, is_exit=decision.is_exit, now=now
    )
    if excess is not None:
        return _limited(connection, draft, decision, excess, now=now)
    planned = _planned(draft, decision, now=now, expires_at=expires_at)
    departure = depart(connection, planned[0]) if planned else None
    status = decision.status if decision.status != "admitted" else _SUBMITTING if departure else _QUEUED
    identity = _identity_of(draft) if decision.claims_identity else None
    alert = _insert(connection, draft, decision, status=status, identity=identity, now=now)
    if identity is not None:
        rate_limits.count(connection, draft.webhook_id, is_exit=decision.is_exit, at=draft.received_at)
    conditions.note(connection, alert, now=now)
    cancels.queue(connection, draft.id, decision.cancels, now=now)
    strategy_positions.save(connection, draft.webhook_id, decision.strategy_histories, now=now)
    for tripped in decision.breaches:
        settings.trip(connection, tripped, webhook_id=draft.webhook_id, now=now)
    stored = order_lifecycle.queue(connection, planned, departure=departure)
    _tell(connection, draft, alert, f"alert_{decision.status}", stored, now=now)
    if departure is not None:
        order_lifecycle.append_immediate_claim(connection, stored[0], departure)
    return Admission(kind=decision.status, alert=alert, orders=stored, has_cancels=bool(decision.cancels))


def _planned(draft: NewAlert, decision: Decision, *, now: datetime, expires_at: datetime) -> tuple[Order, ...]:
    return tuple(
        Order(
            client_order_id=client_order_id_of(draft.id, leg),
            alert_id=draft.id,
            webhook_id=draft.webhook_id,
            leg=leg,
            sequence=0,  # given by the table
            intent=intent,
            status=OrderStatus.QUEUED,
            created_at=now,
            expires_at=expires_at,
        )
        for leg, intent in enumerate(decision.intents if decision.status == "admitted" else ())
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What `admit` would do with an alert now. For `duplicate` and `conflict`, `first` is the stored one and nothing was decided."""

    kind: Literal["admitted", "denied", "refused", "ignored", "duplicate", "conflict", "rate_limited"]
    decision: Decision | None = None
    first: StoredAlert | None = None
    retry_after_s: int | None = None


def preview(
    connection: sqlite3.Connection,
    draft: NewAlert,
    decide: Callable[[Usage], Decision],
    *,
    rates: RateLimits,
    account_rates: RateLimits = UNLIMITED,
    now: datetime,
    cooldown_s: int = 86_400,
) -> Preview:
    """The same looks and the same decision as `admit`, and nothing is written."""
    first = _claimed_before(connection, draft)
    if first is not None:
        return Preview(kind=_kind_of_repeat(draft, first), first=first)
    decision = decide(read_usage(connection, draft.webhook_id, now=now, cooldown_s=cooldown_s))
    excess = rate_limits.find_excess(
        connection, draft.webhook_id, rates=rates, account_rates=account_rates, is_exit=decision.is_exit, now=now
    )
    if excess is not None:
        return Preview(kind=RATE_LIMITED, decision=decision, retry_after_s=excess.retry_after_s)
    return Preview(kind=decision.status, decision=decision)


# --------------------------------------------------------------------------------------------------------------- duplicates


def _kind_of_repeat(draft: NewAlert, first: StoredAlert) -> Literal["duplicate", "conflict"]:
    return "duplicate" if first.fingerprint == draft.fingerprint else "conflict"


def _identity_of(draft: NewAlert) -> str:
    """What the alert claims. One without identity claims its fingerprint at its time, else only itself."""
    if draft.identity is not None:
        return storable(draft.identity)
    if draft.window_s is not None:
        return f"window:{draft.fingerprint}:{codec.to_text(draft.received_at)}:{draft.id}"
    return f"alert:{draft.id}"


def _claimed_before(connection: sqlite3.Connection, draft: NewAlert) -> StoredAlert | None:
    """The alert that claimed the same identity, or the first of the same fingerprint within the window."""
    if draft.identity is not None:
        row = connection.execute(
            "SELECT id FROM alerts WHERE webhook_id = ? AND identity = ?", (draft.webhook_id, storable(draft.identity))
        ).fetchone()
    elif draft.window_s is not None:
        opened = codec.to_text(draft.received_at - timedelta(seconds=draft.window_s))
        row = connection.execute(
            "SELECT id FROM alerts WHERE webhook_id = ? AND identity > ? AND identity < ? ORDER BY identity LIMIT 1",
            (draft.webhook_id, f"window:{draft.fingerprint}:{opened}~", f"window:{draft.fingerprint}:~"),
        ).fetchone()
    else:
        return None
    return None if row is None else alerts.get(connection, row[0])


def _repeated(connection: sqlite3.Connection, draft: NewAlert, first: StoredAlert, *, now: datetime) -> Admission:
    """Nothing is decided again: the first outcome stands. The history notes that it came again, and from where."""
    kind = _kind_of_repeat(draft, first)
    data = {"remote": draft.remote, "received_at": draft.received_at, "fingerprint": draft.fingerprint}
    events.append(connection, f"alert_{kind}", now=now, alert_id=first.id, data=data)
    return Admission(kind=kind, alert=first, orders=order_rows.of_alert(connection, first.id))


# --------------------------------------------------------------------------------------------------------------- rate limit


def _limited(
    connection: sqlite3.Connection,
    draft: NewAlert,
    decision: Decision,
    excess: Excess,
    *,
    now: datetime,
) -> Admission:
    """Stored for the record, but it claims nothing and counts for nothing: the same alert may succeed later."""
    refused = Decision(
        status="refused",
        code=RATE_LIMITED,
        error=_describe(excess, "exits" if decision.is_exit else "entries"),
        is_exit=decision.is_exit,
        action=decision.action,
        symbol=decision.symbol,
    )
    alert = _insert(connection, draft, refused, status="refused", identity=None, now=now)
    _tell(connection, draft, alert, "alert_rate_limited", (), now=now)
    return Admission(kind=RATE_LIMITED, alert=alert, retry_after_s=excess.retry_after_s)


def _describe(excess: Excess, kind: str) -> str:
    rates = excess.rates
    numbers = f"({rates.per_minute} a minute, {rates.per_hour} an hour, {rates.per_day} a day)"
    if excess.is_of_account:
        return (
            f"more {kind} than all webhooks together are allowed {numbers}; wait {excess.retry_after_s} s, or raise"
            " risk.rate_per_minute, rate_per_hour or rate_per_day in the settings"
        )
    return (
        f"more {kind} than the webhook allows {numbers}; wait {excess.retry_after_s} s, or raise --rate-per-minute,"
        " --rate-per-hour or --rate-per-day"
    )


# ------------------------------------------------------------------------------------------------------------------ writing


def _insert(
    connection: sqlite3.Connection,
    draft: NewAlert,
    decision: Decision,
    *,
    status: str,
    identity: str | None,
    now: datetime,
) -> StoredAlert:
    alert = StoredAlert(
        id=draft.id,
        webhook_id=draft.webhook_id,
        webhook_name=draft.webhook_name,
        alert_id=_optional(draft.alert_id),
        identity=identity,
        fingerprint=draft.fingerprint,
        received_at=draft.received_at,
        fired_at=draft.fired_at,
        remote=draft.remote,
        proof=draft.proof,
        payload=plain(draft.payload),
        action=_optional(decision.action or draft.action),
        symbol=_optional(decision.symbol or draft.symbol),
        is_exit=decision.is_exit,
        status=status,
        code=decision.code or (None if decision.status == "admitted" else decision.status),  # a no always has a code
        error=_optional(decision.error),
        field=_optional(decision.field),
        verdicts=decision.verdicts,
        warnings=decision.warnings,
        answer_status=None,
        answer=None,
        stages={},
        updated_at=now,
    )
    alerts.insert(connection, alert)
    return alert


def _tell(
    connection: sqlite3.Connection,
    draft: NewAlert,
    alert: StoredAlert,
    kind: str,
    stored: tuple[Order, ...],
    *,
    now: datetime,
) -> None:
    """The history's row: enough to see later that neither the alert nor its orders were changed behind it."""
    data = {
        "webhook_id": draft.webhook_id,
        "fingerprint": draft.fingerprint,
        "action": alert.action,
        "symbol": alert.symbol,
        "code": alert.code,
        "orders": [
            {
                "client_order_id": order.client_order_id,
                "symbol": order.intent.symbol,
                "side": order.intent.side,
                "order_type": order.intent.order_type,
                "quantity": order.intent.quantity,
                "stop_loss": order.intent.stop_loss,
            }
            for order in stored
        ],
    }
    events.append(connection, kind, now=now, alert_id=draft.id, data=data)


def _optional(text: str | None) -> str | None:
    return None if text is None else storable(text)
