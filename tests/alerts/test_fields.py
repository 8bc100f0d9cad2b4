"""Every field of an alert: accepted values, refusals with their codes, and the effect of webhook settings."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from kekbridge.alerts.message import interpret, read_message
from kekbridge.alerts.signal import Action, Alert, Amount, QuantityType, Signal, TakeProfitSpec
from kekbridge.codes import CODES
from kekbridge.errors import Refused
from kekbridge.model import OrderType, WebhookSettings

BUY: dict[str, Any] = {"action": "buy", "symbol": "BTCUSDT.P", "quantity": "0.01"}


def alert(fields: dict[str, Any], **settings: Any) -> Alert:
    return interpret(read_message(json.dumps(fields).encode()), WebhookSettings(**settings))


def read_one(fields: dict[str, Any], **settings: Any) -> Signal:
    """The only Signal of a message."""
    (signal,) = alert(fields, **settings).steps
    return signal


def refusal(fields: dict[str, Any], **settings: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        alert(fields, **settings)
    assert caught.value.code in CODES
    assert "\n" not in caught.value.message
    return caught.value


# ------------------------------------------------------------------------------------------------------------- refusals

REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    ({"action": None}, "action_missing", "action"),
    ({"action": " "}, "action_missing", "action"),
    ({"action": 1}, "action_unknown", "action"),
    ({"action": True}, "action_unknown", "action"),
    ({"action": ["buy"]}, "action_unknown", "action"),
    ({"action": "strong_buy"}, "action_unknown", "action"),
    ({"action": "take_profit"}, "action_unknown", "action"),
    ({"stoploss": "2%"}, "field_unknown", "stoploss"),
    ({"order": {"sl": 63000}}, "field_unknown", "order.sl"),
    ({"action": "ｂｕｙ"}, "action_unknown", "action"),
    ({"action": "{{strategy.order.action}}"}, "placeholder_unexpanded", "action"),
    ({"symbol": None}, "symbol_missing", "symbol"),
    ({"symbol": ""}, "symbol_missing", "symbol"),
    ({"symbol": 5}, "symbol_invalid", "symbol"),
    ({"symbol": ["BTC"]}, "symbol_invalid", "symbol"),
    ({"symbol": "B" * 65}, "symbol_invalid", "symbol"),
    ({"symbol": "{{ticker}}"}, "placeholder_unexpanded", "symbol"),
    ({"exchange": 5.5}, "", ""),
    ({"exchange": ["BYBIT"]}, "field_invalid", "exchange"),
    ({"exchange": "{{exchange}}"}, "placeholder_unexpanded", "exchange"),
    ({"quantity": None}, "quantity_missing", "quantity"),
    ({"quantity": ""}, "quantity_missing", "quantity"),
    ({"quantity": "NaN"}, "quantity_not_a_number", "quantity"),
    ({"quantity": "1,250.5"}, "quantity_not_a_number", "quantity"),
    ({"quantity": "$5"}, "quantity_not_a_number", "quantity"),
    ({"quantity": True}, "quantity_not_a_number", "quantity"),
    ({"quantity": "1e99"}, "quantity_not_a_number", "quantity"),
    ({"quantity": "1_000"}, "quantity_not_a_number", "quantity"),
    ({"quantity": "１"}, "quantity_not_a_number", "quantity"),
    ({"quantity": [1]}, "quantity_not_a_number", "quantity"),
    ({"quantity": 0}, "quantity_not_positive", "quantity"),
    ({"quantity": "-0.01"}, "quantity_not_positive", "quantity"),
    ({"quantity": "25%"}, "quantity_type_missing", "quantity"),
    ({"quantity": "{{strategy.order.contracts}}"}, "placeholder_unexpanded", "quantity"),
    ({"quantity": "25%", "quantityType": "usd"}, "quantity_type_unsupported", "quantityType"),
    ({"quantity": "25%", "quantityType": "base"}, "quantity_type_unsupported", "quantityType"),
    ({"quantityType": "percent"}, "quantity_type_unknown", "quantityType"),
    ({"quantityType": 5}, "quantity_type_unknown", "quantityType"),
    ({"quantityType": "lots"}, "quantity_type_unknown", "quantityType"),
    ({"quantityType": "risk_percent"}, "quantity_type_unsupported", "quantityType"),
    ({"quantityType": "risk_percent", "quantity": 101, "stopLoss": "1%"}, "quantity_type_unsupported", "quantity"),
    ({"quantityType": "percent_equity", "reduceOnly": True}, "quantity_type_unsupported", "quantityType"),
    ({"orderType": "limit"}, "price_missing", "limitPrice"),
    ({"orderType": "post_only"}, "price_missing", "limitPrice"),
    ({"orderType": "stop"}, "price_missing", "triggerPrice"),
    ({"orderType": "stop_limit", "triggerPrice": 5}, "price_missing", "limitPrice"),
    ({"orderType": "iceberg"}, "order_type_unknown", "orderType"),
    ({"orderType": 5}, "order_type_unknown", "orderType"),
    ({"limitPrice": 5}, "order_type_unsupported", "limitPrice"),
    ({"triggerPrice": 5}, "order_type_unsupported", "triggerPrice"),
    ({"orderType": "limit", "price": 5, "triggerPrice": 5}, "order_type_unsupported", "triggerPrice"),
    ({"price": "na"}, "price_invalid", "price"),
    ({"price": 0}, "price_invalid", "price"),
    ({"price": -1}, "price_invalid", "price"),
    ({"orderType": "limit", "limitPrice": False}, "price_invalid", "limitPrice"),
    ({"stopLoss": ""}, "stop_loss_empty", "stopLoss"),
    ({"stopLoss": "  "}, "stop_loss_empty", "stopLoss"),
    ({"takeProfit": ""}, "take_profit_empty", "takeProfit"),
    ({"takeProfit": []}, "take_profit_empty", "takeProfit"),
    ({"trailingStop": ""}, "stop_loss_empty", "trailingStop"),
    ({"stopLoss": "abc"}, "stop_loss_invalid", "stopLoss"),
    ({"stopLoss": 0}, "stop_loss_invalid", "stopLoss"),
    ({"stopLoss": "100%"}, "stop_loss_invalid", "stopLoss"),
    ({"stopLoss": {"price": 5}}, "stop_loss_invalid", "stopLoss"),
    ({"stopLoss": True}, "stop_loss_invalid", "stopLoss"),
    ({"stopLoss": "{{close * 0.98}}"}, "placeholder_unexpanded", "stopLoss"),
    ({"takeProfit": "-4%"}, "take_profit_invalid", "takeProfit"),
    ({"takeProfit": [{"price": 5, "percent": 5}]}, "take_profit_invalid", "takeProfit"),
    ({"takeProfit": [{"share": 5}]}, "take_profit_invalid", "takeProfit"),
    ({"takeProfit": [{"price": 5, "qty": 5}]}, "take_profit_invalid", "takeProfit"),
    ({"takeProfit": [{"price": 5, "share": 0.5}]}, "take_profit_invalid", "takeProfit"),
    ({"takeProfit": [{"price": 5, "share": 60}, {"price": 6, "share": 60}]}, "take_profit_invalid", "takeProfit"),
    ({"takeProfit": [{"price": 5, "share": 100}, 6]}, "take_profit_invalid", "takeProfit"),
    ({"takeProfit": ["{{close}}"]}, "take_profit_invalid", "takeProfit"),
    ({"takeProfit": list(range(1, 12))}, "take_profit_invalid", "takeProfit"),
    ({"trailingStop": "x"}, "trailing_stop_invalid", "trailingStop"),
    ({"trailingStop": "150%"}, "trailing_stop_invalid", "trailingStop"),
    ({"reduceOnly": "yes"}, "field_invalid", "reduceOnly"),
    ({"reduceOnly": 1}, "field_invalid", "reduceOnly"),
    ({"action": "flip", "reduceOnly": True}, "field_invalid", "reduceOnly"),
    ({"leverage": "5x"}, "leverage_invalid", "leverage"),
    ({"leverage": 0}, "leverage_invalid", "leverage"),
    ({"leverage": 101}, "leverage_invalid", "leverage"),
    ({"leverage": 2.5}, "leverage_invalid", "leverage"),
    ({"slippage": 0.5}, "slippage_invalid", "slippage"),
    ({"slippage": 0}, "slippage_invalid", "slippage"),
    ({"slippage": "100%"}, "slippage_invalid", "slippage"),
    ({"slippage": "-1%"}, "slippage_invalid", "slippage"),
    ({"marketPosition": "up", "marketPositionSize": 1}, "field_invalid", "marketPosition"),
    ({"positionSize": "x"}, "field_invalid", "positionSize"),
    ({"marketPosition": "long"}, "inconsistent_position", "marketPositionSize"),
    ({"marketPosition": "{{strategy.market_position}}"}, "placeholder_unexpanded", "marketPosition"),
]


@pytest.mark.parametrize(("change", "code", "field"), REFUSALS, ids=[json.dumps(row[0])[:60] for row in REFUSALS])
def test_refusals(change: dict[str, Any], code: str, field: str) -> None:
    """Each error has its code and names its field; nothing is repaired."""
    if not code:
        assert read_one({**BUY, **change}).exchange == "5.5"  # a number is accepted here; the symbol check decides
        return
    caught = refusal({**BUY, **change})
    assert (caught.code, caught.field) == (code, field)


def test_a_refusal_names_found_and_expected() -> None:
    """One line is enough to fix it: the field, the value found, the value expected."""
    message = refusal({**BUY, "quantity": "1,250.5"}).message
    assert message.startswith("quantity: found '1,250.5', expected ")


def test_a_refusal_quotes_no_secret_and_no_escape_sequence() -> None:
    """A key pasted into the wrong field, or an escape sequence, is not repeated in the response."""
    assert "fgh0123456789" not in refusal({**BUY, "action": "wh_live_abcdefgh0123456789"}).message
    assert refusal({**BUY, "action": "\x1b]0;x\x07\u202e"}).message.isprintable()
    assert len(refusal({**BUY, "action": "x" * 5000}).message) < 300


# ------------------------------------------------------------------------------------------------------------- accepted


@pytest.mark.parametrize(
    ("written", "action"),
    [("buy", Action.BUY), ("SELL", Action.SELL), ("Close", Action.CLOSE), (" flip ", Action.FLIP), ("cancel", Action.CANCEL),
     ("ping", Action.PING)],
)  # fmt: skip
def test_actions(written: str, action: Action) -> None:
    """Actions are case-insensitive."""
    assert read_one({**BUY, "action": written}).action is action


def test_ping_needs_no_other_field() -> None:
    """Other fields of a ping are not read."""
    assert read_one({"action": "ping", "symbol": "{{ticker}}", "quantity": "x"}) == Signal(
        action=Action.PING, symbol=None
    )


def test_cancel() -> None:
    """Cancels all orders of a symbol, those with a comment, or with cancel_all and no symbol all orders."""
    assert read_one({"action": "cancel", "symbol": "BTC", "comment": "ladder"}).comment == "ladder"
    everything = read_one({"action": "cancel_all"})
    assert (everything.cancel_all, everything.symbol) == (True, None)
    assert read_one({"action": "cancelAll", "symbol": "BTC"}).symbol == "BTC"
    assert refusal({"action": "cancel"}).code == "symbol_missing"
    assert (
        refusal({"action": "cancel", "symbol": "BTC", "comment": "{{strategy.order.id}}"}).code
        == "placeholder_unexpanded"
    )


@pytest.mark.parametrize(
    ("written", "kind"),
    [("market", OrderType.MARKET), ("Post-Only", OrderType.POST_ONLY), ("STOP_MARKET", OrderType.STOP),
     ("stop limit", OrderType.STOP_LIMIT),
     ("IOC", OrderType.IOC), ("fok", OrderType.FOK), ("limit", OrderType.LIMIT)],
)  # fmt: skip
def test_order_types(written: str, kind: OrderType) -> None:
    """All seven types in the usual spellings, with the prices that each needs."""
    prices = {"limitPrice": 65000} if kind.has_limit_price else {}
    stops = {"triggerPrice": 66000} if kind in (OrderType.STOP, OrderType.STOP_LIMIT) else {}
    signal = read_one({**BUY, "orderType": written, **prices, **stops})
    assert signal.order_type is kind
    assert signal.limit_price == (Decimal(65000) if prices else None)
    assert signal.trigger_price == (Decimal(66000) if stops else None)


def test_price_is_the_limit_of_limit_orders_only() -> None:
    """On a market order, or beside a limitPrice, it is the signal price."""
    assert (read_one({**BUY, "price": 5}).limit_price, read_one({**BUY, "price": 5}).price) == (None, Decimal(5))
    assert read_one({**BUY, "orderType": "limit", "price": 5}).limit_price == Decimal(5)
    both = read_one({**BUY, "orderType": "limit", "price": 5, "limitPrice": 4})
    assert (both.limit_price, both.price) == (Decimal(4), Decimal(5))


def test_null_and_empty_mean_absent() -> None:
    """Except where a stop would be lost (see the refusals above)."""
    empty = dict.fromkeys(
        ["price", "orderType", "leverage", "slippage", "comment", "exchange", "marketPosition", "quantityType"], ""
    )
    nulls = dict.fromkeys(["stopLoss", "takeProfit", "trailingStop", "reduceOnly", "limitPrice", "positionSize"])
    assert read_one({**BUY, **empty, **nulls}) == read_one(BUY)


def test_an_empty_stop_may_be_allowed() -> None:
    """Only if the webhook allows it, and with a warning."""
    read = alert({**BUY, "stopLoss": "", "takeProfit": ""}, allow_empty_stop_loss=True)
    assert read.steps[0].stop_loss is None
    assert len(read.warnings) == 2


def test_stop_loss_take_profits_and_trailing_stop() -> None:
    """Prices, percents, and lists with shares are accepted."""
    signal = read_one(
        {
            **BUY,
            "stopLoss": "2%",
            "takeProfit": [{"price": "68000", "share": "50%"}, {"percent": 6, "share": 25}, "9%"],
            "trailingStop": 500,
        }
    )
    assert signal.stop_loss == Amount(Decimal(2), is_percent=True)
    assert signal.take_profits == (
        TakeProfitSpec(Amount(Decimal(68000)), Decimal(50)),
        TakeProfitSpec(Amount(Decimal(6), is_percent=True), Decimal(25)),
        TakeProfitSpec(Amount(Decimal(9), is_percent=True)),
    )
    assert signal.trailing_stop == Amount(Decimal(500))


@pytest.mark.parametrize(
    ("written", "fraction"), [("0.5%", "0.005"), (0.005, "0.005"), ("0.1", "0.1"), ("50%", "0.5"), ("5e-3", "0.005")]
)
def test_slippage(written: object, fraction: str) -> None:
    """A percent or a small fraction is accepted."""
    assert read_one({**BUY, "slippage": written}).slippage == Decimal(fraction)


@pytest.mark.parametrize("written", [5, "5", "5.0", "5."], ids=repr)
def test_leverage(written: object) -> None:
    """A whole number is accepted, also printed as a float."""
    assert str(read_one({**BUY, "leverage": written}).leverage) == "5"


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("base", QuantityType.BASE),
        ("USD", QuantityType.USD),
        ("percent_of_equity", QuantityType.PERCENT_EQUITY),
        ("percentOfEquity", QuantityType.PERCENT_EQUITY),
        ("percent-equity", QuantityType.PERCENT_EQUITY),
        ("percent_position", QuantityType.PERCENT_POSITION),
        ("risk_percent", QuantityType.RISK_PERCENT),
    ],
)
def test_quantity_types(written: str, kind: QuantityType) -> None:
    """Each type in its common spellings; percent types always have is_percent."""
    signal = read_one({**BUY, "quantity": "10", "quantityType": written, "stopLoss": "1%"})
    assert signal.quantity_type is kind
    assert signal.quantity == Amount(Decimal(10), is_percent=kind not in (QuantityType.BASE, QuantityType.USD))


def test_a_percent_on_an_exit_is_a_share_of_the_position() -> None:
    """A percent on a close or a reduce-only order can only mean the position."""
    for fields in ({**BUY, "action": "close"}, {**BUY, "action": "sell", "reduceOnly": "true"}):
        signal = read_one({**fields, "quantity": "50%"})
        assert (signal.quantity_type, signal.reduce_only) == (QuantityType.PERCENT_POSITION, True)


def test_an_exit_does_not_read_entry_fields() -> None:
    """An unexpanded or empty stop must not block a close."""
    signal = read_one({"action": "close", "symbol": "BTC", "stopLoss": "", "takeProfit": "{{x}}", "leverage": "x"})
    assert (signal.stop_loss, signal.take_profits, signal.leverage) == (None, (), None)


def test_a_comment_is_free_text() -> None:
    """It may contain an unexpanded placeholder; it is made printable and short."""
    assert read_one({**BUY, "comment": "see {{strategy.order.id}}"}).comment == "see {{strategy.order.id}}"
    comment = read_one({**BUY, "comment": "\x1b[31m" + "x" * 500}).comment
    assert comment is not None
    assert comment.isprintable()
    assert len(comment) <= 200
    assert read_one({**BUY, "comment": {"a": 1}}).comment is None


def test_snake_case_is_the_same_field() -> None:
    """Both spellings of a name are accepted."""
    assert read_one({**BUY, "order_type": "limit", "limit_price": 5, "stop_loss": "2%"}) == read_one(
        {**BUY, "orderType": "limit", "limitPrice": 5, "stopLoss": "2%"}
    )


# ------------------------------------------------------------------------------------------------- defaults and locks


def test_defaults_fill_missing_fields() -> None:
    """The message's own value takes precedence."""
    defaults = {"symbol": "ETHUSDT.P", "quantity": "1", "stop_loss": "2%", "orderType": "limit", "limitPrice": "1700"}
    filled = read_one({"action": "buy"}, defaults=defaults)
    assert (filled.symbol, filled.quantity, filled.limit_price) == ("ETHUSDT.P", Amount(Decimal(1)), Decimal(1700))
    assert filled.stop_loss == Amount(Decimal(2), is_percent=True)
    own = read_one({**BUY, "orderType": "limit", "price": 5, "limitPrice": 4, "stopLoss": 3}, defaults=defaults)
    assert (own.symbol, own.limit_price, own.stop_loss) == ("BTCUSDT.P", Decimal(4), Amount(Decimal(3)))


