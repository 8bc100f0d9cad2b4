"""The words of the trade: frozen values that every other room speaks in.

No behaviour beyond arithmetic on their own fields, no I/O, no imports from the package. Money, prices and sizes are Decimal,
times are aware UTC datetimes; a quantity is in base units (coins) and a notional in USDC unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any

ZERO = Decimal(0)
# Below are the legs that an alert asked for, from here on what kekbridge added to protect them.
FIRST_PROTECTIVE_LEG = 50


class Mode(StrEnum):
    """Where orders go. Only daemon.py acts on the difference."""

    PAPER = "paper"
    TESTNET = "testnet"
    LIVE = "live"


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


class TradingState(StrEnum):
    """What the daemon may do now. Persisted; `halt` and `exits_only` survive a restart."""

    RUNNING = "running"
    EXITS_ONLY = "exits_only"
    HALTED = "halted"


class MarginMode(StrEnum):
    CROSS = "CROSS"
    ISOLATED = "ISOLATED"


# ---------------------------------------------------------------------------------------------------------------- market


@dataclass(frozen=True, slots=True)
class Instrument:
    """Trading rules of one symbol. Source: Orderly `GET /v1/public/info`, orderly-api.md section 5."""

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


# ---------------------------------------------------------------------------------------------------------------- orders


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
    def is_bracket(self) -> bool:
        """True for an entry that carries its own stop loss or take-profit in the same request."""
        return self.stop_loss is not None or bool(self.take_profits)


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelWish:
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
        return is_open and not self.intent.order_type.is_immediate


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


# -------------------------------------------------------------------------------------------------------------- webhooks


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """Alerts a webhook may send in any sliding minute, hour and day; exits are counted apart under the same numbers."""

    per_minute: int = 10
    per_hour: int = 100
    per_day: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a webhook, or the whole account, may do. None means no limit. Exits pass every one of these.

    Sizes in base units, notionals and losses in USDC, ratios as fractions (0.05 = 5 %). Defaults: design.md section 6.
    """

    allowed_symbols: tuple[str, ...] | None = None
    min_order_size: Decimal | None = Decimal("0.001")
    max_order_size: Decimal | None = Decimal(1000)
    max_position_size: Decimal | None = None
    max_notional: Decimal | None = None
    daily_limit: Decimal | None = None
    daily_orders: int | None = None
    max_daily_loss: Decimal | None = None
    max_drawdown: Decimal | None = None
    max_leverage: Decimal | None = Decimal(10)
    leverage_policy: str = "refuse"
    max_open_positions: int | None = 10
    require_stop_loss: bool = False
    max_stop_distance: Decimal | None = None
    max_slippage: Decimal | None = None
    cooldown_s: int | None = None
    trading_hours: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """Everything about a webhook that its owner may change while the daemon runs."""

    limits: Limits = field(default_factory=Limits)
    rates: RateLimits = field(default_factory=RateLimits)
    require_signature: bool = True
    require_timestamp: bool = True
    max_timestamp_age_s: int | None = None
    follow: str = "signal"  # "signal": each alert is an order; "position": alerts name a target position
    profile: str = "seed"
    defaults: Mapping[str, str] = field(default_factory=dict)
    locked: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    rescale_units: bool = False
    allow_empty_stop_loss: bool = False
    resync: bool = False
    reorder_ms: int = 500
    allowed_addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A named door for alerts; its credentials are not part of this value."""

    id: str
    name: str
    enabled: bool
    created_at: datetime
    settings: WebhookSettings = field(default_factory=WebhookSettings)


# -------------------------------------------------------------------------------------------------------------- verdicts


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

    `is_resting`: its type lets it wait in the book. `is_margined`: the exchange has it and holds its margin back already.
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
    for this webhook and for the whole account.
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
