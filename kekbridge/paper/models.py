"""What the paper exchange remembers: orders, algo orders, trades, positions, keys. Mutable rows, no behaviour.

Every row can be written to and read from text without loss (`to_text`, `from_text`); who changes a row must
tell the engine, which stores it together with the journal event it belongs to.
"""

from __future__ import annotations

import json
import types
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

ZERO = Decimal(0)
OPEN_STATUSES = frozenset({"NEW", "PARTIAL_FILLED"})

Row = TypeVar("Row")


@dataclass(slots=True)
class PaperAccount:
    """Balances, switches and counters of the one paper account; USDC, ms, basis points."""

    kind: ClassVar[str] = "account"
    balance: Decimal
    started_with: Decimal
    next_id: int = 1788643000
    next_seq: int = 1
    maintenance_cancel: bool = False
    cancel_all_at: int = 0
    frozen_until: int = 0
    email: str | None = None

    @property
    def row_id(self) -> str:
        return "account"


@dataclass(slots=True)
class ApiKey:
    """A registered ed25519 key; `expiration` in ms."""

    kind: ClassVar[str] = "key"
    orderly_key: str
    scope: str
    expiration: int
    tag: str | None = None
    status: str = "ACTIVE"
    ip_list: str = ""
    ip_status: str = "ALLOW_ALL_IPS"

    @property
    def row_id(self) -> str:
        return self.orderly_key


@dataclass(slots=True)
class PaperOrder:
    """A plain order; `value` is the sum of price × quantity over its fills."""

    kind: ClassVar[str] = "order"
    order_id: int
    symbol: str
    side: str
    type: str
    quantity: Decimal
    margin_mode: str
    created: int
    updated: int
    price: Decimal | None = None
    amount: Decimal | None = None
    visible: Decimal = ZERO
    client_order_id: str | None = None
    reduce_only: bool = False
    order_tag: str | None = None
    slippage: Decimal | None = None
    reference: Decimal = ZERO
    adjust: bool = False
    status: str = "NEW"
    executed: Decimal = ZERO
    value: Decimal = ZERO
    fee: Decimal = ZERO
    realized: Decimal = ZERO
    reason: str = ""
    resting: bool = False
    cancel_sent: bool = False
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
    """One node of an algo order tree (orderly-api.md section 7)."""

    kind: ClassVar[str] = "algo"
    algo_order_id: int
    parent_id: int
    root_id: int
    symbol: str
    algo_type: str
    margin_mode: str
    created: int
    updated: int
    client_order_id: str | None = None
    order_tag: str | None = None
    side: str | None = None
    type: str | None = None
    price: Decimal | None = None
    quantity: Decimal | None = None
    trigger_price: Decimal | None = None
    reduce_only: bool = False
    status: str = "NEW"
    is_triggered: bool = False
    is_activated: bool = True
    trigger_status: str = ""
    trigger_time: int = 0
    trigger_trade_price: Decimal | None = None
    plain_id: int = 0
    executed: Decimal = ZERO
    value: Decimal = ZERO
    fee: Decimal = ZERO
    realized: Decimal = ZERO
    activated_price: Decimal | None = None
    callback_rate: Decimal | None = None
    callback_value: Decimal | None = None
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
    """One fill; fee in USDC, positive = paid."""

    kind: ClassVar[str] = "trade"
    trade_id: int
    order_id: int
    symbol: str
    side: str
    price: Decimal
    quantity: Decimal
    fee: Decimal
    is_maker: bool
    realized: Decimal
    at: int
    match_id: int
    margin_mode: str

    @property
    def row_id(self) -> str:
        return str(self.trade_id)


@dataclass(slots=True)
class PaperPosition:
    """The net position of a symbol in one margin mode; bookkeeping of orderly-api.md section 10."""

    kind: ClassVar[str] = "position"
    symbol: str
    margin_mode: str
    qty: Decimal = ZERO
    average: Decimal = ZERO
    cost: Decimal = ZERO
    last_funding: Decimal = ZERO
    margin: Decimal = ZERO
    opened: int = 0
    updated: int = 0
    seq: int = 0
    realized: Decimal = ZERO
    fees: Decimal = ZERO
    funding: Decimal = ZERO
    max_qty: Decimal = ZERO
    closed_qty: Decimal = ZERO
    closed_value: Decimal = ZERO
    entry_qty: Decimal = ZERO
    entry_value: Decimal = ZERO

    @property
    def row_id(self) -> str:
        return f"{self.symbol}:{self.margin_mode}"


@dataclass(slots=True)
class PaperMark:
    """The price of a symbol, where it came from, and its funding sum."""

    kind: ClassVar[str] = "mark"
    symbol: str
    price: Decimal
    source: str = "snapshot"
    at: int = 0
    funding_sum: Decimal = ZERO
    funding_rate: Decimal = Decimal("0.0001")
    last_rate: Decimal = ZERO
    last_funding_at: int = 0
    open_24h: Decimal = ZERO
    high_24h: Decimal = ZERO
    low_24h: Decimal = ZERO

    @property
    def row_id(self) -> str:
        return self.symbol


@dataclass(slots=True)
class SymbolSettings:
    """What the trader chose for a symbol: leverage per margin mode, default margin mode."""

    kind: ClassVar[str] = "choice"
    symbol: str
    cross_leverage: int
    isolated_leverage: int
    margin_mode: str = "CROSS"

    @property
    def row_id(self) -> str:
        return self.symbol


@dataclass(slots=True)
class HistoryEntry:
    """A line of an account history; `body` is exact JSON text in the shape that the API answers with."""

    kind: ClassVar[str] = "entry"
    entry_id: int
    book: str
    at: int
    body: str

    @property
    def row_id(self) -> str:
        return str(self.entry_id)


Record = (
    PaperAccount
    | ApiKey
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
    """The row as JSON text; Decimals are strings."""
    _, names = _COLUMNS[type(record)]
    return json.dumps({name: getattr(record, name) for name in names}, default=_text)


def from_text(cls: type[Row], text: str) -> Row:
    """The row back from its text; columns that a newer version dropped are ignored."""
    decimals, names = _COLUMNS[cls]
    raw = json.loads(text)
    values = {
        name: Decimal(raw[name]) if name in decimals and raw[name] is not None else raw[name]
        for name in names
        if name in raw
    }
    return cls(**values)
