"""Admission: store an alert with its verdict and everything that follows from it, in one transaction.

Checks for duplicates, calls the decide function with the current usage, checks the rate limits, then writes alert, orders, reservations,
day totals and history together. The decision is a pure function passed in; this module knows no rule, no network and no clock.
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
    orders,
    rate_limits,
    settings,
    strategy_positions,
)
from kekbridge.store.alerts import StoredAlert
from kekbridge.store.codec import storable, to_jsonable
from kekbridge.store.orders import ImmediateClaim
from kekbridge.store.rate_limits import UNLIMITED, Excess
from kekbridge.store.reservations import read_usage

RATE_LIMITED: Final = "rate_limited"
_QUEUED: Final = OrderStatus.QUEUED.value
_SUBMITTING: Final = OrderStatus.SUBMITTING.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The result of `admit`."""

    #: What became of the alert.
    kind: Literal["admitted", "denied", "refused", "ignored", "duplicate", "conflict", "rate_limited"]
    #: For `duplicate` and `conflict`: alert and orders that were stored first.
    alert: StoredAlert
    orders: tuple[Order, ...] = ()
    #: Seconds until there is room again; only for `rate_limited`.
    retry_after_s: int | None = None
    #: Cancel steps were stored, to be executed now.
    has_cancels: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The result of `preview`: what `admit` would do now."""

    #: What would become of the alert.
    kind: Literal["admitted", "denied", "refused", "ignored", "duplicate", "conflict", "rate_limited"]
    #: None for `duplicate` and `conflict`.
    decision: Decision | None = None
    #: For `duplicate` and `conflict`: the alert that was stored first.
    first: StoredAlert | None = None
    #: Seconds until there is room again; only for `rate_limited`.
    retry_after_s: int | None = None


def _claim_none(_connection: sqlite3.Connection, _order: Order) -> ImmediateClaim | None:
    return None


def admit(
    connection: sqlite3.Connection,
    new_alert: NewAlert,
    decide: Callable[[Usage], Decision],
    *,
    rates: RateLimits,
    account_rates: RateLimits = UNLIMITED,
    now: datetime,
    expires_at: datetime,
    cooldown_s: int = 86_400,
    claim_first: Callable[[sqlite3.Connection, Order], ImmediateClaim | None] = _claim_none,
) -> Admission:
    """Store an alert with everything that follows from it. Call it inside a write transaction.

    `decide` gets the usage at this instant and must be pure. Orders of an admitted alert expire at `expires_at`. `rates` are the
    webhook's, `account_rates` those of all webhooks together. `cooldown_s`: how far back Usage.last_entry_at goes (0: not read).
    `claim_first` is called once, last, with the first order: if it returns a claim, that order is stored as `submitting`.
    """
    first = _find_first(connection, new_alert)
    if first is not None:
        return _record_repeat(connection, new_alert, first, now=now)
    decision = decide(read_usage(connection, new_alert.webhook_id, now=now, cooldown_s=cooldown_s))
    excess = rate_limits.find_excess(
        connection, new_alert.webhook_id, rates=rates, account_rates=account_rates, is_exit=decision.is_exit, now=now
    )
    if excess is not None:
        return _store_rate_limited(connection, new_alert, decision, excess, now=now)
    planned = _orders_of(new_alert, decision, now=now, expires_at=expires_at)
    immediate_claim = claim_first(connection, planned[0]) if planned else None
    status = decision.status if decision.status != "admitted" else _SUBMITTING if immediate_claim else _QUEUED
    identity = _identity_of(new_alert) if decision.claims_identity else None
    alert = _insert(connection, new_alert, decision, status=status, identity=identity, now=now)
    if identity is not None:
        rate_limits.count_alert(connection, new_alert.webhook_id, is_exit=decision.is_exit, at=new_alert.received_at)
    conditions.record_drift(connection, alert, now=now)
    cancels.queue(connection, new_alert.id, decision.cancels, now=now)
    strategy_positions.save(connection, new_alert.webhook_id, decision.strategy_histories, now=now)
    for breach in decision.breaches:
        settings.close_for_breach(connection, breach, webhook_id=new_alert.webhook_id, now=now)
    stored = order_lifecycle.queue(connection, planned, immediate_claim=immediate_claim)
    _append_event(connection, new_alert, alert, f"alert_{decision.status}", stored, now=now)
    if immediate_claim is not None:
        order_lifecycle.append_immediate_claim(connection, stored[0], immediate_claim)
    return Admission(kind=decision.status, alert=alert, orders=stored, has_cancels=bool(decision.cancels))


def _orders_of(new_alert: NewAlert, decision: Decision, *, now: datetime, expires_at: datetime) -> tuple[Order, ...]:
    return tuple(
        Order(
            client_order_id=client_order_id_of(new_alert.id, leg),
            alert_id=new_alert.id,
            webhook_id=new_alert.webhook_id,
            leg=leg,
            sequence=0,  # assigned by the table
            intent=intent,
            status=OrderStatus.QUEUED,
            created_at=now,
            expires_at=expires_at,
        )
        for leg, intent in enumerate(decision.intents if decision.status == "admitted" else ())
    )


def preview(
    connection: sqlite3.Connection,
    new_alert: NewAlert,
    decide: Callable[[Usage], Decision],
    *,
    rates: RateLimits,
    account_rates: RateLimits = UNLIMITED,
    now: datetime,
    cooldown_s: int = 86_400,
) -> Preview:
    """Make the same checks and decision as `admit` without writing anything."""
    first = _find_first(connection, new_alert)
    if first is not None:
        return Preview(kind=_kind_of_repeat(new_alert, first), first=first)
    decision = decide(read_usage(connection, new_alert.webhook_id, now=now, cooldown_s=cooldown_s))
    excess = rate_limits.find_excess(
        connection, new_alert.webhook_id, rates=rates, account_rates=account_rates, is_exit=decision.is_exit, now=now
    )
    if excess is not None:
        return Preview(kind=RATE_LIMITED, decision=decision, retry_after_s=excess.retry_after_s)
    return Preview(kind=decision.status, decision=decision)


# --------------------------------------------------------------------------------------------------------------- duplicates


def _kind_of_repeat(new_alert: NewAlert, first: StoredAlert) -> Literal["duplicate", "conflict"]:
    return "duplicate" if first.fingerprint == new_alert.fingerprint else "conflict"


def _identity_of(new_alert: NewAlert) -> str:
    """The stored identity. Without one of its own, an alert claims its fingerprint at its time, else only itself."""
    if new_alert.identity is not None:
        return storable(new_alert.identity)
    if new_alert.window_s is not None:
        return f"window:{new_alert.fingerprint}:{codec.time_text(new_alert.received_at)}:{new_alert.id}"
    return f"alert:{new_alert.id}"


def _find_first(connection: sqlite3.Connection, new_alert: NewAlert) -> StoredAlert | None:
    """The stored alert with the same identity, or the first with the same fingerprint within the window."""
    if new_alert.identity is not None:
        row = connection.execute(
            "SELECT id FROM alerts WHERE webhook_id = ? AND identity = ?",
            (new_alert.webhook_id, storable(new_alert.identity)),
        ).fetchone()
    elif new_alert.window_s is not None:
        opened = codec.time_text(new_alert.received_at - timedelta(seconds=new_alert.window_s))
        row = connection.execute(
            "SELECT id FROM alerts WHERE webhook_id = ? AND identity > ? AND identity < ? ORDER BY identity LIMIT 1",
            (new_alert.webhook_id, f"window:{new_alert.fingerprint}:{opened}~", f"window:{new_alert.fingerprint}:~"),
        ).fetchone()
    else:
        return None
    return None if row is None else alerts.get(connection, row[0])


def _record_repeat(
    connection: sqlite3.Connection, new_alert: NewAlert, first: StoredAlert, *, now: datetime
) -> Admission:
    """Record in the history that the alert arrived again, and from where. The first outcome is kept."""
    kind = _kind_of_repeat(new_alert, first)
    data = {"remote": new_alert.remote, "received_at": new_alert.received_at, "fingerprint": new_alert.fingerprint}
    events.append(connection, f"alert_{kind}", now=now, alert_id=first.id, data=data)
    return Admission(kind=kind, alert=first, orders=orders.of_alert(connection, first.id))


# --------------------------------------------------------------------------------------------------------------- rate limit


def _store_rate_limited(
    connection: sqlite3.Connection,
    new_alert: NewAlert,
    decision: Decision,
    excess: Excess,
    *,
    now: datetime,
) -> Admission:
    """Store the alert without an identity and without counting it: the same alert may succeed later."""
    refused = Decision(
        status="refused",
        code=RATE_LIMITED,
        error=_describe_excess(excess, "exits" if decision.is_exit else "entries"),
        is_exit=decision.is_exit,
        action=decision.action,
        symbol=decision.symbol,
    )
    alert = _insert(connection, new_alert, refused, status="refused", identity=None, now=now)
    _append_event(connection, new_alert, alert, "alert_rate_limited", (), now=now)
    return Admission(kind=RATE_LIMITED, alert=alert, retry_after_s=excess.retry_after_s)


def _describe_excess(excess: Excess, kind: str) -> str:
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
    new_alert: NewAlert,
    decision: Decision,
    *,
    status: str,
    identity: str | None,
    now: datetime,
) -> StoredAlert:
    alert = StoredAlert(
        id=new_alert.id,
        webhook_id=new_alert.webhook_id,
        webhook_name=new_alert.webhook_name,
        alert_id=_optional(new_alert.alert_id),
        identity=identity,
        fingerprint=new_alert.fingerprint,
        received_at=new_alert.received_at,
        fired_at=new_alert.fired_at,
        remote=new_alert.remote,
        proof=new_alert.proof,
        payload=to_jsonable(new_alert.payload),
        action=_optional(decision.action or new_alert.action),
        symbol=_optional(decision.symbol or new_alert.symbol),
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
        updated_at=now,
    )
    alerts.insert(connection, alert)
    return alert


def _append_event(
    connection: sqlite3.Connection,
    new_alert: NewAlert,
    alert: StoredAlert,
    kind: str,
    stored: tuple[Order, ...],
    *,
    now: datetime,
) -> None:
    """Append to the history enough to prove later that neither the alert nor its orders were changed."""
    data = {
        "webhook_id": new_alert.webhook_id,
        "fingerprint": new_alert.fingerprint,
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
    events.append(connection, kind, now=now, alert_id=new_alert.id, data=data)


def _optional(text: str | None) -> str | None:
    return None if text is None else storable(text)
