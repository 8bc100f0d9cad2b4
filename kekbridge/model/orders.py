"""Order types: intents, stored orders and their states, fills, cancel requests, and the exchange's reports.

Arithmetic on own fields only. Quantities in base units (coins), prices, fees and notionals in USDC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum

from msgspec import Struct

from kekbridge.model.market import ZERO, MarginMode

#: Lower legs are orders that the alert asked for; from here on, orders that kekbridge added to protect them.
FIRST_PROTECTIVE_LEG = 50
#: Legs from here on are exits sent again: try n of the alert's leg k, after the first, is leg n times this plus k.
FIRST_RETRY_LEG = 1_000_000
#: When an exit or a protective order becomes too old to be sent: the age limit is for entries. A closed position ends both
#: (execution/exit_watch.py, execution/protection_controller.py).
NEVER = datetime(9999, 12, 31, tzinfo=UTC)
#: How every client order id of ours begins (`client_order_id_of`).
OUR_PREFIX = "kb-"
_BASE36 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LONGEST_LEG = 9  # digits


class Side(StrEnum):
    BUY = "BUY"
    SELL = "SELL"

    @property
    def opposite(self) -> Side:
        return Side.SELL if self is Side.BUY else Side.BUY

    @property
    def sign(self) -> int:
        """+1 for a buy, -1 for a sell."""
        return 1 if self is Side.BUY else -1


class OrderType(StrEnum):
    """Order types of an alert. stop and stop_limit become algo orders at the exchange."""

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
        """True if the exchange finishes the order at once, so that no part of it can rest in the book."""
        return self in (OrderType.MARKET, OrderType.IOC, OrderType.FOK)


class Purpose(StrEnum):
    """Why an order exists. Exits and protective orders are reduce-only and pass every limit."""

    ENTRY = "entry"
    EXIT = "exit"
    PROTECT = "protect"


class OrderStatus(StrEnum):
    """State of an order. denied: by a risk rule; rejected: by the exchange; unknown: sent, no answer."""

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


_FINAL = frozenset(
    {OrderStatus.FILLED, OrderStatus.CANCELED, OrderStatus.EXPIRED, OrderStatus.DENIED, OrderStatus.REJECTED}
)


class PositionPart(StrEnum):
    """Which part of the account's position in a market an order counts as the position."""

    #: All of it: what a trader orders by hand, and alerts that say nothing of their strategy's position.
    WHOLE = "whole"
    #: Without what other webhooks hold; what was opened by hand counts, so that no exit leaves it open.
    OWN = "own"

    def of(self, position: Decimal, others: Decimal) -> Decimal:
        """That part of a signed position of which other webhooks hold `others`: never more than all of it, never on its other side."""
        if self is PositionPart.WHOLE:
            return position
        own = position - others
        if own * position <= 0:
            return ZERO
        return own if abs(own) < abs(position) else position


class TakeProfit(Struct, frozen=True):
    """One take-profit of a bracket."""

    #: USDC.
    trigger_price: Decimal
    #: How much of the entry it closes, in base units.
    quantity: Decimal


class OrderIntent(Struct, frozen=True, kw_only=True):
    """One order to be placed, rounded to the instrument's grid. The risk rules check exactly what is sent."""

    symbol: str
    side: Side
    order_type: OrderType
    #: Order quantity in base units.
    quantity: Decimal
    purpose: Purpose
    #: Expected price in USDC: limit price, else mark. Notionals are computed with it.
    reference_price: Decimal
    reduce_only: bool = False
    #: Limit price in USDC; None for types without one.
    limit_price: Decimal | None = None
    #: Trigger price of a stop order in USDC.
    trigger_price: Decimal | None = None
    #: Trigger price of the entry's own stop loss in USDC.
    stop_loss: Decimal | None = None
    #: The entry's own take-profits.
    take_profits: tuple[TakeProfit, ...] = ()
    #: Trailing stop: distance as a fraction of the price, or in USDC. At most one of the two is set.
    trailing_callback_rate: Decimal | None = None
    trailing_callback_value: Decimal | None = None
    #: Market orders: how much worse than the mark the exchange may fill, as a fraction (the tighter of alert and webhook); None: no bound.
    slippage: Decimal | None = None
    #: The alert's own price in USDC: checked against the mark, never a limit price.
    signal_price: Decimal | None = None
    #: Leverage that the alert asks for; None: leave the symbol's leverage as it is.
    leverage: Decimal | None = None
    #: Fraction of the live position to close, re-sized when the order is claimed. None: `quantity` is fixed.
    close_fraction: Decimal | None = None
    #: Leg that must succeed before this order may be sent.
    after_leg: int | None = None
    #: Signed position in base units that the order leads to, where its size follows from that; 0 on an exit: flat, whichever side is
    #: open when it is sent.
    target_quantity: Decimal | None = None
    #: Largest quantity that an exit with a `close_fraction` may be re-sized to, in base units: what it closes was open, or expected to be,
    #: when it was admitted. None: no bound but the position.
    largest_quantity: Decimal | None = None
    #: Of the position that the order opens or reduces. Alerts trade cross positions only.
    margin_mode: MarginMode = MarginMode.CROSS
    #: What counts as the position where the size follows from it, when the order is planned and right before it is sent.
    part: PositionPart = PositionPart.WHOLE

    @property
    def signed_quantity(self) -> Decimal:
        return self.quantity * self.side.sign

    @property
    def notional(self) -> Decimal:
        """Expected value in USDC."""
        return self.quantity * self.reference_price

    @property
    def is_algo(self) -> bool:
        """True if Orderly takes it as an algo order (bracket, stop, trailing), which has its own paths and field names."""
        return (
            self.stop_loss is not None
            or bool(self.take_profits)
            or self.order_type in (OrderType.STOP, OrderType.STOP_LIMIT)
            or self.trailing_callback_rate is not None
            or self.trailing_callback_value is not None
        )

    @property
    def may_rest(self) -> bool:
        """True if it can rest at the exchange, for its price or (a take-profit) for its trigger; False if it trades at once."""
        return not self.order_type.is_immediate or (self.reduce_only and bool(self.take_profits))

    @property
    def fired_event(self) -> str | None:
        """Kind of the event that tells its execution, if it is a stop or take-profit that kekbridge placed; None for all others."""
        if self.purpose is not Purpose.PROTECT or (self.order_type.is_immediate and not self.is_algo):
            return None
        if self.trailing_callback_rate is not None or self.trailing_callback_value is not None:
            return "trailing_fired"
        return "take_profit_fired" if self.take_profits else "stop_fired"

    @property
    def is_bracket(self) -> bool:
        """True if it carries its own stop loss or take-profit in the same request."""
        return self.stop_loss is not None or bool(self.take_profits)


