"""The result of reading an alert: an Alert with its Signals, frozen values with exact numbers.

fields.py and message.py create them, planning/translate.py turns a Signal into orders. Must not know the account or the market.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from msgspec import Struct, field

from kekbridge.model import OrderType


class Action(StrEnum):
    BUY = "buy"
    SELL = "sell"
    ADD = "add"
    CLOSE = "close"
    FLIP = "flip"
    CANCEL = "cancel"
    PING = "ping"


class QuantityType(StrEnum):
    """Unit of a quantity. `percent_equity` is a share of the account value as notional, the risk types are the loss at the stop."""

    BASE = "base"
    USD = "usd"
    PERCENT_EQUITY = "percent_equity"
    PERCENT_POSITION = "percent_position"
    RISK_PERCENT = "risk_percent"
    RISK_USD = "risk_usd"

    @property
    def is_risk(self) -> bool:
        """Measured from the entry to the stop loss."""
        return self in (QuantityType.RISK_PERCENT, QuantityType.RISK_USD)


class PositionSide(StrEnum):
    LONG = "long"
    SHORT = "short"
    FLAT = "flat"


class Amount(Struct, frozen=True):
    """A number, or a percent such as `"25%"` (value 25)."""

    #: The number as written, without the percent sign.
    value: Decimal
    #: The number is a percent.
    is_percent: bool = False


class TakeProfitSpec(Struct, frozen=True):
    """One take-profit of an alert."""

    #: Price, or percent of the entry.
    level: Amount
    #: Percent of the entry to close; None: an equal part of what the other take-profits leave.
    share: Decimal | None = None


class TargetPosition(Struct, frozen=True, kw_only=True):
    """A strategy's own position after its fill and before it."""

    #: Side after the fill.
    side: PositionSide
    #: Size after the fill, absolute, in the strategy's contracts.
    size: Decimal
    #: Side before the fill; None if unknown.
    previous_side: PositionSide | None = None
    #: Size before the fill, absolute; None if unknown.
    previous_size: Decimal | None = None

    @property
    def signed(self) -> Decimal:
        return -self.size if self.side is PositionSide.SHORT else self.size

    @property
    def previous_signed(self) -> Decimal | None:
        if self.previous_side is None or self.previous_size is None:
            return None
        return -self.previous_size if self.previous_side is PositionSide.SHORT else self.previous_size


class Signal(Struct, frozen=True, kw_only=True):
    """One step of an alert. Prices and sizes are in units of the sender's chart; optional fields are None if absent."""

    #: What to do.
    action: Action
    #: Ticker in the sender's spelling.
    symbol: str | None
    #: Exchange of the chart, such as BYBIT.
    exchange: str | None = None
    #: How much, in units of `quantity_type`.
    quantity: Amount | None = None
    #: Unit of `quantity`.
    quantity_type: QuantityType | None = None
    #: Type of the order.
    order_type: OrderType = OrderType.MARKET
    #: Price of the chart when the alert fired.
    price: Decimal | None = None
    #: Limit price of order types that have one.
    limit_price: Decimal | None = None
    #: Trigger price of stop orders.
    trigger_price: Decimal | None = None
    #: Price, or percent of the entry.
    stop_loss: Amount | None = None
    #: Take-profits in the order written.
    take_profits: tuple[TakeProfitSpec, ...] = ()
    #: Distance in price, or percent.
    trailing_stop: Amount | None = None
    #: The order must only reduce the position.
    reduce_only: bool = False
    #: Leverage to set before the order.
    leverage: Decimal | None = None
    #: Maximum distance of the market from `price`, as a fraction.
    slippage: Decimal | None = None
    #: The strategy's own position, if the order is sized by it.
    target: TargetPosition | None = None
    #: The message states its strategy's position, also if the order is sized by something else.
    states_position: bool = False
    #: Free text; a cancel selects orders by it.
    comment: str | None = None
    #: A cancel ignores `comment`.
    cancel_all: bool = False
    #: A close of every open position; it has no `symbol`.
    all_markets: bool = False
    #: `target` is the position wanted, whatever the action says.
    is_wanted_position: bool = False
    #: The message has no quantity: an opposite position is closed, nothing is opened.
    exits_opposite: bool = False
    #: Tickers that the step may name; none: any.
    symbols: tuple[str, ...] = ()
    #: Largest size of its entries, in coins of the sender's chart.
    max_quantity: Decimal | None = None
    #: When this step fired, if it has a time of its own.
    fired_at: datetime | None = None
    #: The strategy reversed and `quantity` is the trader's own size: the other side is closed first, then this much is opened.
    is_reversal: bool = False


class Alert(Struct, frozen=True, kw_only=True):
    """A whole message, interpreted."""

    #: The sender's own id of the alert.
    alert_id: str | None
    #: When the alert fired, as stated by the message.
    fired_at: datetime | None
    #: The steps in order, usually one.
    steps: tuple[Signal, ...]
    #: The message in the form that may be stored.
    redacted: Mapping[str, Any] = field(default_factory=dict)
    #: Remarks for the log, such as values replaced by locks.
    warnings: tuple[str, ...] = ()
