"""Closing orders that are sent without being stored: while no daemon runs, or when the disk takes nothing.

Their fills are found by the next start as those of orders placed elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from ulid import ULID

from kekbridge.errors import ExchangeUnavailable
from kekbridge.exchange.base import Accepted, Exchange, Rejected, Retryable, SubmitResult, Unknown
from kekbridge.execution import transitions
from kekbridge.model import Order, OrderIntent, OrderStatus

#: Sends closing orders side by side and waits until they have ended, at most a few seconds; returns them in the same order, as they are
#: then. None of them is sent again later: who wants more asks again, with sizes of that moment.
SendCloses = Callable[[Sequence[OrderIntent]], Awaitable[Sequence[Order]]]

#: Id in place of a webhook's for orders of the operator.
OPERATOR: Final = "operator"
#: How long such an order may be sent.
CLOSE_LIFE: Final = timedelta(seconds=30)
#: How long its end is waited for, in seconds.
SETTLE_WITHIN_S: Final = 5.0
_POLL_EVERY_S: Final = 0.1


def send_directly(exchange: Exchange, clock: Callable[[], datetime]) -> SendCloses:
    """What `flatten` and a close by hand send with where nothing can be stored."""

    async def send(intents: Sequence[OrderIntent]) -> Sequence[Order]:
        return await asyncio.gather(*(_send(exchange, _new_order(intent, clock()), clock) for intent in intents))

    return send


def why_open(orders: Sequence[Order]) -> str:
    """Why the last of these orders that were not filled was not, on one line; empty if all were."""
    for order in reversed(orders):
        if order.status is OrderStatus.FILLED:
            continue
        reason = ": ".join(part for part in (order.code, order.error) if part)
        return f"{order.client_order_id} is {order.status}" + (f": {reason}" if reason else "")
    return ""


async def _send(exchange: Exchange, order: Order, clock: Callable[[], datetime]) -> Order:
    now = asyncio.get_running_loop().time
    order = _after(order, await exchange.submit(order), clock())
    deadline = now() + SETTLE_WITHIN_S
    while not order.status.is_final and now() < deadline:
        try:
            report = await exchange.find(order)
        except ExchangeUnavailable:
            report = None
        if report is not None:
            order = transitions.reported(order, report, now=clock())
        if not order.status.is_final:
            await asyncio.sleep(_POLL_EVERY_S)
    return order


def _new_order(intent: OrderIntent, now: datetime) -> Order:
    identifier = str(ULID.from_datetime(now))
    return Order(
        client_order_id=f"kf-{identifier}",  # not `kb-`: the store has no row of it (history_check.py)
        alert_id=identifier,
        webhook_id=OPERATOR,
        leg=0,
        sequence=0,
        intent=intent,
        status=OrderStatus.SUBMITTING,
        created_at=now,
        expires_at=now + CLOSE_LIFE,
        attempt=1,
        submitted_at=now,
    )


def _after(order: Order, result: SubmitResult, now: datetime) -> Order:
    match result:
        case Accepted(order_id=order_id):
            return transitions.accepted(order, order_id=order_id, now=now)
        case Rejected(code=code, message=message) | Retryable(code=code, message=message):
            return transitions.rejected(order, code=code, error=message, now=now)
        case Unknown(reason=reason, sent_at=sent_at):
            return transitions.unknown(order, reason=reason, sent_at=sent_at)
