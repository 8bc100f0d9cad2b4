"""Inputs and results of the risk rules: usage, reservations, commitments, equity marks, verdicts, breaches.

Values only; the rules are in risk/.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from msgspec import Struct, field

from kekbridge.model.market import ZERO
from kekbridge.model.state import TradingState
from kekbridge.model.strategy import StrategyHistory
from kekbridge.model.webhooks import RateLimits


class Verdict(Struct, frozen=True, kw_only=True):
    """What one rule found for one order. Stored whether it passed or not, for `explain`."""

    #: The rule's code (codes.py).
    rule: str
    #: Whose limit: `webhook`, `account` or `exchange`.
    scope: str
    passed: bool
    #: The value found and the limit, as text with their units.
    found: str
    limit: str
    #: One line for the trader; empty if it passed.
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


class Reservation(Struct, frozen=True, kw_only=True):
    """Room in the limits that an unfinished order holds."""

    client_order_id: str
    webhook_id: str
    symbol: str
    #: What may still trade, in base units, sell negative.
    quantity: Decimal
    #: Its value in USDC.
    notional: Decimal
    is_entry: bool
    #: It can rest at the exchange, so it may never trade.
    is_resting: bool
    #: The exchange has it and reserves its margin already.
    is_margined: bool = False

    @property
    def price(self) -> Decimal:
        """USDC per base unit; zero if nothing is left to trade."""
        return abs(self.notional / self.quantity) if self.quantity else ZERO


class SideTotals(Struct, frozen=True):
    """What the orders of one symbol may still trade, by side and purpose."""

    #: Base units, unsigned.
    entry_buys: Decimal = ZERO
    entry_sells: Decimal = ZERO
    exit_buys: Decimal = ZERO
    exit_sells: Decimal = ZERO

    def plus(self, quantity: Decimal, *, is_entry: bool) -> SideTotals:
        """These totals with a signed `quantity` added."""
        if is_entry:
            if quantity > 0:
                return SideTotals(self.entry_buys + quantity, self.entry_sells, self.exit_buys, self.exit_sells)
            return SideTotals(self.entry_buys, self.entry_sells - quantity, self.exit_buys, self.exit_sells)
        if quantity > 0:
            return SideTotals(self.entry_buys, self.entry_sells, self.exit_buys + quantity, self.exit_sells)
        return SideTotals(self.entry_buys, self.entry_sells, self.exit_buys, self.exit_sells - quantity)


class Commitment(Struct, frozen=True):
    """The reservations of one symbol, added up: everything that the rules need to know of them."""

    #: All of them.
    open: SideTotals = SideTotals()
    #: Those whose margin the exchange reserves already.
    margined: SideTotals = SideTotals()
    #: Signed quantity in base units that will trade, because it cannot rest.
    sure: Decimal = ZERO
    #: An entry is among them.
    has_entry: bool = False
    #: An entry whose margin the exchange does not reserve yet is among them.
    has_new_entry: bool = False
    #: The highest price that one of them is valued at, in USDC; zero if unknown.
    price: Decimal = ZERO

    def plus(
        self, quantity: Decimal, *, is_entry: bool, is_resting: bool, is_margined: bool, price: Decimal
    ) -> Commitment:
        """With one more order, or with the summed quantity of several orders of one kind and side."""
        return Commitment(
            self.open.plus(quantity, is_entry=is_entry),
            self.margined.plus(quantity, is_entry=is_entry) if is_margined else self.margined,
            self.sure if is_resting else self.sure + quantity,
            self.has_entry or is_entry,
            self.has_new_entry or (is_entry and not is_margined),
            max(self.price, price),
        )


UNCOMMITTED: Final = Commitment()


class RateExcess(Struct, frozen=True, kw_only=True):
    """A full window of a rate limit: no further entry is allowed now."""

    #: Seconds until there is room again.
    retry_after_s: int
    #: It is the limit over all webhooks, not the webhook's own.
    is_of_account: bool
    #: The limits that it belongs to.
    rates: RateLimits

    @property
    def numbers(self) -> str:
        """The limits in words."""
        rates = self.rates
        return f"{rates.per_minute} a minute, {rates.per_hour} an hour, {rates.per_day} a day"

    def describe(self) -> str:
        """One line for the trader: what is full, and what to do."""
        if self.is_of_account:
            return (
                f"more entries than all webhooks together are allowed ({self.numbers}); wait {self.retry_after_s} s, or raise"
                " risk.rate_per_minute, rate_per_hour or rate_per_day in the settings"
            )
        return (
            f"more entries than the webhook allows ({self.numbers}); wait {self.retry_after_s} s, or raise --rate-per-minute,"
            " --rate-per-hour or --rate-per-day"
        )


class Usage(Struct, frozen=True, kw_only=True):
    """How much of every limit is used, read in the same transaction that will add to it. Days are UTC."""

    #: When it was read.
    now: datetime
    #: The stricter of the account's and the webhook's.
    trading_state: TradingState = TradingState.RUNNING
    #: Why it is not running, and until when.
    trading_reason: str = ""
    #: Whose state it is: `account` or `webhook`.
    trading_scope: str = "account"
    #: Queued orders of the account.
    waiting_orders: int = 0
    #: The rate limit of entries that is full; None while there is room, and when a queued order is rechecked.
    rate_excess: RateExcess | None = None
    #: Today's traded and reserved value in USDC, and entries: of the webhook, then of the account.
    traded_today: Decimal = ZERO
    orders_today: int = 0
    account_traded_today: Decimal = ZERO
    account_orders_today: int = 0
    #: What the account's open orders hold, by symbol.
    commitments: Mapping[str, Commitment] = field(default_factory=dict)
    #: Those of a few symbols in place of the ones in `commitments`: with the earlier orders of the same alert, or without the order that
    #: is rechecked.
    changed_commitments: Mapping[str, Commitment] = field(default_factory=dict)
    #: The webhook's last entry by symbol, as far back as its cool-down.
    last_entry_at: Mapping[str, datetime] = field(default_factory=dict)
    #: Today's realized P&L in USDC after funding, before fees: of the webhook, then of the account.
    realized_today: Decimal = ZERO
    account_realized_today: Decimal = ZERO
    #: USDC; None before the first mark.
    equity_peak: Decimal | None = None
    #: By symbol: the steps that the webhook's strategy has reported.
    strategy_histories: Mapping[str, StrategyHistory] = field(default_factory=dict)

    def commitment(self, symbol: str) -> Commitment:
        """What the account's open orders in one symbol hold."""
        changed = self.changed_commitments.get(symbol)
        return self.commitments.get(symbol, UNCOMMITTED) if changed is None else changed

    def pending(self, symbol: str) -> Decimal:
        """Signed quantity in base units of our orders in flight that are certain to trade; resting orders are left out."""
        return self.commitment(symbol).sure


class Flow(Struct, frozen=True):
    """A deposit or withdrawal: changes equity, but is neither profit nor loss."""

    #: When it was booked.
    at: datetime
    #: USDC, withdrawals negative.
    amount: Decimal


class EquityMark(Struct, frozen=True):
    """The account's equity at one time."""

    #: When the account was read.
    at: datetime
    #: Account value in USDC.
    value: Decimal
    #: Deposits minus withdrawals since the previous mark, in USDC.
    flow: Decimal
    #: Equity peak as of this mark, in USDC.
    peak: Decimal


class LimitBreach(Struct, frozen=True, kw_only=True):
    """A limit that was hit and closes a scope for entries."""

    #: `webhook` or `account`.
    scope: str
    rule: str
    #: One line for the trader.
    reason: str
    #: When entries are allowed again; None: when the trader resumes.
    until: datetime | None
