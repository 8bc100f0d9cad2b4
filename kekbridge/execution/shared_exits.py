"""Warn of exits that webhooks in one market cannot keep apart, because the exchange has one of the kind for the whole position.

A stop loss beside several take-profits closes the position, whichever webhook opened it (docs/internals/orderly.md section 7). All other
exits have the size of their entry: protection_controller.py keeps them apart.
"""

from __future__ import annotations

from kekbridge.exchange.base import Exchange
from kekbridge.execution.book import Book
from kekbridge.formatting import format_decimal
from kekbridge.model import OrderIntent
from kekbridge.model.admission import Decision
from kekbridge.store import protection
from kekbridge.store.database import Database


def shared_exit_warnings(
    decision: Decision, *, webhook_id: str, book: Book, database: Database, exchange: Exchange
) -> tuple[str, ...]:
    """One line for each admitted entry whose exits, or whose neighbour's, close what another webhook holds too."""
    if decision.status != "admitted":
        return ()
    found = (
        _warning(intent, webhook_id, book, database, exchange) for intent in decision.intents if not intent.reduce_only
    )
    return tuple(text for text in found if text is not None)


def _warning(intent: OrderIntent, webhook_id: str, book: Book, database: Database, exchange: Exchange) -> str | None:
    snapshot = exchange.snapshot
    if snapshot is None:
        return None
    symbol = intent.symbol
    others = book.held_by_others(webhook_id, symbol, snapshot.position_quantity(symbol)) * intent.side.sign
    if others <= 0:
        return None
    if exchange.exits_close_position(intent):
        return (
            f"{symbol}: the stop loss beside several take-profits closes the whole position, and other webhooks hold "
            f"{format_decimal(others)} of it; it also replaces an earlier stop of that kind; send one take-profit, or use one webhook "
            "per market"
        )
    for each in database.read_now(protection.open_protections):
        entry = each.order
        is_neighbour = entry.webhook_id != webhook_id and entry.intent.symbol == symbol
        if is_neighbour and entry.intent.side is intent.side and exchange.exits_close_position(entry.intent):
            return (
                f"{symbol}: the stop loss of another webhook (order {entry.client_order_id}) closes the whole position, this entry "
                "included; use one webhook per market to keep them apart"
            )
    return None
