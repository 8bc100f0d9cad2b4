"""Order requests: JSON bodies to frozen values. See docs/internals/orderly.md, section 6.

Checks types and shape only (ApiError -1005); prices and quantities are checked against the market in filters.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from kekbridge.paper.codec import ApiError, format_decimal, parse_flag, parse_integer, parse_number, parse_text

SIDES: Final = frozenset({"BUY", "SELL"})
ORDER_TYPES: Final = frozenset({"LIMIT", "MARKET", "IOC", "FOK", "POST_ONLY", "ASK", "BID"})
PRICED: Final = frozenset({"LIMIT", "IOC", "FOK", "POST_ONLY"})
MARGIN_MODES: Final = frozenset({"CROSS", "ISOLATED"})
_MAX_CLIENT_ID: Final = 36
_MAX_TAG: Final = 128
_MAX_LEVEL: Final = 4


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """A plain order as requested."""

    #: Symbol, such as PERP_BTC_USDC.
    symbol: str
    #: BUY or SELL.
    side: str
    #: LIMIT, MARKET, IOC, FOK, POST_ONLY, ASK or BID.
    type: str
    #: Limit price in USDC; None for MARKET, ASK and BID.
    price: Decimal | None = None
    #: Order quantity in base units; None: `amount` is given.
    quantity: Decimal | None = None
    #: Order size in USDC (MARKET, ASK, BID); None: `quantity` is given.
    amount: Decimal | None = None
    #: Visible quantity in base units; None: all of it.
    visible: Decimal | None = None
    #: Client order ID; None if the client gave none.
    client_order_id: str | None = None
    #: Whether the order may only reduce a position.
    reduce_only: bool = False
    #: Order tag of the client (at most 128 characters); None without one.
    order_tag: str | None = None
    #: Largest accepted move of the mark price before the fill, as a fraction; None: any.
    slippage: Decimal | None = None
    #: ASK and BID: level of the order book whose price is taken, 0 to 4.
    level: int = 0
    #: POST_ONLY: move the price instead of canceling.
    adjust: bool = False
    #: CROSS or ISOLATED; None: the symbol's default.
    margin_mode: str | None = None


def parse_client_order_id(raw: object) -> str | None:
    """Return a client order ID: at most 36 printable ASCII characters, no leading hyphen; None if not given."""
    if raw is None or raw == "":
        return None
    if isinstance(raw, bool) or not isinstance(raw, str | int):
        raise ApiError(-1005, "client_order_id must be text.")
    text = str(raw)
    if len(text) > _MAX_CLIENT_ID:
        raise ApiError(-1005, f"client_order_id has {len(text)} characters; at most {_MAX_CLIENT_ID} are allowed.")
    if text.startswith("-") or not text.isascii() or not text.isprintable():
        raise ApiError(-1005, "client_order_id must be plain ASCII and must not begin with a hyphen.")
    return text


def parse_order_tag(raw: object) -> str | None:
    tag = parse_text(raw, "order_tag")
    if tag is not None and len(tag) > _MAX_TAG:
        raise ApiError(-1005, f"order_tag has {len(tag)} characters; at most {_MAX_TAG} are allowed.")
    return tag


def parse_symbol(body: Mapping[str, Any]) -> str:
    """Return the `symbol` field; ApiError -1005 if it is missing."""
    symbol = parse_text(body.get("symbol"), "symbol")
    if symbol is None:
        raise ApiError(-1005, "symbol is missing.")
    return symbol


def parse_positive(raw: object, name: str) -> Decimal | None:
    """Return a number above 0, None if not given; ApiError -1005 for anything else."""
    value = parse_number(raw, name)
    if value is not None and value <= 0:
        raise ApiError(-1005, f"{name} must be above 0.")
    return value


def parse_order(body: Mapping[str, Any], *, batch: bool = False) -> OrderRequest:
    """Read a create request; ApiError -1005 if it is malformed. In a batch Orderly ignores `reduce_only` silently."""
    side = parse_text(body.get("side"), "side", SIDES)
    kind = parse_text(body.get("order_type"), "order_type", ORDER_TYPES)
    if side is None or kind is None:
        raise ApiError(-1005, f"{'side' if side is None else 'order_type'} is missing.")
    quantity = parse_number(body.get("order_quantity"), "order_quantity")
    amount = parse_positive(body.get("order_amount"), "order_amount")
    price = parse_number(body.get("order_price"), "order_price")
    if kind in PRICED and price is None:
        raise ApiError(-1005, f"order_price is missing; {kind} orders need one.")
    if (quantity is None) == (amount is None):
        raise ApiError(-1005, "Give either order_quantity or order_amount.")
    if amount is not None and kind in PRICED:
        raise ApiError(-1005, "order_amount is for MARKET, ASK and BID orders only.")
    visible = parse_number(body.get("visible_quantity"), "visible_quantity")
    if kind == "POST_ONLY" and visible is not None and visible != quantity:
        raise ApiError(-1005, "visible_quantity is not for POST_ONLY orders.")
    level = parse_integer(body.get("level"), "level") or 0
    if not 0 <= level <= _MAX_LEVEL:
        raise ApiError(-1005, "level must be between 0 and 4.")
    slippage = parse_number(body.get("slippage"), "slippage")
    if slippage is not None and not 0 < slippage < 1:
        raise ApiError(-1005, f"slippage is {format_decimal(slippage)}; it is a fraction between 0 and 1.")
    return OrderRequest(
        symbol=parse_symbol(body),
        side=side,
        type=kind,
        price=price if kind in PRICED else None,
        quantity=quantity,
        amount=amount,
        visible=visible,
        client_order_id=parse_client_order_id(body.get("client_order_id")),
        reduce_only=False if batch else parse_flag(body.get("reduce_only"), "reduce_only"),
        order_tag=parse_order_tag(body.get("order_tag")),
        slippage=slippage if kind == "MARKET" else None,
        level=level,
        adjust=parse_flag(body.get("post_only_adjust"), "post_only_adjust"),
        margin_mode=parse_text(body.get("margin_mode"), "margin_mode", MARGIN_MODES),
    )
