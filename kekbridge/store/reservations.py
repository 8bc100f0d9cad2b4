"""Room that orders take from the limits: what each order holds and adds to its day, and the stored totals of days.

Two functions of an order (`daily_share`, `reservation_of`) define it all, so that sums can be recomputed and compared. The daemon keeps the
sums in memory (execution/book.py); whether there is room is decided in risk/.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

import msgspec

from kekbridge.model import (
    UNCOMMITTED,
    ZERO,
    Commitment,
    MarginMode,
    Order,
    OrderStatus,
    OrderType,
    Purpose,
    Reservation,
)
from kekbridge.store.codec import EXACT, decimal_text
from kekbridge.store.settings import ACCOUNT

__all__ = ["ACCOUNT"]

_AT_THE_EXCHANGE: Final = frozenset({OrderStatus.ACCEPTED, OrderStatus.PARTIALLY_FILLED})
_STOPS: Final = frozenset({OrderType.STOP, OrderType.STOP_LIMIT})


class DailyShare(msgspec.Struct, frozen=True):
    """What one order adds to the totals of its day."""

    #: Traded and reserved value in USDC.
    notional: Decimal
    #: 1 if it counts as an order of the day, else 0.
    orders: int


_NOTHING: Final = DailyShare(ZERO, 0)


class DayTotals(msgspec.Struct, frozen=True):
    """Running totals of one scope on one UTC day."""

    #: Traded and reserved value in USDC.
    notional: Decimal = ZERO
    #: Entries.
    orders: int = 0
    #: USDC, before fees and funding.
    realized_pnl: Decimal = ZERO
    #: Funding paid in USDC, received negative.
    funding: Decimal = ZERO

    @property
    def result(self) -> Decimal:
        """Realized P&L after funding, in USDC: what counts against the daily loss."""
        return EXACT.subtract(self.realized_pnl, self.funding)

    def plus(self, other: DayTotals) -> DayTotals:
        """The exact sum."""
        return DayTotals(
            EXACT.add(self.notional, other.notional),
            self.orders + other.orders,
            EXACT.add(self.realized_pnl, other.realized_pnl),
            EXACT.add(self.funding, other.funding),
        )


_EMPTY_DAY: Final = DayTotals()


# ------------------------------------------------------------------------------------------------ what one order holds


def daily_share(order: Order | None) -> DailyShare:
    """What an order adds to the day it was admitted on.

    Executed value always counts; open value counts for entries only, because an exit is never limited and needs no reservation. An entry
    counts as an order unless it ended without ever reaching the exchange.
    """
    if order is None:
        return _NOTHING
    intent = order.intent
    price = intent.reference_price if order.average_price is None else order.average_price
    notional = EXACT.multiply(order.executed_quantity, price)
    if intent.purpose is not Purpose.ENTRY:
        return DailyShare(notional, 0)
    if order.finished_at is None:
        return DailyShare(EXACT.add(notional, EXACT.multiply(open_quantity(order), intent.reference_price)), 1)
    never_reached = order.order_id is None and not order.executed_quantity
    return DailyShare(notional, 0 if never_reached else 1)


def open_quantity(order: Order) -> Decimal:
    """The quantity that may still trade, in base units; zero for a finished order, never negative."""
    if order.finished_at is not None:
        return ZERO
    return max(EXACT.subtract(order.intent.quantity, order.executed_quantity), ZERO)


def reservation_of(order: Order) -> Reservation | None:
    """The room that an order holds; None once it is finished, and for an order on an isolated position: it opens nothing, and what it
    closes is not the cross position that the others are counted with."""
    if order.finished_at is not None or order.intent.margin_mode is not MarginMode.CROSS:
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
        # The exchange reserves margin for orders in its book, where a stop order is only after its trigger.
        is_margined=order.status in _AT_THE_EXCHANGE and intent.order_type not in _STOPS,
    )


def commitment_of(orders: Iterable[Order]) -> Commitment:
    """The reservations of orders of one symbol, added up by kind and side."""
    sums: dict[tuple[bool, bool, bool, bool], Decimal] = {}
    price = ZERO
    for order in orders:
        held = reservation_of(order)
        if held is None:
            continue
        kind = (held.is_entry, held.quantity > 0, held.is_resting, held.is_margined)
        sums[kind] = EXACT.add(sums.get(kind, ZERO), held.quantity)
        price = max(price, held.price)
    found = UNCOMMITTED
    for (is_entry, _, is_resting, is_margined), quantity in sorted(sums.items()):
        found = found.plus(quantity, is_entry=is_entry, is_resting=is_resting, is_margined=is_margined, price=price)
    return found


# --------------------------------------------------------------------------------------------------------- totals of days


def read_day(connection: sqlite3.Connection, scope: str, day: str) -> DayTotals:
    """The totals of a scope (a webhook's id, or `account`) on a UTC day `YYYY-MM-DD`."""
    row = connection.execute(
        "SELECT notional, orders, realized_pnl, funding FROM daily_usage WHERE scope = ? AND day = ?", (scope, day)
    ).fetchone()
    return _EMPTY_DAY if row is None else DayTotals(Decimal(row[0]), row[1], Decimal(row[2]), Decimal(row[3]))


def read_days(connection: sqlite3.Connection, *, since: str) -> dict[tuple[str, str], DayTotals]:
    """The totals of every scope and day from a UTC day on."""
    rows = connection.execute(
        "SELECT scope, day, notional, orders, realized_pnl, funding FROM daily_usage WHERE day >= ?", (since,)
    )
    return {
        (scope, day): DayTotals(Decimal(notional), orders, Decimal(realized), Decimal(funding))
        for scope, day, notional, orders, realized, funding in rows
    }


def write_day(connection: sqlite3.Connection, scope: str, day: str, totals: DayTotals) -> None:
    """Replace the totals of a day. Only for projector.py."""
    connection.execute(
        "INSERT OR REPLACE INTO daily_usage (scope, day, notional, orders, realized_pnl, funding) VALUES (?, ?, ?, ?, ?, ?)",
        (
            scope,
            day,
            decimal_text(totals.notional),
            totals.orders,
            decimal_text(totals.realized_pnl),
            decimal_text(totals.funding),
        ),
    )
