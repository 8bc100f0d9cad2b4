"""Claims: mark queued orders `submitting` before they are sent, after the rules were checked again in the same transaction.

Each function runs in one transaction of database.py. The decisions are pure functions passed in; this module combines them with the rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Protocol

from msgspec.structs import replace

from kekbridge.errors import NotFound
from kekbridge.failpoints import hit
from kekbridge.model import Order, OrderStatus, Purpose, RateLimits, Usage, Webhook
from kekbridge.model.admission import Decision, NewAlert, Recheck
from kekbridge.store import order_lifecycle, order_queue, orders, webhooks
from kekbridge.store.admissions import Admission, admit
from kekbridge.store.orders import ImmediateClaim
from kekbridge.store.reservations import read_usage


class RecheckFn(Protocol):
    """Decides about a queued order from the current usage, without the order itself, and its webhook (None: deleted)."""

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
    overlappable_ids: Callable[[], Collection[str]],
    try_claim: Callable[[Order], bool],
    request_text: Callable[[Order], str | None],
) -> Admission:
    """Admit an alert and, if nothing waits before its first order, claim that order in the same flush.

    `submitting` is on disk before the request is sent, and the alert costs one flush instead of two. `now` is the time of receipt,
    `clock` gives the time of the claim. `overlappable_ids`: orders being sent behind which another may be sent. `try_claim`: whether the
    order may be sent now, which reserves its place in flight. `request_text`: the body that will be sent.
    """

    def claim_first(connection: sqlite3.Connection, first: Order) -> ImmediateClaim | None:
        at = clock()
        if at >= first.expires_at or first.intent.after_leg is not None:
            return None
        if not order_queue.is_symbol_free(
            connection, first.intent.symbol, overlappable_ids=overlappable_ids()
        ) or not try_claim(first):
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
        claim_first=claim_first,
    )
    hit("W3")
    return admission


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedOrders:
    """The result of `claim_heads`."""

    #: Claimed: to be sent as soon as the transaction is committed.
    to_send_now: tuple[Order, ...]
    #: Finished by the recheck: not to be sent.
    finished: tuple[Order, ...]
    #: Heads of the queue that could not be claimed now.
    to_send_in_turn: tuple[Order, ...]
    #: The queue is not empty.
    has_more: bool


def claim_heads(
    connection: sqlite3.Connection,
    recheck: RecheckFn,
    *,
    overlappable_ids: Callable[[], Collection[str]],
    entries_allowed: bool,
    try_claim: Callable[[Order], bool],
    request_text: Callable[[Order], str | None],
    now: datetime,
) -> ClaimedOrders:
    """Claim, in one flush, every order at the head of its symbol's queue that may be sent now.

    `overlappable_ids`, `try_claim` and `request_text` as in `admit_and_claim`. An order that must not be sent any more
    (order_queue.NOT_TO_BE_SENT) is left for `claim_if_allowed`.
    """
    to_send: list[Order] = []
    finished: list[Order] = []
    waiting: list[Order] = []
    has_claimed = True
    while has_claimed:  # behind a claimed head the next order of its symbol may be claimable
        heads = order_queue.claimable(
            connection, now=now, overlappable_ids=overlappable_ids(), entries_allowed=entries_allowed
        )
        waiting, count = [], len(to_send)
        for order in heads:
            if order.code in order_queue.NOT_TO_BE_SENT or not try_claim(order):
                waiting.append(order)
                continue
            hit("W2" if order.intent.after_leg is None else "W8")
            claimed = _claim(connection, order, partial(recheck, order=order), request_text=request_text, now=now)
            (finished if claimed.status.is_final else to_send).append(claimed)
        has_claimed = len(to_send) > count
    return ClaimedOrders(
        to_send_now=tuple(to_send),
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
    """Claim a queued order for sending, or finish it, as `recheck` decides. `request_text`: the body that will be sent.

    An order that ended while it waited (too old, canceled, trading halted) is returned unchanged.
    """
    current = orders.get(connection, order.client_order_id)
    if current.status.is_final:
        return current
    return _claim(connection, current, recheck, request_text=request_text, now=now)


def would_claim(
    connection: sqlite3.Connection,
    order: Order,
    recheck: Callable[[Usage, Webhook | None], Recheck],
    *,
    now: datetime,
) -> bool:
    """Whether `claim_if_allowed` would claim the order now. Reads only."""
    current = orders.get(connection, order.client_order_id)
    is_queued = current.status is OrderStatus.QUEUED
    return is_queued and _recheck(connection, current, recheck, now=now).status is OrderStatus.SUBMITTING


def _recheck(
    connection: sqlite3.Connection,
    order: Order,
    recheck: Callable[[Usage, Webhook | None], Recheck],
    *,
    now: datetime,
) -> Recheck:
    """Call `recheck` with the usage without the order, and its webhook."""
    try:
        webhook = webhooks.get(connection, order.webhook_id)
    except NotFound:
        webhook = None  # deleted in the meantime: the account's limits still apply
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
    decided = _recheck(connection, order, recheck, now=now)
    client_order_id = order.client_order_id
    match decided.status:
        case OrderStatus.EXPIRED:
            return order_lifecycle.mark_expired(
                connection, client_order_id, now=now, code=decided.code, error=decided.error
            )
        case OrderStatus.DENIED:
            return order_lifecycle.mark_denied(
                connection, client_order_id, code=decided.code, error=decided.error, now=now, verdicts=decided.verdicts
            )
        case _:
            _deny_overtaken_entries(connection, order, now=now)
            return order_lifecycle.claim(
                connection,
                client_order_id,
                now=now,
                intent=decided.intent,
                verdicts=decided.verdicts,
                request=request_text(replace(order, intent=decided.intent or order.intent)),
                known=order,
            )


def _deny_overtaken_entries(connection: sqlite3.Connection, claimed: Order, *, now: datetime) -> None:
    """Deny queued entries that an exit of the whole position overtakes (the circuit breaker holds entries back).

    Sent later they would reopen a position that the strategy has left.
    """
    intent = claimed.intent
    if intent.purpose is not Purpose.EXIT or (intent.close_fraction != 1 and intent.target_quantity != 0):
        return
    for order in order_queue.unfinished(connection):
        is_before = order.sequence < claimed.sequence and order.webhook_id == claimed.webhook_id
        if is_before and order.is_entry and order.status is OrderStatus.QUEUED and order.intent.symbol == intent.symbol:
            error = "a later alert closed the position before this entry could be sent"
            order_lifecycle.mark_denied(
                connection, order.client_order_id, code="overtaken_by_exit", error=error, now=now
            )
