"""From a checked algo request to its linked rows (orderly-api.md section 7). Stores, decides nothing."""

from __future__ import annotations

from kekbridge.paper.models import Algo
from kekbridge.paper.requests import EXIT_PAIRS, AlgoRequest
from kekbridge.paper.state import Engine


def build_tree(engine: Engine, request: AlgoRequest, parent: Algo | None = None, root: Algo | None = None) -> Algo:
    """Store the rows of a checked request and return its topmost node."""
    now, new_id = engine.clock(), engine.next_id()
    mode = root.margin_mode if root else request.margin_mode
    node = Algo(
        algo_order_id=new_id,
        parent_id=parent.algo_order_id if parent else 0,
        root_id=root.algo_order_id if root else new_id,
        symbol=request.symbol,
        algo_type=request.algo_type,
        margin_mode=mode or engine.choices[request.symbol].margin_mode,
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
        node.extreme_price = engine.marks[node.symbol].price if node.is_activated else None
    if root is not None and root.algo_type == "BRACKET":
        node.is_activated = False  # the exits wake up with the entry's first fill
        if node.algo_type != "POSITIONAL_TP_SL" and node.type != "CLOSE_POSITION":
            node.quantity = root.quantity
    elif parent is not None and parent.algo_type == "TP_SL":
        node.quantity = parent.quantity
    engine.add_row(node)
    for child in request.children if node.algo_type not in ("STOP", "TRAILING_STOP") else ():
        build_tree(engine, child, node, root or node)
    if node.algo_type in EXIT_PAIRS and len(request.children) == 1:
        _idle_sibling(engine, node, request.children[0], root or node)
    return node


def _idle_sibling(engine: Engine, pair: Algo, present: AlgoRequest, root: Algo) -> None:
    # One of the two legs alone is allowed; the stored order still shows both, the other switched off.
    other = "STOP_LOSS" if present.algo_type == "TAKE_PROFIT" else "TAKE_PROFIT"
    leaf = build_tree(
        engine, AlgoRequest(pair.symbol, other, side=present.side, type=present.type, reduce_only=True), pair, root
    )
    leaf.is_activated = False
    engine.touch(leaf)
