"""What an alert says, once it is read: the Signal, a frozen value with the trader's words and exact numbers.

payload.py makes it from the body, translate.py turns it into order intents. Nothing here knows the account or the market.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from kekbridge.model import OrderType


class Action(StrEnum):
    BUY = "buy"
    SELL = "sell"
    CLOSE = "close"
    FLIP = "flip"
    CANCEL = "cancel"
    PING = "ping"


class QuantityType(StrEnum):
    """What a quantity counts. `percent_equity` is a share of the account value as notional, `risk_percent` the loss at the stop."""

    BASE = "base"
    USD = "usd"
    PERCENT_EQUITY = "percent_equity"
    PERCENT_POSITION = "percent_position"
    RISK_PERCENT = "risk_percent"


class PositionSide(StrEnum):
    LONG = "long"
    SHORT = "short"
    FLAT = "flat"


@dataclass(frozen=True, slots=True)
class Amount:
    """A number that was written plainly or with a percent sign; `"25%"` has value 25 and is_percent True."""

    value: Decimal
    is_percent: bool = False


@dataclass(frozen=True, slots=True)
class TakeProfitSpec:
    """One take-profit as written: where, and which share of the entry (percent; None = what is left, evenly)."""

    level: Amount
    share: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPosition:
    """What a strategy says of its own position: after the fill (`side`, `size`) and before it. Sizes are absolute."""

    side: PositionSide
    size: Decimal
    previous_side: PositionSide | None = None
    previous_size: Decimal | None = None

    @property
    def signed(self) -> Decimal:
        return -self.size if self.side is PositionSide.SHORT else self.size

    @property
    def previous_signed(self) -> Decimal | None:
        if self.previous_side is None or self.previous_size is None:
            return None
        return -self.previous_size if self.previous_side is PositionSide.SHORT else self.previous_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One step of an alert. Optional fields are None when absent; the symbol is still the sender's spelling."""

    action: Action
    symbol: str | None
    exchange: str | None = None
    quantity: Amount | None = None
    quantity_type: QuantityType | None = None
    order_type: OrderType = OrderType.MARKET
    price: Decimal | None = None
    limit_price: Decimal | None = None
    trigger_price: Decimal | None = None
    stop_loss: Amount | None = None
    take_profits: tuple[TakeProfitSpec, ...] = ()
    trailing_stop: Amount | None = None
    reduce_only: bool = False
    leverage: Decimal | None = None
    slippage: Decimal | None = None  # fraction
    target: TargetPosition | None = None
    comment: str | None = None
    cancel_all: bool = False
    # The strategy turned around and `quantity` is the trader's own size: the other side is closed first, then this much is opened.
    is_reversal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A whole message: its identity, when it fired, and its steps in order (usually one)."""

    alert_id: str | None
    fired_at: datetime | None
    steps: tuple[Signal, ...]
    redacted: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
