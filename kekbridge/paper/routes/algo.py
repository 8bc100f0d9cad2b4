"""Endpoints of algo orders. See docs/internals/orderly.md, section 7."""

from __future__ import annotations

from kekbridge.paper import responses
from kekbridge.paper.algo_requests import parse_algo
from kekbridge.paper.api import ApiRoute, Call
from kekbridge.paper.codec import ApiError, parse_flag, parse_integer
from kekbridge.paper.exchange import SimulatedExchange
from kekbridge.paper.models import OPEN_STATUSES, AlgoNode
from kekbridge.paper.rate_limits import FIVE_PER_SECOND, ONE_PER_SECOND
from kekbridge.paper.requests import parse_client_order_id
from kekbridge.paper.routes.orders import parse_statuses

#: OpenAPI spells these filter values without underscore; SDK, CLI and ccxt use the names of the root types.
_ALGO_TYPE_NAMES = {"TPSL": "TP_SL", "POSITIONAL_TPSL": "POSITIONAL_TP_SL"}


def _visible(exchange: SimulatedExchange, node: AlgoNode) -> bool:
    if exchange.faults.is_armed("hide_orders"):
        return False
    lag = exchange.faults.read_lag_ms()
    return not lag or node.created <= exchange.state.clock() - lag


def create(call: Call) -> object:
    root = call.exchange.algo_orders.place(parse_algo(call.body))
    return {
        "order_id": root.algo_order_id,
        "client_order_id": root.client_order_id,
        "algo_type": root.algo_type,
        "quantity": root.quantity,
    }


def edit(call: Call) -> object:
    root_id = parse_integer(call.body.get("order_id"), "order_id")
    node = call.exchange.algo_orders.find_open(call.exchange.state.algos.get(root_id or 0), None)
    call.exchange.algo_edits.request_edit(node, call.body)
    return {"status": "EDIT_SENT"}


def _cancel(call: Call, node: AlgoNode | None) -> object:
    algos = call.exchange.algo_orders
    algos.request_cancel(algos.find_open(node, call.query.get("symbol")))
    return {"status": "CANCEL_SENT"}


def cancel(call: Call) -> object:
    order_id = call.query_int("order_id")
    if order_id is None:
        raise ApiError(-1005, "order_id is missing.")
    return _cancel(call, call.exchange.state.algos.get(order_id))


def _by_client(exchange: SimulatedExchange, wanted: str | None) -> AlgoNode | None:
    return exchange.state.algos.get(exchange.state.algo_by_client.get(wanted or "", 0))


def cancel_by_client(call: Call) -> object:
    wanted = parse_client_order_id(call.query.get("client_order_id"))
    if wanted is None:
        raise ApiError(-1005, "client_order_id is missing.")
    return _cancel(call, _by_client(call.exchange, wanted))


def cancel_all(call: Call) -> object:
    symbol = call.query.get("symbol") or None
    if symbol is not None:
        call.exchange.state.instrument(symbol)
    call.exchange.algo_orders.cancel_all(symbol, _algo_type_of(call.query.get("algo_type")))
    return {"status": "CANCEL_ALL_SENT"}


def _algo_type_of(raw: str | None) -> str | None:
    return _ALGO_TYPE_NAMES.get(raw.upper(), raw.upper()) if raw else None


def get(call: Call) -> object:
    node = call.exchange.state.algos.get(parse_integer(call.path["order_id"], "order_id") or 0)
    return _visible_node(call, node)


def get_by_client(call: Call) -> object:
    return _visible_node(call, _by_client(call.exchange, call.path["client_order_id"]))


def _visible_node(call: Call, node: AlgoNode | None) -> object:
    if node is None or not _visible(call.exchange, node):
        raise ApiError(-1006, "The algo order does not exist.")
    return responses.algo_json(call.exchange.state, node)


def listing(call: Call) -> object:
    """List root orders; one counts as INCOMPLETE while any node of its tree is open."""
    query, exchange = call.query, call.exchange
    wanted, kind = parse_statuses(query.get("status")), _algo_type_of(query.get("algo_type"))
    start, end = call.query_int("start_t"), call.query_int("end_t")
    triggered = parse_flag(query["is_triggered"], "is_triggered") if query.get("is_triggered") else None
    found: list[AlgoNode] = []
    for root in reversed(exchange.state.algos.values()):
        if root.parent_id or not _visible(exchange, root):
            continue
        if query.get("symbol") not in (None, "", root.symbol) or kind not in (None, root.algo_type):
            continue
        if query.get("side") not in (None, "", root.side, exchange.algo_orders.exit_side(root)):
            continue
        if query.get("order_type") not in (None, "", root.type):
            continue
        if query.get("order_tag") not in (None, "", root.order_tag):
            continue
        if (start is not None and root.created < start) or (end is not None and root.created > end):
            continue
        if triggered is not None and triggered != root.is_triggered:
            continue
        if wanted is not None and not _matches_status(exchange, root, wanted):
            continue
        found.append(root)
    return responses.page(
        found, *call.paging(kind="algo_orders"), show=lambda root: responses.algo_json(exchange.state, root)
    )


def _matches_status(exchange: SimulatedExchange, root: AlgoNode, wanted: frozenset[str]) -> bool:
    is_open = exchange.algo_orders.is_tree_open(root)
    if wanted == OPEN_STATUSES:
        return is_open
    return root.status in wanted and not (is_open and "CANCELLED" in wanted and "FILLED" in wanted)


def trades(call: Call) -> object:
    state = call.exchange.state
    node = state.algos.get(parse_integer(call.path["order_id"], "order_id") or 0)
    if node is None:
        raise ApiError(-1006, "The algo order does not exist.")
    plain_ids = [one.plain_id for one in call.exchange.algo_orders.tree(node) if one.plain_id]
    return {"rows": [responses.trade_json(t) for plain_id in plain_ids for t in state.trades_of[plain_id]]}


ROUTES = (
    ApiRoute("POST", "/v1/algo/order", create, "trading", ONE_PER_SECOND, creates="algo"),
    ApiRoute("PUT", "/v1/algo/order", edit, "trading", FIVE_PER_SECOND),
    ApiRoute("DELETE", "/v1/algo/order", cancel, "trading", FIVE_PER_SECOND),
    ApiRoute("DELETE", "/v1/algo/client/order", cancel_by_client, "trading", FIVE_PER_SECOND),
    ApiRoute("DELETE", "/v1/algo/orders", cancel_all, "trading", FIVE_PER_SECOND),
    ApiRoute("GET", "/v1/algo/orders", listing, "read", FIVE_PER_SECOND),
    ApiRoute("GET", "/v1/algo/order/{order_id}", get, "read"),
    ApiRoute("GET", "/v1/algo/client/order/{client_order_id}", get_by_client, "read"),
    ApiRoute("GET", "/v1/algo/order/{order_id}/trades", trades, "read"),
)
