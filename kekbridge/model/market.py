"""Market and account data of the exchange: instruments, marks, positions, and a snapshot of all of them.

Arithmetic on own fields only. Prices and values in USDC, quantities in base units (coins).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType

from msgspec import Struct, field

ZERO = Decimal(0)


class MarginMode(StrEnum):
    CROSS = "CROSS"
    ISOLATED = "ISOLATED"


class Instrument(Struct, frozen=True):
    """Trading rules of one symbol. Source: Orderly `GET /v1/public/info`, docs/internals/orderly.md section 5."""

    #: Such as `PERP_BTC_USDC`.
    symbol: str
    #: Lowest and highest price, and its step, in USDC.
    quote_min: Decimal
    quote_max: Decimal
    quote_tick: Decimal
    #: Smallest and largest quantity, and its step, in base units.
    base_min: Decimal
    base_max: Decimal
    base_tick: Decimal
    #: Smallest order value in USDC.
    min_notional: Decimal
    #: How much worse than the mark a limit price may be (buy above, sell below), as a fraction.
    price_range: Decimal
    #: How much better than the mark it may be, as a fraction.
    price_scope: Decimal
    #: Initial and maintenance margin ratio of a small position, as fractions.
    base_imr: Decimal
    base_mmr: Decimal
    #: Makes the initial margin ratio grow with the notional.
    imr_factor: Decimal
    status: str = "ACTIVE"

    @property
    def base(self) -> str:
        """The base asset as the exchange names it: `PERP_1000PEPE_USDC` -> `1000PEPE`."""
        return self.symbol.split("_")[1]


class Mark(Struct, frozen=True):
    """A mark price."""

    #: In USDC.
    price: Decimal
    #: When it was observed.
    at: datetime


class Position(Struct, frozen=True):
    """A net position of one symbol in one margin mode."""

    symbol: str
    #: In base units, short negative.
    quantity: Decimal
    #: USDC per base unit.
    average_open_price: Decimal
    margin_mode: MarginMode = MarginMode.CROSS
    #: USDC; None while unknown.
    mark_price: Decimal | None = None
    #: USDC, as the exchange reports them.
    cost_position: Decimal = ZERO
    unsettled_pnl: Decimal = ZERO
    #: None: as the account has it.
    leverage: Decimal | None = None
    #: USDC; None if the exchange gives none.
    liquidation_price: Decimal | None = None
    updated_at: datetime | None = None

    @property
    def unrealized_pnl(self) -> Decimal | None:
        """USDC at the mark, without fees and funding; None while no mark is known."""
        if self.mark_price is None:
            return None
        return self.quantity * (self.mark_price - self.average_open_price)


class AccountSnapshot(Struct, frozen=True):
    """The account and its markets at one instant: the only data that translation and risk rules decide from."""

    #: When account data last arrived from the exchange, not when a mark last moved.
    taken_at: datetime
    instruments: Mapping[str, Instrument]
    marks: Mapping[str, Mark]
    #: Cross positions by symbol: what kekbridge trades.
    positions: Mapping[str, Position]
    #: USDC.
    account_value: Decimal
    free_collateral: Decimal
    #: Leverage by symbol, where known.
    leverage: Mapping[str, Decimal] = field(default_factory=lambda: MappingProxyType({}))
    #: The account's maximum leverage; None while unknown.
    max_leverage: Decimal | None = None
    #: Fraction of the notional.
    taker_fee_rate: Decimal = ZERO
    #: By symbol, of the markets with a fee of their own.
    own_taker_fee_rates: Mapping[str, Decimal] = field(default_factory=lambda: MappingProxyType({}))
    #: Isolated positions, and everything else that the trader holds in this account.
    other_positions: tuple[Position, ...] = ()

    def position(self, symbol: str, margin_mode: MarginMode = MarginMode.CROSS) -> Position | None:
        """The position of a symbol in a margin mode; None when flat."""
        if margin_mode is MarginMode.CROSS:
            return self.positions.get(symbol)
        found = (each for each in self.other_positions if (each.symbol, each.margin_mode) == (symbol, margin_mode))
        return next(found, None)

    def position_quantity(self, symbol: str, margin_mode: MarginMode = MarginMode.CROSS) -> Decimal:
        """Signed quantity of the open position, zero when flat."""
        position = self.position(symbol, margin_mode)
        return position.quantity if position else ZERO

    def taker_fee_rate_of(self, symbol: str) -> Decimal:
        """The taker fee of a market, as a fraction of the notional."""
        return self.own_taker_fee_rates.get(symbol, self.taker_fee_rate)

    def open_positions(self) -> tuple[Position, ...]:
        """Every open position, cross ones first, by symbol."""
        cross = sorted(self.positions.values(), key=lambda each: each.symbol)
        others = sorted(self.other_positions, key=lambda each: each.symbol)
        return tuple(each for each in (*cross, *others) if each.quantity)

    def mark_price(self, symbol: str) -> Decimal | None:
        mark = self.marks.get(symbol)
        return mark.price if mark else None
