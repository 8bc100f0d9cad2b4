"""Room that orders take from the limits: reservations, their sums by symbol (commitments), and day totals.

Updated with each order in its transaction. Two functions of an order (`daily_share`, `reservation_of`) define everything stored here, so
that it can be recomputed and compared. Whether there is room is decided in risk/.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from kekbridge.model import UNCOMMITTED, ZERO, Commitment, Order, OrderStatus, OrderType, Purpose, Reservation, Usage
from kekbridge.store import cache, codec, orders, settings, strategy_positions
from kekbridge.store.codec import EXACT, decimal_text
from kekbridge.store.settings import ACCOUNT

_AT_THE_EXCHANGE: Final = frozenset({OrderStatus.ACCEPTED.value, OrderStatus.PARTIALLY_FILLED.value})
_DAYS: Final = "daily_usage"
_SUMS: Final = "commitments"
_ALL_ORDERS: Final = "orders"
_STOPS: Final = frozenset({OrderType.STOP.value, OrderType.STOP_LIMIT.value})
_WHOLE_DIGITS: Final = 40
_Kind = tuple[str, bool, bool, bool, bool]  # the commitments' key: symbol, is_entry, is_buy, is_resting, is_margined


@dataclass(frozen=True, slots=True)
class DailyShare:
    """What one order adds to the totals of its day."""

    #: Traded and reserved value in USDC.
    notional: Decimal
    #: 1 if it counts as an order of the day, else 0.
    orders: int


_NOTHING: Final = DailyShare(ZERO, 0)


@dataclass(frozen=True, slots=True)
class DayTotals:
    """Running totals of one scope on one UTC day."""

    #: Traded and reserved value in USDC.
    notional: Decimal = ZERO
    #: Entries.
    orders: int = 0
    #: USDC.
    realized_pnl: Decimal = ZERO

    def plus(self, other: DayTotals) -> DayTotals:
        """The exact sum."""
        return DayTotals(
            EXACT.add(self.notional, other.notional),
            self.orders + other.orders,
            EXACT.add(self.realized_pnl, other.realized_pnl),
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
    if not order.is_entry:
        return DailyShare(notional, 0)
    notional = EXACT.add(notional, EXACT.multiply(open_quantity(order), intent.reference_price))
    never_reached = order.finished_at is not None and order.order_id is None and not order.executed_quantity
    return DailyShare(notional, 0 if never_reached else 1)


def open_quantity(order: Order) -> Decimal:
    """The quantity that may still trade, in base units; zero for a finished order, never negative."""
    if order.finished_at is not None:
        return ZERO
    return max(EXACT.subtract(order.intent.quantity, order.executed_quantity), ZERO)


def reservation_of(order: Order) -> Reservation | None:
    """The room that an order holds; None once it is finished."""
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
    """True if the exchange reserves margin for it: for orders in its book, where a stop order is only after its trigger."""
    return status in _AT_THE_EXCHANGE and order_type not in _STOPS


# ------------------------------------------------------------------------------------------------------------- writing


def update(connection: sqlite3.Connection, before: Order | None, after: Order) -> None:
    """Update reservation, commitments and day totals for a transition of an order; `before` is None for a new one."""
    if before is not None and _holds_same_room(before, after):
        return
    held = None if before is None else reservation_of(before)
    holds = reservation_of(after)
    if holds != held:
        _move_reservation(connection, held, holds)
    old, new = daily_share(before), daily_share(after)
    if old != new:
        change = DayTotals(EXACT.subtract(new.notional, old.notional), new.orders - old.orders)
        _add_to_day(connection, (after.webhook_id, ACCOUNT), codec.day_of(after.created_at), change)


def add_realized(connection: sqlite3.Connection, scopes: Iterable[str], day: str, realized_pnl: Decimal) -> None:
    """Add realized P&L (USDC, losses negative) to the day of each scope: `account`, or a webhook's id."""
    if realized_pnl:
        _add_to_day(connection, scopes, day, DayTotals(realized_pnl=realized_pnl))


def rebuild_commitments(connection: sqlite3.Connection) -> None:
    """Recompute commitments and reservation prices from the reservations. Used by migration 0007."""
    cache.invalidate(connection, _SUMS)
    connection.execute("DELETE FROM commitments")
    for held in open_reservations(connection):
        _commit(connection, held, 1)
        connection.execute(
            "UPDATE reservations SET price = ? WHERE client_order_id = ?", (_price_text(held), held.client_order_id)
        )


def _holds_same_room(before: Order, after: Order) -> bool:
    """True if the transition certainly changes no room, such as a claim: true for most, so it is checked before computing anything."""
    kind = before.intent.order_type.value
    return (
        before.finished_at is None
        and after.finished_at is None
        and (before.intent is after.intent or before.intent == after.intent)
        and before.executed_quantity == after.executed_quantity
        and before.average_price == after.average_price
        and _is_margined(before.status.value, kind) == _is_margined(after.status.value, kind)
    )


