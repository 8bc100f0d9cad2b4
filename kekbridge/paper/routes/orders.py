"""Endpoints of plain orders and trades. See docs/internals/orderly.md, section 6."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter

from kekbridge.paper import responses
from kekbridge.paper.api import ApiRoute, Call
from kekbridge.paper.codec import ApiError, parse_integer, parse_number, parse_text
from kekbridge.paper.exchange import SimulatedExchange
from kekbridge.paper.models import OPEN_STATUSES, PaperOrder, PaperTrade
from kekbridge.paper.rate_limits import ONE_PER_SECOND, TEN_PER_SECOND
from kekbridge.paper.requests import SIDES, parse_client_order_id, parse_order, parse_symbol

MAX_BATCH = 10
_STATUSES: dict[str, frozenset[str]] = {
    "INCOMPLETE": OPEN_STATUSES,
    "COMPLETED": frozenset({"CANCELLED", "FILLED"}),
    **{name: frozenset({name}) for name in ("NEW", "PARTIAL_FILLED", "FILLED", "CANCELLED", "REJECTED")},
}
_SORTS: dict[str, tuple[str, bool]] = {
    "CREATED_TIME_DESC": ("created", True),
    "CREATED_TIME_ASC": ("created", False),
    "UPDATED_TIME_DESC": ("updated", True),
    "UPDATED_TIME_ASC": ("updated", False),
}
_DEAD_MAN_MIN, _DEAD_MAN_MAX = 5_000, 900_000


def parse_statuses(raw: str | None) -> frozenset[str] | None:
    """Return the order statuses that a `status` filter selects; None without one; ApiError -1005 if unknown."""
    if not raw:
        return None
    found = _STATUSES.get(raw.upper())
    if found is None:
        raise ApiError(-1005, f"status is {raw[:40]!r}; expected one of {', '.join(_STATUSES)}.")
    return found


# --- read lag ----------------------------------------------------------------------------------------------


def hidden_trades(exchange: SimulatedExchange, order: PaperOrder) -> list[PaperTrade]:
    """Return the fills of an order that the fault read_lag hides."""
    lag = exchange.faults.read_lag_ms()
    if not lag:
        return []
    since = exchange.state.clock() - lag
    return [trade for trade in exchange.state.trades_of[order.order_id] if trade.at > since]


def is_visible(exchange: SimulatedExchange, order: PaperOrder) -> bool:
    """Return whether reads show an order (faults hide_orders and read_lag)."""
    if exchange.faults.is_armed("hide_orders"):
        return False
    lag = exchange.faults.read_lag_ms()
    return not lag or order.created <= exchange.state.clock() - lag


def _visible_order(exchange: SimulatedExchange, order: PaperOrder | None) -> dict[str, object]:
    if order is None or not is_visible(exchange, order):
        raise ApiError(-1006, "The order does not exist.")
    return responses.order_json(order, hidden_trades(exchange, order))


# --- writes ------------------------------------------------------------------------------------------------


def create(call: Call) -> object:
    matching = call.exchange.matching
    return responses.created_order_json(matching.place(matching.build(parse_order(call.body))))


def create_batch(call: Call) -> object:
    rows = call.body.get("orders")
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_BATCH:
        raise ApiError(-1005, f"orders must be a list of 1 to {MAX_BATCH} orders.")
    assert call.key is not None  # noqa: S101  the route is signed
    bucket = f"{call.key.orderly_key} POST /v1/order"
    call.limiter.check(bucket, TEN_PER_SECOND, call.now, cost=len(rows))
    matching, answers = call.exchange.matching, list[object]()
    for row in rows:
        if not isinstance(row, dict):
            raise ApiError(-1005, "Each order of a batch must be an object.")
        try:
            answers.append(responses.created_order_json(matching.place(matching.build(parse_order(row, batch=True)))))
        except ApiError as error:
            call.exchange.state.record_event(
                "order_refused",
                symbol=str(row.get("symbol")),
                client_order_id=row.get("client_order_id"),
                order_id=None,
                code=error.code,
                message=error.message,
                batch=True,
            )
            answers.append(
                {
                    "order_id": 0,
                    "client_order_id": row.get("client_order_id"),
                    "order_type": row.get("order_type"),
                    "order_price": parse_number(row.get("order_price"), "order_price"),
                    "order_quantity": parse_number(row.get("order_quantity"), "order_quantity"),
                    "error_message": error.message,
                }
            )
    return {"rows": answers}


def edit(call: Call) -> object:
    body, matching = call.body, call.exchange.matching
    order_id = parse_integer(body.get("order_id"), "order_id")
    symbol = parse_symbol(body)
    order = matching.find_open(call.exchange.state.orders.get(order_id or 0), symbol)
    side = parse_text(body.get("side"), "side", SIDES)
    if side is not None and side != order.side:
        raise ApiError(-1005, "side cannot be edited.")
    price = parse_number(body.get("order_price"), "order_price")
    matching.request_edit(order, price, parse_number(body.get("order_quantity"), "order_quantity"))
    return {"status": "EDIT_SENT"}


def _by_client(exchange: SimulatedExchange, client_order_id: str | None) -> PaperOrder | None:
    state = exchange.state
    return state.orders.get(state.order_by_client.get(client_order_id or "", 0))


def cancel(call: Call) -> object:
    matching = call.exchange.matching
    order_id = call.query_int("order_id")
    if order_id is None:
        raise ApiError(-1005, "order_id is missing.")
    order = matching.find_open(call.exchange.state.orders.get(order_id), call.query.get("symbol"))
    matching.request_cancel(order)
    return {"status": "CANCEL_SENT"}


def cancel_by_client(call: Call) -> object:
    matching = call.exchange.matching
    wanted = parse_client_order_id(call.query.get("client_order_id"))
    if wanted is None:
        raise ApiError(-1005, "client_order_id is missing.")
    order = matching.find_open(_by_client(call.exchange, wanted), call.query.get("symbol"))
    matching.request_cancel(order)
    return {"status": "CANCEL_SENT"}


def cancel_all(call: Call) -> object:
    symbol = call.query.get("symbol") or None
    if symbol is not None:
        call.exchange.state.instrument(symbol)
    call.exchange.matching.cancel_all(symbol)
    return {"status": "CANCEL_ALL_SENT"}


def _cancel_batch(call: Call, ids: Sequence[str], find: Callable[[str], PaperOrder | None]) -> object:
    if not 1 <= len(ids) <= MAX_BATCH:
        raise ApiError(-1005, f"Give 1 to {MAX_BATCH} ids.")
    found = [order for one in ids if (order := find(one)) is not None and order.is_open]
    if not found:
        raise ApiError(-1006, "None of the orders exists or is open.")
    for order in found:
        call.exchange.matching.request_cancel(order)
    return {"status": "CANCEL_ALL_SENT"}


def cancel_batch(call: Call) -> object:
    ids = [one.strip() for one in call.query.get("order_ids", "").split(",") if one.strip()]
    orders = call.exchange.state.orders
    return _cancel_batch(call, ids, lambda one: orders.get(parse_integer(one, "order_ids") or 0))


def cancel_batch_by_client(call: Call) -> object:
    ids = [one.strip() for one in call.query.get("client_order_ids", "").split(",") if one.strip()]
    return _cancel_batch(call, ids, lambda one: _by_client(call.exchange, one))


def cancel_all_after(call: Call) -> object:
    """Arm the dead man's switch in `trigger_after` ms; 0 disarms it."""
    after = parse_integer(call.body.get("trigger_after", call.body.get("trigger_in")), "trigger_after")
    if after is None or not (after == 0 or _DEAD_MAN_MIN <= after <= _DEAD_MAN_MAX):
        raise ApiError(-1005, f"trigger_after must be 0 or between {_DEAD_MAN_MIN} and {_DEAD_MAN_MAX} ms.")
    account = call.exchange.state.account
    account.cancel_all_at = call.now + after if after else 0
    call.exchange.state.save(account)
    return {"expected_trigger_time": account.cancel_all_at}


