"""What a strategy told of its own position, step by step: how a webhook that follows it knows which message is the newest.

Values only; planning/strategy_position.py derives their order. Sizes are the strategy's own contracts, signed, short negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyStep:
    """One fill of a strategy: its position before (None: the alert did not say) and after it, and when the alert fired."""

    fired_at: datetime
    before: Decimal | None
    now: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyHistory:
    """The last steps of one webhook in one market, in the order of their arrival; `start` is where the first of them began, if known."""

    start: Decimal | None
    steps: tuple[StrategyStep, ...]
