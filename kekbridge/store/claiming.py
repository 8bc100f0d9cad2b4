"""Compound writes around the queue: admit and claim in one flush, and claim only what the rules still allow.

Each function is one transaction of database.py. The decisions are pure functions handed in by the pipeline; this file only puts
them and the rows into the same transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime

from kekbridge.crashpoints import reach
from kekbridge.errors import NotFound
from kekbridge.model import Order, OrderIntent, OrderStatus, Purpose, RateLimits, Usage, Verdict, Webhook
from kekbridge.store import orders, webhooks
from kekbridge.store.admission import Admission, AlertDraft, Decision, admit
from kekbridge.store.order_rows import Departure
from kekbridge.store.usage import read_usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Recheck:
    """What the second look at a queued order says: SUBMITTING with the intent to be sent, or a final status with its reason."""

    status: OrderStatus
    intent: OrderIntent | None = None
    code: str = ""
    error: str = ""
    verdicts: tuple[Verdict, ...] = ()


def admit_and_claim(
    connection: sqlite3.Connection,
    draft: AlertDraft,
    decide: Callable[[Usage], Decision],
    *,
    rates: RateLimits,
    account_rates: RateLimits,
    now: datetime,
    expires_at: datetime,
    cooldown_s: int,
    clock: Callable[[], datetime],
    taken: Callable[[], Collection[str]],
    may_claim: Callable[[Order], bool],
    request_text: Callable[[Order], str | None],
) -> Admission:
    """Admit an alert and, when nothing waits before its first order, claim that order in the same flush.

    "submitting" is then on disk before the request leaves, and the alert costs one flush on its way to the exchange instead of two.
    `now` is when the alert was received, `clock` tells when its order leaves. `taken` names the orders that the exchange took just now;
    `may_claim` says whether one more may leave at once, and then keeps its place; `request_text` gives the body that will be sent.
    """

    def depart(connection: sqlite3.Connection, first: Order) -> Departure | None:
        at = clock()
        if at >= first.expires_at or first.intent.after_leg is not None:
            return None
        if not orders.is_way_free(connection, first.intent.symbol, taken=taken()) or not may_claim(first):
            return None
        return Departure(at, request_text(first))

    admission = admit(
        connection,
        draft,
        decide,
        rates=rates,
        account_rates=account_rates,
        now=now,
        expires_at=expires_at,
        cooldown_s=cooldown_s,
        depart=depart,
    )
    reach("W3")
    return admission


def claim_if_allowed(
    connection: sqlite3.Connection,
    order: Order,
    recheck: Callable[[Usage, Webhook | None], Recheck],
    *,
    request_text: Callable[[Order], str | None],
    now: datetime,
) -> Order:
    """Claim a queued order for sending, or finish it, as `recheck` decides from the usage without the order itself.

    `request_text` gives the body that will be sent, for the record.

    One that ended while it waited for its turn (too old, canceled, trading halted) comes back as it is.
    """
    current = orders.get(connection, order.client_order_id)
    if current.status.is_final:
        return current
    try:
        webhook = webhooks.get(connection, order.webhook_id)
    except NotFound:
        webhook = None  # deleted meanwhile: the account's own limits still hold
    cooldown_s = (webhook.settings.limits.cooldown_s if webhook else None) or 0
    usage = read_usage(connection, order.webhook_id, now=now, cooldown_s=cooldown_s, excluding=order.client_order_id)
    verdict = recheck(usage, webhook)
    name = order.client_order_id
    match verdict.status:
        case OrderStatus.EXPIRED:
            return orders.mark_expired(connection, name, now=now, code=verdict.code, error=verdict.error)
        case OrderStatus.DENIED:
            return orders.mark_denied(
                connection, name, code=verdict.code, error=verdict.error, now=now, verdicts=verdict.verdicts
            )
        case _:
            _drop_overtaken(connection, order, now=now)
            return orders.claim(
                connection,
                name,
                now=now,
                intent=verdict.intent,
                verdicts=verdict.verdicts,
                request=request_text(replace(order, intent=verdict.intent or order.intent)),
            )


def _drop_overtaken(connection: sqlite3.Connection, leaving: Order, *, now: datetime) -> None:
    """An exit of the whole position that overtakes queued entries (the breaker holds those back) ends them.

    Sent later they would open again what the strategy has left.
    """
    intent = leaving.intent
    if intent.purpose is not Purpose.EXIT or (intent.close_fraction != 1 and intent.target_quantity != 0):
        return
    for order in orders.unfinished(connection):
        is_before = order.sequence < leaving.sequence and order.webhook_id == leaving.webhook_id
        if is_before and order.is_entry and order.status is OrderStatus.QUEUED and order.intent.symbol == intent.symbol:
            error = "a later alert closed the position before this entry could be sent"
            orders.mark_denied(connection, order.client_order_id, code="overtaken_by_exit", error=error, now=now)
