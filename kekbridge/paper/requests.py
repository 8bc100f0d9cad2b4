"""What an order request says: JSON bodies become frozen values or a Refusal -1005. No market knowledge here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from kekbridge.paper.codec import Refusal, flag, integer, number, plain, word

SIDES: Final = frozenset({"BUY", "SELL"})
ORDER_TYPES: Final = frozenset({"LIMIT", "MARKET", "IOC", "FOK", "POST_ONLY", "ASK", "BID"})
PRICED: Final = frozenset({"LIMIT", "IOC", "FOK", "POST_ONLY"})
MARGIN_MODES: Final = frozenset({"CROSS", "ISOLATED"})
ALGO_ROOTS: Final = frozenset({"STOP", "TP_SL", "POSITIONAL_TP_SL", "BRACKET", "TRAILING_STOP"})
EXIT_PAIRS: Final = frozenset({"TP_SL", "POSITIONAL_TP_SL"})
LEAVES: Final = frozenset({"TAKE_PROFIT", "STOP_LOSS"})
_ALGO_TYPES: Final = frozenset({"MARKET", "LIMIT", "CLOSE_POSITION"})
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


@dataclass(frozen=True, slots=True)
class AlgoRequest:
    """One node of an algo order as asked for (orderly-api.md section 7)."""

    symbol: str
    algo_type: str
    side: str | None = None
    type: str | None = None
    quantity: Decimal | None = None
    price: Decimal | None = None
    trigger_price: Decimal | None = None
    reduce_only: bool = False
    client_order_id: str | None = None
    order_tag: str | None = None
    margin_mode: str | None = None
    activated_price: Decimal | None = None
    callback_rate: Decimal | None = None
    callback_value: Decimal | None = None
    children: tuple[AlgoRequest, ...] = field(default=())


def client_id(raw: object) -> str | None:
    """A client order id: at most 36 visible ASCII characters, no hyphen in front (orderly-api.md section 6)."""
    if raw is None or raw == "":
        return None
    if isinstance(raw, bool) or not isinstance(raw, str | int):
        raise Refusal(-1005, "client_order_id must be text.")
    text = str(raw)
    if len(text) > _MAX_CLIENT_ID:
        raise Refusal(-1005, f"client_order_id has {len(text)} characters; at most {_MAX_CLIENT_ID} are allowed.")
    if text.startswith("-") or not text.isascii() or not text.isprintable():
        raise Refusal(-1005, "client_order_id must be plain ASCII and must not begin with a hyphen.")
    return text


def _tag(raw: object) -> str | None:
    tag = word(raw, "order_tag")
    if tag is not None and len(tag) > _MAX_TAG:
        raise Refusal(-1005, f"order_tag has {len(tag)} characters; at most {_MAX_TAG} are allowed.")
    return tag


def required_symbol(body: Mapping[str, Any]) -> str:
    """The `symbol` field, which must be there."""
    symbol = word(body.get("symbol"), "symbol")
    if symbol is None:
        raise Refusal(-1005, "symbol is missing.")
    return symbol


def positive(raw: object, name: str) -> Decimal | None:
    """A number above zero, or None when it is not given."""
    value = number(raw, name)
    if value is not None and value <= 0:
        raise Refusal(-1005, f"{name} must be above 0.")
    return value


def parse_order(body: Mapping[str, Any], *, batch: bool = False) -> OrderRequest:
    """Read a create request. In a batch `reduce_only` is not supported and silently ignored (section 6)."""
    side = word(body.get("side"), "side", SIDES)
    kind = word(body.get("order_type"), "order_type", ORDER_TYPES)
    if side is None or kind is None:
        raise Refusal(-1005, f"{'side' if side is None else 'order_type'} is missing.")
    quantity = number(body.get("order_quantity"), "order_quantity")
    amount = positive(body.get("order_amount"), "order_amount")
    price = number(body.get("order_price"), "order_price")
    if kind in PRICED and price is None:
        raise Refusal(-1005, f"order_price is missing; {kind} orders need one.")
    if (quantity is None) == (amount is None):
        raise Refusal(-1005, "Give either order_quantity or order_amount.")
    if amount is not None and kind in PRICED:
        raise Refusal(-1005, "order_amount is for MARKET, ASK and BID orders only.")
    visible = number(body.get("visible_quantity"), "visible_quantity")
    if kind == "POST_ONLY" and visible is not None and visible != quantity:
        raise Refusal(-1005, "visible_quantity is not for POST_ONLY orders.")
    level = integer(body.get("level"), "level") or 0
    if not 0 <= level <= _MAX_LEVEL:
        raise Refusal(-1005, "level must be between 0 and 4.")
    slippage = number(body.get("slippage"), "slippage")
    if slippage is not None and not 0 < slippage < 1:
        raise Refusal(-1005, f"slippage is {plain(slippage)}; it is a fraction between 0 and 1.")
    return OrderRequest(
        symbol=required_symbol(body),
        side=side,
        type=kind,
        price=price if kind in PRICED else None,
        quantity=quantity,
        amount=amount,
        visible=visible,
        client_order_id=client_id(body.get("client_order_id")),
        reduce_only=False if batch else flag(body.get("reduce_only"), "reduce_only"),
        order_tag=_tag(body.get("order_tag")),
        slippage=slippage if kind == "MARKET" else None,
        level=level,
        adjust=flag(body.get("post_only_adjust"), "post_only_adjust"),
        margin_mode=word(body.get("margin_mode"), "margin_mode", MARGIN_MODES),
    )


def parse_algo(body: Mapping[str, Any]) -> AlgoRequest:
    """Read an algo create request and its shape; unknown fields (also duplicated order_* ones) are ignored."""
    request = _node(body, required_symbol(body), depth=0)
    if request.algo_type not in ALGO_ROOTS:
        raise Refusal(-1005, f"algo_type {request.algo_type} cannot be a root order.")
    _check_shape(request)
    return request


def _node(body: Mapping[str, Any], symbol: str, depth: int) -> AlgoRequest:
    if depth > 2 or not isinstance(body, Mapping):
        raise Refusal(-1005, "child_orders are nested too deeply or are no objects.")
    algo_type = word(body.get("algo_type"), "algo_type", ALGO_ROOTS | LEAVES)
    if algo_type is None:
        raise Refusal(-1005, "algo_type is missing.")
    if (word(body.get("symbol"), "symbol") or symbol) != symbol:
        raise Refusal(-1005, "child_orders must be for the symbol of the root.")
    trigger_type = word(body.get("trigger_price_type"), "trigger_price_type")
    if trigger_type not in (None, "MARK_PRICE"):
        raise Refusal(-1005, "trigger_price_type must be MARK_PRICE.")
    children = body.get("child_orders") or []
    if not isinstance(children, list):
        raise Refusal(-1005, "child_orders must be a list.")

    def camel(snake: str, other: str) -> Decimal | None:
        # The SDK sends snake_case, OpenAPI lists camelCase (orderly-api.md section 7): take both.
        return positive(body.get(snake, body.get(other)), snake)

    return AlgoRequest(
        symbol=symbol,
        algo_type=algo_type,
        side=word(body.get("side"), "side", SIDES),
        type=word(body.get("type"), "type", _ALGO_TYPES),
        quantity=number(body.get("quantity"), "quantity"),
        price=number(body.get("price"), "price"),
        trigger_price=positive(body.get("trigger_price"), "trigger_price"),
        reduce_only=flag(body.get("reduce_only"), "reduce_only"),
        client_order_id=client_id(body.get("client_order_id")),
        order_tag=_tag(body.get("order_tag")),
        margin_mode=word(body.get("margin_mode"), "margin_mode", MARGIN_MODES),
        activated_price=camel("activated_price", "activatedPrice"),
        callback_rate=camel("callback_rate", "callbackRate"),
        callback_value=camel("callback_value", "callbackValue"),
        children=tuple(_node(child, symbol, depth + 1) for child in children),
    )


def _need(present: object, name: str, kind: str) -> None:
    if present is None:
        raise Refusal(-1005, f"{name} is missing; {kind} needs it.")


def _check_shape(root: AlgoRequest) -> None:
    kind = root.algo_type
    if kind in EXIT_PAIRS:
        _check_pair(root)
        if kind == "TP_SL":
            _need(root.quantity, "quantity", kind)
        return
    _need(root.side, "side", kind)
    _need(root.type, "type", kind)
    _need(root.quantity, "quantity", kind)
    if root.type == "CLOSE_POSITION":
        raise Refusal(-1005, "type CLOSE_POSITION is for the children of POSITIONAL_TP_SL.")
    if root.type == "LIMIT":
        _need(root.price, "price", "type LIMIT")
    if kind == "STOP":
        _need(root.trigger_price, "trigger_price", kind)
    elif kind == "TRAILING_STOP":
        if root.type != "MARKET":
            raise Refusal(-1005, "TRAILING_STOP takes type MARKET only.")
        if (root.callback_rate is None) == (root.callback_value is None):
            raise Refusal(-1005, "Give either callback_rate or callback_value.")
        if root.callback_rate is not None and root.callback_rate >= 1:
            raise Refusal(-1005, "callback_rate is a fraction below 1.")
    else:
        _check_bracket(root)


def _check_bracket(root: AlgoRequest) -> None:
    if len(root.children) != 1 or root.children[0].algo_type not in EXIT_PAIRS:
        raise Refusal(-1005, "BRACKET needs one child of type TP_SL or POSITIONAL_TP_SL.")
    _check_pair(root.children[0])
    if any(leaf.side == root.side for leaf in root.children[0].children):
        raise Refusal(-1005, "The exits of a BRACKET must be on the other side of its entry.")


def _check_pair(pair: AlgoRequest) -> None:
    kinds = [leaf.algo_type for leaf in pair.children]
    if not 1 <= len(kinds) <= 2 or len(set(kinds)) != len(kinds) or not set(kinds) <= LEAVES:
        raise Refusal(-1005, f"{pair.algo_type} needs a TAKE_PROFIT, a STOP_LOSS, or one of each.")
    if len({leaf.side for leaf in pair.children}) != 1:
        raise Refusal(-1005, "Both exits must have the same side.")
    for leaf in pair.children:
        _need(leaf.side, "side", leaf.algo_type)
        _need(leaf.trigger_price, "trigger_price", leaf.algo_type)
        _need(leaf.type, "type", leaf.algo_type)
        if (leaf.type == "CLOSE_POSITION") != (pair.algo_type == "POSITIONAL_TP_SL"):
            raise Refusal(-1005, "type CLOSE_POSITION belongs to POSITIONAL_TP_SL; TP_SL takes MARKET or LIMIT.")
        if leaf.type == "LIMIT":
            _need(leaf.price, "price", "type LIMIT")