class CancelRequest(Struct, frozen=True, kw_only=True):
    """Which open orders to cancel."""

    #: None: of every symbol.
    symbol: str | None
    #: Only orders whose alert has this comment; None: all.
    comment: str | None = None


class OvertakenEntries(Struct, frozen=True, kw_only=True):
    """Entries of a webhook that a later alert of it ends, where they may rest at the exchange."""

    #: None: of every symbol.
    symbol: str | None
    #: None: of both sides.
    side: Side | None = None


class Order(Struct, frozen=True, kw_only=True):
    """A stored order: an intent with its identity and its state. Each leg of an alert has exactly one, for ever."""

    #: Our id at the exchange, derived from alert and leg (`client_order_id_of`).
    client_order_id: str
    #: Our id of the alert.
    alert_id: str
    webhook_id: str
    #: Position within the alert.
    leg: int
    #: Order of admission, over all orders.
    sequence: int
    intent: OrderIntent
    status: OrderStatus
    created_at: datetime
    #: Not sent from this time on; NEVER for exits and protective orders.
    expires_at: datetime
    #: The exchange's id; None until it is known.
    order_id: str | None = None
    #: Base units.
    executed_quantity: Decimal = ZERO
    #: Of the executed part, in USDC.
    average_price: Decimal | None = None
    #: USDC, positive = paid.
    fee: Decimal = ZERO
    #: USDC.
    realized_pnl: Decimal = ZERO
    #: Why it ended or was deferred: code and one line.
    code: str | None = None
    error: str | None = None
    #: How many times it was claimed for sending.
    attempt: int = 0
    #: A deferred order is not sent before this time.
    next_attempt_at: datetime | None = None
    #: Last claimed for sending.
    submitted_at: datetime | None = None
    accepted_at: datetime | None = None
    #: Set once nothing more can happen to it, also for one that stays unknown.
    finished_at: datetime | None = None
    #: Since when it is to be cancelled; None: it is not.
    cancel_requested_at: datetime | None = None

    @property
    def is_entry(self) -> bool:
        return self.intent.purpose is Purpose.ENTRY

    @property
    def is_exit(self) -> bool:
        """True for an order of an alert that reduces a position; it goes before entries, and lives as long as that position."""
        return self.intent.purpose is Purpose.EXIT

    @property
    def ends_by_cancel(self) -> bool:
        """True if the cancel of an alert covers it: entries, and exits that rest at the exchange for a price.

        An exit that trades at once lives until it is done, also while it cannot be sent, and protective orders live as long as their
        position: a cancel must not leave a position open that an alert has closed, or without its stop.
        """
        return self.is_entry or (self.is_exit and self.intent.may_rest)

    @property
    def closes_position(self) -> bool:
        """True for an exit that leaves the whole position at once: it ends the entries of its webhook that are still queued before it."""
        intent = self.intent
        is_whole = intent.close_fraction == 1 or intent.target_quantity == 0
        return is_whole and intent.purpose is Purpose.EXIT and not intent.may_rest

    @property
    def is_protective(self) -> bool:
        """True for an order that kekbridge added after an entry of the alert had executed."""
        return FIRST_PROTECTIVE_LEG <= self.leg < FIRST_RETRY_LEG

    @property
    def is_retry(self) -> bool:
        """True for an exit that kekbridge added for what the exchange left open of the leg before it (`after_leg`)."""
        return self.leg >= FIRST_RETRY_LEG

    @property
    def asked_leg(self) -> int:
        """The leg of the alert that a retry continues; of any other order its own."""
        return self.leg % FIRST_RETRY_LEG

    @property
    def is_trailing_leg(self) -> bool:
        """True for the trailing stop that an alert asked for, which the protection controller sends once its entry has executed."""
        has_distance = self.intent.trailing_callback_rate is not None or self.intent.trailing_callback_value is not None
        return has_distance and self.intent.purpose is Purpose.PROTECT and not self.is_protective

    @property
    def needs_stop(self) -> bool:
        """True once an entry with a stop loss has executed: from then on its stop must be live."""
        return self.is_entry and self.intent.stop_loss is not None and self.executed_quantity > 0

    @property
    def has_only_take_profits(self) -> bool:
        """True for an entry whose only exits are take-profits."""
        return self.is_entry and self.intent.stop_loss is None and bool(self.intent.take_profits)

    @property
    def is_settled(self) -> bool:
        """True when the sender can get a final response: the order is final, or rests at the exchange, perhaps for days."""
        if self.status.is_final:
            return True
        is_open = self.status in (OrderStatus.ACCEPTED, OrderStatus.PARTIALLY_FILLED)
        return is_open and self.intent.may_rest


