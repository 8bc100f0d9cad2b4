"""One step of an order written down with everything that moves with it: its row, its room, its alert's headline, the history.

Which step may follow which is said in orders.py; this file asks nothing. Several steps of one transaction may share the row's update.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from operator import attrgetter
from typing import Final

from kekbridge.model import Order, OrderStatus, Verdict
from kekbridge.store import alerts, events, reservations
from kekbridge.store.codec import storable
from kekbridge.store.orders import update

_TOLD: Final = (
    *("order_id", "attempt", "code", "error", "executed_quantity", "average_price", "fee", "realized_pnl"),
    *("next_attempt_at", "finished_at"),
)
_told_of: Final = attrgetter(*_TOLD)


class IllegalTransition(RuntimeError):
    """A step was asked for that an order in this state cannot take: a mistake in the program, and nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsavedTransition:
    """A step that the history tells of already and the tables will with the next one, which must follow in the same transaction.

    `stored` is the order as its row is, `order` as the step left it at `now`; `signed_at` goes to the row as well.
    """

    stored: Order
    order: Order
    now: datetime
    signed_at: datetime | None


def finished(order: Order, status: OrderStatus, code: str, error: str, now: datetime) -> Order:
    """The order after its end, which stays when it had one already."""
    return replace(
        order,
        status=status,
        code=code,
        error=storable(error),
        next_attempt_at=None,
        finished_at=order.finished_at or now,
    )


def require(order: Order, verb: str, allowed: Iterable[OrderStatus]) -> None:
    """Raise IllegalTransition unless the order is unfinished and in one of these states."""
    if order.status not in allowed or order.finished_at is not None:
        names = ", ".join(sorted(status.value for status in allowed))
        found = f"{order.status}, finished" if order.finished_at else order.status.value
        raise IllegalTransition(
            f"{verb} of order {order.client_order_id} is not possible: it is {found}, expected {names}"
        )


def commit(
    connection: sqlite3.Connection,
    before: Order,
    after: Order,
    *,
    now: datetime,
    request: str | None = None,
    verdicts: tuple[Verdict, ...] = (),
    signed_at: datetime | None = None,
) -> Order:
    """Write a step with everything that moves with it."""
    write(connection, before, after, now=now, request=request, verdicts=verdicts, signed_at=signed_at)
    tell(connection, before, after, now=now)
    return after


def commit_with(connection: sqlite3.Connection, unwritten: UnsavedTransition, after: Order, *, now: datetime) -> Order:
    """Write an unwritten step together with the one that follows it; `after` may be its own order when nothing follows."""
    if after == unwritten.order:
        now = unwritten.now
    else:
        tell(connection, unwritten.order, after, now=now)
    write(connection, unwritten.stored, after, now=now, signed_at=unwritten.signed_at)
    return after


def write(
    connection: sqlite3.Connection,
    before: Order,
    after: Order,
    *,
    now: datetime,
    request: str | None = None,
    verdicts: tuple[Verdict, ...] = (),
    signed_at: datetime | None = None,
) -> None:
    """Bring row, room and headline from one state of the order to another; `before` is how they stand."""
    update(connection, before, after, now=now, request=request, verdicts=verdicts, signed_at=signed_at)
    reservations.update(connection, before, after)
    alerts.refresh_headline(connection, after.alert_id, now=now)


def tell(connection: sqlite3.Connection, before: Order, after: Order, *, now: datetime) -> None:
    """The history's row of a step."""
    tell_step(connection, after, _story(before, after), now=now)


def tell_step(connection: sqlite3.Connection, after: Order, story: Mapping[str, object], *, now: datetime) -> None:
    """The history's row of a step whose story is known: the figures that are new, with their names."""
    events.append(
        connection,
        f"order_{after.status.value}",
        now=now,
        alert_id=after.alert_id,
        client_order_id=after.client_order_id,
        data=story,
    )


def _story(before: Order, after: Order) -> dict[str, object]:
    """What changed, for the history."""
    values = zip(_TOLD, _told_of(before), _told_of(after), strict=True)
    story: dict[str, object] = {name: new for name, old, new in values if new is not old and new != old}
    if after.intent is not before.intent and after.intent != before.intent:
        story["quantity"] = after.intent.quantity
        story["limit_price"] = after.intent.limit_price
    return story
