"""Stored rows of the paper exchange: account, keys, orders, algo orders, trades, positions, mark prices.

Mutable and without behaviour. `to_text` and `from_text` convert a row to JSON text and back without loss. After
changing a row, pass it to `ExchangeState.save`, which stores it together with the journal event of the change.
Money and prices are in USDC, quantities in base units, times in ms since the epoch; 0 is a time that is not set.
"""

from __future__ import annotations

import json
import types
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from kekbridge.paper.settings import PAPER_ACCOUNT_ID

ZERO = Decimal(0)
OPEN_STATUSES = frozenset({"NEW", "PARTIAL_FILLED"})

Row = TypeVar("Row")


@dataclass(slots=True)
class PaperAccount:
    """Balance, switches and counters of the only account."""

    kind: ClassVar[str] = "account"
    #: Settled USDC balance; moves with settlements and transfers, not with fills.
    balance: Decimal
    #: USDC balance of the fresh account.
    started_with: Decimal
    #: Last ID given to an order, algo order, trade or history line.
    next_id: int = 1788643000
    #: Counter behind `seq` and `match_id`.
    next_seq: int = 1
    #: Whether open orders are canceled when maintenance begins.
    maintenance_cancel: bool = False
    #: Time at which the dead man's switch cancels all orders, ms; 0: not armed.
    cancel_all_at: int = 0
    #: Time until which creates are rejected after a liquidation, ms.
    frozen_until: int = 0
    #: Always None; part of the response of `/v1/client/info`.
    email: str | None = None

    @property
    def row_id(self) -> str:
        return "account"


@dataclass(slots=True)
class ApiKey:
    """A registered Orderly key (ed25519)."""

    kind: ClassVar[str] = "key"
    #: Public key, "ed25519:" and base58.
    orderly_key: str
    #: Permissions, comma-separated: read, trading, asset.
    scope: str
    #: Time at which the key expires, ms.
    expiration: int
    #: Name given at registration; None without one.
    tag: str | None = None
    #: ACTIVE or REMOVED.
    status: str = "ACTIVE"
    #: Allowed IP addresses, comma-separated; stored and shown, not enforced.
    ip_list: str = ""
    #: ALLOW_ALL_IPS, DISALLOW_ALL_IPS or ALLOW_RESTRICTION_LIST.
    ip_status: str = "ALLOW_ALL_IPS"
    #: Account that it was added to, 0x and 64 hex digits in lower case.
    account_id: str = PAPER_ACCOUNT_ID

    @property
    def row_id(self) -> str:
        return self.orderly_key


@dataclass(slots=True)
class PaperWallet:
    """A wallet that has an account. All accounts are the one portfolio of the exchange."""

    kind: ClassVar[str] = "wallet"
    #: 0x and 40 hex digits.
    address: str
    #: 0x and 64 hex digits in lower case.
    account_id: str

    @property
    def row_id(self) -> str:
        return self.account_id


