"""Profiles: example messages of other services are read, unsupported fields are refused."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from kekbridge.alerts import message
from kekbridge.alerts.profiles import PROFILES, find_profile
from kekbridge.alerts.signal import Action, Alert, Amount, PositionSide, QuantityType, Signal
from kekbridge.errors import Refused
from kekbridge.model import OrderType, WebhookSettings


def alert(profile: str, fields: dict[str, Any]) -> Alert:
    return message.interpret(message.read_message(json.dumps(fields).encode()), WebhookSettings(profile=profile))


def read_one(profile: str, fields: dict[str, Any]) -> Signal:
    (signal,) = alert(profile, fields).steps
    return signal


def refusal(profile: str, fields: dict[str, Any]) -> Refused:
    with pytest.raises(Refused) as caught:
        alert(profile, fields)
    return caught.value


THREECOMMAS: dict[str, Any] = {
    "secret": "wh_live_abc",
    "max_lag": "300",
    "timestamp": "2026-01-15T10:30:03Z",
    "trigger_price": "65000",
    "tv_exchange": "BYBIT",
    "tv_instrument": "BTCUSDT.P",
    "action": "sell",
    "bot_uuid": "x",
    "strategy_info": {
        "market_position": "short",
        "market_position_size": "0.5",
        "prev_market_position": "long",
        "prev_market_position_size": "0.5",
    },
    "order": {"amount": "1", "currency_type": "base"},
}


def test_threecommas_strategy() -> None:
    """The strategy message of a signal bot: a reversal, sized by the strategy."""
    signal = read_one("3commas", THREECOMMAS)
    assert (signal.action, signal.symbol, signal.exchange) == (Action.SELL, "BTCUSDT.P", "BYBIT")
    assert (signal.quantity, signal.price) == (Amount(Decimal(1)), Decimal(65000))
    assert signal.target is not None
    assert (signal.target.signed, signal.target.previous_signed) == (Decimal("-0.5"), Decimal("0.5"))


CUSTOM = {name: value for name, value in THREECOMMAS.items() if name not in ("strategy_info", "order")}


@pytest.mark.parametrize(
    ("word", "action"), [("exit_long", Action.SELL), ("exit_short", Action.BUY), ("EXIT_LONG", Action.SELL)]
)
def test_threecommas_exits_close_one_side_only(word: str, action: Action) -> None:
    """exit_long must not close a short: it is a reduce-only sell of the whole position."""
    signal = read_one("3commas", {**CUSTOM, "action": word})
    assert (signal.action, signal.reduce_only) == (action, True)
    assert (signal.quantity, signal.quantity_type) == (
        Amount(Decimal(100), is_percent=True),
        QuantityType.PERCENT_POSITION,
    )


def test_threecommas_brackets() -> None:
    """Percent levels of a custom signal; their signs are only the direction."""
    signal = read_one(
        "3commas",
        {
            **CUSTOM,
            "action": "enter_short",
            "order": {"amount": "250", "currency_type": "quote"},
            "stop_loss": {"enabled": True, "order_type": "market", "trigger_price_percent": -2},
            "take_profit": {
                "enabled": True,
                "steps": [
                    {"order_type": "market", "price_percent": -1.5, "volume_percent": 60},
                    {"order_type": "market", "price_percent": -3, "volume_percent": 40},
                ],
            },
        },
    )
    assert (signal.action, signal.quantity_type) == (Action.SELL, QuantityType.USD)
    assert signal.stop_loss == Amount(Decimal(2), is_percent=True)
    levels = [(take_profit.level.value, take_profit.share) for take_profit in signal.take_profits]
    assert levels == [(Decimal("1.5"), Decimal(60)), (Decimal(3), Decimal(40))]


def test_threecommas_refusals() -> None:
    """A missing or unknown unit and a limit stop are refused, not approximated."""
    assert refusal("3commas", {**CUSTOM, "order": {"amount": "1"}}).code == "quantity_type_missing"
    margin = {"amount": "1", "currency_type": "margin_percent"}
    assert refusal("3commas", {**CUSTOM, "order": margin}).code == "quantity_type_unknown"
    stop = {"enabled": True, "order_type": "limit", "trigger_price_percent": -2}
    order = {"amount": "1", "currency_type": "base"}
    assert refusal("3commas", {**CUSTOM, "order": order, "stop_loss": stop}).field == "stop_loss"
    assert read_one("3commas", {**CUSTOM, "order": order, "stop_loss": {"enabled": False}}).stop_loss is None


TRADERSPOST: dict[str, Any] = {"ticker": "BTCUSDT.P", "action": "buy", "quantity": 1, "apiKey": "k"}


def test_traderspost_entry() -> None:
    """The documented example: percent levels inside objects."""
    signal = read_one(
        "traderspost",
        {
            **TRADERSPOST,
            "signalPrice": 143.12,
            "sentiment": "bullish",
            "takeProfit": {"percent": 10},
            "stopLoss": {"type": "stop", "percent": 5},
        },
    )
    assert (signal.action, signal.symbol, signal.price) == (Action.BUY, "BTCUSDT.P", Decimal("143.12"))
    assert signal.stop_loss == Amount(Decimal(5), is_percent=True)
    assert signal.take_profits[0].level == Amount(Decimal(10), is_percent=True)
    assert not signal.reduce_only


@pytest.mark.parametrize(
    ("change", "side"),
    [
        ({"action": "exit"}, None),
        ({"action": "sell", "sentiment": "flat"}, PositionSide.FLAT),
        ({"action": "sell", "sentiment": "long"}, None),
    ],
)
def test_traderspost_exits_are_reduce_only(change: dict[str, str], side: PositionSide | None) -> None:
    """exit closes; a sell with the sentiment flat or long only reduces."""
    signal = read_one("traderspost", {**TRADERSPOST, **change})
    assert signal.reduce_only
    assert (signal.target.side if signal.target else None) is side


def test_traderspost_order_types() -> None:
    """The service's stop price is the trigger price; its quantity types are mapped by name."""
    signal = read_one(
        "traderspost",
        {**TRADERSPOST, "orderType": "stop_limit", "stopPrice": 100, "limitPrice": 99, "quantityType": "dollar_amount"},
    )
    assert (signal.order_type, signal.trigger_price, signal.limit_price) == (
        OrderType.STOP_LIMIT,
        Decimal(100),
        Decimal(99),
    )
    assert signal.quantity_type is QuantityType.USD


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"stopLoss": {"amount": 5}}, "stopLoss.amount"),
        ({"stopLoss": {"stopPrice": 5, "limitPrice": 4}}, "stopLoss.limitPrice"),
        ({"takeProfit": {"amount": 5}}, "takeProfit.amount"),
        ({"trailPercent": 1}, "trailPercent"),
        ({"delay": 5}, "delay"),
        ({"price": 1, "signalPrice": 2}, "price"),
        ({"symbol": "ETHUSDT.P"}, "symbol"),
        ({"sentiment": "sideways"}, "sentiment"),
        ({"action": "breakeven"}, "action"),
        ({"stopLoss": 64000}, "stopLoss"),
        ({"stopLoss": "2%"}, "stopLoss"),
        ({"stopLoss": ""}, "stopLoss"),
        ({"stopLoss": []}, "stopLoss"),
        ({"stopLoss": {}}, "stopLoss"),
        ({"stopLoss": True}, "stopLoss"),
        ({"stopLoss": {"type": "stop"}}, "stopLoss"),
        ({"stopLoss": {"type": "stop", "percent": None}}, "stopLoss"),
        ({"stopLoss": {"type": "stop", "price": 64000}}, "stopLoss"),
        ({"stopLoss": {"percent": 2, "breakeven": True}}, "stopLoss"),
        ({"stopLoss": {"type": "trailing_stop", "percent": 3}}, "stopLoss"),
        ({"stopLoss": {"type": "stop", "trailPercent": 3}}, "stopLoss"),
        ({"stopLoss": {"type": "guaranteed", "percent": 3}}, "stopLoss.type"),
        ({"takeProfit": 66000}, "takeProfit"),
        ({"takeProfit": {"target": 66000}}, "takeProfit"),
        ({"takeProfit": [{"percent": 2}]}, "takeProfit"),
        ({"stoploss": {"percent": 2}}, "stoploss"),
        ({"timeInForce": "ioc"}, "timeInForce"),
    ],
)
def test_traderspost_refusals(change: dict[str, Any], field: str) -> None:
    """Unsupported fields are refused by the service's name."""
    assert refusal("traderspost", {**TRADERSPOST, **change}).field == field


