"""Names that nobody reads: those that stand for a field that decides the trade are refused, all others are passed over."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.alerts.field_names import ORDER_FIELDS, canonical_name
from kekbridge.alerts.message import interpret, read_message
from kekbridge.alerts.profiles import PROFILES
from kekbridge.alerts.signal import Alert
from kekbridge.alerts.unknown_fields import look_alike
from kekbridge.errors import Refused
from kekbridge.model import WebhookSettings

BUY: dict[str, Any] = {"action": "buy", "symbol": "BTCUSDT.P", "quantity": "0.01"}

STANDS_FOR = {
    "stopLoss": """stoploss StopLoss STOPLOSS stop-loss Stop_Loss sl SL Sl sl1 stop stopPrice stop_price slPrice sl_price SLPRICE slprice
        stop_loss_price stopLossPrice stopLossPercent stop_loss_pct sl_percent slPerc stoploss_percentage initial_stop
        hard_stop_price stopLossValue sl_points stop_limit_price loss breakeven move_to_breakeven bracket oco sltp""",
    "takeProfit": """takeprofit TakeProfit tp TP tp1 tp_2 tp1_price tp1Percent takeProfit1 take_profit_1 take_profit_price
        takeProfitPercent tps targets target1 target_price profit profit_target profitPercent take_profits""",
    "trailingStop": """trailing trail trail_points trailOffset trail_price trailing_stop_percent trailingStopLoss TrailingStop tsl
        trailing_distance callbackRate activation_price trailing_enabled""",
    "orderType": """type Type ordertype OrderType order-type orderKind trade_type tif timeInForce time_in_force post_only postOnly ioc
        priceType""",
    "reduceOnly": """reduceonly ReduceOnly reduce closeOnly close_only closeonly closePosition close_position exit_only isExit exit flatten
        closeAll flat""",
    "quantity": """qty Qty Quantity quantitiy qauntity size order_size amount orderAmount contracts order_contracts lots lot_size shares
        usd_amount usdtAmount quote_amount risk risk_percent riskPct percent pct percent_of_equity qtyType qty_type
        notional investment""",
    "action": "Action actoin side Side orderSide order_action direction position_side positionSide close_side isLong trade_action",
    "leverage": "Leverage lev Lev lever leverage_x max_leverage levarage",
    "limitPrice": "limit limitprice LimitPrice limit_px limitOrderPrice",
    "triggerPrice": "triggerprice TriggerPrice trigger_px trigger_price_type",
    "price": "Price PRICE",
    "slippage": "Slippage slip max_slippage slippage_percent slipage",
    "symbol": "Symbol symbl ticker Ticker pair trading_pair instrument coin tv_instrument",
    "marketPosition": "marketposition MarketPosition position net_position sentiment",
    "positionSize": "positionsize PositionSize target_position targetPositionSize pos_size position_qty",
    "test": "test Test isTest test_mode dryRun dry_run DryRun dryrun paper paper_trading simulate demo sandbox testnet",
    "steps": "Steps orders legs",
    "timestamp": "Timestamp TimeStamp TIMESTAMP",
    "alertId": "alertID AlertId alertid Alert_ID",
}  # fmt: skip
HARMLESS = """
    strategy strategyName strategy_name id uid uuid bot_id bot_uuid botName chat_id alert_name alert_message alertName name
    message msg text note comment_2 order_id orderId order_name order_comment trade_id position_id interval timeframe tf time
    timenow ts date datetime session unix open high low close volume hl2 bar bars rsi atr ema ema20 sma_200 macd plot_0 plot0
    vwap indicator condition signal signal_name signal_type trend score confidence strength source version author license
    title description color emoji url channel group tags priority platform_name account account_id user email nonce headers
    params query body extras custom webhook provider service leverageHint order_price entry_price signal_price deviation
    stop_loss_comment tp_hit sl_hit tp1_reached stop_reason target_exchange exchange_name exchange_id market market_type
    product currency quote base base_currency syminfo ticker_id margin_mode marginMode hedge_mode position_mode pyramiding
    equity netprofit openprofit close_price mark_price last_price highest_price caption option average quality prize timezone
    max_lag
