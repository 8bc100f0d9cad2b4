"""Money arithmetic of orderly-api.md section 10, pure: margin rates, position bookkeeping, liquidation price.

Prices and amounts in USDC, quantities in base units, positions signed. Sums are exact Decimals; only
quotients (averages, ratios) are rounded, and only for display.
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
    """An amount at the precision of the ledger: 6 decimals."""
    return amount.quantize(_USDC, rounding=ROUND_HALF_UP)


def rounded(value: Decimal) -> Decimal:
    """A quotient as answers show it: 8 decimals."""
    return value.quantize(_DISPLAY, rounding=ROUND_HALF_UP)


def trading_fee(price: Decimal, quantity: Decimal, rate_bps: Decimal) -> Decimal:
    """Trading fee in USDC; the rate is in basis points, positive = paid."""
    return round_usdc(price * quantity * rate_bps / 10_000)


def initial_margin_rate(instrument: PaperInstrument, leverage: int, notional: Decimal) -> Decimal:
    """IMR: max(1/leverage, base_imr, imr_factor × notional^0.8)."""
    rate = max(ONE / leverage, instrument.base_imr)
    return _tiered_rate(rate, instrument.imr_factor, notional)


def maintenance_margin_rate(instrument: PaperInstrument, notional: Decimal) -> Decimal:
    """MMR: max(base_mmr, base_mmr/base_imr × imr_factor × notional^0.8)."""
    scale = instrument.base_mmr / instrument.base_imr * instrument.imr_factor
    return _tiered_rate(instrument.base_mmr, scale, notional)


def _tiered_rate(rate: Decimal, factor: Decimal, notional: Decimal) -> Decimal:
    """max(rate, factor × notional^0.8); the power, which is slow, only where it can win."""
    return rate if notional <= _threshold_notional(rate, factor) else max(rate, factor * notional**_POWER)


@lru_cache(maxsize=4096)
def _threshold_notional(rate: Decimal, factor: Decimal) -> Decimal:
    """The notional at which factor × notional^0.8 reaches the rate."""
    return (rate / factor) ** _INVERSE_POWER


def max_notional(instrument: PaperInstrument, leverage: int) -> Decimal:
    """Largest notional a leverage allows: (1/(leverage × imr_factor))^(1/0.8)."""
    return _threshold_notional(ONE / leverage, instrument.imr_factor)


def max_leverage(instrument: PaperInstrument, notional: Decimal, ceiling: int) -> int:
    """Highest leverage for a position of this notional: floor(min(1/(imr_factor·n^0.8), 1/base_imr))."""
    limit = ONE / instrument.base_imr
    if notional:
        limit = min(limit, ONE / (instrument.imr_factor * notional**_POWER))
    return min(int(limit), ceiling)


def accrued_funding(position: PaperPosition, funding_sum: Decimal) -> Decimal:
    """Funding owed since the position was last touched; positive = paid by the position."""
    return position.qty * (funding_sum - position.last_funding)


def unsettled_pnl(position: PaperPosition, mark: Decimal, funding_sum: Decimal) -> Decimal:
    """Unrealised + realised − fees − funding since the last settlement."""
    return position.qty * mark - position.cost - accrued_funding(position, funding_sum)


def charge_funding(position: PaperPosition, funding_sum: Decimal) -> Decimal:
    """Move accrued funding into the cost (the ledger does so before every change); return the amount."""
    owed = accrued_funding(position, funding_sum)
    position.cost += owed
    position.funding += owed
    position.last_funding = funding_sum
    return owed


def apply_fill(
    position: PaperPosition, quantity: Decimal, price: Decimal, fee: Decimal, funding_sum: Decimal
) -> Decimal:
    """Book a signed fill into the position and return its realised PnL (fee not included)."""
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
    """est_liq_price of one position; `need` is Σ notional × MMR of everything that shares the collateral."""
    divisor = abs(qty) * rate - qty
    if divisor == 0:
        return ZERO
    return max(mark + (collateral - need) / divisor, ZERO)


@dataclass(frozen=True, slots=True)
class MarginSummary:
    """Where the cross account stands; all USDC, ratios as fractions."""

    balance: Decimal
    collateral: Decimal
    account_value: Decimal
    free: Decimal
    notional: Decimal
    notional_with_orders: Decimal
    initial: Decimal
    initial_with_orders: Decimal
    maintenance: Decimal
    maintenance_with_orders: Decimal
    isolated: Decimal
    isolated_frozen: Decimal

    @property
    def ratio(self) -> Decimal:
        """Collateral over notional; 10 without a position (orderly-api.md section 10)."""
        return self.collateral / self.notional if self.notional else NO_POSITION_RATIO

    @property
    def ratio_with_orders(self) -> Decimal:
        """The same with open orders counted."""
        if not self.notional_with_orders:
            return NO_POSITION_RATIO
        return self.collateral / self.notional_with_orders

    @property
    def must_liquidate(self) -> bool:
        """The margin ratio is below the weighted maintenance margin ratio."""
        return self.notional > 0 and self.collateral < self.maintenance
