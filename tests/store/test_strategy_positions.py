"""A strategy's course is stored with its alert, read with the usage, and forgotten with its webhook."""

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


def test_a_course_is_kept_exactly_and_by_webhook(connection: sqlite3.Connection) -> None:
    """What was decided with an alert is what the next decision of the same webhook sees; another webhook sees nothing of it."""
    decide = admitting(courses=((BTC, COURSE),))
    admit(connection, new_alert(), decide, rates=NO_RATES, now=NOW, expires_at=EXPIRES)
    assert read_usage(connection, "hook", now=NOW).strategy_histories == {BTC: COURSE}
    assert not read_usage(connection, "other", now=NOW).strategy_histories


def test_the_newest_course_replaces_the_one_before(connection: sqlite3.Connection) -> None:
    """One row a webhook and symbol."""
    strategy_positions.save(connection, "hook", [(BTC, COURSE)], now=NOW)
    later = StrategyHistory(start=Decimal("0.5"), steps=COURSE.steps[:1])
    strategy_positions.save(connection, "hook", [(BTC, later)], now=NOW)
    assert strategy_positions.of_webhook(connection, "hook") == {BTC: later}


def test_a_dry_run_leaves_no_course(connection: sqlite3.Connection) -> None:
    """What is only looked at has not happened to the strategy."""
    preview(connection, new_alert(), admitting(courses=((BTC, COURSE),)), rates=NO_RATES, now=NOW)
    assert not strategy_positions.of_webhook(connection, "hook")
