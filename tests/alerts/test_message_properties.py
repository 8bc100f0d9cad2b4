"""Properties of reading: another way of writing a message means the same, or is an error; never something else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kekbridge.alerts.message import fired_at, interpret, read_message
from kekbridge.alerts.numbers import parse_decimal
from kekbridge.alerts.profiles import PROFILES
from kekbridge.alerts.signal import Signal
from kekbridge.alerts.symbols import resolve
from kekbridge.errors import RequestRefused
from kekbridge.formatting import format_decimal
from kekbridge.model import WebhookSettings

# What a message means: its steps, its time and its key.
Meaning = tuple[tuple[Signal, ...], Any, str | None, str | None]

SEED: list[dict[str, Any]] = [
    {"action": "buy", "symbol": "BTCUSDT.P", "quantity": "0.005", "stopLoss": "2%", "takeProfit": "70000"},
    {
        "action": "sell",
        "symbol": "ETHUSDT.P",
        "exchange": "BYBIT",
        "quantity": "250",
        "quantityType": "usd",
        "leverage": "5",
    },
    {"action": "buy", "symbol": "BTCUSDT.P", "quantity": "0.01", "orderType": "limit", "limitPrice": "60000.5"},
    {"action": "sell", "symbol": "BTCUSDT.P", "quantity": "0.01", "reduceOnly": "true", "comment": "half"},
    {"action": "close_long", "symbol": "BTCUSDT.P", "quantity": "50%"},
    {
        "action": "buy",
        "symbol": "BTCUSDT.P",
        "quantity": "0.01",
        "price": "65000",
        "slippage": "0.5%",
        "trailingStop": "500",
    },
    {"action": "buy", "symbol": "BTCUSDT.P", "quantity": "1", "quantityType": "risk_percent", "stopLoss": "64000"},
    {
        "action": "sell",
        "symbol": "BTCUSDT.P",
        "quantity": "0.02",
        "marketPosition": "short",
        "marketPositionSize": "0.01",
        "prevMarketPosition": "long",
        "prevMarketPositionSize": "0.01",
    },
    {"action": "cancel", "symbol": "BTCUSDT.P", "comment": "ladder"},
    {"action": "close_all"},
]
OTHERS: list[tuple[str, dict[str, Any]]] = [
    (
        "traderspost",
        {
            "ticker": "BTCUSDT.P",
            "action": "buy",
            "quantity": "0.01",
            "stopLoss": {"type": "stop", "percent": "5"},
            "time": "1768473003",
        },
    ),
    ("traderspost", {"ticker": "BTCUSDT.P", "action": "sell", "sentiment": "flat", "quantity": "0.01"}),
    (
        "3commas",
        {
            "tv_instrument": "BTCUSDT.P",
            "action": "enter_long",
            "order": {"amount": "0.01", "currency_type": "base"},
            "stop_loss": {"enabled": "true", "trigger_price_percent": "2"},
        },
    ),
    (
        "openalgo",
        {"symbol": "BTCUSDT.P", "action": "BUY", "pricetype": "MARKET", "quantity": "0.01", "position_size": "0.02"},
    ),
    (
        "wundertrading",
        {
            "code": "ENTER-LONG_Bybit_BTCUSDT_b_15M_a",
            "amountPerTradeType": "base",
            "amountPerTrade": "0.005",
            "stopLoss": {"priceDeviation": "0.02"},
        },
    ),
    ("community", {"ticker": "BTCUSDT.P", "strategy": {"order_action": "buy", "order_contracts": "0.01"}}),
    (
        "kekdex",
        {
            "symbol": "PERP_BTC_USDC",
            "side": "BUY",
            "order_type": "LIMIT",
            "order_quantity": "0.01",
            "order_price": "65000",
        },
    ),
]
MESSAGES = [("seed", fields) for fields in SEED] + OTHERS
LISTED = frozenset({"PERP_BTC_USDC", "PERP_ETH_USDC"})
COMMON = {"apiKey": "wh_test_abc", "alertId": "a-1", "timestamp": "1768473003"}
messages = st.sampled_from(MESSAGES).map(lambda pair: (pair[0], {**COMMON, **pair[1]}))


def meaning(text: str, profile: str) -> Meaning:
    message = read_message(text.encode())
    alert = interpret(message, WebhookSettings(profile=profile))
    steps = tuple(_resolved(step) for step in alert.steps)
    return steps, fired_at(message, profile), message.api_key, message.sender_id


def _resolved(step: Signal) -> Signal:
    """With its market, and the venue in one case; a ticker that names no market is an error."""
    if step.symbol is None:
        return step
    found = resolve(step.symbol, exchange=step.exchange, listed=LISTED, aliases={}, rescale_units=False)
    return replace(step, symbol=found.symbol, exchange=(step.exchange or "").strip().upper())


def rewritten(text: str, profile: str) -> Meaning | None:
    """What the rewritten message means; None if it is an error."""
    try:
        return meaning(text, profile)
    except RequestRefused:
        return None


def mapped(value: Any, change: Callable[[str, Any], tuple[str, Any]]) -> Any:
    """The message with every name and value changed, also inside objects."""
    if isinstance(value, Mapping):
        changed = (change(name, inner) for name, inner in value.items())
        return {name: mapped(inner, change) for name, inner in changed}
    return value


@given(messages, st.randoms(use_true_random=False))
def test_the_order_of_fields_means_nothing(message: tuple[str, dict[str, Any]], chance: Any) -> None:
    """Nor does white space between them."""
    profile, fields = message
    names = list(fields)
    chance.shuffle(names)
    text = json.dumps({name: fields[name] for name in names}, indent=chance.choice([None, 0, 3]))
    text = chance.choice(["", " ", "\n", "\ufeff"]) + text + chance.choice(["", " ", "\r\n"])
    assert meaning(text, profile) == meaning(json.dumps(fields), profile)


@given(messages, st.data())
def test_numbers_mean_their_value(message: tuple[str, dict[str, Any]], data: st.DataObject) -> None:
    """Quoted or not, with an exponent, with zeros at the end: the same number, or an error."""
    profile, fields = message

    def change(name: str, value: Any) -> tuple[str, Any]:
        number = parse_decimal(value)
        if number is None:
            return name, value
        styles = [
            str(value),
            f"{format_decimal(number)}0" if "." in str(value) else str(value),
            f"{number:e}",
            f"{number:E}",
        ]
        written = data.draw(st.sampled_from(styles))
        return name, RawNumber(written) if data.draw(st.booleans()) else written

    changed = rewritten(dumps(mapped(fields, change)), profile)
    assert changed in (meaning(json.dumps(fields), profile), None)


class RawNumber(str):
    """A number that is written without quotes."""

    __slots__ = ()


def dumps(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(name)}:{dumps(inner)}" for name, inner in value.items()) + "}"
    return str(value) if isinstance(value, RawNumber) else json.dumps(value)


@given(messages, st.data())
def test_case_changes_nothing_or_is_an_error(message: tuple[str, dict[str, Any]], data: st.DataObject) -> None:
    """Words in other case mean the same; a name in other case is read as ours, or refused, never passed over."""
    profile, fields = message
    names_too = data.draw(st.booleans())

    def change(name: str, value: Any) -> tuple[str, Any]:
        def cased(text: str) -> str:
            return data.draw(st.sampled_from([text, text.lower(), text.upper(), text.title(), text.swapcase()]))

        keeps = name in ("apiKey", "alertId", "comment")
        return cased(name) if names_too else name, cased(value) if isinstance(value, str) and not keeps else value

    changed = rewritten(json.dumps(mapped(fields, change)), profile)
    assert changed is None or changed[0] == meaning(json.dumps(fields), profile)[0]


@given(messages, st.data())
def test_spaces_around_values_change_nothing_or_are_an_error(
    message: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    """Ordinary ones, and those that do not show: no-break, zero-width."""
    profile, fields = message
    spaces = st.sampled_from(["", " ", "\t", "\u00a0", "\u200b", "\ufeff", "\u202f"])

    def change(name: str, value: Any) -> tuple[str, Any]:
        if not isinstance(value, str) or name == "comment":
            return name, value
        return name, data.draw(spaces) + value + data.draw(spaces)

    changed = rewritten(json.dumps(mapped(fields, change)), profile)
    original = meaning(json.dumps(fields), profile)[0]
    assert changed is None or changed[0] == original


@given(messages, st.data())
def test_spaces_and_dashes_in_names_change_nothing_or_are_an_error(
    message: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    """`stop loss`, `stop-loss`, `stopLoss ` are never passed over."""
    profile, fields = message

    def change(name: str, value: Any) -> tuple[str, Any]:
        odd = [
            name,
            f"{name} ",
            f" {name}",
            f"{name}\u200b",
            name.replace("_", "-"),
            name.replace("_", " "),
            name.replace("_", ""),
        ]
        return data.draw(st.sampled_from(odd)), value

    changed = rewritten(json.dumps(mapped(fields, change)), profile)
    assert changed is None or changed[0] == meaning(json.dumps(fields), profile)[0]


@given(st.sampled_from(sorted(PROFILES)), st.decimals(min_value="0.00001", max_value="99999", places=5))
def test_a_quantity_is_never_another_number(profile: str, quantity: Decimal) -> None:
    """Damaged as it happens on the way, with a comma, separators, a unit: the same number, or an error."""
    written = format_decimal(quantity)
    fields = PROFILES[profile].render({"action": "buy", "symbol": "BTCUSDT.P", "quantity": "@Q@"})
    if profile == "wundertrading":
        fields = {"code": "ENTER-LONG_Bybit_BTCUSDT_b", "amountPerTrade": "@Q@", "amountPerTradeType": "base"}
    text = json.dumps(fields)
    for damaged in (
        written.replace(".", ","),
        f"{quantity:,}",
        f"${written}",
        f"{written} BTC",
        f"+{written}",
        f".{written}",
        f"0{written}",
    ):
        for form in (text.replace("@Q@", damaged), text.replace('"@Q@"', damaged)):
            read = rewritten(form, profile)
            assert read is None or [step.quantity and step.quantity.value for step in read[0]] == [quantity]
