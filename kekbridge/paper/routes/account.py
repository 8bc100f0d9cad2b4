"""Endpoints of account, positions, leverage, keys and histories.

See docs/internals/orderly.md, sections 3, 9 and 10.
"""

from __future__ import annotations

from kekbridge.paper import money, responses
from kekbridge.paper.api import ApiRoute, Call
from kekbridge.paper.codec import ApiError, parse_flag, parse_integer, parse_text
from kekbridge.paper.models import ZERO, ApiKey, PaperPosition
from kekbridge.paper.positions import CROSS, ISOLATED
from kekbridge.paper.rate_limits import (
    FIVE_PER_MINUTE,
    ONE_PER_SECOND,
    TEN_PER_MINUTE,
    THIRTY_PER_TEN_SECONDS,
    TWENTY_PER_MINUTE,
    TWENTY_PER_SECOND,
)
from kekbridge.paper.requests import MARGIN_MODES, parse_positive, parse_symbol

# --- account and positions ---------------------------------------------------------------------------------


def client_info(call: Call) -> object:
    return responses.client_info_json(call.exchange.state, call.account_id)


def account_info(call: Call) -> object:
    portfolio = call.exchange.portfolio
    return {
        **responses.totals_json(portfolio, portfolio.margin()),
        "total_pnl_24h": responses.pnl_24h(portfolio),
    }


def holding(call: Call) -> object:
    return responses.holding_json(call.exchange.portfolio)


def positions(call: Call) -> object:
    return call.exchange.positions_json()


def positions_lite(call: Call) -> object:
    return {"rows": call.exchange.positions_json()["rows"]}


def position(call: Call) -> object:
    """Return one position; zeros for a symbol without one (Orderly documents no response for it)."""
    state, portfolio = call.exchange.state, call.exchange.portfolio
    symbol = call.path["symbol"]
    state.instrument(symbol)
    mode = parse_text(call.query.get("margin_mode"), "margin_mode", MARGIN_MODES) or CROSS
    for row in call.exchange.positions_json()["rows"]:
        if (row["symbol"], row["margin_mode"]) == (symbol, mode):
            return row
    flat = PaperPosition(symbol, mode, last_funding=state.marks[symbol].funding_sum)
    return responses.position_json(portfolio, flat, portfolio.margin())


def _history(call: Call, book: str, default: int = 25) -> object:
    start, end = call.query_int("start_t"), call.query_int("end_t")
    symbol = call.query.get("symbol") or None
    found = [
        responses.history_json(entry)
        for entry in reversed(call.exchange.state.history[book])
        if (start is None or entry.at >= start) and (end is None or entry.at <= end)
    ]
    if symbol is not None:
        found = [row for row in found if row.get("symbol", symbol) == symbol]
    return responses.page(found, *call.paging(default, kind=book))


def position_history(call: Call) -> object:
    limit = call.query_int("limit") or 1000
    symbol = call.query.get("symbol") or None
    found = [responses.history_json(entry) for entry in reversed(call.exchange.state.history["position_history"])]
    return {"rows": [row for row in found if symbol in (None, row["symbol"])][:limit]}


def funding_fees(call: Call) -> object:
    return _history(call, "funding_fee", 60)


def settlements(call: Call) -> object:
    return _history(call, "pnl_settlement")


def liquidations(call: Call) -> object:
    return _history(call, "liquidations")


def asset_history(call: Call) -> object:
    return _history(call, "asset_history")


# --- leverage and margin mode ------------------------------------------------------------------------------


def get_leverage(call: Call) -> object:
    state = call.exchange.state
    symbol = call.query.get("symbol")
    mode = parse_text(call.query.get("margin_mode"), "margin_mode", MARGIN_MODES) or CROSS
    if not symbol:
        raise ApiError(-1005, "symbol is missing.")
    state.instrument(symbol)
    return {"symbol": symbol, "margin_mode": mode, "leverage": state.leverage(symbol, mode)}


def get_leverages(call: Call) -> object:
    state = call.exchange.state
    return {
        "rows": [
            {"symbol": symbol, "margin_mode": mode, "leverage": state.leverage(symbol, mode)}
            for symbol in state.instruments
            for mode in (CROSS, ISOLATED)
        ]
    }


