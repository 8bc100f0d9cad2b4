"""A strategy's own position as its alerts report it, step by step.

Values only: planning/strategy_position.py uses them to decide which message of a webhook in position mode is the newest.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from msgspec import Struct


class StrategyStep(Struct, frozen=True, kw_only=True):
    """One fill of a strategy."""

    #: When the alert fired.
    fired_at: datetime
    #: Position before and after it in the strategy's own contracts, short negative. `before` None: the alert did not give it.
    before: Decimal | None
    now: Decimal


class StrategyHistory(Struct, frozen=True, kw_only=True):
    """The last steps of one webhook in one symbol."""

    #: Position before the first of these steps, in contracts, short negative; None if unknown.
    start: Decimal | None
    #: In order of arrival.
    steps: tuple[StrategyStep, ...]
