"""A webhook as a JSON document: each setting has one place, is read by its type, and errors name that place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kekbridge.alerts.numbers import NumberText
from kekbridge.errors import ConfigError
from kekbridge.formatting import to_jsonable
from kekbridge.model import Limits, WebhookSettings
from kekbridge.webhooks.document import PLACES, document_of, in_places, read_document
from kekbridge.webhooks.options import ROWS, apply
from kekbridge.webhooks.registry import check_settings


def parsed(document: Any) -> Any:
    """A document as the API reads it: its numbers are texts of their own kind."""
    return json.loads(json.dumps(document), parse_int=NumberText, parse_float=NumberText)


def settings_of(document: dict[str, Any]) -> WebhookSettings:
    return apply(read_document(parsed(document), is_new=False).options, WebhookSettings())


def test_the_founding_document_is_read() -> None:
    """Its five fields: name, markets, size, daily limit and risk parameters; numbers as numbers or as texts."""
    document = {
        "name": "btc",
        "allowedSymbols": ["BTC", "PERP_ETH_USDC"],
        "maxOrderSize": 0.5,
        "dailyLimit": "20000",
        "riskParameters": {"maxLeverage": 5, "requireStopLoss": True, "maxDailyLoss": 1e3, "maxDrawdown": "20%"},
    }
    found = read_document(parsed(document), is_new=True)
    limits = apply(found.options, WebhookSettings()).limits
    assert found.name == "btc"
    assert (
        limits
        == apply(
            {
                "allowed_symbols": "BTC,ETH",
                "max_order_size": "0.5",
                "daily_limit": "20000",
                "max_leverage": "5",
                "require_stop_loss": True,
                "max_daily_loss": "1000",
                "max_drawdown": "20%",
            },
            WebhookSettings(),
        ).limits
    )


def test_every_setting_has_one_place() -> None:
    """Nothing that the command line can set is missing, and no place is used twice."""
    assert len(PLACES) == len(ROWS)
    assert set(PLACES.values()) == set(ROWS)


def test_what_is_shown_can_be_sent_back() -> None:
    """The settings of an answer, sent as a change, change nothing: every value is read as it is written."""
    full = apply(
        {
            "allowed_symbols": "BTC",
            "cooldown": "90s",
            "max_drawdown": "12.5%",
            "trading_hours": "Mon-Fri 07:00-22:00 UTC",
            "alert_expires": "2099-01-31",
            "default": ["quantity=0.1"],
            "alias": ["GOLD=XAU"],
            "allow_address": ["203.0.113.0/24"],
            "max_slippage": "0.00125%",
        },
        WebhookSettings(),
    )
    check_settings(full)
    for settings in (full, WebhookSettings()):
        data = {"id": "1", "name": "x", "settings": to_jsonable(settings)}
        document = document_of(data)
        for name in ("id", "settings"):
            assert name in document
        changed = {name: value for name, value in document.items() if name not in ("id", "name")}
        assert apply(read_document(parsed(changed), is_new=False).options, WebhookSettings(limits=Limits())) == settings


@pytest.mark.parametrize(
    ("document", "field", "hint"),
    [
        ({"maxOrderSiz": 1}, "maxOrderSiz", "did you mean maxOrderSize?"),
        ({"maxLeverage": 5}, "maxLeverage", "write it as riskParameters.maxLeverage"),
        ({"riskParameters": {"maxLevrage": 5}}, "riskParameters.maxLevrage", "did you mean maxLeverage?"),
        ({"riskParameters": {"dailyLimit": 5}}, "riskParameters.dailyLimit", "write it as dailyLimit"),
        ({"riskParameters": 5}, "riskParameters", "expected an object"),
        ({"apiKey": "x"}, "apiKey", "set by the bridge"),
        ({"name": 5}, "name", "found 5, expected a text"),
        ({"enabled": "yes"}, "enabled", "expected true or false"),
        ({"allowedSymbols": "BTC"}, "allowedSymbols", "expected a list of markets"),
        ({"allowedSymbols": []}, "allowedSymbols", "null for every market"),
        ({"allowedSymbols": ["BTC,ETH"]}, "allowedSymbols", "one market per text"),
        ({"maxOrderSize": True}, "maxOrderSize", "found true"),
        ({"maxOrderSize": [1]}, "maxOrderSize", "found a list"),
        ({"riskParameters": {"requireStopLoss": "true"}}, "riskParameters.requireStopLoss", "expected true or false"),
        ({"riskParameters": {"requireStopLoss": None}}, "riskParameters.requireStopLoss", "found null"),
        ({"riskParameters": {"leveragePolicy": None}}, "riskParameters.leveragePolicy", "expected refuse or lower"),
        ({"rateLimits": {"perMinute": None}}, "rateLimits.perMinute", "found null"),
        ({"settings": {"defaults": {"a=b": "1"}}}, "settings.defaults", "a name that is empty or has ="),
        ({"settings": {"allowedAddresses": "any"}}, "settings.allowedAddresses", "a list of networks"),
    ],
)
def test_a_wrong_field_is_named(document: dict[str, Any], field: str, hint: str) -> None:
    """What was found, what is expected; a misspelt or misplaced field with the right one."""
    with pytest.raises(ConfigError) as caught:
        read_document(parsed(document), is_new=False)
    assert caught.value.field == field
    assert hint in caught.value.message
    assert caught.value.code in ("field_invalid", "field_unknown")


def test_a_new_webhook_needs_a_name_and_no_state() -> None:
    """A document without a name makes no webhook; one cannot be made disabled."""
    with pytest.raises(ConfigError, match="name: found nothing"):
        read_document({}, is_new=True)
    with pytest.raises(ConfigError, match="PATCH it"):
        read_document({"name": "x", "enabled": False}, is_new=True)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"maxOrderSize": 0}, "maxOrderSize"),
        ({"maxOrderSize": "1,5"}, "maxOrderSize"),
        ({"riskParameters": {"maxLeverage": 500}}, "riskParameters.maxLeverage"),
        ({"riskParameters": {"maxDrawdown": 20}}, "riskParameters.maxDrawdown"),
        ({"rateLimits": {"perMinute": 1.5}}, "rateLimits.perMinute"),
        ({"settings": {"follow": "nobody"}}, "settings.follow"),
        ({"allowedSymbols": ["BTCUSDT"]}, "allowedSymbols"),
    ],
)
def test_errors_of_the_options_name_the_place(document: dict[str, Any], field: str) -> None:
    """The parser is the command line's; the option in its error becomes the place in the document."""
    options = read_document(parsed(document), is_new=False).options
    with pytest.raises(ConfigError) as caught:
        apply(options, WebhookSettings())
    error = in_places(caught.value)
    assert error.field == field
    assert error.message.startswith(f"{field}: found")
    assert "--" not in error.message


def test_null_removes_a_limit() -> None:
    """Of one value, of a list and of an object."""
    limits = settings_of({"riskParameters": {"maxNotional": None}, "allowedSymbols": None}).limits
    assert limits.max_notional is None
    assert limits.allowed_symbols is None
    assert settings_of({"settings": {"aliases": {}, "allowedAddresses": []}}).allowed_addresses == ()