def set_leverage(call: Call) -> object:
    """Set the leverage of one symbol, or without `symbol` of all, each capped at its maximum."""
    state, body = call.exchange.state, call.body
    wanted = parse_integer(body.get("leverage"), "leverage")
    if wanted is None or not 1 <= wanted <= state.settings.max_leverage:
        raise ApiError(-1005, f"leverage must be a whole number from 1 to {state.settings.max_leverage}.")
    mode = parse_text(body.get("margin_mode"), "margin_mode", MARGIN_MODES) or CROSS
    symbol = parse_text(body.get("symbol"), "symbol")
    if symbol is not None:
        state.instrument(symbol)
    chosen: dict[str, int] = {}
    for name in [symbol] if symbol is not None else list(state.instruments):
        held = state.positions.get((name, mode))
        notional = abs(held.qty) * state.marks[name].price if held else ZERO
        most = money.max_leverage(state.instruments[name], notional, state.settings.max_leverage)
        if symbol is not None and wanted > most:
            raise ApiError(-1005, f"leverage {wanted} is above the maximum of {name}, {most}.")
        chosen[name] = min(wanted, most)
    if mode == CROSS and call.exchange.portfolio.margin(leverage=chosen).free < 0:
        raise ApiError(-1101, "The margin would not suffice at this leverage.")
    for name, leverage in chosen.items():
        call.exchange.choose_leverage(name, mode, leverage)
    state.record_event("leverage_set", symbol=symbol, leverage=wanted, margin_mode=mode)
    return {"symbol": symbol, "margin_mode": mode, "leverage": wanted}


def get_margin_modes(call: Call) -> object:
    symbol_settings = call.exchange.state.symbol_settings.values()
    return {"rows": [{"symbol": c.symbol, "default_margin_mode": c.margin_mode} for c in symbol_settings]}


def set_margin_mode(call: Call) -> object:
    state = call.exchange.state
    symbol = parse_symbol(call.body)
    state.instrument(symbol)
    raw = call.body.get("default_margin_mode", call.body.get("margin_mode"))
    mode = parse_text(raw, "default_margin_mode", MARGIN_MODES)
    if mode is None:
        raise ApiError(-1005, "default_margin_mode is missing.")
    choice = state.symbol_settings[symbol]
    held = state.positions.get((symbol, choice.margin_mode))
    busy = any(o.symbol == symbol and o.margin_mode == choice.margin_mode for o in state.open_orders.values())
    if mode != choice.margin_mode and (busy or (held is not None and held.qty)):
        raise ApiError(-1005, "The default margin mode cannot change with a position or order in it.")
    choice.margin_mode = mode
    state.save(choice)
    return {"symbol": symbol, "default_margin_mode": mode}


def position_margin(call: Call) -> object:
    """Add or reduce the margin of an isolated position."""
    state, portfolio = call.exchange.state, call.exchange.portfolio
    symbol = parse_symbol(call.body)
    amount = parse_positive(call.body.get("amount"), "amount")
    kind = parse_text(call.body.get("type"), "type", frozenset({"ADD", "REDUCE"}))
    state.instrument(symbol)
    held = state.positions.get((symbol, ISOLATED))
    if amount is None or kind is None or held is None or not held.qty:
        raise ApiError(-1005, "amount and type are needed, and an isolated position.")
    if kind == "ADD":
        if portfolio.margin().free < amount:
            raise ApiError(-1101, "The free collateral does not suffice.")
        held.margin += amount
    else:
        mark = state.marks[symbol]
        notional = abs(held.qty) * mark.price
        rate = money.initial_margin_rate(state.instruments[symbol], state.leverage(symbol, ISOLATED), notional)
        left = held.margin - amount + money.unsettled_pnl(held, mark.price, mark.funding_sum)
        if held.margin < amount or left < rate * notional:
            raise ApiError(-1101, "The remaining margin would not suffice.")
        held.margin -= amount
    portfolio.save_position(held, call.now)
    return None


# --- keys and switches -------------------------------------------------------------------------------------


def _key_row(key: ApiKey) -> dict[str, object]:
    return {
        "orderly_key": key.orderly_key,
        "key_status": key.status,
        "ip_restriction_list": [one for one in key.ip_list.split(",") if one],
        "ip_restriction_status": key.ip_status,
        "expiration": key.expiration,
        "scope": key.scope,
        "tag": key.tag,
    }


def key_info(call: Call) -> object:
    wanted = call.query.get("key_status") or None
    keys = [key for key in call.exchange.state.keys.values() if key.account_id == call.account_id]
    return {"rows": [_key_row(key) for key in keys if wanted in (None, key.status)]}


def _active_key(call: Call, raw: object) -> ApiKey:
    key = call.exchange.state.keys.get(str(raw))
    if key is None or key.account_id != call.account_id or key.status != "ACTIVE":
        raise ApiError(-1006, "The key does not exist.")
    return key