@dataclass(slots=True)
class PaperOrder:
    """A plain order and the totals of its fills."""

    kind: ClassVar[str] = "order"
    #: The exchange's order ID; 0 until accepted.
    order_id: int
    #: Symbol, such as PERP_BTC_USDC.
    symbol: str
    #: BUY or SELL.
    side: str
    #: LIMIT, MARKET, IOC, FOK, POST_ONLY, ASK or BID.
    type: str
    #: Order quantity in base units.
    quantity: Decimal
    #: CROSS or ISOLATED.
    margin_mode: str
    #: Time of acceptance, ms.
    created: int
    #: Time of the last change, ms.
    updated: int
    #: Limit price in USDC; None for MARKET.
    price: Decimal | None = None
    #: Order size in USDC if the client gave one instead of a quantity.
    amount: Decimal | None = None
    #: Visible quantity in base units; 0 for types that never rest.
    visible: Decimal = ZERO
    #: Client order ID; None if the client gave none.
    client_order_id: str | None = None
    #: Whether the order may only reduce a position.
    reduce_only: bool = False
    #: Order tag of the client (at most 128 characters); None without one.
    order_tag: str | None = None
    #: Largest accepted move from `reference` as a fraction (MARKET only); None: any.
    slippage: Decimal | None = None
    #: Mark price at acceptance in USDC.
    reference: Decimal = ZERO
    #: POST_ONLY only: move the price one tick off the mark price instead of canceling.
    adjust: bool = False
    #: NEW, PARTIAL_FILLED, FILLED or CANCELLED.
    status: str = "NEW"
    #: Filled quantity in base units.
    executed: Decimal = ZERO
    #: Sum of price × quantity over the fills, USDC.
    value: Decimal = ZERO
    #: Sum of the fees, USDC; positive: paid.
    fee: Decimal = ZERO
    #: Realized PnL of the fills in USDC, before fees.
    realized: Decimal = ZERO
    #: Why the order was canceled; empty otherwise.
    reason: str = ""
    #: Whether the order is in the book, waiting for the mark price to reach it.
    resting: bool = False
    #: Whether a cancel was requested but has not taken effect yet.
    cancel_sent: bool = False
    #: Algo order node that sent this order; 0 for an order of the client.
    algo_id: int = 0

    @property
    def row_id(self) -> str:
        return str(self.order_id)

    @property
    def is_open(self) -> bool:
        return self.status in OPEN_STATUSES

    @property
    def left(self) -> Decimal:
        return self.quantity - self.executed

    @property
    def average(self) -> Decimal:
        return self.value / self.executed if self.executed else ZERO


@dataclass(slots=True)
class AlgoNode:
    """One node of an algo order tree: a root, a pair of exits, or a single exit (docs/internals/orderly.md, section 7)."""

    kind: ClassVar[str] = "algo"
    #: ID of this node.
    algo_order_id: int
    #: ID of the parent node; 0 for a root.
    parent_id: int
    #: ID of the tree's root; equals `algo_order_id` for the root itself.
    root_id: int
    #: Symbol, such as PERP_BTC_USDC.
    symbol: str
    #: STOP, TP_SL, POSITIONAL_TP_SL, BRACKET, TRAILING_STOP (roots), TAKE_PROFIT, STOP_LOSS (exits).
    algo_type: str
    #: CROSS or ISOLATED.
    margin_mode: str
    #: Time of acceptance, ms.
    created: int
    #: Time of the last change, ms.
    updated: int
    #: Client order ID; None if the client gave none.
    client_order_id: str | None = None
    #: Order tag of the client (at most 128 characters); None without one.
    order_tag: str | None = None
    #: BUY or SELL; None for a pair of exits.
    side: str | None = None
    #: Type of the order to send: MARKET, LIMIT or CLOSE_POSITION; None for a pair of exits.
    type: str | None = None
    #: Limit price of the order to send, USDC; None for other types.
    price: Decimal | None = None
    #: Quantity of the order to send in base units; None: the whole position.
    quantity: Decimal | None = None
    #: Mark price in USDC at which the order is sent; None: no trigger (yet).
    trigger_price: Decimal | None = None
    #: Whether the order to send may only reduce a position.
    reduce_only: bool = False
    #: NEW, PARTIAL_FILLED, FILLED, CANCELLED or REJECTED.
    status: str = "NEW"
    #: Whether the trigger was reached.
    is_triggered: bool = False
    #: Whether the mark price is compared with the trigger.
    is_activated: bool = True
    #: SUCCESS once triggered, USELESS once canceled before that; empty until then.
    trigger_status: str = ""
    #: Time of the trigger, ms.
    trigger_time: int = 0
    #: Price of the last fill in USDC; None before the first.
    trigger_trade_price: Decimal | None = None
    #: Order ID of the plain order that was sent; 0 before that.
    plain_id: int = 0
    #: Filled quantity in base units.
    executed: Decimal = ZERO
    #: Sum of price × quantity over the fills, USDC.
    value: Decimal = ZERO
    #: Sum of the fees, USDC; positive: paid.
    fee: Decimal = ZERO
    #: Realized PnL of the fills in USDC, before fees.
    realized: Decimal = ZERO
    #: TRAILING_STOP: mark price in USDC that activates it; None: active at once.
    activated_price: Decimal | None = None
    #: TRAILING_STOP: distance from the extreme price as a fraction; None: `callback_value` applies.
    callback_rate: Decimal | None = None
    #: TRAILING_STOP: distance from the extreme price in USDC; None: `callback_rate` applies.
    callback_value: Decimal | None = None
    #: TRAILING_STOP: best mark price since activation in USDC; None before it.
    extreme_price: Decimal | None = None

    @property
    def row_id(self) -> str:
        return str(self.algo_order_id)

    @property
    def is_open(self) -> bool:
        return self.status in OPEN_STATUSES

    @property
    def average(self) -> Decimal:
        return self.value / self.executed if self.executed else ZERO


