"""Finishing queued orders that may not be sent any more: too old, or trading was stopped since they were admitted.

They are found wherever they stand in the queue, so that an order behind a busy or unknown one of its symbol does not look alive for
longer than it is. What the states mean for a new order is said by risk/rules.py; the codes are the same.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime

from kekbridge.model import Order, Purpose, TradingState
from kekbridge.store import order_lifecycle as orders
from kekbridge.store import order_queue, settings


def is_due(connection: sqlite3.Connection, *, now: datetime) -> bool:
    """True when `sweep` would find something to do. Reads only: it is asked twice a second, however many orders wait."""
    if not order_queue.is_any_waiting(connection):
        return False
    return bool(orders.overdue(connection, now=now, limit=1)) or any(
        _forbidden(connection, *kind, now=now) for kind in order_queue.waiting_kinds(connection)
    )


def sweep(connection: sqlite3.Connection, *, now: datetime) -> tuple[Order, ...]:
    """Expire what is too old and deny what the trading state forbids, each in the order of admission; returns what was finished."""
    finished = [
        orders.mark_expired(connection, order.client_order_id, now=now) for order in orders.overdue(connection, now=now)
    ]
    denied: list[tuple[Order, str, str]] = []
    for kind in order_queue.waiting_kinds(connection):
        why = _forbidden(connection, *kind, now=now)
        if why is not None:
            denied += ((order, *why) for order in order_queue.waiting_of(connection, *kind))
    for order, code, error in sorted(denied, key=lambda each: each[0].sequence):
        finished.append(orders.mark_denied(connection, order.client_order_id, code=code, error=error, now=now))
    return tuple(finished)


def _forbidden(
    connection: sqlite3.Connection, webhook_id: str, purpose: Purpose, *, now: datetime
) -> tuple[str, str] | None:
    """Code and reason when the trading state of the account or the webhook forbids to send such an order now, else None.

    What a limit closed by itself does not count: the order had its room when it was admitted, and the limits judge it again at its claim.
    Orders that protect a position always pass: a halt leaves positions and their stops as they are, it does not strip them.
    """
    if purpose is Purpose.PROTECT:
        return None
    state = settings.effective_state(connection, now=now, webhook_id=webhook_id, without_trips=True)
    if state is TradingState.HALTED:
        return "trading_halted", "trading was halted before the order was sent"
    if state is TradingState.EXITS_ONLY and purpose is Purpose.ENTRY:
        return "exits_only", "entries were stopped before the order was sent"
    return None