@pytest.mark.parametrize("word", ["exit", "EXIT"])
def test_an_unreadable_stop_blocks_no_exit(word: str) -> None:
    """An exit sets no protection, so it does not read any; the warning says so."""
    read = alert("traderspost", {**TRADERSPOST, "action": word, "stopLoss": 64000, "takeProfit": {"amount": 5}})
    assert read.steps[0].action is Action.CLOSE
    assert any("stopLoss, takeProfit" in warning for warning in read.warnings)


def test_traderspost_trailing_and_risk() -> None:
    """A trailing distance in price, a quantity by the dollars at risk, the words add and reverse."""
    signal = read_one(
        "traderspost",
        {**TRADERSPOST, "stopLoss": {"type": "Trailing-Stop", "trailAmount": 500}, "takeProfit": {"price": 7}},
    )
    assert signal.trailing_stop == Amount(Decimal(500))
    assert signal.take_profits[0].level == Amount(Decimal(7))
    risk = read_one(
        "traderspost",
        {**TRADERSPOST, "quantity": 50, "quantityType": "risk_dollar_amount", "stopLoss": {"stopPrice": 64000}},
    )
    assert (risk.quantity, risk.quantity_type) == (Amount(Decimal(50)), QuantityType.RISK_USD)
    assert read_one("traderspost", {**TRADERSPOST, "action": "add"}).action is Action.ADD
    assert read_one("traderspost", {**TRADERSPOST, "action": "reverse"}).action is Action.FLIP


