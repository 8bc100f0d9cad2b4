"""What is known of the exchange: instruments, marks, positions, and the account with all of them at one instant.

Arithmetic on own fields only. Prices and values in USDC, quantities in base units (coins), signed where a position is meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType

ZERO = Decimal(0)


class MarginMode(StrEnum):
    CROSS = "CROSS"
    ISOLATED = "ISOLATED"


@dataclass(frozen=True, slots=True)
class Instrument:
    """Trading rules of one symbol. Source: Orderly `GET /v1/public/info`, docs/internals/orderly.md section 5."""

    symbol: str
    quote_min: Decimal
    quote_max: Decimal
    quote_tick: Decimal
    base_min: Decimal
    base_max: Decimal
    base_tick: Decimal
    min_notional: Decimal
    price_range: Decimal
    price_scope: Decimal
    base_imr: Decimal
    base_mmr: Decimal
    imr_factor: Decimal
    status: str = "ACTIVE"

    @property
    def base(self) -> str:
        """The base asset as the exchange names it: `PERP_1000PEPE_USDC` -> `1000PEPE`."""
        return self.symbol.split("_")[1]


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark price and when it was observed."""

    price: Decimal
    at: datetime


@dataclass(frozen=True, slots=True)
class Position:
    """A net position of one symbol in one margin mode; `quantity` is signed, short negative."""

    symbol: str
    quantity: Decimal
    average_open_price: Decimal
    margin_mode: MarginMode = MarginMode.CROSS
    mark_price: Decimal | None = None
    cost_position: Decimal = ZERO
    unsettled_pnl: Decimal = ZERO
    leverage: Decimal | None = None
    liquidation_price: Decimal | None = None
    updated_at: datetime | None = None

    @property
    def unrealized_pnl(self) -> Decimal | None:
        """USDC won or lost at the mark, fees and funding not included; None while no mark is known."""
        if self.mark_price is None:
            return None
        return self.quantity * (self.mark_price - self.average_open_price)


@dataclass(frozen=True, slots=True)
class AccountSnapshot:
    """The account and its markets at one instant: the only picture that translate and risk decide from.

    `positions` holds cross positions by symbol (what kekbridge trades); isolated ones, and anything else the trader holds there, are
    in `other_positions`. `taken_at` is when the exchange was last heard about the account, not when a mark last moved.
    """

    taken_at: datetime
    instruments: Mapping[str, Instrument]
    marks: Mapping[str, Mark]
    positions: Mapping[str, Position]
    account_value: Decimal
    free_collateral: Decimal
    leverage: Mapping[str, Decimal] = field(default_factory=lambda: MappingProxyType({}))
    max_leverage: Decimal | None = None
    taker_fee_rate: Decimal = ZERO
    other_positions: tuple[Position, ...] = ()

    def position_quantity(self, symbol: str) -> Decimal:
        """Signed quantity of the open cross position, zero when flat."""
        position = self.positions.get(symbol)
        return position.quantity if position else ZERO

    def mark_price(self, symbol: str) -> Decimal | None:
        mark = self.marks.get(symbol)
        return mark.price if mark else None
