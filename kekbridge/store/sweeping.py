"""Finishing queued orders that may not be sent any more: too old, or trading was stopped since they were admitted.

They are found wherever they stand in the queue, so that an order behind a busy or unknown one of its symbol does not look alive for
longer than it is. What the states mean for a new order is said by risk/rules.py; the codes are the same.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import Final

from kekbridge.model import Order, OrderStatus, Purpose, TradingState
from kekbridge.store import orders, settings

STOPPED: Final = frozenset({"trading_halted", "exits_only"})


def is_due(connection: sqlite3.Connection, *, now: datetime) -> bool:
    """True when `sweep` would find something to do. Reads only: it is asked twice a second."""
    if orders.count_waiting(connection) == 0:
        return False
    return bool(orders.overdue(connection, now=now, limit=1)) or any(
        forbidden(connection, order, now=now) for order in _queued(connection)
    )


def sweep(connection: sqlite3.Connection, *, now: datetime) -> tuple[Order, ...]:
    """Expire what is too old and deny what the trading state forbids; returns what was finished."""
    finished = [
        orders.mark_expired(connection, order.client_order_id, now=now) for order in orders.overdue(connection, now=now)
    ]
    for order in _queued(connection):
        why = forbidden(connection, order, now=now)
        if why is not None:
            code, error = why
            finished.append(orders.mark_denied(connection, order.client_order_id, code=code, error=error, now=now))
    return tuple(finished)


def forbidden(connection: sqlite3.Connection, order: Order, *, now: datetime) -> tuple[str, str] | None:
    """Code and reason when the trading state of the account or the webhook forbids to send this order now, else None.

    What a limit closed by itself does not count: the order had its room when it was admitted, and the limits judge it again at its claim.
    Orders that protect a position always pass: a halt leaves positions and their stops as they are, it does not strip them.
    """
    purpose = order.intent.purpose
    if purpose is Purpose.PROTECT:
        return None
    state = settings.effective_state(connection, now=now, webhook_id=order.webhook_id, without_trips=True)
    if state is TradingState.HALTED:
        return "trading_halted", "trading was halted before the order was sent"
    if state is TradingState.EXITS_ONLY and purpose is Purpose.ENTRY:
        return "exits_only", "entries were stopped before the order was sent"
    return None


def _queued(connection: sqlite3.Connection) -> tuple[Order, ...]:
    return tuple(order for order in orders.unfinished(connection) if order.status is OrderStatus.QUEUED)