# --- reads -------------------------------------------------------------------------------------------------


def get(call: Call) -> object:
    order_id = parse_integer(call.path["order_id"], "order_id")
    return _visible_order(call.exchange, call.exchange.state.orders.get(order_id or 0))


def get_by_client(call: Call) -> object:
    """Return the newest visible order with a client order ID."""
    wanted, exchange = call.path["client_order_id"], call.exchange
    order = _by_client(exchange, wanted)
    if order is not None and not is_visible(exchange, order):
        older = [o for o in exchange.state.orders.values() if o.client_order_id == wanted]
        order = next((o for o in reversed(older) if is_visible(exchange, o)), None)
    return _visible_order(exchange, order)


def listing(call: Call) -> object:
    query, exchange = call.query, call.exchange
    wanted, tag = parse_statuses(query.get("status")), query.get("order_tag")
    start, end = call.query_int("start_t"), call.query_int("end_t")
    sort = _SORTS.get(query.get("sort_by") or "CREATED_TIME_DESC")
    if sort is None:
        raise ApiError(-1005, f"sort_by must be one of {', '.join(_SORTS)}.")
    symbol, side, kind = query.get("symbol"), query.get("side"), query.get("order_type")
    # Open orders are indexed: for INCOMPLETE there is no need to scan the whole history.
    source = exchange.state.open_orders if wanted == OPEN_STATUSES and not exchange.faults.armed else None
    hides_new = exchange.faults.is_armed("hide_orders") or exchange.faults.read_lag_ms() > 0
    found: list[PaperOrder] = []
    for order in (exchange.state.orders if source is None else source).values():
        if (start is not None and order.created < start) or (end is not None and order.created > end):
            continue  # first, as it leaves out most of a long history
        if symbol not in (None, "", order.symbol) or side not in (None, "", order.side):
            continue
        if kind not in (None, "", order.type) or tag not in (None, "", order.order_tag):
            continue
        if hides_new and not is_visible(exchange, order):
            continue
        status = responses.order_status(order, hidden_trades(exchange, order)) if hides_new else order.status
        if wanted is None or status in wanted:
            found.append(order)
    found.sort(key=attrgetter(sort[0], "order_id"), reverse=sort[1])
    return responses.page(
        found,
        *call.paging(kind="orders"),
        show=lambda order: responses.order_json(order, hidden_trades(exchange, order)),
    )