def _move_reservation(connection: sqlite3.Connection, held: Reservation | None, holds: Reservation | None) -> None:
    """Update the order's own row and the sums that it is part of."""
    if held is not None:
        _commit(connection, held, -1)
    if holds is not None:
        _commit(connection, holds, 1)
        if held is None or _row_of(held) != _row_of(holds):
            _write_reservation(connection, holds)
    elif held is not None:
        connection.execute("DELETE FROM reservations WHERE client_order_id = ?", (held.client_order_id,))


def _write_reservation(connection: sqlite3.Connection, held: Reservation) -> None:
    connection.execute(
        "INSERT INTO reservations (client_order_id, webhook_id, symbol, quantity, notional, is_entry, is_resting, price)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (client_order_id) DO UPDATE SET symbol = excluded.symbol,"
        " quantity = excluded.quantity, notional = excluded.notional, is_entry = excluded.is_entry,"
        " is_resting = excluded.is_resting, price = excluded.price",
        (
            held.client_order_id,
            held.webhook_id,
            held.symbol,
            decimal_text(held.quantity),
            decimal_text(held.notional),
            held.is_entry,
            held.is_resting,
            _price_text(held),
        ),
    )


def _row_of(held: Reservation) -> tuple[object, ...]:
    """The fields stored in a reservation's row; `is_margined` follows from its order."""
    return held.symbol, held.quantity, held.notional, held.is_entry, held.is_resting


def _price_text(held: Reservation) -> str | None:
    """The price padded with zeros so that text order is price order, and an index finds the highest."""
    price = held.price
    if not price:
        return None
    whole, point, fraction = decimal_text(price).partition(".")
    return f"{whole:0>{_WHOLE_DIGITS}}{point}{fraction}"


def _kind_of(held: Reservation) -> _Kind:
    """Key of the commitments row that a reservation is part of."""
    return held.symbol, held.is_entry, held.quantity > 0, held.is_resting, held.is_margined


def _commit(connection: sqlite3.Connection, held: Reservation, change: int) -> None:
    """Add a reservation to its sum (`change` 1) or subtract it (-1). The sum of no orders is exactly zero."""
    kind = _kind_of(held)
    quantity, count = cache.get_or_load(connection, _SUMS, kind, _read_sum, kind)
    total = cache.get_or_load(connection, _SUMS, _ALL_ORDERS, _count_committed)
    count += change
    add = EXACT.add if change > 0 else EXACT.subtract
    quantity = add(quantity, held.quantity) if count else ZERO
    connection.execute(
        "INSERT OR REPLACE INTO commitments (symbol, is_entry, is_buy, is_resting, is_margined, quantity, orders)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*kind, decimal_text(quantity), count),
    )
    cache.put(connection, _SUMS, kind, (quantity, count))
    cache.put(connection, _SUMS, _ALL_ORDERS, total + change)


def _add_to_day(connection: sqlite3.Connection, scopes: Iterable[str], day: str, change: DayTotals) -> None:
    for scope in scopes:
        totals = day_totals(connection, scope, day).plus(change)
        connection.execute(
            "INSERT OR REPLACE INTO daily_usage (scope, day, notional, orders, realized_pnl) VALUES (?, ?, ?, ?, ?)",
            (scope, day, decimal_text(totals.notional), totals.orders, decimal_text(totals.realized_pnl)),
        )
        cache.put(connection, _DAYS, (scope, day), totals)


# ------------------------------------------------------------------------------------------------------------- reading


def read_usage(
    connection: sqlite3.Connection,
    webhook_id: str,
    *,
    now: datetime,
    cooldown_s: int = 86_400,
    excluding: Order | None = None,
) -> Usage:
    """What a webhook and the account have used of their limits at `now`.

    `cooldown_s`: how far back `last_entry_at` goes; 0: not read. `excluding`: an order (as stored) that is rechecked before it is sent.
    Its own reservation and daily share are left out, and so are breaches: it had room when it was admitted, and the limits are checked
    again.
    """
    day = codec.day_of(now)
    own, account = day_totals(connection, webhook_id, day), day_totals(connection, ACCOUNT, day)
    is_of_today = excluding is not None and codec.day_of(excluding.created_at) == day
    share = daily_share(excluding if is_of_today else None)
    control, peak = settings.state_and_peak(connection, webhook_id, now=now, ignore_breaches=excluding is not None)
    return Usage(
        now=now,
        trading_state=control.state,
        trading_reason=control.reason,
        waiting_orders=orders.count_queued(connection),
        traded_today=own.notional - share.notional,
        orders_today=own.orders - share.orders,
        account_traded_today=account.notional - share.notional,
        account_orders_today=account.orders - share.orders,
        commitments=open_commitments(connection, excluding=excluding),
        last_entry_at=_last_entries(connection, webhook_id, now, cooldown_s, excluding) if cooldown_s > 0 else {},
        realized_today=own.realized_pnl,
        account_realized_today=account.realized_pnl,
        equity_peak=peak,
        strategy_histories=strategy_positions.of_webhook(connection, webhook_id),
    )