class Fill(Struct, frozen=True, kw_only=True):
    """One execution as the exchange reports it."""

    #: The exchange's ids of the trade and of the order.
    trade_id: str
    order_id: str
    #: Our id; None for other orders, or where the report does not say.
    client_order_id: str | None
    symbol: str
    side: Side
    #: USDC.
    price: Decimal
    #: Base units.
    quantity: Decimal
    #: USDC, positive = paid.
    fee: Decimal
    #: USDC; None where the report does not say.
    realized_pnl: Decimal | None
    is_maker: bool
    executed_at: datetime
    #: Of the position that it changed.
    margin_mode: MarginMode = MarginMode.CROSS


def client_order_id_of(alert_id: str, leg: int) -> str:
    """The client order id of one leg of an alert: `kb-` and at least 26 characters, the same after any restart. Raises ValueError.

    The last 24 characters of the alert's ULID keep it greppable and distinguish alerts of one millisecond, whose ULIDs differ in
    the last character only; the part left out at the front counts spans of 34 years. Then the leg in base 36, at least two digits; the
    exchange's 36 characters have room for nine of them.
    """
    if not 0 <= leg < len(_BASE36) ** _LONGEST_LEG:
        raise ValueError(f"leg {leg} is out of range, expected 0 to {len(_BASE36) ** _LONGEST_LEG - 1}")
    digits = ""
    while leg or len(digits) < 2:
        leg, digit = divmod(leg, len(_BASE36))
        digits = _BASE36[digit] + digits
    return f"kb-{alert_id[-24:]}{digits}"


class ExitKind(StrEnum):
    """Kind of an exit that belongs to an entry. The values are stored."""

    STOP_LOSS = "STOP_LOSS"
    TAKE_PROFIT = "TAKE_PROFIT"


class ExitStatus(Struct, frozen=True, kw_only=True):
    """One exit that travelled with an entry (the stop loss or take-profit of a bracket), as last reported. Stored as it is."""

    #: Stop loss or take-profit.
    kind: ExitKind
    #: Trigger price in quote currency; None if the exchange did not give one.
    trigger_price: Decimal | None
    status: OrderStatus
    #: Quantity closed by this exit so far, in base units.
    executed_quantity: Decimal
    #: Average price of what it closed; None before the first fill.
    average_price: Decimal | None = None


class OrderStatusReport(Struct, frozen=True, kw_only=True):
    """What the exchange reports about one order, from a query or from its stream."""

    #: The exchange's id; for an algo order the id of its root.
    order_id: str
    #: Our id; None for orders not placed by kekbridge.
    client_order_id: str | None
    #: True for an algo order. Its report may lack prices and fees; take them from the fills.
    is_algo: bool
    symbol: str
    side: Side
    #: None for a type that no alert can ask for.
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
    #: The same of its live take-profit exits, less what they have executed.
    live_take_profit_quantity: Decimal = ZERO
    #: Trailing stops only: the best price for the position since it was placed; None where the report does not say.
    extreme_price: Decimal | None = None
    #: Margin mode of the position that the order belongs to; None where the report does not say.
    margin_mode: MarginMode | None = None
    #: The exits that belong to this order and have a trigger price.
    exits: tuple[ExitStatus, ...] = ()
    #: The legs of an algo order as the exchange nests them. Opaque outside `exchange.orderly`.
    children: tuple[OrderStatusReport, ...] = ()
    #: True for an exit of its own kind (a pair of take-profit and stop loss, or one of them), which only ever reduces a position.
    is_exit: bool = False

    @property
    def may_open(self) -> bool:
        """True if it may still open or enlarge a position."""
        return not (self.reduce_only or self.is_exit or self.status.is_final)
