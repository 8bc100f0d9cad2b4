"""Use of the limits as the tables say: for reports and commands. The daemon decides by its book (execution/book.py)."""

from __future__ import annotations

import sqlite3
from datetime import datetime

from kekbridge.model import Commitment, Order, OrderStatus, Purpose, Usage
from kekbridge.store import codec, orders, settings
from kekbridge.store.reservations import commitment_of, read_day
from kekbridge.store.settings import ACCOUNT


def read_usage(connection: sqlite3.Connection, webhook_id: str, *, now: datetime) -> Usage:
    """What a webhook (or `account`) and the account have used of their limits, without cool-downs and strategies' histories."""
    day = codec.day_of(now)
    own, account = read_day(connection, webhook_id, day), read_day(connection, ACCOUNT, day)
    controls = settings.stored_controls(connection)
    control = settings.strictest(controls, webhook_id, now=now)
    unfinished = orders.unfinished(connection)
    return Usage(
        now=now,
        trading_state=control.state,
        trading_reason=control.reason,
        trading_scope="account" if settings.closing_scope(controls, webhook_id, now=now) == ACCOUNT else "webhook",
        # Protective orders do not wait in the queue.
        waiting_orders=sum(
            order.status is OrderStatus.QUEUED and order.intent.purpose is not Purpose.PROTECT for order in unfinished
        ),
        traded_today=own.notional,
        orders_today=own.orders,
        account_traded_today=account.notional,
        account_orders_today=account.orders,
        commitments=_commitments(unfinished),
        realized_today=own.result,
        account_realized_today=account.result,
        equity_peak=settings.equity_peak(connection),
    )


def _commitments(unfinished: tuple[Order, ...]) -> dict[str, Commitment]:
    by_symbol: dict[str, list[Order]] = {}
    for order in unfinished:
        by_symbol.setdefault(order.intent.symbol, []).append(order)
    return {symbol: commitment_of(of_symbol) for symbol, of_symbol in by_symbol.items()}
