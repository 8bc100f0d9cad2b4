"""Compound writes around the queue: admit and claim in one flush, claim what may leave, and only what the rules still allow.

Each function is one transaction of database.py. The decisions are pure functions handed in by the pipeline; this file only puts
them and the rows into the same transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Protocol

from kekbridge.errors import NotFound
from kekbridge.failpoints import hit
from kekbridge.model import Order, OrderStatus, Purpose, RateLimits, Usage, Webhook
from kekbridge.model.admission import Decision, NewAlert, Recheck
from kekbridge.store import order_lifecycle, order_queue, webhooks
from kekbridge.store import orders as order_rows
from kekbridge.store.admissions import Admission, admit
from kekbridge.store.orders import ImmediateClaim
from kekbridge.store.reservations import read_usage


class RecheckFn(Protocol):
    """Judges an order of the queue by what is used now, without the order itself, and by its webhook (None: deleted)."""

    def __call__(self, usage: Usage, webhook: Webhook | None, *, order: Order) -> Recheck: ...


def admit_and_claim(
    connection: sqlite3.Connection,
    draft: NewAlert,
    decide: Callable[[Usage], Decision],
    *,
    rates: RateLimits,
    account_rates: RateLimits,
    now: datetime,
    expires_at: datetime,
    cooldown_s: int,
    clock: Callable[[], datetime],
    passable: Callable[[], Collection[str]],
    may_claim: Callable[[Order], bool],
    request_text: Callable[[Order], str | None],
) -> Admission:
    """Admit an alert and, when nothing waits before its first order, claim that order in the same flush.

    "submitting" is then on disk before the request leaves, and the alert costs one flush on its way to the exchange instead of two.
    `now` is when the alert was received, `clock` tells when its order leaves. `passable` names the orders being sent that it may stand
    behind; `may_claim` says whether it may leave at once or in line, and then keeps its place; `request_text` gives the body that will be
    sent.
    """

    def depart(connection: sqlite3.Connection, first: Order) -> ImmediateClaim | None:
        at = clock()
        if at >= first.expires_at or first.intent.after_leg is not None:
            return None
        if not order_queue.is_way_free(connection, first.intent.symbol, passable=passable()) or not may_claim(first):
            return None
        return ImmediateClaim(at, request_text(first))

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
    hit("W3")
    return admission


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedOrders:
    """What one look at the queue did."""

    to_send_now: tuple[Order, ...]  # claimed: each is sent as soon as this is on the disk
    finished: tuple[Order, ...]  # not to be sent, said the second look
    to_send_in_turn: tuple[Order, ...]  # heads of the queue that may not leave this instant
    has_more: bool  # something stands in the queue still


def claim_heads(
    connection: sqlite3.Connection,
    recheck: RecheckFn,
    *,
    passable: Callable[[], Collection[str]],
    entries_allowed: bool,
    may_claim: Callable[[Order], bool],
    request_text: Callable[[Order], str | None],
    now: datetime,
) -> ClaimedOrders:
    """Claim, in one flush, whatever stands at the head of its symbol's queue and may leave this instant or in line.

    `passable`, `may_claim` and `request_text` as in `admit_and_claim`; `recheck` is made of the order it judges. An order that is not to be
    sent any more (`claimable` says so) is left for `claim_if_allowed`.
    """
    leaving: list[Order] = []
    finished: list[Order] = []
    waiting: list[Order] = []
    has_moved = True
    while has_moved:  # behind a head that was claimed the next of its symbol may stand in line
        heads = order_queue.claimable(connection, now=now, passable=passable(), entries_allowed=entries_allowed)
        waiting, count = [], len(leaving)
        for order in heads:
            if order.code in order_queue.NOT_TO_BE_SENT or not may_claim(order):
                waiting.append(order)
                continue
            hit("W2" if order.intent.after_leg is None else "W8")
            told = _claim(connection, order, partial(recheck, order=order), request_text=request_text, now=now)
            (finished if told.status.is_final else leaving).append(told)
        has_moved = len(leaving) > count
    return ClaimedOrders(
        to_send_now=tuple(leaving),
        finished=tuple(finished),
        to_send_in_turn=tuple(waiting),
        has_more=order_queue.is_any_waiting(connection),
    )


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
    current = order_rows.get(connection, order.client_order_id)
    if current.status.is_final:
        return current
    return _claim(connection, current, recheck, request_text=request_text, now=now)


def may_be_claimed(
    connection: sqlite3.Connection,
    order: Order,
    recheck: Callable[[Usage, Webhook | None], Recheck],
    *,
    now: datetime,
) -> bool:
    """What `claim_if_allowed` would say now. Reads only: for what has to be done before the claim."""
    current = order_rows.get(connection, order.client_order_id)
    is_queued = current.status is OrderStatus.QUEUED
    return is_queued and _second_look(connection, current, recheck, now=now).status is OrderStatus.SUBMITTING


def _second_look(
    connection: sqlite3.Connection,
    order: Order,
    recheck: Callable[[Usage, Webhook | None], Recheck],
    *,
    now: datetime,
) -> Recheck:
    """What `recheck` says of an order as it is stored, from the usage without it."""
    try:
        webhook = webhooks.get(connection, order.webhook_id)
    except NotFound:
        webhook = None  # deleted meanwhile: the account's own limits still hold
    cooldown_s = (webhook.settings.limits.cooldown_s if webhook else None) or 0
    usage = read_usage(connection, order.webhook_id, now=now, cooldown_s=cooldown_s, excluding=order)
    return recheck(usage, webhook)


def _claim(
    connection: sqlite3.Connection,
    order: Order,
    recheck: Callable[[Usage, Webhook | None], Recheck],
    *,
    request_text: Callable[[Order], str | None],
    now: datetime,
) -> Order:
    """Claim or finish an order that was read in this transaction."""
    verdict = _second_look(connection, order, recheck, now=now)
    name = order.client_order_id
    match verdict.status:
        case OrderStatus.EXPIRED:
            return order_lifecycle.mark_expired(connection, name, now=now, code=verdict.code, error=verdict.error)
        case OrderStatus.DENIED:
            return order_lifecycle.mark_denied(
                connection, name, code=verdict.code, error=verdict.error, now=now, verdicts=verdict.verdicts
            )
        case _:
            _drop_overtaken(connection, order, now=now)
            return order_lifecycle.claim(
                connection,
                name,
                now=now,
                intent=verdict.intent,
                verdicts=verdict.verdicts,
                request=request_text(replace(order, intent=verdict.intent or order.intent)),
                known=order,
            )


def _drop_overtaken(connection: sqlite3.Connection, leaving: Order, *, now: datetime) -> None:
    """An exit of the whole position that overtakes queued entries (the breaker holds those back) ends them.

    Sent later they would open again what the strategy has left.
    """
    intent = leaving.intent
    if intent.purpose is not Purpose.EXIT or (intent.close_fraction != 1 and intent.target_quantity != 0):
        return
    for order in order_queue.unfinished(connection):
        is_before = order.sequence < leaving.sequence and order.webhook_id == leaving.webhook_id
        if is_before and order.is_entry and order.status is OrderStatus.QUEUED and order.intent.symbol == intent.symbol:
            error = "a later alert closed the position before this entry could be sent"
            order_lifecycle.mark_denied(
                connection, order.client_order_id, code="overtaken_by_exit", error=error, now=now
            )
