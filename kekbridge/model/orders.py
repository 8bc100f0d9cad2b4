"""What may be asked of the exchange and what becomes of it: intents, orders with their life, fills, cancels.

No behaviour beyond arithmetic on own fields. A quantity is in base units (coins), a notional in USDC.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from kekbridge.model.market import ZERO, MarginMode

# Below are the legs that an alert asked for, from here on what kekbridge added to protect them.
FIRST_PROTECTIVE_LEG = 50


class Side(StrEnum):
    BUY = "BUY"
    SELL = "SELL"

    @property
    def opposite(self) -> Side:
        return Side.SELL if self is Side.BUY else Side.BUY

    @property
    def sign(self) -> int:
        """+1 for a buy, -1 for a sell: what the side does to a signed position."""
        return 1 if self is Side.BUY else -1


class OrderType(StrEnum):
    """The order types an alert may ask for. stop and stop_limit become algo orders at the exchange."""

    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"
    STOP_LIMIT = "stop_limit"
    IOC = "ioc"
    FOK = "fok"
    POST_ONLY = "post_only"

    @property
    def has_limit_price(self) -> bool:
        return self not in (OrderType.MARKET, OrderType.STOP)

    @property
    def is_immediate(self) -> bool:
        """True when the exchange finishes the order at once: nothing of it can rest in the book."""
        return self in (OrderType.MARKET, OrderType.IOC, OrderType.FOK)


class Purpose(StrEnum):
    """Why an order exists. Exits and protective orders are reduce-only and pass every limit."""

    ENTRY = "entry"
    EXIT = "exit"
    PROTECT = "protect"


class OrderStatus(StrEnum):
    """Life of one order; denied = our rule said no, rejected = the exchange said no, unknown = sent, no answer."""

    QUEUED = "queued"
    SUBMITTING = "submitting"
    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    DENIED = "denied"
    REJECTED = "rejected"

    @property
    def is_final(self) -> bool:
        return self in _FINAL

    @property
    def is_live(self) -> bool:
        """True while the exchange may still fill it, as far as we know."""
        return self in (
            OrderStatus.SUBMITTING,
            OrderStatus.UNKNOWN,
            OrderStatus.ACCEPTED,
            OrderStatus.PARTIALLY_FILLED,
        )


_FINAL = frozenset(
    {OrderStatus.FILLED, OrderStatus.CANCELED, OrderStatus.EXPIRED, OrderStatus.DENIED, OrderStatus.REJECTED}
)


@dataclass(frozen=True, slots=True)
class TakeProfit:
    """One take-profit of a bracket: trigger price, and how much of the entry it closes (base units)."""

    trigger_price: Decimal
    quantity: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderIntent:
    """One order to be placed, rounded and ready to be judged: what is validated is what is sent.

    `reference_price` is what the order is expected to trade at (limit price, else mark); notionals are computed with it.
    `close_fraction` is set when the size follows the real position at the moment of sending (a whole or partial close).
    `target_quantity` is the signed position wanted in the end, when an entry's size follows from it; 0 on an exit means flat,
    whichever side is open by then.
    """

    symbol: str
    side: Side
    order_type: OrderType
    quantity: Decimal
    purpose: Purpose
    reference_price: Decimal
    reduce_only: bool = False
    limit_price: Decimal | None = None
    trigger_price: Decimal | None = None
    stop_loss: Decimal | None = None
    take_profits: tuple[TakeProfit, ...] = ()
    trailing_callback_rate: Decimal | None = None
    trailing_callback_value: Decimal | None = None
    slippage: Decimal | None = None
    signal_price: Decimal | None = None
    leverage: Decimal | None = None
    close_fraction: Decimal | None = None
    after_leg: int | None = None
    target_quantity: Decimal | None = None

    @property
    def signed_quantity(self) -> Decimal:
        return self.quantity * self.side.sign

    @property
    def notional(self) -> Decimal:
        """Expected USDC value: quantity times reference price."""
        return self.quantity * self.reference_price

    @property
    def is_algo(self) -> bool:
        """True when Orderly takes it as an algo order (bracket, stop, trailing): other paths and field names there."""
        return (
            self.stop_loss is not None
            or bool(self.take_profits)
            or self.order_type in (OrderType.STOP, OrderType.STOP_LIMIT)
            or self.trailing_callback_rate is not None
            or self.trailing_callback_value is not None
        )

    @property
    def may_rest(self) -> bool:
        """True when it can wait at the exchange, for its price or as a take-profit for its trigger; False when it trades at once."""
        return not self.order_type.is_immediate or (self.reduce_only and bool(self.take_profits))

    @property
    def is_bracket(self) -> bool:
        """True for an entry that carries its own stop loss or take-profit in the same request."""
        return self.stop_loss is not None or bool(self.take_profits)


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequest:
    """Open orders to be cancelled: of one symbol or (None) of all, with a comment only those that carry it."""

    symbol: str | None
    comment: str | None = None
    include_algo: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One stored order: an intent with its identity and its life. One alert leg makes exactly one of these, for ever."""

    client_order_id: str
    alert_id: str
    webhook_id: str
    leg: int
    sequence: int
    intent: OrderIntent
    status: OrderStatus
    created_at: datetime
    expires_at: datetime
    order_id: str | None = None
    executed_quantity: Decimal = ZERO
    average_price: Decimal | None = None
    fee: Decimal = ZERO
    realized_pnl: Decimal = ZERO
    code: str | None = None
    error: str | None = None
    attempt: int = 0
    next_attempt_at: datetime | None = None
    submitted_at: datetime | None = None
    accepted_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def is_entry(self) -> bool:
        return self.intent.purpose is Purpose.ENTRY

    @property
    def is_protective(self) -> bool:
        """True for an order that kekbridge itself added after an entry of the alert had executed."""
        return self.leg >= FIRST_PROTECTIVE_LEG

    @property
    def needs_stop(self) -> bool:
        """True once an entry that was given a stop loss has executed: from then on the stop must be live."""
        return self.is_entry and self.intent.stop_loss is not None and self.executed_quantity > 0

    @property
    def is_settled(self) -> bool:
        """True when the sender can be told: the order is final, or rests at the exchange and may do so for days."""
        if self.status.is_final:
            return True
        is_open = self.status in (OrderStatus.ACCEPTED, OrderStatus.PARTIALLY_FILLED)
        return is_open and self.intent.may_rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """One execution as the exchange reports it; fee in USDC, positive = paid."""

    trade_id: str
    order_id: str
    client_order_id: str | None
    symbol: str
    side: Side
    price: Decimal
    quantity: Decimal
    fee: Decimal
    realized_pnl: Decimal | None
    is_maker: bool
    executed_at: datetime