def test_defaults_do_not_apply_to_exits() -> None:
    """A default size would make a whole close partial; a default limit type would block it."""
    signal = read_one(
        {"action": "close", "symbol": "BTC"},
        defaults={"quantity": "1", "orderType": "limit", "stopLoss": "2%", "leverage": "5"},
    )
    assert signal == read_one({"action": "close", "symbol": "BTC"})


def test_a_default_unit_belongs_to_the_default_number() -> None:
    """A message's 0.5 coins must not become 0.5 percent; without a default number the default unit applies to the message's."""
    pair = {"quantity": "100", "quantityType": "usd"}
    assert read_one({"action": "buy", "symbol": "BTC"}, defaults=pair).quantity_type is QuantityType.USD
    assert read_one(BUY, defaults=pair).quantity_type is QuantityType.BASE
    assert read_one(BUY, defaults={"quantityType": "usd"}).quantity_type is QuantityType.USD
    unit_only = {"action": "buy", "symbol": "BTC", "quantityType": "percent_equity"}
    assert refusal(unit_only, defaults=pair).code == "quantity_missing"


def test_locked_fields_override_the_message_with_a_warning() -> None:
    """No message can change a locked field."""
    read = alert(
        {**BUY, "leverage": 50, "stopLoss": "90%"}, locked={"quantity": "0.002", "leverage": "3", "stopLoss": "1%"}
    )
    (signal,) = read.steps
    assert (signal.quantity, signal.leverage) == (Amount(Decimal("0.002")), Decimal(3))
    assert signal.stop_loss == Amount(Decimal(1), is_percent=True)
    assert len(read.warnings) == 3


