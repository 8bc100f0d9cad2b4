"""A strategy's history is stored with its alert, read with the usage, and deleted with its webhook."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from decimal import Decimal

from kekbridge.model import StrategyHistory, StrategyStep
from kekbridge.store import strategy_positions
from kekbridge.store.admissions import admit, preview
from kekbridge.store.reservations import read_usage
from tests.store.factories import EXPIRES, NO_RATES, NOW, admitting, new_alert

BTC = "PERP_BTC_USDC"
COURSE = StrategyHistory(
    start=None,
    steps=(
        StrategyStep(fired_at=NOW, before=Decimal("0.1"), now=Decimal(-2)),
        StrategyStep(fired_at=NOW + timedelta(milliseconds=5), before=None, now=Decimal(0)),
    ),
)


def test_history_is_stored_exactly_and_by_webhook(connection: sqlite3.Connection) -> None:
    """The next decision of the same webhook sees what was stored with an alert; another webhook does not."""
    decide = admitting(strategy_histories=((BTC, COURSE),))
    admit(connection, new_alert(), decide, rates=NO_RATES, now=NOW, expires_at=EXPIRES)
    assert read_usage(connection, "hook", now=NOW).strategy_histories == {BTC: COURSE}
    assert not read_usage(connection, "other", now=NOW).strategy_histories


def test_newest_history_replaces_the_previous_one(connection: sqlite3.Connection) -> None:
    """One row per webhook and symbol."""
    strategy_positions.save(connection, "hook", [(BTC, COURSE)], now=NOW)
    later = StrategyHistory(start=Decimal("0.5"), steps=COURSE.steps[:1])
    strategy_positions.save(connection, "hook", [(BTC, later)], now=NOW)
    assert strategy_positions.of_webhook(connection, "hook") == {BTC: later}


def test_dry_run_stores_no_history(connection: sqlite3.Connection) -> None:
    """A preview has not happened to the strategy."""
    preview(connection, new_alert(), admitting(strategy_histories=((BTC, COURSE),)), rates=NO_RATES, now=NOW)
    assert not strategy_positions.of_webhook(connection, "hook")
