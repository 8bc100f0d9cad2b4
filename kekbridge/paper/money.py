"""Money arithmetic: margin rates, position bookkeeping, funding, liquidation price. Pure.

See docs/internals/orderly.md, section 10. Prices and amounts are in USDC, quantities in base units, positions are
signed. Sums are exact Decimals; only quotients (averages, ratios) are rounded, and only for display.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Final

from kekbridge.paper.instruments import PaperInstrument
from kekbridge.paper.models import ZERO, PaperPosition

ONE: Final = Decimal(1)
_POWER: Final = Decimal("0.8")
_INVERSE_POWER: Final = Decimal("1.25")
_USDC: Final = Decimal("0.000001")
_DISPLAY: Final = Decimal("0.00000001")
NO_POSITION_RATIO: Final = Decimal(10)


def round_usdc(amount: Decimal) -> Decimal:
    """Round a USDC amount to 6 decimals, the precision of USDC."""
    return amount.quantize(_USDC, rounding=ROUND_HALF_UP)


def rounded(value: Decimal) -> Decimal:
    """Round a quotient to 8 decimals, as responses show it."""
    return value.quantize(_DISPLAY, rounding=ROUND_HALF_UP)


def trading_fee(price: Decimal, quantity: Decimal, rate_bps: Decimal) -> Decimal:
    """Return the trading fee in USDC; the rate is in basis points; positive: paid."""
    return round_usdc(price * quantity * rate_bps / 10_000)


def initial_margin_rate(instrument: PaperInstrument, leverage: int, notional: Decimal) -> Decimal:
    """Return the initial margin rate: max(1/leverage, base_imr, imr_factor × notional^0.8)."""
    rate = max(ONE / leverage, instrument.base_imr)
    return _tiered_rate(rate, instrument.imr_factor, notional)


def maintenance_margin_rate(instrument: PaperInstrument, notional: Decimal) -> Decimal:
    """Return the maintenance margin rate: max(base_mmr, base_mmr/base_imr × imr_factor × notional^0.8)."""
    scale = instrument.base_mmr / instrument.base_imr * instrument.imr_factor
    return _tiered_rate(instrument.base_mmr, scale, notional)


def _tiered_rate(rate: Decimal, factor: Decimal, notional: Decimal) -> Decimal:
    """Return max(rate, factor × notional^0.8), computing the slow power only where it is the larger one."""
    return rate if notional <= _threshold_notional(rate, factor) else max(rate, factor * notional**_POWER)


@lru_cache(maxsize=4096)
def _threshold_notional(rate: Decimal, factor: Decimal) -> Decimal:
    """Return the notional at which factor × notional^0.8 reaches the rate."""
    return (rate / factor) ** _INVERSE_POWER


def max_notional(instrument: PaperInstrument, leverage: int) -> Decimal:
    """Return the largest notional in USDC at a leverage: (1/(leverage × imr_factor))^(1/0.8)."""
    return _threshold_notional(ONE / leverage, instrument.imr_factor)


def max_leverage(instrument: PaperInstrument, notional: Decimal, ceiling: int) -> int:
    """Return the highest leverage at a notional: floor(min(1/(imr_factor × notional^0.8), 1/base_imr, ceiling))."""
    limit = ONE / instrument.base_imr
    if notional:
        limit = min(limit, ONE / (instrument.imr_factor * notional**_POWER))
    return min(int(limit), ceiling)


def accrued_funding(position: PaperPosition, funding_sum: Decimal) -> Decimal:
    """Return the funding since the last charge in USDC; positive: paid by the position."""
    return position.qty * (funding_sum - position.last_funding)


def unsettled_pnl(position: PaperPosition, mark: Decimal, funding_sum: Decimal) -> Decimal:
    """Return unrealized + realized PnL − fees − funding since the last settlement, in USDC."""
    return position.qty * mark - position.cost - accrued_funding(position, funding_sum)


def charge_funding(position: PaperPosition, funding_sum: Decimal) -> Decimal:
    """Add the accrued funding to the cost, as Orderly does before every change; return the amount in USDC."""
    owed = accrued_funding(position, funding_sum)
    position.cost += owed
    position.funding += owed
    position.last_funding = funding_sum
    return owed


def apply_fill(
    position: PaperPosition, quantity: Decimal, price: Decimal, fee: Decimal, funding_sum: Decimal
) -> Decimal:
    """Apply a signed fill to a position and return its realized PnL in USDC, before the fee."""
    charge_funding(position, funding_sum)
    before = position.qty
    after = before + quantity
    realized = ZERO
    if before == 0 or (before > 0) == (quantity > 0):
        position.average = (before * position.average + quantity * price) / after
    else:
        closed = min(abs(quantity), abs(before))
        realized = closed * (price - position.average) * (1 if before > 0 else -1)
        if after == 0:
            position.average = ZERO
        elif (after > 0) != (before > 0):
            position.average = price
    position.qty = after
    position.cost += quantity * price + fee
    position.fees += fee
    position.realized += realized
    return realized


def liquidation_price(mark: Decimal, qty: Decimal, rate: Decimal, collateral: Decimal, need: Decimal) -> Decimal:
    """Return the estimated liquidation price in USDC.

    `need` is the sum of notional × maintenance margin rate of all positions that share the collateral.
    """
    divisor = abs(qty) * rate - qty
    if divisor == 0:
        return ZERO
    return max(mark + (collateral - need) / divisor, ZERO)


@dataclass(frozen=True, slots=True)
class MarginSummary:
    """Margin totals of the account in USDC; "with orders" counts open orders as filled."""

    #: Settled balance.
    balance: Decimal
    #: Balance plus unsettled PnL of cross positions, without isolated margin.
    collateral: Decimal
    #: Balance plus unsettled PnL of all positions.
    account_value: Decimal
    #: Collateral that is not needed as initial margin.
    free: Decimal
    #: Notional of the cross positions.
    notional: Decimal
    #: Notional of the cross positions with orders.
    notional_with_orders: Decimal
    #: Initial margin of the cross positions.
    initial: Decimal
    #: Initial margin with orders.
    initial_with_orders: Decimal
    #: Maintenance margin of the cross positions.
    maintenance: Decimal
    #: Maintenance margin with orders.
    maintenance_with_orders: Decimal
    #: Margin of the isolated positions.
    isolated: Decimal
    #: Margin held for isolated orders.
    isolated_frozen: Decimal

    @property
    def ratio(self) -> Decimal:
        """Collateral / notional; Orderly reports 10 without a position."""
        return self.collateral / self.notional if self.notional else NO_POSITION_RATIO

    @property
    def ratio_with_orders(self) -> Decimal:
        """Collateral / notional with open orders; 10 without either."""
        if not self.notional_with_orders:
            return NO_POSITION_RATIO
        return self.collateral / self.notional_with_orders

    @property
    def must_liquidate(self) -> bool:
        """Whether the collateral is below the maintenance margin."""
        return self.notional > 0 and self.collateral < self.maintenance
