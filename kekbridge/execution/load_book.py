"""Rebuild the book from the store: what a start reads. Its cost does not grow with the history."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta
from typing import Final

from kekbridge.alerts.identity import WINDOW_S
from kekbridge.execution.book import MOST_FILLS, Book
from kekbridge.execution.repeats import RecentAlerts, Taken
from kekbridge.model import MarginMode, RateLimits, Webhook
from kekbridge.risk.rates import ALL_ENTRIES, LONGEST_WINDOW
from kekbridge.store import (
    alerts,
    codec,
    fills,
    incomplete_orders,
    orders,
    positions,
    rate_limits,
    reservations,
    settings,
    strategy_positions,
    webhooks,
)

_FILLS_FOR: Final = timedelta(days=2)
# Fills read to find since when a webhook holds its part of a position.
_MOST_FILLS_SINCE_FLAT: Final = 5_000


def load_book(connection: sqlite3.Connection, book: Book, *, account_rates: RateLimits, now: datetime) -> None:
    """Fill an empty book from tables that hold the whole journal: open orders, running days, rates, cool-downs, states, recent fills."""
    yesterday = codec.day_of(now - timedelta(days=1))
    book.load_days(reservations.read_days(connection, since=yesterday), since=yesterday)
    book.load_controls(settings.stored_controls(connection))
    book.equity_peak = settings.equity_peak(connection)
    book.load_histories(strategy_positions.read_all(connection))
    unfinished = orders.unfinished(connection)
    book.load_orders(unfinished, sequence=orders.last_sequence(connection))
    for alert_id in {order.alert_id for order in unfinished}:
        book.load_legs(orders.of_alert(connection, alert_id))
    incomplete = incomplete_orders.list_all(connection)
    for order in {each.client_order_id: each for each in (*unfinished, *incomplete)}.values():
        if order.executed_quantity:
            book.load_recorded(order, incomplete_orders.filled_quantity(connection, order.client_order_id))
    for symbol in {order.intent.symbol for order in unfinished}:
        entrant = orders.last_entrant(connection, symbol)
        if entrant is not None:
            book.set_entrant(symbol, entrant)
    for position in positions.list_all(connection):
        if position.margin_mode is MarginMode.CROSS:
            found = fills.since_flat(connection, position.symbol, position.quantity, limit=_MOST_FILLS_SINCE_FLAT)
            book.holdings.load(position.symbol, found)
    for webhook in webhooks.list_all(connection):
        load_webhook(connection, book, webhook, now=now)
    newest = rate_limits.newest_entries(connection, since=now - LONGEST_WINDOW, limit=_most(account_rates))
    book.rates.load(ALL_ENTRIES, newest)
    since = now - _FILLS_FOR
    known = fills.recent(connection, since=since, limit=MOST_FILLS)
    book.remember(
        known, since=known[0].fill.executed_at + timedelta(milliseconds=1) if len(known) >= MOST_FILLS else since
    )


def load_webhook(connection: sqlite3.Connection, book: Book, webhook: Webhook, *, now: datetime) -> None:
    """Load what a webhook's cool-down and rates look back at: at a start, and when its settings look back further than before."""
    cooldown_s = webhook.settings.limits.cooldown_s or 0
    if cooldown_s:
        last = orders.last_entries(connection, webhook.id, since=now - timedelta(seconds=cooldown_s))
        book.load_entries(webhook.id, last)
    most = _most(webhook.settings.rates)
    times = rate_limits.newest_times(connection, webhook.id, since=now - LONGEST_WINDOW, limit=most)
    book.rates.load(webhook.id, times)


def _most(rates: RateLimits) -> int:
    """How many counted alerts a full window can need."""
    return max(rates.per_minute, rates.per_hour, rates.per_day)


def load_recent(connection: sqlite3.Connection, *, now: datetime) -> RecentAlerts:
    """The alerts of the last minute that were taken: those that a message without a timestamp may repeat."""
    recent = RecentAlerts()
    for alert, markets in alerts.taken_since(connection, now - timedelta(seconds=WINDOW_S)):
        own = () if alert.symbol is None else (alert.symbol,)
        recent.add(
            Taken(
                id=alert.id,
                webhook_id=alert.webhook_id or "",
                fingerprint=alert.fingerprint,
                markets=(*own, *markets),
                received_at=alert.received_at,
            )
        )
    return recent