def test_traderspost_orders_without_a_quantity() -> None:
    """They close an opposite position; whether there is one is known later. An exit closes everything."""
    bare = {name: value for name, value in TRADERSPOST.items() if name != "quantity"}
    sell = read_one("traderspost", {**bare, "action": "sell"})
    assert (sell.action, sell.quantity, sell.exits_opposite) == (Action.SELL, None, True)
    assert not read_one("traderspost", {**TRADERSPOST, "action": "sell"}).exits_opposite
    assert refusal("seed", {"symbol": "BTC", "action": "sell"}).code == "quantity_missing"


def test_traderspost_time_is_the_timestamp() -> None:
    """The service's template has {{timenow}} as `time`."""
    assert alert("traderspost", {**TRADERSPOST, "time": "2026-01-15T10:30:03Z"}).fired_at is not None


def test_openalgo() -> None:
    """A price or trigger price of 0 means none; SL and SL-M are stops; position_size is the signed target."""
    base = {
        "apikey": "wh_live_x",
        "strategy": "s",
        "symbol": "BTCUSDT.P",
        "action": "BUY",
        "product": "MIS",
        "quantity": "1",
    }
    signal = read_one(
        "openalgo", {**base, "pricetype": "MARKET", "price": "0", "trigger_price": 0, "position_size": "1"}
    )
    assert (signal.action, signal.order_type, signal.price) == (Action.BUY, OrderType.MARKET, None)
    assert signal.target is not None
    assert (signal.target.signed, signal.is_wanted_position) == (Decimal(1), True)
    stop = read_one("openalgo", {**base, "pricetype": "SL-M", "trigger_price": "70000"})
    assert (stop.order_type, stop.trigger_price) == (OrderType.STOP, Decimal(70000))
    stop_limit = read_one("openalgo", {**base, "pricetype": "SL", "price": "70010", "trigger_price": "70000"})
    assert (stop_limit.order_type, stop_limit.limit_price) == (OrderType.STOP_LIMIT, Decimal(70010))


@pytest.mark.parametrize(
    "stop",
    [
        {"enabled": True, "trigger_price": 64000},
        {"enabled": True},
        {"enabled": True, "trigger_price_percent": None},
        {"enabled": True, "trigger_price_percent": 2, "breakeven": True},
        {"enabled": "maybe", "trigger_price_percent": 2},
        {"enabled": 1, "trigger_price_percent": 2},
        64000,
        "2%",
        [],
        {},
    ],
    ids=str,
)
def test_threecommas_stops_in_other_shapes_are_refused(stop: Any) -> None:
    """A stop that cannot be read is no entry without a stop."""
    order = {"amount": "1", "currency_type": "base"}
    assert (
        refusal("3commas", {**CUSTOM, "action": "enter_long", "order": order, "stop_loss": stop}).field == "stop_loss"
    )


