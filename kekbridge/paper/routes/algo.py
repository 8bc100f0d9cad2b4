"""Endpoints of algo orders (orderly-api.md section 7)."""

from __future__ import annotations

from kekbridge.paper import responses as views
from kekbridge.paper.algo_requests import parse_algo
from kekbridge.paper.api import Call, Route
from kekbridge.paper.codec import Refusal, flag, integer
from kekbridge.paper.exchange import Venue
from kekbridge.paper.models import OPEN_STATUSES, Algo
from kekbridge.paper.rate_limits import FIVE_PER_SECOND, ONE_PER_SECOND
from kekbridge.paper.requests import client_id
from kekbridge.paper.routes.orders import statuses

_TYPE_WORDS = {"TPSL": "TP_SL", "POSITIONAL_TPSL": "POSITIONAL_TP_SL"}
"""OpenAPI's spelling of the filter values; SDK, CLI and ccxt use the root type names."""


def _visible(venue: Venue, node: Algo) -> bool:
    lag = venue.faults.read_lag_ms()
    return not lag or node.created <= venue.engine.clock() - lag


def create(call: Call) -> object:
    root = call.venue.algos.place(parse_algo(call.body))
    return {
        "order_id": root.algo_order_id,
        "client_order_id": root.client_order_id,
        "algo_type": root.algo_type,
        "quantity": root.quantity,
    }


def edit(call: Call) -> object:
    root_id = integer(call.body.get("order_id"), "order_id")
    node = call.venue.algos.find_open(call.venue.engine.algos.get(root_id or 0), None)
    call.venue.algo_edits.request(node, call.body)
    return {"status": "EDIT_SENT"}


def _cancel(call: Call, node: Algo | None) -> object:
    algos = call.venue.algos
    algos.request_cancel(algos.find_open(node, call.query.get("symbol")))
    return {"status": "CANCEL_SENT"}


def cancel(call: Call) -> object:
    order_id = call.int_of("order_id")
    if order_id is None:
        raise Refusal(-1005, "order_id is missing.")
    return _cancel(call, call.venue.engine.algos.get(order_id))


def _by_client(venue: Venue, wanted: str | None) -> Algo | None:
    return venue.engine.algos.get(venue.engine.algo_by_client.get(wanted or "", 0))


def cancel_by_client(call: Call) -> object:
    wanted = client_id(call.query.get("client_order_id"))
    if wanted is None:
        raise Refusal(-1005, "client_order_id is missing.")
    return _cancel(call, _by_client(call.venue, wanted))


def cancel_all(call: Call) -> object:
    symbol = call.query.get("symbol") or None
    if symbol is not None:
        call.venue.engine.instrument(symbol)
    call.venue.algos.cancel_all(symbol, _type_word(call.query.get("algo_type")))
    return {"status": "CANCEL_ALL_SENT"}


def _type_word(raw: str | None) -> str | None:
    return _TYPE_WORDS.get(raw.upper(), raw.upper()) if raw else None


def get(call: Call) -> object:
    node = call.venue.engine.algos.get(integer(call.path["order_id"], "order_id") or 0)
    return _show(call, node)


def get_by_client(call: Call) -> object:
    return _show(call, _by_client(call.venue, call.path["client_order_id"]))


def _show(call: Call, node: Algo | None) -> object:
    if node is None or not _visible(call.venue, node):
        raise Refusal(-1006, "The algo order does not exist.")
    return views.algo_view(call.venue.engine, node)


def listing(call: Call) -> object:
    """Root orders. An order counts as INCOMPLETE while anything in its tree is open."""
    query, venue = call.query, call.venue
    wanted, kind = statuses(query.get("status")), _type_word(query.get("algo_type"))
    start, end = call.int_of("start_t"), call.int_of("end_t")
    triggered = flag(query["is_triggered"], "is_triggered") if query.get("is_triggered") else None
    found: list[Algo] = []
    for root in reversed(venue.engine.algos.values()):
        if root.parent_id or not _visible(venue, root):
            continue
        if query.get("symbol") not in (None, "", root.symbol) or kind not in (None, root.algo_type):
            continue
        if query.get("side") not in (None, "", root.side, venue.algos.exit_side(root)):
            continue
        if query.get("order_type") not in (None, "", root.type):
            continue
        if query.get("order_tag") not in (None, "", root.order_tag):
            continue
        if (start is not None and root.created < start) or (end is not None and root.created > end):
            continue
        if triggered is not None and triggered != root.is_triggered:
            continue
        if wanted is not None and not _in(venue, root, wanted):
            continue
        found.append(root)
    answer = views.page(found, *call.paging())
    rows = answer["rows"]
    assert isinstance(rows, list)  # noqa: S101  page() makes one
    return {**answer, "rows": [views.algo_view(venue.engine, root) for root in rows]}


def _in(venue: Venue, root: Algo, wanted: frozenset[str]) -> bool:
    alive = venue.algos.is_alive(root)
    if wanted == OPEN_STATUSES:
        return alive
    return root.status in wanted and not (alive and "CANCELLED" in wanted and "FILLED" in wanted)


def trades(call: Call) -> object:
    engine = call.venue.engine
    node = engine.algos.get(integer(call.path["order_id"], "order_id") or 0)
    if node is None:
        raise Refusal(-1006, "The algo order does not exist.")
    plain_ids = [one.plain_id for one in call.venue.algos.tree(node) if one.plain_id]
    return {"rows": [views.trade_view(t) for plain_id in plain_ids for t in engine.trades_of[plain_id]]}


ROUTES = (
    Route("POST", "/v1/algo/order", create, "trading", ONE_PER_SECOND, creates="algo"),
    Route("PUT", "/v1/algo/order", edit, "trading", FIVE_PER_SECOND),
    Route("DELETE", "/v1/algo/order", cancel, "trading", FIVE_PER_SECOND),
    Route("DELETE", "/v1/algo/client/order", cancel_by_client, "trading", FIVE_PER_SECOND),
    Route("DELETE", "/v1/algo/orders", cancel_all, "trading", FIVE_PER_SECOND),
    Route("GET", "/v1/algo/orders", listing, "read", FIVE_PER_SECOND),
    Route("GET", "/v1/algo/order/{order_id}", get, "read"),
    Route("GET", "/v1/algo/client/order/{client_order_id}", get_by_client, "read"),
    Route("GET", "/v1/algo/order/{order_id}/trades", trades, "read"),
)
