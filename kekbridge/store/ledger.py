"""What orders take from the limits: open reservations, and the day's running totals. Moved with each order, in its transaction.

The rule is one function of an order (`share_of`); everything stored here is its sum, so it can always be recomputed and compared.
Deciding whether there is room is the business of risk, not of this file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Final

from kekbridge.model import ZERO, Order, OrderStatus, OrderType, Purpose, Reservation
from kekbridge.store import times
from kekbridge.store.codec import EXACT, decimal_text

ACCOUNT: Final = "account"

_AT_THE_EXCHANGE: Final = frozenset({OrderStatus.ACCEPTED.value, OrderStatus.PARTIALLY_FILLED.value})
_STOPS: Final = frozenset({OrderType.STOP.value, OrderType.STOP_LIMIT.value})


@dataclass(frozen=True, slots=True)
class Share:
    """What one order adds to the totals of its day: traded or reserved USDC, and a count."""

    notional: Decimal
    orders: int


_NOTHING: Final = Share(ZERO, 0)


def share_of(order: Order | None) -> Share:
    """An order's part of the day it was admitted on.

    Executed value always counts; what is still open counts for entries only, because an exit cannot be refused and so need not be
    reserved. An entry counts as an order unless it ended without the exchange ever having had it.
    """
    if order is None:
        return _NOTHING
    intent = order.intent
    price = intent.reference_price if order.average_price is None else order.average_price
    notional = EXACT.multiply(order.executed_quantity, price)
    if not order.is_entry:
        return Share(notional, 0)
    notional = EXACT.add(notional, EXACT.multiply(open_quantity(order), intent.reference_price))
    never_there = order.finished_at is not None and order.order_id is None and not order.executed_quantity
    return Share(notional, 0 if never_there else 1)


def open_quantity(order: Order) -> Decimal:
    """What of the order may still trade: nothing of a finished one, and never less than nothing."""
    if order.finished_at is not None:
        return ZERO
    return max(EXACT.subtract(order.intent.quantity, order.executed_quantity), ZERO)


def reservation_of(order: Order) -> Reservation | None:
    """The room an order holds; None once it is finished. It rests when it can wait at the exchange."""
    if order.finished_at is not None:
        return None
    intent = order.intent
    quantity = open_quantity(order)
    return Reservation(
        client_order_id=order.client_order_id,
        webhook_id=order.webhook_id,
        symbol=intent.symbol,
        quantity=quantity if intent.side.sign > 0 else -quantity,
        notional=EXACT.multiply(quantity, intent.reference_price),
        is_entry=intent.purpose is Purpose.ENTRY,
        is_resting=intent.may_rest,
        is_margined=_is_margined(order.status.value, intent.order_type.value),
    )


def _is_margined(status: str, order_type: str) -> bool:
    """The exchange holds margin back for what is in its book; a stop order is not there before it triggers."""
    return status in _AT_THE_EXCHANGE and order_type not in _STOPS


def move(connection: sqlite3.Connection, before: Order | None, after: Order) -> None:
    """Bring reservation and totals from one state of an order to the next; `before` is None when it is new."""
    held = None if before is None else reservation_of(before)
    holds = reservation_of(after)
    if holds is None and held is not None:
        connection.execute("DELETE FROM reservations WHERE client_order_id = ?", (after.client_order_id,))
    elif holds is not None and holds != held:
        _write_reservation(connection, holds)
    old, new = share_of(before), share_of(after)
    if old != new:
        day = times.day_of(after.created_at)
        for scope in (after.webhook_id, ACCOUNT):
            _add(connection, scope, day, EXACT.subtract(new.notional, old.notional), new.orders - old.orders, ZERO)


def add_realized(connection: sqlite3.Connection, scopes: Iterable[str], day: str, realized_pnl: Decimal) -> None:
    """Add realized P&L (USDC, may be negative) to the day of each scope: `account`, or a webhook's id."""
    if realized_pnl:
        for scope in scopes:
            _add(connection, scope, day, ZERO, 0, realized_pnl)


def open_reservations(connection: sqlite3.Connection, *, excluding: str | None = None) -> tuple[Reservation, ...]:
    """Every reservation of the account, oldest order first, but for the one of `excluding` (a client order id)."""
    rows = connection.execute(
        "SELECT r.client_order_id, r.webhook_id, r.symbol, r.quantity, r.notional, r.is_entry, r.is_resting, o.status, o.order_type"
        " FROM reservations r JOIN orders o ON o.client_order_id = r.client_order_id ORDER BY r.client_order_id"
    )
    return tuple(_reservation(*row) for row in rows if row[0] != excluding)


@lru_cache(maxsize=4096)
def _reservation(
    client_order_id: str,
    webhook_id: str,
    symbol: str,
    quantity: str,
    notional: str,
    is_entry: int,
    is_resting: int,
    status: str,
    order_type: str,
) -> Reservation:
    """The value of a row. Remembered, because in a burst every alert reads the reservations of all those before it."""
    return Reservation(
        client_order_id=client_order_id,
        webhook_id=webhook_id,
        symbol=symbol,
        quantity=Decimal(quantity),
        notional=Decimal(notional),
        is_entry=bool(is_entry),
        is_resting=bool(is_resting),
        is_margined=_is_margined(status, order_type),
    )


@dataclass(frozen=True, slots=True)
class DayTotals:
    """Running totals of one scope on one UTC day."""

    notional: Decimal = ZERO
    orders: int = 0
    realized_pnl: Decimal = ZERO


def day_totals(connection: sqlite3.Connection, scope: str, day: str) -> DayTotals:
    """The totals of a scope (a webhook's id, or `account`) on a UTC day `YYYY-MM-DD`."""
    row = connection.execute(
        "SELECT notional, orders, realized_pnl FROM daily_usage WHERE scope = ? AND day = ?", (scope, day)
    ).fetchone()
    return DayTotals() if row is None else DayTotals(Decimal(row[0]), row[1], Decimal(row[2]))


def _write_reservation(connection: sqlite3.Connection, held: Reservation) -> None:
    connection.execute(
        "INSERT INTO reservations (client_order_id, webhook_id, symbol, quantity, notional, is_entry, is_resting)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (client_order_id) DO UPDATE SET"
        " quantity = excluded.quantity, notional = excluded.notional",
        (
            held.client_order_id,
            held.webhook_id,
            held.symbol,
            decimal_text(held.quantity),
            decimal_text(held.notional),
            held.is_entry,
            held.is_resting,
        ),
    )


def _add(
    connection: sqlite3.Connection, scope: str, day: str, notional: Decimal, orders: int, realized_pnl: Decimal
) -> None:
    """Amounts are text, so the sums are made here and not by SQLite, which would make floats of them."""
    now = day_totals(connection, scope, day)
    connection.execute(
        "INSERT INTO daily_usage (scope, day, notional, orders, realized_pnl) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (scope, day) DO UPDATE SET"
        " notional = excluded.notional, orders = excluded.orders, realized_pnl = excluded.realized_pnl",
        (
            scope,
            day,
            decimal_text(EXACT.add(now.notional, notional)),
            now.orders + orders,
            decimal_text(EXACT.add(now.realized_pnl, realized_pnl)),
        ),
    )