def remove_key(call: Call) -> object:
    key = _active_key(call, call.body.get("orderly_key"))
    key.status = "REMOVED"
    call.exchange.state.save(key)
    call.exchange.state.record_event("key_removed", orderly_key=key.orderly_key)
    call.exchange.state.publish("key_removed", key.orderly_key)
    return None


def ip_restriction(call: Call) -> object:
    key = _active_key(call, call.query.get("orderly_key"))
    return {
        "account_id": key.account_id,
        "orderly_key": key.orderly_key,
        "ip_restriction_list": key.ip_list,
        "tag": key.tag,
    }


def set_ip_restriction(call: Call) -> object:
    """Store the IP restriction of a key. Not enforced: every client of a paper exchange is on loopback."""
    source = call.body or dict(call.query)
    key = _active_key(call, source.get("orderly_key"))
    key.ip_list = str(source.get("ip_restriction_list") or "")
    key.ip_status = "ALLOW_RESTRICTION_LIST" if key.ip_list else "ALLOW_ALL_IPS"
    call.exchange.state.save(key)
    return _key_row(key)


def reset_ip_restriction(call: Call) -> object:
    source = call.body or dict(call.query)
    key = _active_key(call, source.get("orderly_key"))
    mode = parse_text(source.get("reset_mode"), "reset_mode", frozenset({"ALLOW_ALL_IPS", "DISALLOW_ALL_IPS"}))
    key.ip_list, key.ip_status = "", mode or "ALLOW_ALL_IPS"
    call.exchange.state.save(key)
    return _key_row(key)


def maintenance_config(call: Call) -> object:
    account = call.exchange.state.account
    account.maintenance_cancel = parse_flag(
        call.body.get("maintenance_cancel_order_flag"), "maintenance_cancel_order_flag"
    )
    call.exchange.state.save(account)
    return {"success_alter": "Success! Your change has been saved!"}


def settle_nonce(call: Call) -> object:
    return {"settle_nonce": call.now % 1_000_000}


ROUTES = (
    ApiRoute("GET", "/v1/client/info", client_info, "read", TEN_PER_MINUTE),
    ApiRoute("GET", "/v1/account_info", account_info, "read"),
    ApiRoute("GET", "/v1/client/holding", holding, "read"),
    ApiRoute("GET", "/v1/positions", positions, "read", THIRTY_PER_TEN_SECONDS),
    ApiRoute("GET", "/v1/position/{symbol}", position, "read", THIRTY_PER_TEN_SECONDS),
    ApiRoute("GET", "/v1/positions_lite", positions_lite, "read"),
    ApiRoute("GET", "/v1/position_history", position_history, "read"),
    ApiRoute("GET", "/v1/client/leverage", get_leverage, "read", ONE_PER_SECOND),
    ApiRoute("POST", "/v1/client/leverage", set_leverage, "read", FIVE_PER_MINUTE),
    ApiRoute("GET", "/v1/client/leverages", get_leverages, "read"),
    ApiRoute("POST", "/v1/client/leverages", set_leverage, "read", FIVE_PER_MINUTE),
    ApiRoute("POST", "/v1/client/margin_mode", set_margin_mode, "read"),
    ApiRoute("GET", "/v1/client/margin_modes", get_margin_modes, "read"),
    ApiRoute("POST", "/v1/position_margin", position_margin, "trading"),
    ApiRoute("GET", "/v1/funding_fee/history", funding_fees, "read", TWENTY_PER_MINUTE),
    ApiRoute("GET", "/v1/pnl_settlement/history", settlements, "read", TWENTY_PER_SECOND),
    ApiRoute("GET", "/v1/liquidations", liquidations, "read"),
    ApiRoute("GET", "/v1/asset/history", asset_history, "read"),
    ApiRoute("GET", "/v1/settle_nonce", settle_nonce, "read"),
    ApiRoute("GET", "/v1/client/key_info", key_info, "read", TEN_PER_MINUTE),
    ApiRoute("POST", "/v1/client/remove_orderly_key", remove_key, "read"),
    ApiRoute("GET", "/v1/client/orderly_key_ip_restriction", ip_restriction, "read", TEN_PER_MINUTE),
    ApiRoute("POST", "/v1/client/set_orderly_key_ip_restriction", set_ip_restriction, "read", TEN_PER_MINUTE),
    ApiRoute("POST", "/v1/client/reset_orderly_key_ip_restriction", reset_ip_restriction, "read", TEN_PER_MINUTE),
    ApiRoute("POST", "/v1/client/maintenance_config", maintenance_config, "read", TEN_PER_MINUTE),
)