@pytest.mark.parametrize(
    "profits",
    [
        {"enabled": True},
        {"enabled": True, "steps": []},
        {"enabled": True, "steps": {"price_percent": 2}},
        {"enabled": True, "steps": [{"volume_percent": 100}]},
        {"enabled": True, "steps": [{"price_percent": 2, "trailing": 1}]},
        {"enabled": True, "steps": [{"price_percent": 2, "order_type": "limit"}]},
        66000,
    ],
    ids=str,
)
def test_threecommas_profits_in_other_shapes_are_refused(profits: Any) -> None:
    """A take-profit that cannot be read is not dropped."""
    order = {"amount": "1", "currency_type": "base"}
    fields = {**CUSTOM, "action": "enter_long", "order": order, "take_profit": profits}
    assert refusal("3commas", fields).field == "take_profit"


@pytest.mark.parametrize("order", [{}, "0.5", [], {"qty": "0.5"}, {"amount": None}], ids=str)
def test_an_order_object_that_cannot_be_read_is_refused(order: Any) -> None:
    """Dropped, an exit of a part would close everything."""
    assert refusal("3commas", {**CUSTOM, "action": "exit_long", "order": order}).field in ("order", "order.qty")


def test_max_lag() -> None:
    """3Commas alerts say how late they may be; the webhook's own maximum is never exceeded."""
    body = message.read_message(json.dumps({**CUSTOM, "max_lag": "300"}).encode())
    settings = WebhookSettings(profile="3commas")
    assert message.allowed_age_s(body, settings, 60) == 300
    assert message.allowed_age_s(body, WebhookSettings(profile="3commas", max_timestamp_age_s=20), 60) == 20
    assert message.allowed_age_s(body, WebhookSettings(), 60) == 60
    for damaged in ("0", "x", "-5", "1e9"):
        wrong = message.read_message(json.dumps({**CUSTOM, "max_lag": damaged}).encode())
        with pytest.raises(Refused):
            message.allowed_age_s(wrong, settings, 60)


WUNDER: dict[str, Any] = {
    "apiKey": "k",
    "code": "ENTER-LONG_Bybit_ETHUSDT_My bot_15M_8e34479cfe49027eda195457",
    "orderType": "market",
    "amountPerTradeType": "quote",
    "amountPerTrade": 100,
    "leverage": 5,
}


def test_wundertrading() -> None:
    """The code contains action, exchange and pair; deviations and portions are fractions."""
    signal = read_one(
        "wundertrading",
        {
            **WUNDER,
            "stopLoss": {"priceDeviation": 0.02},
            "takeProfits": [{"priceDeviation": 0.01, "portfolio": 0.5}, {"priceDeviation": 0.02, "portfolio": 0.5}],
        },
    )
    assert (signal.action, signal.symbol, signal.exchange) == (Action.BUY, "ETHUSDT", "Bybit")
    assert (signal.quantity, signal.quantity_type) == (Amount(Decimal(100)), QuantityType.USD)
    assert signal.stop_loss == Amount(Decimal(2), is_percent=True)
    assert [(take_profit.level.value, take_profit.share) for take_profit in signal.take_profits] == [
        (Decimal(1), Decimal(50)),
        (Decimal(2), Decimal(50)),
    ]


@pytest.mark.parametrize(
    ("code", "action"),
    [
        ("Exit-All_Bybit_ETHUSDT_b", Action.CLOSE),
        ("EXIT-LONG_Bybit_ETHUSDT_b", Action.SELL),
        ("EXIT-SHORT_Bybit_ETHUSDT_b", Action.BUY),
    ],
)
def test_wundertrading_exits(code: str, action: Action) -> None:
    """Exits are reduce-only even if the message has reduceOnly false."""
    signal = read_one("wundertrading", {"apiKey": "k", "code": code, "reduceOnly": False})
    assert (signal.action, signal.reduce_only) == (action, True)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"amountPerTradeType": None}, "quantity_type_missing"),
        ({"amountPerTradeType": "percents"}, "quantity_type_unknown"),
        ({"amountPerTradeType": "contracts"}, "quantity_type_unknown"),
        ({"moveToBreakeven": {"activation": 0.01}}, "field_invalid"),
        ({"stopLoss": {"trailing": 1}}, "field_invalid"),
        ({"code": "ENTER-LONG_Bybit_NONE_bot"}, "symbol_missing"),
        ({"code": "HOLD_Bybit_ETHUSDT_bot"}, "action_unknown"),
    ],
)
def test_wundertrading_refusals(change: dict[str, Any], code: str) -> None:
    """A quantity without a unit, an unknown unit and unsupported options are refused."""
    assert refusal("wundertrading", {**WUNDER, **change}).code == code


