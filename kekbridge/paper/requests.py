"""What an order request says: JSON bodies become frozen values or a Refusal -1005. No market knowledge here."""

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
    """A plain order as asked for (orderly-api.md section 6)."""

    symbol: str
    side: str
    type: str
    price: Decimal | None = None
    quantity: Decimal | None = None
    amount: Decimal | None = None
    visible: Decimal | None = None
    client_order_id: str | None = None
    reduce_only: bool = False
    order_tag: str | None = None
    slippage: Decimal | None = None
    level: int = 0
    adjust: bool = False
    margin_mode: str | None = None


def client_id(raw: object) -> str | None:
    """A client order id: at most 36 visible ASCII characters, no hyphen in front (orderly-api.md section 6)."""
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


def order_tag_of(raw: object) -> str | None:
    tag = parse_text(raw, "order_tag")
    if tag is not None and len(tag) > _MAX_TAG:
        raise ApiError(-1005, f"order_tag has {len(tag)} characters; at most {_MAX_TAG} are allowed.")
    return tag


def required_symbol(body: Mapping[str, Any]) -> str:
    """The `symbol` field, which must be there."""
    symbol = parse_text(body.get("symbol"), "symbol")
    if symbol is None:
        raise ApiError(-1005, "symbol is missing.")
    return symbol


def positive(raw: object, name: str) -> Decimal | None:
    """A number above zero, or None when it is not given."""
    value = parse_number(raw, name)
    if value is not None and value <= 0:
        raise ApiError(-1005, f"{name} must be above 0.")
    return value


def parse_order(body: Mapping[str, Any], *, batch: bool = False) -> OrderRequest:
    """Read a create request. In a batch `reduce_only` is not supported and silently ignored (section 6)."""
    side = parse_text(body.get("side"), "side", SIDES)
    kind = parse_text(body.get("order_type"), "order_type", ORDER_TYPES)
    if side is None or kind is None:
        raise ApiError(-1005, f"{'side' if side is None else 'order_type'} is missing.")
    quantity = parse_number(body.get("order_quantity"), "order_quantity")
    amount = positive(body.get("order_amount"), "order_amount")
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
        symbol=required_symbol(body),
        side=side,
        type=kind,
        price=price if kind in PRICED else None,
        quantity=quantity,
        amount=amount,
        visible=visible,
        client_order_id=client_id(body.get("client_order_id")),
        reduce_only=False if batch else parse_flag(body.get("reduce_only"), "reduce_only"),
        order_tag=order_tag_of(body.get("order_tag")),
        slippage=slippage if kind == "MARKET" else None,
        level=level,
        adjust=parse_flag(body.get("post_only_adjust"), "post_only_adjust"),
        margin_mode=parse_text(body.get("margin_mode"), "margin_mode", MARGIN_MODES),
    )
