"""Alert bodies of other services, as data, so that a trader moves over without rewriting alerts. How they are applied: mapping.py.

Only fields that the services document are mapped. Their credentials are not: the message must carry our apiKey, in `apiKey` or in the
field that held the service's own secret. A quantity never gets another unit than the service gave it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from kekbridge.alerts.profile import Profile, Route, Words, magnitude, percent, ratio, unless_zero
from kekbridge.errors import Refused

_ORDER_SIDES: Words = {"long": "buy", "short": "sell"}
# The strategy placeholders under the names that most public bots give them.
_POSITION = ("market_position", "market_position_size", "prev_market_position", "prev_market_position_size")


def _position_routes(prefix: str) -> tuple[Route, ...]:
    names = ("marketPosition", "marketPositionSize", "prevMarketPosition", "prevMarketPositionSize")
    return tuple(Route(f"{prefix}.{theirs}", ours) for theirs, ours in zip(_POSITION, names, strict=True))


def _exit_of(action: str) -> Mapping[str, str]:
    """Leave one side only: an order in the other direction that can never open anything; all of it unless the message says how much."""
    return {"action": action, "reduceOnly": "true", "quantity": "100%"}


# Signal bots name the side with the action.
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
            "field_invalid", f"{name}: only market exits can be followed, found another order_type", field=name
        )
    return True


_THREECOMMAS = Profile(
    name="3commas",
    title="3Commas signal bot",
    routes=(
        Route("action", "action"),
        Route("tv_instrument", "symbol"),
        Route("tv_exchange", "exchange"),
        Route("trigger_price", "price"),
        Route("order.amount", "quantity"),
        Route("order.currency_type", "quantityType"),
        Route("order.order_type", "orderType"),
        Route("order.price", "limitPrice"),
        Route("stop_loss", "stopLoss", _threecommas_stop),
        Route("take_profit", "takeProfit", _threecommas_profits),
        *_position_routes("strategy_info"),
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
    routes=(
        Route("ticker", "symbol"),
        Route("action", "action"),
        Route("sentiment", "sentiment"),
        Route("quantity", "quantity"),
        Route("quantityType", "quantityType"),
        Route("price", "price"),
        Route("signalPrice", "price"),
        Route("orderType", "orderType"),
        Route("limitPrice", "limitPrice"),
        Route("stopPrice", "triggerPrice"),
        Route("stopLoss.stopPrice", "stopLoss"),
        Route("stopLoss.percent", "stopLoss", percent),
        Route("stopLoss.trailPrice", "trailingStop"),
        Route("stopLoss.trailPercent", "trailingStop", percent),
        Route("takeProfit.limitPrice", "takeProfit"),
        Route("takeProfit.percent", "takeProfit", percent),
        Route("time", "timestamp"),
    ),
    words={
        "action": {"exit": "close"},
        "sentiment": {"bullish": "long", "bearish": "short", "long": "long", "short": "short", "flat": "flat"},
        "quantityType": {"fixed_quantity": "base", "dollar_amount": "usd"},
    },
    unsupported={
        "stopLoss.amount": "write stopLoss.percent or stopLoss.stopPrice",
        "stopLoss.limitPrice": "stops are market orders here; write stopLoss.stopPrice alone",
        "takeProfit.amount": "write takeProfit.percent or takeProfit.limitPrice",
        "trailAmount": "a trailing entry is not available",
        "trailPercent": "a trailing entry is not available",
        "trailPrice": "a trailing entry is not available",
        "optionType": "there are no options here",
        "delay": "orders are placed at once",
        "test": "use `kekbridge webhook test NAME --dry-run`",
    },
    ignored=frozenset({"interval", "extras", "timeInForce", "extendedHours", "cancel"}),
)

# ------------------------------------------------------------------------------------------------------------- OpenAlgo

_OPENALGO = Profile(
    name="openalgo",
    title="OpenAlgo",
    routes=(
        Route("symbol", "symbol"),
        Route("exchange", "exchange"),
        Route("action", "action"),
        Route("pricetype", "orderType"),
        Route("quantity", "quantity", unless_zero),
        Route("position_size", "positionSize"),
        Route("price", "price", unless_zero),
        Route("trigger_price", "triggerPrice", unless_zero),
    ),
    words={"orderType": {"sl": "stop_limit", "sl_m": "stop"}},
    unsupported={"legs": "there are no options here", "orders": "write an array of messages, or steps"},
    ignored=frozenset({"apikey", "strategy", "product", "disclosed_quantity"}),
)

# -------------------------------------------------------------------------------------------------------- WunderTrading


def _wunder_stop(value: Any) -> Any | None:
    _only("stopLoss", value, {"priceDeviation", "price"})
    return ratio(value["priceDeviation"]) if value.get("priceDeviation") is not None else value.get("price")


def _wunder_profits(value: Any) -> Any | None:
    if not isinstance(value, list):
        return value
    for level in value:
        _only("takeProfits", level, {"priceDeviation", "price", "portfolio"})
    return [
        {
            "price": level.get("price"),
            "percent": ratio(level.get("priceDeviation")),
            "share": ratio(level.get("portfolio")),
        }
        for level in value
    ]


def _only(name: str, value: Any, known: set[str]) -> None:
    if not isinstance(value, Mapping) or set(value) - known:
        raise Refused("field_invalid", f"{name}: expected an object with {', '.join(sorted(known))} only", field=name)


_WUNDERTRADING = Profile(
    name="wundertrading",
    title="WunderTrading signal bot",
    routes=(
        # ENTER-LONG_Bybit_ETHUSDT_my bot_15M_8e34…: action, venue, pair (NONE for multi-pair bots), then the bot's own parts.
        Route("code#0", "action"),
        Route("code#1", "exchange"),
        Route("code#2", "symbol"),
        Route("amountPerTrade", "quantity"),
        Route("amountPerTradeType", "quantityType"),
        Route("orderType", "orderType"),
        Route("price", "price"),
        Route("leverage", "leverage"),
        Route("reduceOnly", "reduceOnly"),
        Route("stopLoss", "stopLoss", _wunder_stop),
        Route("takeProfits", "takeProfit", _wunder_profits),
    ),
    words={"action": {**_BOT_ACTIONS, "exit_all": "close"}, "quantityType": {"$": "usd"}},
    unsupported={
        "moveToBreakeven": "stops are not moved",
        "trailingStop": "write trailing stops with --profile seed",
        "extraOrders": "there are no extra orders",
        "dca": "there are no extra orders",
    },
    needs_unit=True,
)

# ------------------------------------------------------------------------------------------- the common community shape

_COMMUNITY = Profile(
    name="community",
    title='the common {"ticker": …, "strategy": {…}} shape',
    routes=(
        Route("ticker", "symbol"),
        Route("exchange", "exchange"),
        Route("strategy.order_action", "action"),
        Route("strategy.order_contracts", "quantity"),
        Route("strategy.order_price", "price"),
        Route("strategy.position_size", "positionSize"),
        Route("strategy.order_comment", "comment"),
        *_position_routes("strategy"),
        Route("time", "timestamp"),
    ),
    ignored=frozenset({"passphrase", "bar", "interval", "volume"}),
)

# --------------------------------------------------------------------------------------------------------------- KEK DEX

_KEKDEX = Profile(
    name="kekdex",
    # Two shapes. The alert body that the front end proposes to its users is our own fields
    # (docs/internals/orderly.md section 3); its `signature` is
    # the strategy's order id and proves nothing, so it needs a webhook without a required signature. The others are the order fields it
    # sends to Orderly, and `amount` of its own trade notifications, which is in base units.
    title="KEK DEX and other Orderly front ends",
    routes=(
        Route("symbol", "symbol"),
        Route("side", "action"),
        Route("order_type", "orderType"),
        Route("order_quantity", "quantity"),
        Route("amount", "quantity"),
        Route("order_price", "price"),
        Route("price", "price"),
        Route("trigger_price", "triggerPrice"),
        Route("reduce_only", "reduceOnly"),
        Route("slippage", "slippage"),
    ),
    words={
        "action": _ORDER_SIDES,
        "orderType": {"stop_market": "stop"},
    },
    unsupported={
        "order_amount": 'write order_quantity, or quantity with "quantityType":"usd"',
        "visible_quantity": "hidden orders are not placed",
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
    """The profile of that name. Raises Refused(field_invalid) for an unknown one, which no command can store."""
    profile = PROFILES.get(name)
    if profile is None:
        raise Refused(
            "field_invalid", f"the webhook's profile {name[:40]!r} is unknown, expected one of {', '.join(PROFILES)}"
        )
    return profile