def test_a_locked_quantity_has_its_own_unit() -> None:
    """The message's unit applies only to the message's number."""
    signal = read_one({**BUY, "quantityType": "percent_equity"}, locked={"quantity": "0.002"})
    assert (signal.quantity, signal.quantity_type) == (Amount(Decimal("0.002")), QuantityType.BASE)
    assert read_one(BUY, locked={"quantityType": "usd"}).quantity_type is QuantityType.USD


def test_a_locked_stop_overrides_an_empty_one() -> None:
    """An empty stop in the message does not remove the locked one."""
    assert read_one({**BUY, "stopLoss": ""}, locked={"stopLoss": "1%"}).stop_loss is not None


def test_a_locked_symbol_refuses_other_markets() -> None:
    """An ETH signal must not become a BTC order; another spelling of the same market is accepted."""
    locked = {"symbol": "PERP_BTC_USDC"}
    assert read_one({**BUY, "symbol": "BYBIT:BTCUSDT.P"}, locked=locked).symbol == "PERP_BTC_USDC"
    assert read_one({"action": "close"}, locked=locked).symbol == "PERP_BTC_USDC"
    assert refusal({**BUY, "symbol": "ETHUSDT.P"}, locked=locked).code == "symbol_not_allowed"


# ------------------------------------------------------------------------------------------------------- position mode


def test_position_mode_needs_a_position() -> None:
    """Entries without one are refused; closes, cancels and pings are not affected."""
    assert refusal(BUY, follow="position").code == "position_missing"
    assert read_one({"action": "close", "symbol": "BTC"}, follow="position").action is Action.CLOSE
    assert read_one({"action": "ping"}, follow="position").action is Action.PING


@pytest.mark.parametrize(
    ("position", "action"),
    [
        ({"positionSize": "-12"}, Action.SELL),
        ({"positionSize": "3"}, Action.BUY),
        ({"positionSize": "0"}, Action.CLOSE),
        (
            {
                "marketPosition": "long",
                "marketPositionSize": 1,
                "prevMarketPosition": "long",
                "prevMarketPositionSize": 2,
            },
            Action.SELL,
        ),
    ],
)
def test_position_mode_needs_no_action(position: dict[str, Any], action: Action) -> None:
    """The action follows from the target position."""
    signal = read_one({"symbol": "SOLUSDT.P", **position}, follow="position")
    assert signal.action is action
    assert signal.target is not None


def test_signal_mode_needs_an_action() -> None:
    """A position without an action is no order in signal mode."""
    assert refusal({"symbol": "SOLUSDT.P", "positionSize": "3"}).code == "action_missing"
