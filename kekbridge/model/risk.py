"""What the rules look at and what they say: verdicts, room taken from the limits, the account's marks, tripped limits.

Values only; the rules themselves are in risk/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from kekbridge.model.market import ZERO
from kekbridge.model.state import TradingState
from kekbridge.model.strategy import StrategyHistory


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

    @property
    def price(self) -> Decimal:
        """What a coin of it was valued at, in USDC; zero when nothing is left of it."""
        return abs(self.notional / self.quantity) if self.quantity else ZERO


@dataclass(frozen=True, slots=True)
class SideTotals:
    """What orders of one symbol may still trade, in base units without sign, by side and purpose."""

    entry_buys: Decimal = ZERO
    entry_sells: Decimal = ZERO
    exit_buys: Decimal = ZERO
    exit_sells: Decimal = ZERO

    def plus(self, quantity: Decimal, *, is_entry: bool) -> SideTotals:
        """With a signed `quantity` more."""
        if is_entry:
            if quantity > 0:
                return SideTotals(self.entry_buys + quantity, self.entry_sells, self.exit_buys, self.exit_sells)
            return SideTotals(self.entry_buys, self.entry_sells - quantity, self.exit_buys, self.exit_sells)
        if quantity > 0:
            return SideTotals(self.entry_buys, self.entry_sells, self.exit_buys + quantity, self.exit_sells)
        return SideTotals(self.entry_buys, self.entry_sells, self.exit_buys, self.exit_sells - quantity)


@dataclass(frozen=True, slots=True)
class Commitment:
    """The reservations of one symbol, added up: all that any rule asks of them, however many there are.

    `sure`: signed quantity that will trade, because it rests nowhere. `has_entry`: whether an entry is among them, `has_new_entry`: one
    whose margin the exchange does not hold back yet. `price`: the highest that one of them was valued at, zero when unknown.
    """

    open: SideTotals = SideTotals()
    margined: SideTotals = SideTotals()
    sure: Decimal = ZERO
    has_entry: bool = False
    has_new_entry: bool = False
    price: Decimal = ZERO

    def plus(
        self, quantity: Decimal, *, is_entry: bool, is_resting: bool, is_margined: bool, price: Decimal
    ) -> Commitment:
        """With an order more, or with several of one kind and side whose quantities are added up already."""
        return Commitment(
            self.open.plus(quantity, is_entry=is_entry),
            self.margined.plus(quantity, is_entry=is_entry) if is_margined else self.margined,
            self.sure if is_resting else self.sure + quantity,
            self.has_entry or is_entry,
            self.has_new_entry or (is_entry and not is_margined),
            max(self.price, price),
        )

    def with_reservation(self, one: Reservation) -> Commitment:
        return self.plus(
            one.quantity,
            is_entry=one.is_entry,
            is_resting=one.is_resting,
            is_margined=one.is_margined,
            price=one.price,
        )


UNCOMMITTED: Final = Commitment()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How much of every limit is used, read in the same transaction that will add to it.

    Rate counts are of the alert's own class (entries or exits). `orders_today` and `traded_today` are per UTC day,
    for this webhook and for the whole account. `commitments`: what the account's open orders hold, by symbol. `courses`: what the strategy
    behind the webhook told so far, by symbol.
    """

    now: datetime
    trading_state: TradingState = TradingState.RUNNING
    trading_reason: str = ""  # why it is not running, and until when
    waiting_orders: int = 0
    traded_today: Decimal = ZERO
    orders_today: int = 0
    account_traded_today: Decimal = ZERO
    account_orders_today: int = 0
    commitments: Mapping[str, Commitment] = field(default_factory=dict)
    last_entry_at: Mapping[str, datetime] = field(default_factory=dict)
    realized_today: Decimal = ZERO
    account_realized_today: Decimal = ZERO
    equity_peak: Decimal | None = None
    strategy_histories: Mapping[str, StrategyHistory] = field(default_factory=dict)


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
class LimitBreach:
    """A limit that closes a scope (`webhook` or `account`) for entries; `until` None: until somebody resumes."""

    scope: str
    rule: str
    reason: str
    until: datetime | None
