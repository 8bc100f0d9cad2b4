"""Profiles: the message formats of other services, so that a trader can switch without rewriting alerts. profile.py applies them.

Only fields that the services document are mapped. Their credentials are not: the message must carry kekbridge's apiKey, in `apiKey` or
in the field that held the service's own secret. A quantity keeps the unit that the service gave it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from kekbridge.alerts.profile import FieldMapping, Profile, magnitude, percent, ratio, unless_zero
from kekbridge.alerts.redaction import show
from kekbridge.errors import Refused

# Names of the strategy placeholders in most public bots.
_POSITION = ("market_position", "market_position_size", "prev_market_position", "prev_market_position_size")


def _position_mappings(prefix: str) -> tuple[FieldMapping, ...]:
    names = ("marketPosition", "marketPositionSize", "prevMarketPosition", "prevMarketPositionSize")
    return tuple(FieldMapping(f"{prefix}.{theirs}", ours) for theirs, ours in zip(_POSITION, names, strict=True))


# ------------------------------------------------------------------------------------------------------------- 3Commas


def _threecommas_stop(value: Any) -> Any | None:
    if not _is_enabled("stop_loss", value, {"enabled", "order_type", "trigger_price_percent"}):
        return None
    return magnitude(_needed("stop_loss", value, "trigger_price_percent"))


def _threecommas_profits(value: Any) -> Any | None:
    if not _is_enabled("take_profit", value, {"enabled", "order_type", "steps"}):
        return None
    steps = value.get("steps")
    if not isinstance(steps, list) or not steps:
        raise _invalid("take_profit", f"found steps {show(steps)}, expected a list of steps with price_percent")
    for step in steps:
        check_names("take_profit", step, {"order_type", "price_percent", "volume_percent"})
        _check_market("take_profit", step)
    return [
        {
            "percent": magnitude(_needed("take_profit", step, "price_percent")),
            "share": percent(step.get("volume_percent")),
        }
        for step in steps
    ]


def _is_enabled(name: str, value: Any, known: set[str]) -> bool:
    """Whether such an object of 3Commas is in force; `enabled` counts as true when it is left out."""
    enabled = value.get("enabled") if isinstance(value, Mapping) else None
    word = enabled.strip().lower() if isinstance(enabled, str) else enabled
    if word not in (None, True, False, "true", "false"):
        raise _invalid(name, f"found enabled {show(enabled)}, expected true or false")
    if word in (False, "false"):
        return False
    check_names(name, value, known)
    _check_market(name, value)
    return True


def _check_market(name: str, value: Mapping[str, Any]) -> None:
    kind = value.get("order_type")
    if kind is not None and (not isinstance(kind, str) or kind.strip().lower() != "market"):
        raise _invalid(name, "found an order_type other than market, expected market; other exits are not supported")


def _needed(name: str, value: Mapping[str, Any], part: str) -> Any:
    """A part without which nothing would be left of a stop or take-profit."""
    found = value.get(part)
    if found is None or found == "":
        raise _invalid(name, f"{part} is missing, expected a percent such as 2")
    return found


def check_names(name: str, value: Any, known: set[str]) -> None:
    """Refuse anything but an object with only these names, unless a further one is null or false."""
    if not isinstance(value, Mapping):
        raise _invalid(name, f"found {show(value)}, expected an object with {', '.join(sorted(known))}")
    strange = next((inner for inner, found in value.items() if inner not in known and found not in (None, False)), None)
    if strange is not None:
        raise _invalid(name, f"found {show(strange)} in it, expected only {', '.join(sorted(known))}")


def _invalid(name: str, found: str) -> Refused:
    return Refused("field_invalid", f"{name}: {found}", field=name)


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
    words={"quantityType": {"position_percent": "percent_position"}},
    ignored=frozenset({"secret", "bot_uuid"}),
    max_age_field="max_lag",
    needs_unit=True,
)

# ---------------------------------------------------------------------------------------------------------- TradersPost

_STOP_KINDS = {
    "stop": ("stopPrice", "percent", "amount"),
    "trailing_stop": ("trailPrice", "trailAmount", "trailPercent"),
}


def _check_traderspost_stop(step: Mapping[str, Any]) -> None:
    """A stop's type must agree with its levels: a trailing stop with a fixed level would be another protection."""
    stop = step.get("stopLoss")
    if not isinstance(stop, Mapping) or stop.get("type") is None:
        return
    kind = stop["type"]
    word = kind.strip().lower().replace("-", "_") if isinstance(kind, str) else ""
    if word not in _STOP_KINDS and word != "stop_limit":
        raise _invalid("stopLoss.type", f"found {show(kind)}, expected stop or trailing_stop")
    others = (name for other, names in _STOP_KINDS.items() if word in _STOP_KINDS and other != word for name in names)
    wrong = next((name for name in others if stop.get(name) is not None), None)
    if wrong is not None:
        expected = " or ".join(_STOP_KINDS[word])
        raise _invalid("stopLoss", f"found {wrong} with the type {word}, expected {expected}; correct one of the two")


def _check_traderspost_lifetime(step: Mapping[str, Any]) -> None:
    """An order that must fill at once is another orderType; every other lifetime is that of our orders."""
    lifetime = step.get("timeInForce")
    if isinstance(lifetime, str) and lifetime.strip().lower() in ("ioc", "fok", "opg", "cls"):
        raise _invalid("timeInForce", f'found {show(lifetime)}, expected day or gtc; write "orderType":"ioc" or "fok"')


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
        FieldMapping("stopLoss.trailAmount", "trailingStop"),
        FieldMapping("stopLoss.trailPercent", "trailingStop", percent),
        FieldMapping("takeProfit.limitPrice", "takeProfit"),
        FieldMapping("takeProfit.price", "takeProfit"),
        FieldMapping("takeProfit.percent", "takeProfit", percent),
        FieldMapping("time", "timestamp"),
    ),
    words={
        "sentiment": {"bullish": "long", "bearish": "short", "long": "long", "short": "short", "flat": "flat"},
        "quantityType": {"fixed_quantity": "base", "dollar_amount": "usd", "risk_dollar_amount": "risk_usd"},
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
    ignored=frozenset(
        {"interval", "extras", "timeInForce", "extendedHours", "cancel", "stopLoss.type", "takeProfit.type"}
    ),
    checks={"stopLoss": _check_traderspost_stop, "orderType": _check_traderspost_lifetime},
    bare_order_exits=True,
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
    position_is_target=True,
)

# -------------------------------------------------------------------------------------------------------- WunderTrading


def _wunder_stop(value: Any) -> Any | None:
    check_names("stopLoss", value, {"priceDeviation", "price"})
    deviation, price = value.get("priceDeviation"), value.get("price")
    if (deviation is None) == (price is None):
        raise _invalid("stopLoss", "expected either priceDeviation or price in it")
    return price if deviation is None else ratio(deviation)


def _wunder_profits(value: Any) -> Any | None:
    if not isinstance(value, list):
        raise _invalid("takeProfits", f"found {show(value)}, expected a list of levels with priceDeviation or price")
    for level in value:
        check_names("takeProfits", level, {"priceDeviation", "price", "portfolio"})
    return [
        {
            "price": level.get("price"),
            "percent": ratio(level.get("priceDeviation")),
            "share": ratio(level.get("portfolio")),
        }
        for level in value
    ]


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
    words={"quantityType": {"$": "usd"}},
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