def trades_of_order(call: Call) -> object:
    exchange = call.exchange
    order = exchange.state.orders.get(parse_integer(call.path["order_id"], "order_id") or 0)
    if order is None or not is_visible(exchange, order):
        raise ApiError(-1006, "The order does not exist.")
    hidden = {trade.trade_id for trade in hidden_trades(exchange, order)}
    trades = [t for t in exchange.state.trades_of[order.order_id] if t.trade_id not in hidden]
    return {"rows": [responses.trade_json(trade) for trade in trades]}


def trades(call: Call) -> object:
    query, start, end = call.query, call.query_int("start_t"), call.query_int("end_t")
    newest = call.now - call.exchange.faults.read_lag_ms()
    found = [
        trade
        for trade in reversed(call.exchange.state.trades.values())
        if (start is None or trade.at >= start)
        and trade.at <= newest
        and (end is None or trade.at <= end)
        and query.get("symbol") in (None, "", trade.symbol)
    ]
    return responses.page(found, *call.paging(kind="trades"), show=responses.trade_json)


def trade(call: Call) -> object:
    found = call.exchange.state.trades.get(parse_integer(call.path["trade_id"], "trade_id") or 0)
    if found is None:
        raise ApiError(-1006, "The trade does not exist.")
    return responses.trade_json(found)


ROUTES = (
    ApiRoute("POST", "/v1/order", create, "trading", creates="order"),
    ApiRoute("POST", "/v1/batch-order", create_batch, "trading", ONE_PER_SECOND, creates="batch"),
    ApiRoute("PUT", "/v1/order", edit, "trading"),
    ApiRoute("DELETE", "/v1/order", cancel, "trading"),
    ApiRoute("DELETE", "/v1/client/order", cancel_by_client, "trading"),
    ApiRoute("DELETE", "/v1/orders", cancel_all, "trading"),
    ApiRoute("DELETE", "/v1/batch-order", cancel_batch, "trading"),
    ApiRoute("DELETE", "/v1/client/batch-order", cancel_batch_by_client, "trading"),
    ApiRoute("POST", "/v1/order/cancel_all_after", cancel_all_after, "trading", ONE_PER_SECOND),
    ApiRoute("GET", "/v1/order/{order_id}", get, "read"),
    ApiRoute("GET", "/v1/client/order/{client_order_id}", get_by_client, "read"),
    ApiRoute("GET", "/v1/orders", listing, "read"),
    ApiRoute("GET", "/v1/order/{order_id}/trades", trades_of_order, "read"),
    ApiRoute("GET", "/v1/trades", trades, "read"),
    ApiRoute("GET", "/v1/trade/{trade_id}", trade, "read"),
)
