"""Endpoints of account, positions, leverage, keys and histories (orderly-api.md sections 3, 9 and 10)."""

from __future__ import annotations

from kekbridge.paper import money
from kekbridge.paper import responses as views
from kekbridge.paper.api import Call, Route
from kekbridge.paper.codec import Refusal, flag, integer, word
from kekbridge.paper.models import ZERO, Key, Position
from kekbridge.paper.positions import CROSS, ISOLATED
from kekbridge.paper.rate_limits import (
    FIVE_PER_MINUTE,
    ONE_PER_SECOND,
    TEN_PER_MINUTE,
    THIRTY_PER_TEN_SECONDS,
    TWENTY_PER_MINUTE,
    TWENTY_PER_SECOND,
)
from kekbridge.paper.requests import MARGIN_MODES, positive, required_symbol
from kekbridge.paper.settings import PAPER_ACCOUNT_ID

# --- account and positions ---------------------------------------------------------------------------------


def client_info(call: Call) -> object:
    return views.client_info_view(call.venue.engine)


def account_info(call: Call) -> object:
    clearing = call.venue.clearing
    return {
        **views.totals_view(clearing, clearing.margin()),
        "total_pnl_24h": views.pnl_24h(clearing),
    }


def holding(call: Call) -> object:
    return views.holding_view(call.venue.clearing)


def positions(call: Call) -> object:
    return call.venue.positions_view()


def positions_lite(call: Call) -> object:
    return {"rows": call.venue.positions_view()["rows"]}


def position(call: Call) -> object:
    """One position, flat; a symbol without one answers zeros (not documented either way)."""
    engine, clearing = call.venue.engine, call.venue.clearing
    symbol = call.path["symbol"]
    engine.instrument(symbol)
    mode = word(call.query.get("margin_mode"), "margin_mode", MARGIN_MODES) or CROSS
    for row in call.venue.positions_view()["rows"]:
        if (row["symbol"], row["margin_mode"]) == (symbol, mode):
            return row
    flat = Position(symbol, mode, last_funding=engine.marks[symbol].funding_sum)
    return views.position_view(clearing, flat, clearing.margin())


def _history(call: Call, book: str, default: int = 25) -> object:
    start, end = call.int_of("start_t"), call.int_of("end_t")
    symbol = call.query.get("symbol") or None
    found = [
        views.entry_view(entry)
        for entry in reversed(call.venue.engine.entries[book])
        if (start is None or entry.at >= start) and (end is None or entry.at <= end)
    ]
    if symbol is not None:
        found = [row for row in found if row.get("symbol", symbol) == symbol]
    return views.page(found, *call.paging(default))


def position_history(call: Call) -> object:
    limit = call.int_of("limit") or 1000
    symbol = call.query.get("symbol") or None
    found = [views.entry_view(entry) for entry in reversed(call.venue.engine.entries["position_history"])]
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
    engine = call.venue.engine
    symbol = call.query.get("symbol")
    mode = word(call.query.get("margin_mode"), "margin_mode", MARGIN_MODES) or CROSS
    if not symbol:
        raise Refusal(-1005, "symbol is missing.")
    engine.instrument(symbol)
    return {"symbol": symbol, "margin_mode": mode, "leverage": engine.leverage(symbol, mode)}


def get_leverages(call: Call) -> object:
    engine = call.venue.engine
    return {
        "rows": [
            {"symbol": symbol, "margin_mode": mode, "leverage": engine.leverage(symbol, mode)}
            for symbol in engine.instruments
            for mode in (CROSS, ISOLATED)
        ]
    }