def client_order_id_of(alert_id: str, leg: int) -> str:
    """The exchange-side name of one leg of one alert: `kb-` and 26 characters, derived, so a restart makes the same one.

    The last 24 characters of the alert's ULID keep it greppable and tell apart alerts of one millisecond, whose ULIDs differ in
    the last character only; what is left out at the front counts spans of 34 years. Then the leg in base 36 (0 to 1295).
    """
    if not 0 <= leg < len(_BASE36) ** 2:
        raise ValueError(f"leg {leg} is out of range, expected 0 to 1295")
    high, low = divmod(leg, len(_BASE36))
    return f"kb-{alert_id[-24:]}{_BASE36[high]}{_BASE36[low]}"


_BASE36 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class ExitKind(StrEnum):
    """What an exit that belongs to an entry does. The values are stored."""

    STOP_LOSS = "STOP_LOSS"
    TAKE_PROFIT = "TAKE_PROFIT"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitStatus:
    """One exit that travelled with an entry (the stop loss or take-profit of a bracket), as last reported. Stored as it is."""

    kind: ExitKind
    #: Trigger price in quote currency; None if the exchange did not give one.
    trigger_price: Decimal | None
    status: OrderStatus
    #: Quantity closed by this exit so far, in base units.
    executed_quantity: Decimal
    #: Average price of what it closed; None before the first fill.
    average_price: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderStatusReport:
    """What the exchange reports about one order, from a query or from its stream."""

    #: The exchange's id; for an algo order the id of its root.
    order_id: str
    #: Our id; None for orders placed elsewhere.
    client_order_id: str | None
    #: Placed as an algo order: its report may lack prices and fees, which the fills then give.
    is_algo: bool
    symbol: str
    side: Side
    #: None where the exchange names a type that no alert can ask for.
    order_type: OrderType | None
    #: The exchange's own name of an algo order's type. Opaque outside `exchange.orderly`.
    venue_type: str | None
    status: OrderStatus
    #: Order quantity and what of it has executed, in base units.
    quantity: Decimal
    executed_quantity: Decimal
    #: Average price of the executed part; None before the first fill or where the report does not say.
    average_price: Decimal | None
    limit_price: Decimal | None
    trigger_price: Decimal | None
    #: Fees so far in USDC, positive = paid.
    fee: Decimal
    #: Realized P&L in USDC; None where the report does not say.
    realized_pnl: Decimal | None
    reduce_only: bool
    #: Why it was rejected or canceled, in the exchange's words; empty if it did not say.
    reason: str
    created_at: datetime | None
    updated_at: datetime
    #: Orders the reports of one order (sequence number or ms timestamp): a lower one than already seen is stale.
    version: int = 0
    #: Brackets only: whether a stop-loss exit is active and untriggered; None when the report does not say.
    stop_is_live: bool | None = None
    #: Size of its live stop-loss exits in base units; zero if none is live, or if the exchange gives no size (it follows the position).
    live_stop_quantity: Decimal = ZERO
    #: Margin mode of the position that the order belongs to; None where the report does not say.
    margin_mode: MarginMode | None = None
    #: The exits that belong to this order and have a trigger price.
    exits: tuple[ExitStatus, ...] = ()
    #: The legs of an algo order as the exchange nests them. Opaque outside `exchange.orderly`.
    children: tuple[OrderStatusReport, ...] = ()