@pytest.mark.parametrize(
    "body", ["ENTER-LONG_Bybit_ETHUSDT_My bot_15M_8e34479cfe49", "enter-long_bybit_ethusdt_my bot_15m_8e34479cfe49"]
)
def test_wundertrading_plain_text(body: str) -> None:
    """The message may be nothing but the signal code; the size is the webhook's."""
    settings = WebhookSettings(profile="wundertrading", defaults={"quantity": "100", "quantityType": "usd"})
    (signal,) = message.interpret(message.read_message(body.encode()), settings).steps
    assert (signal.action, signal.symbol and signal.symbol.upper()) == (Action.BUY, "ETHUSDT")
    assert (signal.quantity, signal.quantity_type) == (Amount(Decimal(100)), QuantityType.USD)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"stopLoss": 0.02}, "stopLoss"),
        ({"stopLoss": {}}, "stopLoss"),
        ({"stopLoss": {"priceDeviation": None}}, "stopLoss"),
        ({"stopLoss": {"priceDeviation": 0.02, "price": 64000}}, "stopLoss"),
        ({"stopLoss": {"deviation": 0.02}}, "stopLoss"),
        ({"takeProfits": {"priceDeviation": 0.02}}, "takeProfits"),
        ({"takeProfits": "2%"}, "takeProfits"),
        ({"takeProfits": [0.02]}, "takeProfits"),
        ({"takeProfit": [{"priceDeviation": 0.02}]}, "takeProfit"),
        ({"takeprofits": [{"priceDeviation": 0.02}]}, "takeprofits"),
    ],
)
def test_wundertrading_protection_in_other_shapes_is_refused(change: dict[str, Any], field: str) -> None:
    """By the service's name of the field."""
    assert refusal("wundertrading", {**WUNDER, **change}).field == field


def test_community() -> None:
    """The format of many public bots: the strategy's placeholders in a nested object."""
    signal = read_one(
        "community",
        {
            "passphrase": "wh_live_x",
            "time": "2026-01-15T10:30:03Z",
            "exchange": "BYBIT",
            "ticker": "SOLUSDT.P",
            "bar": {"close": 140},
            "strategy": {
                "position_size": -12,
                "order_action": "sell",
                "order_contracts": 12,
                "order_price": 140.5,
                "order_id": "Short",
                "market_position": "short",
                "market_position_size": 12,
                "prev_market_position": "flat",
                "prev_market_position_size": 0,
            },
        },
    )
    assert (signal.action, signal.symbol, signal.quantity) == (Action.SELL, "SOLUSDT.P", Amount(Decimal(12)))
    assert signal.target is not None
    assert signal.target.signed == -12


def test_kekdex() -> None:
    """Order fields under the names of an Orderly front end."""
    signal = read_one(
        "kekdex",
        {"apiKey": "k", "symbol": "PERP_BTC_USDC", "side": "BUY", "order_type": "LIMIT", "order_quantity": 0.01,
         "order_price": 65000, "reduce_only": False},
    )  # fmt: skip
    assert (signal.action, signal.order_type, signal.limit_price) == (Action.BUY, OrderType.LIMIT, Decimal(65000))
    assert refusal("kekdex", {"symbol": "BTC", "side": "buy", "order_amount": 100}).field == "order_amount"


@pytest.mark.parametrize("profile", sorted(set(PROFILES) - {"seed"}))
def test_canonical_names_work_in_every_profile(profile: str) -> None:
    """A field that the service does not have can be added under its canonical name."""
    fields = find_profile(profile).render({"action": "buy", "symbol": "BTCUSDT.P", "quantity": "1"})
    signal = read_one(profile, {**fields, "alertId": "7", "slippage": "1%", "triggerPrice": None})
    assert (signal.quantity, signal.slippage) == (Amount(Decimal(1)), Decimal("0.01"))


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_placeholders_are_refused_in_every_profile(profile: str) -> None:
    """An unexpanded placeholder is refused under the service's name of the field, too."""
    fields = find_profile(profile).render(
        {"action": "buy", "symbol": "BTCUSDT.P", "quantity": "{{strategy.order.contracts}}"}
    )
    assert refusal(profile, fields).code == "placeholder_unexpanded"


def test_an_unknown_profile_is_a_refusal() -> None:
    """No command can store one, but it must not crash the listener either."""
    assert refusal("nonsense", {"action": "ping"}).code == "field_invalid"