def set_leverage(call: Call) -> object:
    """One symbol, or all of them (each capped at its own maximum) when none is given."""
    engine, body = call.venue.engine, call.body
    wanted = integer(body.get("leverage"), "leverage")
    if wanted is None or not 1 <= wanted <= engine.settings.max_leverage:
        raise Refusal(-1005, f"leverage must be a whole number from 1 to {engine.settings.max_leverage}.")
    mode = word(body.get("margin_mode"), "margin_mode", MARGIN_MODES) or CROSS
    symbol = word(body.get("symbol"), "symbol")
    if symbol is not None:
        engine.instrument(symbol)
    chosen: dict[str, int] = {}
    for name in [symbol] if symbol is not None else list(engine.instruments):
        held = engine.positions.get((name, mode))
        notional = abs(held.qty) * engine.marks[name].price if held else ZERO
        most = money.max_leverage(engine.instruments[name], notional, engine.settings.max_leverage)
        if symbol is not None and wanted > most:
            raise Refusal(-1005, f"leverage {wanted} is above the maximum of {name}, {most}.")
        chosen[name] = min(wanted, most)
    if mode == CROSS and call.venue.clearing.margin(leverage=chosen).free < 0:
        raise Refusal(-1101, "The margin would not suffice at this leverage.")
    for name, leverage in chosen.items():
        choice = engine.choices[name]
        if mode == CROSS:
            choice.cross_leverage = leverage
        else:
            choice.isolated_leverage = leverage
        engine.touch(choice)
    engine.event("leverage_set", symbol=symbol, leverage=wanted, margin_mode=mode)
    engine.notice("account", symbol)
    return {"symbol": symbol, "margin_mode": mode, "leverage": wanted}


def get_margin_modes(call: Call) -> object:
    choices = call.venue.engine.choices.values()
    return {"rows": [{"symbol": c.symbol, "default_margin_mode": c.margin_mode} for c in choices]}


def set_margin_mode(call: Call) -> object:
    engine = call.venue.engine
    symbol = required_symbol(call.body)
    engine.instrument(symbol)
    raw = call.body.get("default_margin_mode", call.body.get("margin_mode"))
    mode = word(raw, "default_margin_mode", MARGIN_MODES)
    if mode is None:
        raise Refusal(-1005, "default_margin_mode is missing.")
    choice = engine.choices[symbol]
    held = engine.positions.get((symbol, choice.margin_mode))
    busy = any(o.symbol == symbol and o.margin_mode == choice.margin_mode for o in engine.open_orders.values())
    if mode != choice.margin_mode and (busy or (held is not None and held.qty)):
        raise Refusal(-1005, "The default margin mode cannot change with a position or order in it.")
    choice.margin_mode = mode
    engine.touch(choice)
    return {"symbol": symbol, "default_margin_mode": mode}


def position_margin(call: Call) -> object:
    """Add or reduce the margin of an isolated position."""
    engine, clearing = call.venue.engine, call.venue.clearing
    symbol = required_symbol(call.body)
    amount = positive(call.body.get("amount"), "amount")
    kind = word(call.body.get("type"), "type", frozenset({"ADD", "REDUCE"}))
    engine.instrument(symbol)
    held = engine.positions.get((symbol, ISOLATED))
    if amount is None or kind is None or held is None or not held.qty:
        raise Refusal(-1005, "amount and type are needed, and an isolated position.")
    if kind == "ADD":
        if clearing.margin().free < amount:
            raise Refusal(-1101, "The free collateral does not suffice.")
        held.margin += amount
    else:
        mark = engine.marks[symbol]
        notional = abs(held.qty) * mark.price
        rate = money.initial_rate(engine.instruments[symbol], engine.leverage(symbol, ISOLATED), notional)
        left = held.margin - amount + money.unsettled_pnl(held, mark.price, mark.funding_sum)
        if held.margin < amount or left < rate * notional:
            raise Refusal(-1101, "The remaining margin would not suffice.")
        held.margin -= amount
    clearing.changed(held, call.now)
    return None


# --- keys and switches -------------------------------------------------------------------------------------


def _key_row(key: Key) -> dict[str, object]:
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
    keys = call.venue.engine.keys.values()
    return {"rows": [_key_row(key) for key in keys if wanted in (None, key.status)]}


def _named_key(call: Call, raw: object) -> Key:
    key = call.venue.engine.keys.get(str(raw))
    if key is None or key.status != "ACTIVE":
        raise Refusal(-1006, "The key does not exist.")
    return key


def remove_key(call: Call) -> object:
    key = _named_key(call, call.body.get("orderly_key"))
    key.status = "REMOVED"
    call.venue.engine.touch(key)
    call.venue.engine.event("key_removed", orderly_key=key.orderly_key)
    call.venue.engine.notice("key_removed", key.orderly_key)
    return None


