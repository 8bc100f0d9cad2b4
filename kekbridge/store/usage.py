"""How much of every limit is used, read in the transaction that will add to it: the facts that risk decides on.

Reading only. With one writer and this in the same transaction as the new reservation, no two alerts can both see the last room.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta

from kekbridge.model import Order, Usage
from kekbridge.store import orders as order_rows
from kekbridge.store import reservations as ledger
from kekbridge.store import settings, times
from kekbridge.store import strategy_positions as courses


def read_usage(
    connection: sqlite3.Connection,
    webhook_id: str,
    *,
    now: datetime,
    cooldown_s: int = 86_400,
    excluding: Order | None = None,
) -> Usage:
    """What a webhook and the account have used at `now`.

    `cooldown_s` is how far back `last_entry_at` looks; 0 asks nothing. `excluding` is an order, as it is stored, that is
    checked again before it is sent: its own reservation, and its part of the day, are left out. So is the door that a limit closed when
    a later alert found no room: this order had its room, and the limits themselves are judged again.
    """
    day = times.day_of(now)
    own, account = ledger.day_totals(connection, webhook_id, day), ledger.day_totals(connection, ledger.ACCOUNT, day)
    is_of_today = excluding is not None and times.day_of(excluding.created_at) == day
    share = ledger.share_of(excluding if is_of_today else None)
    control, peak = settings.state_and_peak(connection, webhook_id, now=now, without_trips=excluding is not None)
    return Usage(
        now=now,
        trading_state=control.state,
        trading_reason=control.reason,
        waiting_orders=order_rows.count_queued(connection),
        traded_today=own.notional - share.notional,
        orders_today=own.orders - share.orders,
        account_traded_today=account.notional - share.notional,
        account_orders_today=account.orders - share.orders,
        commitments=ledger.open_commitments(connection, excluding=excluding),
        last_entry_at=_last_entries(connection, webhook_id, now, cooldown_s, excluding) if cooldown_s > 0 else {},
        realized_today=own.realized_pnl,
        account_realized_today=account.realized_pnl,
        equity_peak=peak,
        courses=courses.of_webhook(connection, webhook_id),
    )


def _last_entries(
    connection: sqlite3.Connection, webhook_id: str, now: datetime, cooldown_s: int, excluding: Order | None
) -> dict[str, datetime]:
    """When the webhook last entered each symbol; entries that the exchange never had do not start a cool-down."""
    rows = connection.execute(
        "SELECT symbol, max(created_at) FROM orders WHERE webhook_id = ? AND purpose = 'entry' AND created_at > ?"
        " AND client_order_id IS NOT ? AND NOT (status IN ('denied', 'expired', 'rejected') AND order_id IS NULL)"
        " GROUP BY symbol",
        (webhook_id, times.to_text(now - timedelta(seconds=cooldown_s)), excluding and excluding.client_order_id),
    )
    return {symbol: times.from_text(at) for symbol, at in rows}
