"""Write one transition of an order with everything that depends on it: row, reservation, the alert's headline, and history.

Which transitions are allowed is in order_lifecycle.py. Several transitions in one transaction may share one update of the row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Final

from msgspec.structs import replace

from kekbridge.model import Order, OrderStatus, Verdict
from kekbridge.store import alerts, events, reservations
from kekbridge.store.codec import storable
from kekbridge.store.orders import update

_RECORDED: Final = (
    *("order_id", "attempt", "code", "error", "executed_quantity", "average_price", "fee", "realized_pnl"),
    *("next_attempt_at", "finished_at"),
)
_recorded_values: Final = attrgetter(*_RECORDED)


class IllegalTransition(RuntimeError):
    """A transition that the order's state does not allow: a bug. Nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsavedTransition:
    """A transition already in the history, to be written to the tables with the next one in the same transaction."""

    #: The order as its row is.
    stored: Order
    #: The order after the transition.
    order: Order
    #: Time of the transition.
    now: datetime
    #: When the request was signed and sent; written with the row.
    signed_at: datetime | None


def finished(order: Order, status: OrderStatus, code: str, error: str, now: datetime) -> Order:
    """The order in a final status; an earlier `finished_at` is kept."""
    return replace(
        order,
        status=status,
        code=code,
        error=storable(error),
        next_attempt_at=None,
        finished_at=order.finished_at or now,
    )


def require(order: Order, verb: str, allowed: Iterable[OrderStatus]) -> None:
    """Raise IllegalTransition unless the order is unfinished and in one of these states; `verb` names the transition."""
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
    """Write a transition with everything that depends on it and return `after`."""
    write(connection, before, after, now=now, request=request, verdicts=verdicts, signed_at=signed_at)
    append_transition(connection, before, after, now=now)
    return after


def commit_unsaved(connection: sqlite3.Connection, unsaved: UnsavedTransition, after: Order, *, now: datetime) -> Order:
    """Write an unsaved transition together with the next one; `after` is its own order if there is none."""
    if after == unsaved.order:
        now = unsaved.now
    else:
        append_transition(connection, unsaved.order, after, now=now)
    write(connection, unsaved.stored, after, now=now, signed_at=unsaved.signed_at)
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
    """Update row, reservation and headline from `before`, which they contain now, to `after`."""
    update(connection, before, after, now=now, request=request, verdicts=verdicts, signed_at=signed_at)
    reservations.update(connection, before, after)
    alerts.refresh_headline(connection, after.alert_id, now=now)


def append_transition(connection: sqlite3.Connection, before: Order, after: Order, *, now: datetime) -> None:
    """Append the event of a transition."""
    append_order_event(connection, after, _changes(before, after), now=now)


def append_order_event(
    connection: sqlite3.Connection, after: Order, data: Mapping[str, object], *, now: datetime
) -> None:
    """Append the event of an order's new status; `data` has the changed fields."""
    events.append(
        connection,
        f"order_{after.status.value}",
        now=now,
        alert_id=after.alert_id,
        client_order_id=after.client_order_id,
        data=data,
    )


def _changes(before: Order, after: Order) -> dict[str, object]:
    """The changed fields, for the history."""
    values = zip(_RECORDED, _recorded_values(before), _recorded_values(after), strict=True)
    data: dict[str, object] = {name: new for name, old, new in values if new is not old and new != old}
    if after.intent is not before.intent and after.intent != before.intent:
        data["quantity"] = after.intent.quantity
        data["limit_price"] = after.intent.limit_price
    return data
