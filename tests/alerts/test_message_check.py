"""Checking a pasted message: which service it comes from, what it would trade, and what it lacks; it never raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.alerts.field_names import IDENTITY_FIELDS, ORDER_FIELDS
from kekbridge.alerts.message_check import MessageCheck, check_message
from kekbridge.alerts.profiles import PROFILES
from kekbridge.alerts.template import EXPLAINED, KINDS, build
from kekbridge.codes import CODES
from kekbridge.model import WebhookSettings
from tests.alert_cases import CASES, Delivery, deliveries, webhook_settings
from tests.trading import NOW

OPEN = WebhookSettings(require_signature=False)


def check(fields: Any, settings: WebhookSettings = OPEN, profile: str | None = None) -> MessageCheck:
    return check_message(json.dumps(fields).encode(), settings, profile=profile)


@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("ping", "pine")])
def test_printed_templates_are_recognised(kind: str, profile: str) -> None:
    """Placeholders are filled, so that a message can be checked before it fired; each of our own messages is taken."""
    if profile == "wundertrading":
        return  # its signal code cannot be written by a template
    message = build(kind, api_key="wh_test_k" * 3, api_secret="whs_s", profile=profile).message
    found = check_message(message.encode(), WebhookSettings(), profile=profile)
    assert (found.error, found.missing) == (None, ())
    assert len(found.orders) == 1
    assert found.filled


SERVICES: list[tuple[str, Any, str]] = [
    ("seed", {"action": "buy", "symbol": "BTC", "quantity": 1, "stopLoss": "2%", "strategy": "x"}, "buy 1 coins of BTC; stop loss 2%"),
    ("traderspost", {"ticker": "BTC", "action": "buy", "quantity": 1, "stopLoss": {"percent": 5}}, "buy 1 coins of BTC; stop loss 5%"),
    ("traderspost", {"ticker": "BTC", "action": "sell"}, "close a long position in BTC"),
    (
        "3commas",
        {"tv_instrument": "BTC", "action": "exit_long", "bot_uuid": "x"},
        "close 100% of the position of a long position in BTC",
    ),
    ("openalgo", {"symbol": "BTC", "action": "BUY", "pricetype": "MARKET", "position_size": "-1"}, "make the position in BTC short 1"),
    ("wundertrading", {"code": "EXIT-ALL_Bybit_BTCUSDT_b"}, "close all of BTCUSDT"),
    ("community", {"ticker": "BTC", "strategy": {"order_action": "buy", "order_contracts": 1}}, "buy 1 coins of BTC; no stop"),
    (
        "kekdex",
        {"symbol": "BTC", "side": "BUY", "order_type": "LIMIT", "order_quantity": 1, "order_price": 5},
        "buy 1 coins of BTC; as a limit order; limit 5",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("profile", "fields", "order"), SERVICES)
def test_messages_of_other_services(profile: str, fields: Any, order: str) -> None:
    """The format is recognised by its fields, and the order is told in words."""
    found = check(fields)
    assert (found.likely_profile, found.profile, found.error) == (profile, profile, None)
    assert found.orders[0].startswith(order)


def test_what_is_missing() -> None:
    """Key, signature and time, each with how to add it."""
    found = check({"action": "close", "symbol": "BTC"}, WebhookSettings())
    assert [text.split(":")[0] for text in found.missing] == ["the key", "the signature", "the time"]
    whole = {"apiKey": "k", "timestamp": 1768473003, "action": "close", "symbol": "BTC"}
    assert check(whole).missing == ()
    assert check(
        {"action": "close", "symbol": "BTC"}, WebhookSettings(require_signature=False, require_timestamp=False)
    ).missing


def test_what_each_field_means() -> None:
    """Fields that are read, that decide nothing, and that stand for another one."""
    found = check(
        {"apiKey": "wh_test_abcdefghijklmnop", "action": "buy", "symbol": "BTC", "quantity": 1, "sl": 5, "chat_id": 7}
    )
    meanings = {each.path: each for each in found.fields}
    assert found.code == "field_unknown"
    assert "did you mean stopLoss?" in meanings["sl"].meaning
    assert (meanings["chat_id"].meaning, meanings["chat_id"].is_read) == ("passed over", False)
    assert meanings["quantity"].meaning == "quantity: how much"
    assert "ijklmnop" not in meanings["apiKey"].value
    nested = check({"ticker": "BTC", "action": "buy", "quantity": 1, "stopLoss": {"percent": 5}})
    assert {each.path: each.value for each in nested.fields}["stopLoss.percent"] == "'5'"


def test_a_webhooks_own_settings_count() -> None:
    """Its defaults fill what the message lacks."""
    settings = WebhookSettings(require_signature=False, profile="wundertrading", defaults={"quantity": "0.1"})
    found = check_message(b"ENTER-LONG_Bybit_BTCUSDT_bot", settings, profile="wundertrading")
    assert found.orders == ("buy 0.1 coins of BTCUSDT; no stop",)


def test_every_field_is_explained() -> None:
    """A field without a text would be a gap in the table."""
    assert EXPLAINED.keys() >= ORDER_FIELDS | IDENTITY_FIELDS


@pytest.mark.parametrize("case_id", sorted(CASES))
def test_real_messages(case_id: str) -> None:
    """A refusal has a published code, and whatever is read has an order in words."""
    case = CASES[case_id]
    for each in deliveries(case, ["wh_test_k"] * 2, now=NOW):
        if isinstance(each, Delivery):
            found = check_message(each.body, webhook_settings(case["webhook"]))
            assert (found.code in CODES) if found.error else found.orders


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_text_can_be_checked(body: bytes) -> None:
    """Whatever was pasted, the answer is a text."""
    found = check_message(body, OPEN)
    assert found.error or found.orders