"""


def alert(fields: dict[str, Any], profile: str = "seed") -> Alert:
    return interpret(read_message(json.dumps(fields).encode()), WebhookSettings(profile=profile))


def refusal(fields: dict[str, Any], profile: str = "seed") -> Refused:
    with pytest.raises(Refused) as caught:
        alert(fields, profile)
    return caught.value


@pytest.mark.parametrize(
    ("target", "name"), [(target, n) for target, names in STANDS_FOR.items() for n in names.split()]
)
def test_names_that_stand_for_another_field(target: str, name: str) -> None:
    """By the words of the name, whatever their case and separators, and by slips of the pen."""
    found = look_alike(name)
    assert found is not None
    assert found.target == target or {found.target, target} <= {"stopLoss", "takeProfit", "trailingStop"}


@pytest.mark.parametrize("name", HARMLESS.split())
def test_names_that_decide_nothing(name: str) -> None:
    """They are passed over, and named in one warning."""
    read = alert({**BUY, name: "1"})
    assert [warning for warning in read.warnings if name in warning] == list(read.warnings)
    assert len(read.warnings) == 1


@pytest.mark.parametrize("name", ["sl", "stoploss", "tp1", "type", "closeOnly", "position_side", "test", "lev", "qty"])
@pytest.mark.parametrize("value", ["63000", 63000, {"price": 63000}, [63000], True, "x"], ids=repr)
def test_the_refusal_names_the_field(name: str, value: Any) -> None:
    """Whatever its value is, and with the name that is read instead."""
    caught = refusal({**BUY, name: value})
    assert (caught.code, caught.field) == ("field_unknown", name)
    assert caught.message.startswith(f"{name}: ")
    assert "did you mean" in caught.message or "--dry-run" in caught.message


@pytest.mark.parametrize("where", ["order", "bracket_orders", "data", "strategy"])
def test_names_inside_objects(where: str) -> None:
    """An object that nobody reads is searched, so that a stop inside it is not lost."""
    assert refusal({**BUY, where: {"exits": [{"stop_loss": 63000}]}}).code == "field_unknown"
    assert refusal({**BUY, "x": {"a": {"b": {"tp": 1}}}}).field == "x.a.b.tp"


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_names_in_every_profile(profile: str) -> None:
    """Also beside and inside another service's fields, with that service's name in the advice."""
    fields = PROFILES[profile].render({"action": "buy", "symbol": "BTCUSDT.P", "quantity": "1"})
    if profile == "wundertrading":
        fields = {"code": "ENTER-LONG_Bybit_BTCUSDT_b", "amountPerTrade": 1, "amountPerTradeType": "base"}
    for name in ("stoploss", "Stop-Loss", "tp2", "trailing_stop_loss", "isTest"):
        assert refusal({**fields, name: "2%"}, profile).code == "field_unknown"


def test_the_advice_is_the_services_own_name() -> None:
    """A TradersPost user is told of TradersPost's field."""
    caught = refusal({"ticker": "BTCUSDT.P", "action": "buy", "quantity": 1, "stoploss": {"percent": 2}}, "traderspost")
    assert "did you mean stopLoss.stopPrice or stopLoss.percent?" in caught.message
    caught = refusal({"Ticker": "BTCUSDT.P", "action": "buy", "quantity": 1}, "traderspost")
    assert "did you mean ticker?" in caught.message
    nested = {"ticker": "BTCUSDT.P", "strategy": {"order_action": "buy", "order_contracts": 1, "Position_Size": 5}}
    assert "did you mean strategy.position_size?" in refusal(nested, "community").message


@pytest.mark.parametrize("name", ["sl", "stoploss", "tp1", "trail", "lev"])
@pytest.mark.parametrize(
    "exit_fields", [{"action": "close"}, {"action": "exit_long"}, {"action": "sell", "reduceOnly": True}]
)
def test_an_exit_is_not_refused_for_protection(name: str, exit_fields: dict[str, Any]) -> None:
    """It sets none; but a side or a size that is misspelt is refused on an exit, too."""
    read = alert({**BUY, **exit_fields, name: "2"})
    assert any(name in warning for warning in read.warnings)
    assert refusal({**BUY, **exit_fields, "close_side": "short"}).code == "field_unknown"
    assert refusal({**BUY, **exit_fields, "qty": "0.5"}).code == "field_unknown"


@pytest.mark.parametrize("name", ["test", "dryRun", "closeOnly", "reduceonly", "isExit"])
def test_a_flag_that_says_no_asks_for_nothing(name: str) -> None:
    """A template may carry "test":false for years."""
    for value in (False, "false", "False", "", None):
        assert alert({**BUY, name: value}).steps == alert(BUY).steps
    assert refusal({**BUY, name: True}).code == "field_unknown"


def test_close_is_a_price_unless_it_says_true() -> None:
    """Most messages have the bar's close under this name."""
    assert alert({**BUY, "close": 65000.5}).steps == alert(BUY).steps
    assert alert({**BUY, "close": "{{close}}"}).steps == alert(BUY).steps
    assert refusal({**BUY, "close": True}).code == "field_unknown"


def test_a_second_name_of_the_market_is_harmless() -> None:
    """Beside the field itself it only says the same once more; instead of it the message would be for another market."""
    assert alert({**BUY, "ticker": "BTCUSDT", "price": 65000}).steps[0].symbol == "BTCUSDT.P"
    without = {"action": "buy", "quantity": "0.01", "ticker": "ETHUSDT.P"}
    with pytest.raises(Refused) as caught:
        interpret(read_message(json.dumps(without).encode()), WebhookSettings(defaults={"symbol": "BTCUSDT.P"}))
    assert caught.value.code == "field_unknown"


def test_invisible_and_foreign_letters() -> None:
    """A name that looks like ours on the screen is not another field."""
    for name in (
        "stopLoss\u200b",
        "stop\u00a0Loss",
        "ｓｔｏｐＬｏｓｓ",
        "stopL\u043ess",
        "\u0430ction",
        "qu\u0430ntity",
    ):
        assert refusal({**BUY, name: "2%"}).code == "field_unknown"


@given(st.sampled_from(sorted(ORDER_FIELDS)), st.data())
def test_every_other_spelling_of_our_names_is_refused(own: str, data: st.DataObject) -> None:
    """camelCase and snake_case are read; any other case or separator is an error, never another meaning."""
    letters = [data.draw(st.sampled_from([c.lower(), c.upper()])) for c in own]
    name = data.draw(st.sampled_from(["", "-", " ", "."])).join(["".join(letters[:3]), "".join(letters[3:])])
    found = look_alike(name)
    if canonical_name(name) == name and name not in ORDER_FIELDS:
        assert found is not None
        assert found.target == own


@given(st.text(max_size=80))
def test_any_name_can_be_judged(name: str) -> None:
    """Names come from strangers: none raises."""
    look_alike(name)


def test_the_warning_is_one_line_and_short() -> None:
    """Many unread fields, or long names, do not flood the log; a credential in a name is not repeated."""
    read = alert({**BUY, **{f"x{number}" + "y" * 200: 1 for number in range(50)}, "wh_live_abcdefgh0123456789": 1})
    (warning,) = read.warnings
    assert len(warning) < 900
    assert "and 39 more" in warning
    assert "fgh0123456789" not in warning
