"""A message that names a stop, a target or a trailing stop never becomes an entry without it: it is protected, or refused."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.alerts.field_names import squeeze
from kekbridge.alerts.message import interpret, read_message
from kekbridge.alerts.profiles import PROFILES
from kekbridge.errors import Refused, RequestRefused
from kekbridge.model import OrderIntent, Purpose, WebhookSettings
from kekbridge.planning.translate import translate
from tests.trading import BTC, snapshot

ENTRIES: dict[str, dict[str, Any]] = {
    profile: PROFILES[profile].render({"action": "buy", "symbol": "BTCUSDT.P", "quantity": "0.01"})
    for profile in PROFILES
} | {
    "wundertrading": {
        "code": "ENTER-LONG_Bybit_BTCUSDT_b_15M_a",
        "amountPerTrade": "0.01",
        "amountPerTradeType": "base",
    }
}
# How the services and their users call it: words, with any separators, case, number and unit.
KINDS = {
    "stop": ["stop loss", "sl", "stop", "stop price", "sl price", "stop loss percent", "stop loss pct", "hard stop", "stop loss value"],
    "profit": ["take profit", "tp", "tp1", "take profit 2", "tp price", "profit target", "target", "take profits", "take profit percent"],
    "trail": ["trailing stop", "trail", "trailing", "trail percent", "trailing stop loss", "trail points", "tsl"],
}  # fmt: skip
# Names of a service for a part of the order itself, or for what it cannot do here.
OF_THE_ORDER = {("traderspost", "stopprice"), ("traderspost", "trailpercent"), ("wundertrading", "trailingstop")}
words = st.sampled_from([(kind, word) for kind, names in KINDS.items() for word in names])
levels = st.sampled_from(
    [
        "2%",
        "2",
        "64000",
        "66000",
        "0.02",
        "500",
        "-2",
        "2 %",
        "64,000",
        "x",
        "true",
        True,
        False,
        2,
        64000,
        66000.5,
        0,
        [],
        ["66000"],
    ]
)
values = levels | st.dictionaries(
    st.sampled_from(
        ["type", "percent", "price", "stopPrice", "limitPrice", "trailPercent", "trailAmount", "amount", "enabled", "trigger_price",
         "trigger_price_percent", "order_type", "steps", "priceDeviation", "portfolio", "share", "level", "breakeven"]
    ),
    levels | st.sampled_from(["stop", "trailing_stop", "market", "limit", None]),
    max_size=3,
)  # fmt: skip


def spelled(text: str, style: int) -> str:
    parts = text.split()
    title = [part.title() for part in parts]
    return [
        "_".join(parts),
        parts[0] + "".join(title[1:]),
        "".join(title),
        "".join(parts),
        "".join(parts).upper(),
        "-".join(parts),
        " ".join(parts),
        "_".join(parts).upper(),
    ][style]


def plan(fields: dict[str, Any], profile: str) -> tuple[OrderIntent, ...] | None:
    """The orders of a message on a flat account; None if it is refused."""
    settings = WebhookSettings(profile=profile)
    try:
        (step,) = interpret(read_message(json.dumps(fields).encode()), settings).steps
        return translate(step, settings=settings, snapshot=snapshot(), pending=lambda _: Decimal(0)).intents
    except RequestRefused:
        return None


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_the_entry_without_protection_is_an_order(profile: str) -> None:
    """The property below is about messages that would trade."""
    intents = plan(ENTRIES[profile], profile)
    assert intents is not None
    assert [(each.symbol, each.quantity) for each in intents] == [(BTC, Decimal("0.01"))]


@given(st.sampled_from(sorted(PROFILES)), words, st.integers(0, 7), values)
def test_protection_is_never_dropped(profile: str, word: tuple[str, str], style: int, value: Any) -> None:
    """Under whatever name, in whatever shape: the entry has it, or there is no entry."""
    kind, text = word
    intents = plan({**ENTRIES[profile], spelled(text, style): value}, profile)
    for entry in intents or ():
        if entry.purpose is Purpose.ENTRY:
            has_trail = any(each.trailing_callback_rate or each.trailing_callback_value for each in intents or ())
            protected = {"stop": entry.stop_loss is not None, "profit": bool(entry.take_profits), "trail": has_trail}
            # A trailing stop inside a stopLoss object is a stop, too. 3Commas can say that there is none, and what we cannot do may be off.
            is_off = isinstance(value, dict) and value.get("enabled") is False and profile == "3commas"
            is_off |= value in (False, 0, []) and (profile, squeeze(spelled(text, style))) in OF_THE_ORDER
            assert protected[kind] or (kind == "stop" and has_trail) or is_off, (profile, spelled(text, style), value)


@given(st.sampled_from(sorted(PROFILES)), words, st.integers(0, 7), values)
def test_an_exit_is_never_blocked_by_protection(profile: str, word: tuple[str, str], style: int, value: Any) -> None:
    """It sets none, so a stop that cannot be read keeps no position open."""
    close = PROFILES[profile].render({"action": "close", "symbol": "BTCUSDT.P"})
    fields = {"code": "EXIT-ALL_Bybit_BTCUSDT_b"} if profile == "wundertrading" else close
    name = spelled(word[1], style)
    if (profile, squeeze(name)) in OF_THE_ORDER:
        return
    settings = WebhookSettings(profile=profile)
    account = snapshot({BTC: "0.03"})
    (step,) = interpret(read_message(json.dumps({**fields, name: value}).encode()), settings).steps
    intents = translate(step, settings=settings, snapshot=account, pending=lambda _: Decimal(0)).intents
    assert [(each.purpose, each.quantity) for each in intents] == [(Purpose.EXIT, Decimal("0.03"))]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"stopLoss": "2"}, '99.99 % away from 65000; write "2%" for percent'),
        ({"stopLoss": 2}, '"2%"'),
        ({"stopLoss": "0.02"}, "a price, or a percent"),
        ({"stopLoss": "500"}, "a price, or a percent"),
        ({"stopLoss": "50"}, '"50%"'),
        ({"stopLoss": "66000"}, "below"),
        ({"stopLoss": "1e9"}, "a price, or a percent"),
        ({"takeProfit": "4"}, '"4%"'),
        ({"takeProfit": "150000"}, "a price, or a percent"),
        ({"takeProfit": ["66000", "4"]}, '"4%"'),
        ({"trailingStop": "1.5"}, 'less than 0.01 % of the price 65000; write "1.5%" for percent'),
        ({"trailingStop": "30"}, "a distance in price, or a percent"),
        ({"trailingStop": "64000"}, "98.46 %"),
        ({"action": "sell", "stopLoss": "2"}, '"2%"'),
        ({"action": "sell", "takeProfit": "300"}, "a price, or a percent"),
        ({"orderType": "limit", "limitPrice": "60000", "stopLoss": "2"}, '"2%"'),
    ],
    ids=str,
)
def test_bare_numbers_that_are_no_price(fields: dict[str, Any], says: str) -> None:
    """Percents, fractions, ticks and points are refused with the way to write a percent; the hint never changes the number."""
    body = {"action": "buy", "symbol": "BTCUSDT.P", "quantity": "0.01", **fields}
    (step,) = interpret(read_message(json.dumps(body).encode()), WebhookSettings()).steps
    with pytest.raises(Refused) as caught:
        translate(step, settings=WebhookSettings(), snapshot=snapshot(), pending=lambda _: Decimal(0))
    assert says in caught.value.message
    assert caught.value.status == 422


@pytest.mark.parametrize(
    "fields",
    [
        {"stopLoss": "33000"},
        {"takeProfit": "97000"},
        {"stopLoss": "60%"},
        {"takeProfit": "200%"},
        {"trailingStop": "33"},
        {"trailingStop": "32000"},
        {"orderType": "limit", "limitPrice": "20000", "stopLoss": "19000"},
    ],
    ids=str,
)
def test_plausible_levels_pass(fields: dict[str, Any]) -> None:
    """Prices within half of the market or of the order's own price, and percents however far."""
    intents = plan({"action": "buy", "symbol": "BTCUSDT.P", "quantity": "0.01", **fields}, "seed")
    assert intents
