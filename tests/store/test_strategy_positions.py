"""A strategy's history is stored with its alert, and deleted with its webhook."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from decimal import Decimal

from kekbridge.execution.book import Book
from kekbridge.model import StrategyHistory, StrategyStep, WebhookSettings
from kekbridge.store import facts, projector, strategy_positions, webhooks
from tests.store.factories import NOW, admitting, new_alert
from tests.stored import store_alert

BTC = "PERP_BTC_USDC"
COURSE = StrategyHistory(
    start=None,
    steps=(
        StrategyStep(fired_at=NOW, before=Decimal("0.1"), now=Decimal(-2)),
        StrategyStep(fired_at=NOW + timedelta(milliseconds=5), before=None, now=Decimal(0)),
    ),
)


def test_history_is_stored_exactly_and_by_webhook(connection: sqlite3.Connection, book: Book) -> None:
    """What was stored with an alert is read back to the last digit, for its webhook only; the newest replaces the one before."""
    store_alert(book, decide=admitting(strategy_histories=((BTC, COURSE),)))
    assert strategy_positions.read_all(connection) == {"hook": {BTC: COURSE}}
    later = StrategyHistory(start=Decimal("0.50"), steps=COURSE.steps[:1])
    store_alert(book, decide=admitting(strategy_histories=((BTC, later), ("PERP_ETH_USDC", COURSE))))
    store_alert(book, new_alert(webhook_id="other"), admitting(strategy_histories=((BTC, COURSE),)))
    assert strategy_positions.read_all(connection) == {
        "hook": {BTC: later, "PERP_ETH_USDC": COURSE},
        "other": {BTC: COURSE},
    }


def test_histories_of_a_deleted_webhook_are_removed(connection: sqlite3.Connection, book: Book) -> None:
    """Deleted by a command or rebuilt from the journal's row: a webhook's history does not outlive it, another's stays."""
    webhooks.create(connection, webhook_id="hook", name="main", settings=WebhookSettings(), now=NOW)
    for webhook_id in ("hook", "third", "other"):
        alert = new_alert(webhook_id=webhook_id)
        store_alert(book, alert, admitting(strategy_histories=((BTC, COURSE),)))
    webhooks.delete(connection, "hook", now=NOW)
    projector.record(connection, facts.plain_entry("webhook_deleted", at=NOW, data={"webhook_id": "third"}))
    assert strategy_positions.read_all(connection) == {"other": {BTC: COURSE}}
