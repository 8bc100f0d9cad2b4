"""Profiles: the message formats of other services, so that a trader can switch without rewriting alerts. profile.py applies them.

Only fields that the services document are mapped. Their credentials are not: the message must carry kekbridge's apiKey, in `apiKey` or
in the field that held the service's own secret. A quantity keeps the unit that the service gave it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from kekbridge.alerts.profile import FieldMapping, Profile, Words, magnitude, percent, ratio, unless_zero
from kekbridge.errors import Refused

_ORDER_SIDES: Words = {"long": "buy", "short": "sell"}
# Names of the strategy placeholders in most public bots.
_POSITION = ("market_position", "market_position_size", "prev_market_position", "prev_market_position_size")


def _position_mappings(prefix: str) -> tuple[FieldMapping, ...]:
    names = ("marketPosition", "marketPositionSize", "prevMarketPosition", "prevMarketPositionSize")
    return tuple(FieldMapping(f"{prefix}.{theirs}", ours) for theirs, ours in zip(_POSITION, names, strict=True))


def _exit_of(action: str) -> Mapping[str, str]:
    """Close one side only: a reduce-only order for the whole position unless the message has a quantity."""
    return {"action": action, "reduceOnly": "true", "quantity": "100%"}


# Actions of signal bots name the side.
_BOT_ACTIONS: Words = {
    "enter_long": "buy",
    "enter_short": "sell",
    "exit_long": _exit_of("sell"),
    "exit_short": _exit_of("buy"),
}

# ------------------------------------------------------------------------------------------------------------- 3Commas


def _threecommas_stop(value: Any) -> Any | None:
    if not _is_enabled("stop_loss", value):
        return None
    return magnitude(value.get("trigger_price_percent"))


def _threecommas_profits(value: Any) -> Any | None:
    if not _is_enabled("take_profit", value):
        return None
    steps = value.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
        return steps
    return [
        {"percent": magnitude(step.get("price_percent")), "share": percent(step.get("volume_percent"))}
        for step in steps
    ]


def _is_enabled(name: str, value: Any) -> bool:
    if not isinstance(value, Mapping):
        raise Refused("field_invalid", f"{name}: expected an object with enabled and its levels", field=name)
    if value.get("enabled") is False:
        return False
    kinds = [
        value.get("order_type"),
        *(s.get("order_type") for s in value.get("steps") or [] if isinstance(s, Mapping)),
    ]
    if any(kind not in (None, "market") for kind in kinds):
        raise Refused(
            "field_invalid",
            f"{name}: found an order_type other than market, expected market; other exits are not supported",
            field=name,
        )
    return True


_THREECOMMAS = Profile(
    name="3commas",
    title="3Commas signal bot",
    mappings=(
        FieldMapping("action", "action"),
        FieldMapping("tv_instrument", "symbol"),
        FieldMapping("tv_exchange", "exchange"),
        FieldMapping("trigger_price", "price"),
        FieldMapping("order.amount", "quantity"),
        FieldMapping("order.currency_type", "quantityType"),
        FieldMapping("order.order_type", "orderType"),
        FieldMapping("order.price", "limitPrice"),
        FieldMapping("stop_loss", "stopLoss", _threecommas_stop),
        FieldMapping("take_profit", "takeProfit", _threecommas_profits),
        *_position_mappings("strategy_info"),
    ),
    words={
        "action": _BOT_ACTIONS,
        "quantityType": {"position_percent": "percent_position"},
    },
    ignored=frozenset({"secret", "max_lag", "bot_uuid"}),
    needs_unit=True,
)

# ---------------------------------------------------------------------------------------------------------- TradersPost

_TRADERSPOST = Profile(
    name="traderspost",
    title="TradersPost",
    mappings=(
        FieldMapping("ticker", "symbol"),
        FieldMapping("action", "action"),
        FieldMapping("sentiment", "sentiment"),
        FieldMapping("quantity", "quantity"),
        FieldMapping("quantityType", "quantityType"),
        FieldMapping("price", "price"),
        FieldMapping("signalPrice", "price"),
        FieldMapping("orderType", "orderType"),
        FieldMapping("limitPrice", "limitPrice"),
        FieldMapping("stopPrice", "triggerPrice"),
        FieldMapping("stopLoss.stopPrice", "stopLoss"),
        FieldMapping("stopLoss.percent", "stopLoss", percent),
        FieldMapping("stopLoss.trailPrice", "trailingStop"),
        FieldMapping("stopLoss.trailPercent", "trailingStop", percent),
        FieldMapping("takeProfit.limitPrice", "takeProfit"),
        FieldMapping("takeProfit.percent", "takeProfit", percent),
        FieldMapping("time", "timestamp"),
    ),
    words={
        "action": {"exit": "close"},
        "sentiment": {"bullish": "long", "bearish": "short", "long": "long", "short": "short", "flat": "flat"},
        "quantityType": {"fixed_quantity": "base", "dollar_amount": "usd"},
    },
    unsupported={
        "stopLoss.amount": "write stopLoss.percent or stopLoss.stopPrice",
        "stopLoss.limitPrice": "stops are market orders; write only stopLoss.stopPrice",
        "takeProfit.amount": "write takeProfit.percent or takeProfit.limitPrice",
        "trailAmount": "trailing entries are not supported",
        "trailPercent": "trailing entries are not supported",
        "trailPrice": "trailing entries are not supported",
        "optionType": "options are not supported",
        "delay": "orders are placed immediately",
        "test": "use `kekbridge webhook test NAME --dry-run`",
    },
    ignored=frozenset({"interval", "extras", "timeInForce", "extendedHours", "cancel"}),
)

# ------------------------------------------------------------------------------------------------------------- OpenAlgo

_OPENALGO = Profile(
    name="openalgo",
    title="OpenAlgo",
    mappings=(
        FieldMapping("symbol", "symbol"),
        FieldMapping("exchange", "exchange"),
        FieldMapping("action", "action"),
        FieldMapping("pricetype", "orderType"),
        FieldMapping("quantity", "quantity", unless_zero),
        FieldMapping("position_size", "positionSize"),
        FieldMapping("price", "price", unless_zero),
        FieldMapping("trigger_price", "triggerPrice", unless_zero),
    ),
    words={"orderType": {"sl": "stop_limit", "sl_m": "stop"}},
    unsupported={"legs": "options are not supported", "orders": "write an array of messages, or steps"},
    ignored=frozenset({"apikey", "strategy", "product", "disclosed_quantity"}),
)

# -------------------------------------------------------------------------------------------------------- WunderTrading


def _wunder_stop(value: Any) -> Any | None:
    _check_names("stopLoss", value, {"priceDeviation", "price"})
    return ratio(value["priceDeviation"]) if value.get("priceDeviation") is not None else value.get("price")


def _wunder_profits(value: Any) -> Any | None:
    if not isinstance(value, list):
        return value
    for level in value:
        _check_names("takeProfits", level, {"priceDeviation", "price", "portfolio"})
    return [
        {
            "price": level.get("price"),
            "percent": ratio(level.get("priceDeviation")),
            "share": ratio(level.get("portfolio")),
        }
        for level in value
    ]


def _check_names(name: str, value: Any, known: set[str]) -> None:
    if not isinstance(value, Mapping) or set(value) - known:
        raise Refused("field_invalid", f"{name}: expected an object with only {', '.join(sorted(known))}", field=name)


_WUNDERTRADING = Profile(
    name="wundertrading",
    title="WunderTrading signal bot",
    mappings=(
        # ENTER-LONG_Bybit_ETHUSDT_my bot_15M_8e34…: action, venue, pair (NONE for multi-pair bots), then the bot's own parts.
        FieldMapping("code#0", "action"),
        FieldMapping("code#1", "exchange"),
        FieldMapping("code#2", "symbol"),
        FieldMapping("amountPerTrade", "quantity"),
        FieldMapping("amountPerTradeType", "quantityType"),
        FieldMapping("orderType", "orderType"),
        FieldMapping("price", "price"),
        FieldMapping("leverage", "leverage"),
        FieldMapping("reduceOnly", "reduceOnly"),
        FieldMapping("stopLoss", "stopLoss", _wunder_stop),
        FieldMapping("takeProfits", "takeProfit", _wunder_profits),
    ),
    words={"action": {**_BOT_ACTIONS, "exit_all": "close"}, "quantityType": {"$": "usd"}},
    unsupported={
        "moveToBreakeven": "stops are never moved",
        "trailingStop": "trailing stops work with --profile seed only",
        "extraOrders": "extra orders are not supported",
        "dca": "extra orders are not supported",
    },
    needs_unit=True,
)

# ------------------------------------------------------------------------------------------ the common community format

_COMMUNITY = Profile(
    name="community",
    title='the common {"ticker": …, "strategy": {…}} format',
    mappings=(
        FieldMapping("ticker", "symbol"),
        FieldMapping("exchange", "exchange"),
        FieldMapping("strategy.order_action", "action"),
        FieldMapping("strategy.order_contracts", "quantity"),
        FieldMapping("strategy.order_price", "price"),
        FieldMapping("strategy.position_size", "positionSize"),
        FieldMapping("strategy.order_comment", "comment"),
        *_position_mappings("strategy"),
        FieldMapping("time", "timestamp"),
    ),
    ignored=frozenset({"passphrase", "bar", "interval", "volume"}),
)

# --------------------------------------------------------------------------------------------------------------- KEK DEX

_KEKDEX = Profile(
    name="kekdex",
    # Two formats. The alert body that the front end proposes to its users has kekbridge's own fields
    # (docs/internals/orderly.md section 3); its `signature` is the strategy's order id and proves nothing, so it needs a webhook without
    # a required signature. The other has the order fields that it sends to Orderly, and `amount` (base units) of its trade notifications.
    title="KEK DEX and other Orderly front ends",
    mappings=(
        FieldMapping("symbol", "symbol"),
        FieldMapping("side", "action"),
        FieldMapping("order_type", "orderType"),
        FieldMapping("order_quantity", "quantity"),
        FieldMapping("amount", "quantity"),
        FieldMapping("order_price", "price"),
        FieldMapping("price", "price"),
        FieldMapping("trigger_price", "triggerPrice"),
        FieldMapping("reduce_only", "reduceOnly"),
        FieldMapping("slippage", "slippage"),
    ),
    words={
        "action": _ORDER_SIDES,
        "orderType": {"stop_market": "stop"},
    },
    unsupported={
        "order_amount": 'write order_quantity, or quantity with "quantityType":"usd"',
        "visible_quantity": "hidden orders are not supported",
    },
)

_SEED = Profile(name="seed", title="kekbridge's own fields")

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (_SEED, _KEKDEX, _TRADERSPOST, _THREECOMMAS, _OPENALGO, _WUNDERTRADING, _COMMUNITY)
    }
)


def find_profile(name: str) -> Profile:
    """Return the profile of that name. Raises Refused(field_invalid) for an unknown one, which no command can store."""
    profile = PROFILES.get(name)
    if profile is None:
        raise Refused(
            "field_invalid", f"the webhook's profile {name[:40]!r} is unknown, expected one of {', '.join(PROFILES)}"
        )
    return profile
