"""Algo order requests: their JSON, their checks, their rows, and when a row's trigger is reached (section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from kekbridge.paper import filters
from kekbridge.paper.codec import ApiError, format_decimal, parse_flag, parse_number, parse_text
from kekbridge.paper.instruments import PaperInstrument
from kekbridge.paper.models import ZERO, AlgoNode
from kekbridge.paper.requests import MARGIN_MODES, SIDES, client_id, order_tag_of, positive, required_symbol
from kekbridge.paper.state import ExchangeState

ALGO_ROOTS: Final = frozenset({"STOP", "TP_SL", "POSITIONAL_TP_SL", "BRACKET", "TRAILING_STOP"})
EXIT_PAIRS: Final = frozenset({"TP_SL", "POSITIONAL_TP_SL"})
LEAVES: Final = frozenset({"TAKE_PROFIT", "STOP_LOSS"})
_ALGO_TYPES: Final = frozenset({"MARKET", "LIMIT", "CLOSE_POSITION"})


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


def parse_algo(body: Mapping[str, Any]) -> AlgoRequest:
    """Read an algo create request and its shape; unknown fields (also duplicated order_* ones) are ignored."""
    request = _node(body, required_symbol(body), depth=0)
    if request.algo_type not in ALGO_ROOTS:
        raise ApiError(-1005, f"algo_type {request.algo_type} cannot be a root order.")
    _check_shape(request)
    return request


def _node(body: Mapping[str, Any], symbol: str, depth: int) -> AlgoRequest:
    if depth > 2 or not isinstance(body, Mapping):
        raise ApiError(-1005, "child_orders are nested too deeply or are no objects.")
    algo_type = parse_text(body.get("algo_type"), "algo_type", ALGO_ROOTS | LEAVES)
    if algo_type is None:
        raise ApiError(-1005, "algo_type is missing.")
    if (parse_text(body.get("symbol"), "symbol") or symbol) != symbol:
        raise ApiError(-1005, "child_orders must be for the symbol of the root.")
    trigger_type = parse_text(body.get("trigger_price_type"), "trigger_price_type")
    if trigger_type not in (None, "MARK_PRICE"):
        raise ApiError(-1005, "trigger_price_type must be MARK_PRICE.")
    children = body.get("child_orders") or []
    if not isinstance(children, list):
        raise ApiError(-1005, "child_orders must be a list.")

    def camel(snake: str, other: str) -> Decimal | None:
        # The SDK sends snake_case, OpenAPI lists camelCase (orderly-api.md section 7): take both.
        return positive(body.get(snake, body.get(other)), snake)

    return AlgoRequest(
        symbol=symbol,
        algo_type=algo_type,
        side=parse_text(body.get("side"), "side", SIDES),
        type=parse_text(body.get("type"), "type", _ALGO_TYPES),
        quantity=parse_number(body.get("quantity"), "quantity"),
        price=parse_number(body.get("price"), "price"),
        trigger_price=positive(body.get("trigger_price"), "trigger_price"),
        reduce_only=parse_flag(body.get("reduce_only"), "reduce_only"),
        client_order_id=client_id(body.get("client_order_id")),
        order_tag=order_tag_of(body.get("order_tag")),
        margin_mode=parse_text(body.get("margin_mode"), "margin_mode", MARGIN_MODES),
        activated_price=camel("activated_price", "activatedPrice"),
        callback_rate=camel("callback_rate", "callbackRate"),
        callback_value=camel("callback_value", "callbackValue"),
        children=tuple(_node(child, symbol, depth + 1) for child in children),
    )


def _need(present: object, name: str, kind: str) -> None:
    if present is None:
        raise ApiError(-1005, f"{name} is missing; {kind} needs it.")


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
        raise ApiError(-1005, "type CLOSE_POSITION is for the children of POSITIONAL_TP_SL.")
    if root.type == "LIMIT":
        _need(root.price, "price", "type LIMIT")
    if kind == "STOP":
        _need(root.trigger_price, "trigger_price", kind)
    elif kind == "TRAILING_STOP":
        if root.type != "MARKET":
            raise ApiError(-1005, "TRAILING_STOP takes type MARKET only.")
        if (root.callback_rate is None) == (root.callback_value is None):
            raise ApiError(-1005, "Give either callback_rate or callback_value.")
        if root.callback_rate is not None and root.callback_rate >= 1:
            raise ApiError(-1005, "callback_rate is a fraction below 1.")
    else:
        _check_bracket(root)


def _check_bracket(root: AlgoRequest) -> None:
    if len(root.children) != 1 or root.children[0].algo_type not in EXIT_PAIRS:
        raise ApiError(-1005, "BRACKET needs one child of type TP_SL or POSITIONAL_TP_SL.")
    _check_pair(root.children[0])
    if any(leaf.side == root.side for leaf in root.children[0].children):
        raise ApiError(-1005, "The exits of a BRACKET must be on the other side of its entry.")


def _check_pair(pair: AlgoRequest) -> None:
    kinds = [leaf.algo_type for leaf in pair.children]
    if not 1 <= len(kinds) <= 2 or len(set(kinds)) != len(kinds) or not set(kinds) <= LEAVES:
        raise ApiError(-1005, f"{pair.algo_type} needs a TAKE_PROFIT, a STOP_LOSS, or one of each.")
    if len({leaf.side for leaf in pair.children}) != 1:
        raise ApiError(-1005, "Both exits must have the same side.")
    for leaf in pair.children:
        _need(leaf.side, "side", leaf.algo_type)
        _need(leaf.trigger_price, "trigger_price", leaf.algo_type)
        _need(leaf.type, "type", leaf.algo_type)
        if (leaf.type == "CLOSE_POSITION") != (pair.algo_type == "POSITIONAL_TP_SL"):
            raise ApiError(-1005, "type CLOSE_POSITION belongs to POSITIONAL_TP_SL; TP_SL takes MARKET or LIMIT.")
        if leaf.type == "LIMIT":
            _need(leaf.price, "price", "type LIMIT")


# --- checks against the market -------------------------------------------------------------------------------


def check_numbers(request: AlgoRequest, instrument: PaperInstrument) -> None:
    """Sizes on the step, prices and triggers on the tick, in the whole tree; -1104 and -1103."""
    if request.quantity is not None and request.algo_type != "POSITIONAL_TP_SL":
        filters.check_size(instrument, request.quantity, "quantity")
    if request.type == "LIMIT" and request.price is not None:
        filters.check_price(instrument, request.price, "price")
    for node in _walk(request):
        if node.trigger_price is not None and node.algo_type != "BRACKET":
            filters.check_price(instrument, node.trigger_price, "trigger_price")
        if node.algo_type in LEAVES and node.type == "LIMIT" and node.price is not None:
            filters.check_price(instrument, node.price, "price")


def check_triggers(request: AlgoRequest, mark: Decimal) -> None:
    """A trigger on the wrong side of the price is refused (choice of orderly-api.md section 7)."""
    if request.algo_type == "STOP" and request.trigger_price is not None:
        if (request.trigger_price > mark) != (request.side == "BUY") or request.trigger_price == mark:
            raise _wrong_side("STOP", request.trigger_price, request.side == "BUY", mark)
        return
    reference = mark
    if request.algo_type == "BRACKET" and request.type == "LIMIT" and request.price is not None:
        reference = request.price
    for leaf in _walk(request):
        if leaf.algo_type not in LEAVES or leaf.trigger_price is None:
            continue
        above = (leaf.algo_type == "TAKE_PROFIT") == (leaf.side == "SELL")
        if leaf.trigger_price == reference or (leaf.trigger_price > reference) != above:
            raise _wrong_side(leaf.algo_type, leaf.trigger_price, above, reference)


def _walk(request: AlgoRequest) -> list[AlgoRequest]:
    found = [request]
    for child in request.children:
        found.extend(_walk(child))
    return found


def _wrong_side(name: str, trigger: Decimal, above: bool, reference: Decimal) -> ApiError:
    place = "above" if above else "below"
    return ApiError(
        -1005,
        f"The {name} trigger_price {format_decimal(trigger)} must be {place} the price {format_decimal(reference)}.",
    )


# --- rows ----------------------------------------------------------------------------------------------------


def build_tree(
    state: ExchangeState, request: AlgoRequest, parent: AlgoNode | None = None, root: AlgoNode | None = None
) -> AlgoNode:
    """Store the rows of a checked request and return its topmost node."""
    now, new_id = state.clock(), state.next_id()
    mode = root.margin_mode if root else request.margin_mode
    node = AlgoNode(
        algo_order_id=new_id,
        parent_id=parent.algo_order_id if parent else 0,
        root_id=root.algo_order_id if root else new_id,
        symbol=request.symbol,
        algo_type=request.algo_type,
        margin_mode=mode or state.symbol_settings[request.symbol].margin_mode,
        created=now,
        updated=now,
        client_order_id=request.client_order_id,
        order_tag=request.order_tag,
        side=request.side,
        type=request.type,
        price=request.price,
        quantity=request.quantity,
        trigger_price=request.trigger_price,
        reduce_only=request.reduce_only,
        activated_price=request.activated_price,
        callback_rate=request.callback_rate,
        callback_value=request.callback_value,
    )
    if node.algo_type == "TRAILING_STOP":
        node.is_activated = node.activated_price is None
        node.extreme_price = state.marks[node.symbol].price if node.is_activated else None
    if root is not None and root.algo_type == "BRACKET":
        node.is_activated = False  # the exits wake up with the entry's first fill
        if node.algo_type != "POSITIONAL_TP_SL" and node.type != "CLOSE_POSITION":
            node.quantity = root.quantity
    elif parent is not None and parent.algo_type == "TP_SL":
        node.quantity = parent.quantity
    state.add(node)
    for child in request.children if node.algo_type not in ("STOP", "TRAILING_STOP") else ():
        build_tree(state, child, node, root or node)
    if node.algo_type in EXIT_PAIRS and len(request.children) == 1:
        _add_inactive_sibling(state, node, request.children[0], root or node)
    return node


def _add_inactive_sibling(state: ExchangeState, pair: AlgoNode, present: AlgoRequest, root: AlgoNode) -> None:
    # One of the two legs alone is allowed; the stored order still shows both, the other switched off.
    other = "STOP_LOSS" if present.algo_type == "TAKE_PROFIT" else "TAKE_PROFIT"
    leaf = build_tree(
        state, AlgoRequest(pair.symbol, other, side=present.side, type=present.type, reduce_only=True), pair, root
    )
    leaf.is_activated = False
    state.save(leaf)


# --- triggers ------------------------------------------------------------------------------------------------


def is_trigger_reached(node: AlgoNode, mark: Decimal) -> bool:
    """True when the mark stands at or beyond a fixed trigger that is active."""
    if not node.is_activated or node.trigger_price is None or node.side is None:
        return False
    if node.algo_type in ("STOP", "STOP_LOSS"):
        return mark >= node.trigger_price if node.side == "BUY" else mark <= node.trigger_price
    if node.algo_type == "TAKE_PROFIT":
        return mark <= node.trigger_price if node.side == "BUY" else mark >= node.trigger_price
    return False


def update_trailing_stop(node: AlgoNode, mark: Decimal) -> bool:
    """Move a trailing stop's trigger behind the best mark since its activation; True when the mark has come back to it."""
    sell = node.side == "SELL"
    if not node.is_activated:
        start = node.activated_price or mark
        if not (mark >= start if sell else mark <= start):
            return False
        node.is_activated = True
    extreme = node.extreme_price if node.extreme_price is not None else mark
    node.extreme_price = max(extreme, mark) if sell else min(extreme, mark)
    rate = node.callback_rate
    distance = (node.callback_value or ZERO) if rate is None else node.extreme_price * rate
    node.trigger_price = node.extreme_price - distance if sell else node.extreme_price + distance
    return mark <= node.trigger_price if sell else mark >= node.trigger_price