@dataclass(slots=True)
class PaperTrade:
    """One fill of a plain order."""

    kind: ClassVar[str] = "trade"
    #: ID of the fill.
    trade_id: int
    #: Order that was filled.
    order_id: int
    #: Symbol, such as PERP_BTC_USDC.
    symbol: str
    #: BUY or SELL.
    side: str
    #: Fill price in USDC.
    price: Decimal
    #: Filled quantity in base units.
    quantity: Decimal
    #: Fee in USDC; positive: paid.
    fee: Decimal
    #: Whether a resting order was filled (maker fee).
    is_maker: bool
    #: Realized PnL in USDC, before the fee.
    realized: Decimal
    #: Time of the fill, ms.
    at: int
    #: ID of the match, beyond 2^53.
    match_id: int
    #: CROSS or ISOLATED.
    margin_mode: str

    @property
    def row_id(self) -> str:
        return str(self.trade_id)


@dataclass(slots=True)
class PaperPosition:
    """Net position of a symbol in one margin mode, with its bookkeeping (docs/internals/orderly.md, section 10)."""

    kind: ClassVar[str] = "position"
    #: Symbol, such as PERP_BTC_USDC.
    symbol: str
    #: CROSS or ISOLATED.
    margin_mode: str
    #: Signed quantity in base units; negative: short.
    qty: Decimal = ZERO
    #: Average open price in USDC; 0 without a position.
    average: Decimal = ZERO
    #: Cost position in USDC: signed quantity × price, plus fees, funding and settled PnL.
    cost: Decimal = ZERO
    #: Funding sum (USDC per base unit) up to which funding is charged.
    last_funding: Decimal = ZERO
    #: Margin of an isolated position in USDC; 0 for cross.
    margin: Decimal = ZERO
    #: Time at which it was last opened from zero, ms.
    opened: int = 0
    #: Time of the last change, ms.
    updated: int = 0
    #: Rising number of the last change.
    seq: int = 0
    #: Realized PnL since it was opened, USDC, before fees.
    realized: Decimal = ZERO
    #: Fees since it was opened, USDC; positive: paid.
    fees: Decimal = ZERO
    #: Funding since it was opened, USDC; positive: paid.
    funding: Decimal = ZERO
    #: Largest absolute quantity since it was opened.
    max_qty: Decimal = ZERO
    #: Quantity closed since it was opened.
    closed_qty: Decimal = ZERO
    #: Sum of price × quantity of what was closed, USDC.
    closed_value: Decimal = ZERO
    #: Quantity bought into it (or sold, for a short) since it was opened.
    entry_qty: Decimal = ZERO
    #: Sum of price × quantity of these entries, USDC.
    entry_value: Decimal = ZERO

    @property
    def row_id(self) -> str:
        return f"{self.symbol}:{self.margin_mode}"


