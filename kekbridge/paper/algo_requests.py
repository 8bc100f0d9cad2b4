"""Algo order requests: parse, check against the market, store as a tree of nodes, test triggers.

See docs/internals/orderly.md, section 7. What happens to the stored nodes afterwards is in algo_orders.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from kekbridge.paper import filters
from kekbridge.paper.codec import ApiError, format_decimal, parse_flag, parse_number, parse_text
from kekbridge.paper.instruments import PaperInstrument
from kekbridge.paper.models import ZERO, AlgoNode
from kekbridge.paper.requests import (
    MARGIN_MODES,
    SIDES,
    parse_client_order_id,
    parse_order_tag,
    parse_positive,
    parse_symbol,
)
from kekbridge.paper.state import ExchangeState

ALGO_ROOTS: Final = frozenset({"STOP", "TP_SL", "POSITIONAL_TP_SL", "BRACKET", "TRAILING_STOP"})
EXIT_PAIRS: Final = frozenset({"TP_SL", "POSITIONAL_TP_SL"})
LEAVES: Final = frozenset({"TAKE_PROFIT", "STOP_LOSS"})
_ALGO_TYPES: Final = frozenset({"MARKET", "LIMIT", "CLOSE_POSITION"})


@dataclass(frozen=True, slots=True)
class AlgoRequest:
    """One node of an algo order as requested."""

    #: Symbol, such as PERP_BTC_USDC.
    symbol: str
    #: STOP, TP_SL, POSITIONAL_TP_SL, BRACKET, TRAILING_STOP (roots), TAKE_PROFIT, STOP_LOSS (exits).
    algo_type: str
    #: BUY or SELL; None for a pair of exits.
    side: str | None = None
    #: MARKET, LIMIT or CLOSE_POSITION; None for a pair of exits.
    type: str | None = None
    #: Quantity in base units; None: that of the parent, or the whole position.
    quantity: Decimal | None = None
    #: Limit price in USDC; None for other types.
    price: Decimal | None = None
    #: Mark price in USDC that triggers the order.
    trigger_price: Decimal | None = None
    #: Whether the order may only reduce a position.
    reduce_only: bool = False
    #: Client order ID; None if the client gave none.
    client_order_id: str | None = None
    #: Order tag of the client (at most 128 characters); None without one.
    order_tag: str | None = None
    #: CROSS or ISOLATED; None: the symbol's default.
    margin_mode: str | None = None
    #: TRAILING_STOP: mark price in USDC that activates it; None: active at once.
    activated_price: Decimal | None = None
    #: TRAILING_STOP: distance from the extreme price as a fraction.
    callback_rate: Decimal | None = None
    #: TRAILING_STOP: distance from the extreme price in USDC.
    callback_value: Decimal | None = None
    #: Child nodes: the exits of a pair, or the pair of a bracket.
    children: tuple[AlgoRequest, ...] = field(default=())


def parse_algo(body: Mapping[str, Any]) -> AlgoRequest:
    """Read an algo create request; ApiError -1005 if its shape is wrong. Unknown fields are ignored."""
    request = _parse_node(body, parse_symbol(body), depth=0)
    if request.algo_type not in ALGO_ROOTS:
        raise ApiError(-1005, f"algo_type {request.algo_type} cannot be a root order.")
    _check_shape(request)
    return request


def _parse_node(body: Mapping[str, Any], symbol: str, depth: int) -> AlgoRequest:
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

    def either_spelling(snake: str, other: str) -> Decimal | None:
        # The SDK sends snake_case, the OpenAPI file lists camelCase: accept both.
        return parse_positive(body.get(snake, body.get(other)), snake)

    return AlgoRequest(
        symbol=symbol,
        algo_type=algo_type,
        side=parse_text(body.get("side"), "side", SIDES),
        type=parse_text(body.get("type"), "type", _ALGO_TYPES),
        quantity=parse_number(body.get("quantity"), "quantity"),
        price=parse_number(body.get("price"), "price"),
        trigger_price=parse_positive(body.get("trigger_price"), "trigger_price"),
        reduce_only=parse_flag(body.get("reduce_only"), "reduce_only"),
        client_order_id=parse_client_order_id(body.get("client_order_id")),
        order_tag=parse_order_tag(body.get("order_tag")),
        margin_mode=parse_text(body.get("margin_mode"), "margin_mode", MARGIN_MODES),
        activated_price=either_spelling("activated_price", "activatedPrice"),
        callback_rate=either_spelling("callback_rate", "callbackRate"),
        callback_value=either_spelling("callback_value", "callbackValue"),
        children=tuple(_parse_node(child, symbol, depth + 1) for child in children),
    )


def _require(present: object, name: str, kind: str) -> None:
    if present is None:
        raise ApiError(-1005, f"{name} is missing; {kind} needs it.")


def _check_shape(root: AlgoRequest) -> None:
    kind = root.algo_type
    if kind in EXIT_PAIRS:
        _check_pair(root)
        if kind == "TP_SL":
            _require(root.quantity, "quantity", kind)
        return
    _require(root.side, "side", kind)
    _require(root.type, "type", kind)
    _require(root.quantity, "quantity", kind)
    if root.type == "CLOSE_POSITION":
        raise ApiError(-1005, "type CLOSE_POSITION is for the children of POSITIONAL_TP_SL.")
    if root.type == "LIMIT":
        _require(root.price, "price", "type LIMIT")
    if kind == "STOP":
        _require(root.trigger_price, "trigger_price", kind)
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
        _require(leaf.side, "side", leaf.algo_type)
        _require(leaf.trigger_price, "trigger_price", leaf.algo_type)
        _require(leaf.type, "type", leaf.algo_type)
        if (leaf.type == "CLOSE_POSITION") != (pair.algo_type == "POSITIONAL_TP_SL"):
            raise ApiError(-1005, "type CLOSE_POSITION belongs to POSITIONAL_TP_SL; TP_SL takes MARKET or LIMIT.")
        if leaf.type == "LIMIT":
            _require(leaf.price, "price", "type LIMIT")


# --- checks against the market -------------------------------------------------------------------------------


def check_numbers(request: AlgoRequest, instrument: PaperInstrument) -> None:
    """Check quantities (ApiError -1104), prices and trigger prices (ApiError -1103) of the whole tree."""
    if request.quantity is not None and request.algo_type != "POSITIONAL_TP_SL":
        filters.check_size(instrument, request.quantity, "quantity")
    if request.type == "LIMIT" and request.price is not None:
        filters.check_price(instrument, request.price, "price")
    for node in _nodes_of(request):
        if node.trigger_price is not None and node.algo_type != "BRACKET":
            filters.check_price(instrument, node.trigger_price, "trigger_price")
        if node.algo_type in LEAVES and node.type == "LIMIT" and node.price is not None:
            filters.check_price(instrument, node.price, "price")


def check_triggers(request: AlgoRequest, mark: Decimal) -> None:
    """Reject triggers on the wrong side of the mark price, or of the limit price of a bracket; ApiError -1005."""
    if request.algo_type == "STOP" and request.trigger_price is not None:
        if (request.trigger_price > mark) != (request.side == "BUY") or request.trigger_price == mark:
            raise _wrong_side("STOP", request.trigger_price, request.side == "BUY", mark)
        return
    reference = mark
    if request.algo_type == "BRACKET" and request.type == "LIMIT" and request.price is not None:
        reference = request.price
    for leaf in _nodes_of(request):
        if leaf.algo_type not in LEAVES or leaf.trigger_price is None:
            continue
        above = (leaf.algo_type == "TAKE_PROFIT") == (leaf.side == "SELL")
        if leaf.trigger_price == reference or (leaf.trigger_price > reference) != above:
            raise _wrong_side(leaf.algo_type, leaf.trigger_price, above, reference)


def _nodes_of(request: AlgoRequest) -> list[AlgoRequest]:
    found = [request]
    for child in request.children:
        found.extend(_nodes_of(child))
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
    """Store a checked request as linked nodes and return the topmost one."""
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
        node.is_activated = False  # activated by the first fill of the entry
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
    # A single exit is allowed; Orderly stores both all the same, the missing one deactivated.
    other = "STOP_LOSS" if present.algo_type == "TAKE_PROFIT" else "TAKE_PROFIT"
    leaf = build_tree(
        state, AlgoRequest(pair.symbol, other, side=present.side, type=present.type, reduce_only=True), pair, root
    )
    leaf.is_activated = False
    state.save(leaf)


# --- triggers ------------------------------------------------------------------------------------------------


def is_trigger_reached(node: AlgoNode, mark: Decimal) -> bool:
    """Return whether the mark price is at or beyond the trigger of an active node with a fixed trigger."""
    if not node.is_activated or node.trigger_price is None or node.side is None:
        return False
    if node.algo_type in ("STOP", "STOP_LOSS"):
        return mark >= node.trigger_price if node.side == "BUY" else mark <= node.trigger_price
    if node.algo_type == "TAKE_PROFIT":
        return mark <= node.trigger_price if node.side == "BUY" else mark >= node.trigger_price
    return False


def update_trailing_stop(node: AlgoNode, mark: Decimal) -> bool:
    """Move the trigger of a trailing stop behind the best mark price; return whether the mark price has reached it.

    Changes the node; the caller saves it.
    """
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