def ip_restriction(call: Call) -> object:
    key = _named_key(call, call.query.get("orderly_key"))
    return {
        "account_id": PAPER_ACCOUNT_ID,
        "orderly_key": key.orderly_key,
        "ip_restriction_list": key.ip_list,
        "tag": key.tag,
    }


def set_ip_restriction(call: Call) -> object:
    """Stored and shown; not enforced, as every caller of a paper exchange is on loopback."""
    source = call.body or dict(call.query)
    key = _named_key(call, source.get("orderly_key"))
    key.ip_list = str(source.get("ip_restriction_list") or "")
    key.ip_status = "ALLOW_RESTRICTION_LIST" if key.ip_list else "ALLOW_ALL_IPS"
    call.venue.engine.touch(key)
    return _key_row(key)


def reset_ip_restriction(call: Call) -> object:
    source = call.body or dict(call.query)
    key = _named_key(call, source.get("orderly_key"))
    mode = word(source.get("reset_mode"), "reset_mode", frozenset({"ALLOW_ALL_IPS", "DISALLOW_ALL_IPS"}))
    key.ip_list, key.ip_status = "", mode or "ALLOW_ALL_IPS"
    call.venue.engine.touch(key)
    return _key_row(key)


def maintenance_config(call: Call) -> object:
    account = call.venue.engine.account
    account.maintenance_cancel = flag(call.body.get("maintenance_cancel_order_flag"), "maintenance_cancel_order_flag")
    call.venue.engine.touch(account)
    return {"success_alter": "Success! Your change has been saved!"}


def settle_nonce(call: Call) -> object:
    return {"settle_nonce": call.now % 1_000_000}


ROUTES = (
    Route("GET", "/v1/client/info", client_info, "read", TEN_PER_MINUTE),
    Route("GET", "/v1/account_info", account_info, "read"),
    Route("GET", "/v1/client/holding", holding, "read"),
    Route("GET", "/v1/positions", positions, "read", THIRTY_PER_TEN_SECONDS),
    Route("GET", "/v1/position/{symbol}", position, "read", THIRTY_PER_TEN_SECONDS),
    Route("GET", "/v1/positions_lite", positions_lite, "read"),
    Route("GET", "/v1/position_history", position_history, "read"),
    Route("GET", "/v1/client/leverage", get_leverage, "read", ONE_PER_SECOND),
    Route("POST", "/v1/client/leverage", set_leverage, "read", FIVE_PER_MINUTE),
    Route("GET", "/v1/client/leverages", get_leverages, "read"),
    Route("POST", "/v1/client/leverages", set_leverage, "read", FIVE_PER_MINUTE),
    Route("POST", "/v1/client/margin_mode", set_margin_mode, "read"),
    Route("GET", "/v1/client/margin_modes", get_margin_modes, "read"),
    Route("POST", "/v1/position_margin", position_margin, "trading"),
    Route("GET", "/v1/funding_fee/history", funding_fees, "read", TWENTY_PER_MINUTE),
    Route("GET", "/v1/pnl_settlement/history", settlements, "read", TWENTY_PER_SECOND),
    Route("GET", "/v1/liquidations", liquidations, "read"),
    Route("GET", "/v1/asset/history", asset_history, "read"),
    Route("GET", "/v1/settle_nonce", settle_nonce, "read"),
    Route("GET", "/v1/client/key_info", key_info, "read", TEN_PER_MINUTE),
    Route("POST", "/v1/client/remove_orderly_key", remove_key, "read"),
    Route("GET", "/v1/client/orderly_key_ip_restriction", ip_restriction, "read", TEN_PER_MINUTE),
    Route("POST", "/v1/client/set_orderly_key_ip_restriction", set_ip_restriction, "read", TEN_PER_MINUTE),
    Route("POST", "/v1/client/reset_orderly_key_ip_restriction", reset_ip_restriction, "read", TEN_PER_MINUTE),
    Route("POST", "/v1/client/maintenance_config", maintenance_config, "read", TEN_PER_MINUTE),
)