def open_commitments(connection: sqlite3.Connection, *, excluding: Order | None = None) -> dict[str, Commitment]:
    """The account's reservations summed by symbol, without that of `excluding` (an order as stored)."""
    if not cache.get_or_load(connection, _SUMS, _ALL_ORDERS, _count_committed):
        return {}
    held = None if excluding is None else reservation_of(excluding)
    excluded_kind = None if held is None else _kind_of(held)
    rows = connection.execute(
        "SELECT symbol, is_entry, is_buy, is_resting, is_margined, quantity, orders,"
        " (SELECT price FROM reservations r WHERE r.symbol = c.symbol AND price IS NOT NULL AND client_order_id IS NOT ?"
        " ORDER BY price DESC LIMIT 1) FROM commitments c WHERE orders > 0",
        (None if held is None else held.client_order_id,),
    )
    found: dict[str, Commitment] = {}
    for symbol, is_entry, is_buy, is_resting, is_margined, text, count, price in rows:
        quantity = Decimal(text)
        if held is not None and (symbol, is_entry, is_buy, is_resting, is_margined) == excluded_kind:
            if count == 1:
                continue
            quantity = EXACT.subtract(quantity, held.quantity)
        found[symbol] = found.get(symbol, UNCOMMITTED).plus(
            quantity,
            is_entry=bool(is_entry),
            is_resting=bool(is_resting),
            is_margined=bool(is_margined),
            price=ZERO if price is None else Decimal(price),
        )
    return found


def open_reservations(connection: sqlite3.Connection) -> tuple[Reservation, ...]:
    """Every reservation of the account, oldest order first. Not used at admission, which reads the sums only."""
    rows = connection.execute(
        "SELECT r.client_order_id, r.webhook_id, r.symbol, r.quantity, r.notional, r.is_entry, r.is_resting, o.status, o.order_type"
        " FROM reservations r JOIN orders o ON o.client_order_id = r.client_order_id ORDER BY r.client_order_id"
    )
    return tuple(
        Reservation(
            client_order_id=client_order_id,
            webhook_id=webhook_id,
            symbol=symbol,
            quantity=Decimal(quantity),
            notional=Decimal(notional),
            is_entry=bool(is_entry),
            is_resting=bool(is_resting),
            is_margined=_is_margined(status, order_type),
        )
        for client_order_id, webhook_id, symbol, quantity, notional, is_entry, is_resting, status, order_type in rows
    )


def day_totals(connection: sqlite3.Connection, scope: str, day: str) -> DayTotals:
    """The totals of a scope (a webhook's id, or `account`) on a UTC day `YYYY-MM-DD`."""
    return cache.get_or_load(connection, _DAYS, (scope, day), _read_day, scope, day)


def _last_entries(
    connection: sqlite3.Connection, webhook_id: str, now: datetime, cooldown_s: int, excluding: Order | None
) -> dict[str, datetime]:
    """Time of the webhook's last entry in each symbol; entries that never reached the exchange start no cool-down."""
    rows = connection.execute(
        "SELECT symbol, max(created_at) FROM orders WHERE webhook_id = ? AND purpose = 'entry' AND created_at > ?"
        " AND client_order_id IS NOT ? AND NOT (status IN ('denied', 'expired', 'rejected') AND order_id IS NULL)"
        " GROUP BY symbol",
        (webhook_id, codec.time_text(now - timedelta(seconds=cooldown_s)), excluding and excluding.client_order_id),
    )
    return {symbol: codec.parse_time(at) for symbol, at in rows}


def _read_day(connection: sqlite3.Connection, scope: str, day: str) -> DayTotals:
    row = connection.execute(
        "SELECT notional, orders, realized_pnl FROM daily_usage WHERE scope = ? AND day = ?", (scope, day)
    ).fetchone()
    return _EMPTY_DAY if row is None else DayTotals(Decimal(row[0]), row[1], Decimal(row[2]))


def _read_sum(connection: sqlite3.Connection, kind: _Kind) -> tuple[Decimal, int]:
    row = connection.execute(
        "SELECT quantity, orders FROM commitments"
        " WHERE symbol = ? AND is_entry = ? AND is_buy = ? AND is_resting = ? AND is_margined = ?",
        kind,
    ).fetchone()
    return (ZERO, 0) if row is None else (Decimal(row[0]), row[1])


def _count_committed(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(sum(orders), 0) FROM commitments").fetchone()[0])