@dataclass(slots=True)
class PaperMark:
    """Mark price of a symbol, its source, and its funding."""

    kind: ClassVar[str] = "mark"
    #: Symbol, such as PERP_BTC_USDC.
    symbol: str
    #: Mark price in USDC.
    price: Decimal
    #: Where the price comes from: snapshot (built in), hint (an alert), live (public feed), override (set by hand).
    source: str = "snapshot"
    #: Time at which the price was set, ms.
    at: int = 0
    #: Sum of all funding payments so far, USDC per base unit.
    funding_sum: Decimal = ZERO
    #: Rate of the next funding payment as a fraction; positive: longs pay.
    funding_rate: Decimal = Decimal("0.0001")
    #: Rate of the last funding payment as a fraction.
    last_rate: Decimal = ZERO
    #: Time of the last funding payment, ms.
    last_funding_at: int = 0
    #: First known price in USDC.
    open_24h: Decimal = ZERO
    #: Highest known price in USDC.
    high_24h: Decimal = ZERO
    #: Lowest known price in USDC.
    low_24h: Decimal = ZERO

    @property
    def row_id(self) -> str:
        return self.symbol


@dataclass(slots=True)
class SymbolSettings:
    """Leverage and default margin mode that the account has chosen for a symbol."""

    kind: ClassVar[str] = "choice"
    #: Symbol, such as PERP_BTC_USDC.
    symbol: str
    #: Leverage of cross positions.
    cross_leverage: int
    #: Leverage of isolated positions.
    isolated_leverage: int
    #: Margin mode of orders that name none: CROSS or ISOLATED.
    margin_mode: str = "CROSS"

    @property
    def row_id(self) -> str:
        return self.symbol


@dataclass(slots=True)
class HistoryEntry:
    """One line of an account history, such as a funding payment or a settlement."""

    kind: ClassVar[str] = "entry"
    #: ID of the line.
    entry_id: int
    #: Which history: position_history, funding_fee, pnl_settlement, liquidations or asset_history.
    book: str
    #: Time of the entry, ms.
    at: int
    #: JSON text in the shape of the API response, with exact numbers.
    body: str

    @property
    def row_id(self) -> str:
        return str(self.entry_id)


Record = (
    PaperAccount
    | ApiKey
    | PaperWallet
    | PaperOrder
    | AlgoNode
    | PaperTrade
    | PaperPosition
    | PaperMark
    | SymbolSettings
    | HistoryEntry
)
RECORD_TYPES: tuple[type[Record], ...] = (
    PaperAccount,
    ApiKey,
    PaperWallet,
    PaperOrder,
    AlgoNode,
    PaperTrade,
    PaperPosition,
    PaperMark,
    SymbolSettings,
    HistoryEntry,
)


def _columns(cls: type[Any]) -> tuple[frozenset[str], tuple[str, ...]]:
    hints = get_type_hints(cls)
    names = tuple(field.name for field in fields(cls))
    return frozenset(name for name in names if _is_decimal(hints[name])), names


def _is_decimal(hint: object) -> bool:
    if hint is Decimal:
        return True
    return get_origin(hint) in (Union, types.UnionType) and Decimal in get_args(hint)


_COLUMNS: dict[type[Any], tuple[frozenset[str], tuple[str, ...]]] = {cls: _columns(cls) for cls in RECORD_TYPES}


def _text(value: object) -> str:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"cannot store {type(value).__name__}")


def to_text(record: Record) -> str:
    """Return a row as JSON text; Decimals become strings."""
    _, names = _COLUMNS[type(record)]
    return json.dumps({name: getattr(record, name) for name in names}, default=_text)


def from_text(cls: type[Row], text: str) -> Row:
    """Read a row from its JSON text; fields that a newer version dropped are ignored."""
    decimals, names = _COLUMNS[cls]
    raw = json.loads(text)
    values = {
        name: Decimal(raw[name]) if name in decimals and raw[name] is not None else raw[name]
        for name in names
        if name in raw
    }
    return cls(**values)
