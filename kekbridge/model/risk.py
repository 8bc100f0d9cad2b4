"""What the rules look at and what they say: verdicts, room taken from the limits, the account's marks, tripped limits.

Values only; the rules themselves are in risk/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from kekbridge.model.market import ZERO
from kekbridge.model.state import TradingState
from kekbridge.model.strategy import StrategyCourse


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one rule said of one order: stored whether it passed or not, so that `explain` can tell the whole story."""

    rule: str
    scope: str  # "webhook", "account" or "exchange"
    passed: bool
    found: str
    limit: str
    message: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "scope": self.scope,
            "passed": self.passed,
            "found": self.found,
            "limit": self.limit,
            "message": self.message,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Room taken from the limits by an order of ours that is not final yet; quantity signed, notional in USDC.

    `is_resting`: it can wait at the exchange, so nobody knows whether it will trade.
    `is_margined`: the exchange has it and holds its margin back already.
    """

    client_order_id: str
    webhook_id: str
    symbol: str
    quantity: Decimal
    notional: Decimal
    is_entry: bool
    is_resting: bool
    is_margined: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How much of every limit is used, read in the same transaction that will add to it.

    Rate counts are of the alert's own class (entries or exits). `orders_today` and `traded_today` are per UTC day,
    for this webhook and for the whole account. `courses`: what the strategy behind the webhook told so far, by symbol.
    """

    now: datetime
    trading_state: TradingState = TradingState.RUNNING
    trading_reason: str = ""  # why it is not running, and until when
    waiting_orders: int = 0
    traded_today: Decimal = ZERO
    orders_today: int = 0
    account_traded_today: Decimal = ZERO
    account_orders_today: int = 0
    reservations: tuple[Reservation, ...] = ()
    last_entry_at: Mapping[str, datetime] = field(default_factory=dict)
    realized_today: Decimal = ZERO
    account_realized_today: Decimal = ZERO
    equity_peak: Decimal | None = None
    courses: Mapping[str, StrategyCourse] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Flow:
    """Money that came into the account (positive) or went out, in USDC: no profit and no loss."""

    at: datetime
    amount: Decimal


@dataclass(frozen=True, slots=True)
class EquityMark:
    """The account's value in USDC at one moment, what flowed in or out since the mark before, and the peak as of then."""

    at: datetime
    value: Decimal
    flow: Decimal
    peak: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """A limit that closes a scope (`webhook` or `account`) for entries; `until` None: until somebody resumes."""

    scope: str
    rule: str
    reason: str
    until: datetime | None
