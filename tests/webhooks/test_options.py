"""The table of settings: every row has a label, and every wrong value names its field."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from kekbridge.errors import ConfigError
from kekbridge.model import Limits, Usage, WebhookSettings
from kekbridge.risk.limits import account_limits, describe_usage
from kekbridge.webhooks import registry
from kekbridge.webhooks.options import ROW_OF, ROWS, Row, apply, parse, text_of

NOW = datetime(2026, 1, 15, 10, 30, 5, tzinfo=UTC)
ONE, TENTH = Decimal(1), Decimal("0.1")
# A value of each limit that `kekbridge risk show` names: all but the leverage policy.
NAMED: dict[str, Any] = {
    "allowed_symbols": ("BTC",), "min_order_size": ONE, "max_order_size": ONE, "max_position_size": ONE, "max_notional": ONE,
    "daily_limit": ONE, "daily_orders": 1, "max_leverage": ONE, "max_open_positions": 1, "require_stop_loss": True,
    "max_stop_distance": TENTH, "max_slippage": TENTH, "max_daily_loss": ONE, "max_drawdown": TENTH, "cooldown_s": 60,
    "trading_hours": "Mon-Fri",
}  # fmt: skip


def test_each_setting_has_a_label_of_its_own() -> None:
    """The page shows labels instead of options, so none is empty or used twice; each part has usual settings."""
    labels = [row.label for row in ROWS]
    assert all(label and not label.startswith("-") for label in labels)
    assert len(set(labels)) == len(labels)
    assert {row.part for row in ROWS if row.is_usual} == {"limits", ""}
    assert ROW_OF["max_notional"].option == "--max-notional"


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.part == "limits" and row.field != "leverage_policy"], ids=lambda row: row.field
)
def test_a_limit_has_one_name(row: Row) -> None:
    """A trader finds the limit that `kekbridge risk show` names on the page that sets it."""
    (line,) = describe_usage(account_limits(**{row.field: NAMED[row.field]}), Usage(now=NOW), NOW)
    assert line.name in row.label.lower()


@pytest.mark.parametrize(
    ("parameter", "text", "found"),
    [
        ("max_order_size", "1 BTC", "'1 BTC'"),
        ("max_leverage", "200", "'200'"),
        ("cooldown", "soon", "'soon'"),
        ("max_drawdown", "120%", "'120%'"),
        ("max_drawdown", "0.2", "write 0.2% or 20%"),
        ("max_slippage", "0.5", "write 0.5% or 50%"),
        ("max_stop_distance", "5", "write 5%"),
        ("max_daily_loss", "5%", "a positive amount in USDC such as 500"),
        ("daily_limit", "0", "write none for no limit"),
        ("daily_orders", "0", "write none for no limit"),
        ("max_drawdown", "0%", "write none for no limit"),
        ("cooldown", "0s", "write none for no limit"),
        ("profile", "nope", "'nope'"),
        ("allowed_symbols", "BTCUSDT", "'BTCUSDT'"),
        ("lock", ["quantity"], "'quantity'"),
        ("allow_address", ["300.1.1.1"], "300.1.1.1"),
    ],
)
def test_a_wrong_value_names_its_field(parameter: str, text: Any, found: str) -> None:
    """A form shows the message under the input of the setting; the text itself names the option, as the command needs it."""
    row = ROW_OF[parameter]
    with pytest.raises(ConfigError) as caught:
        parse(row, text)
    assert (caught.value.field, found in caught.value.message) == (parameter, True)
    with pytest.raises(ConfigError) as caught:
        apply({parameter: text}, WebhookSettings())
    assert caught.value.field == parameter


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"min_order_size": "2", "max_order_size": "1"}, "min_order_size"),
        ({"min_order_size": "2", "max_position_size": "1"}, "min_order_size"),
        ({"rate_per_minute": "9", "rate_per_hour": "5"}, "rate_per_minute"),
        ({"trading_hours": "Someday"}, "trading_hours"),
        ({"default": ["sise=1"]}, "default"),
        ({"lock": ["sise=1"]}, "lock"),
        ({"lock": ["quantity=1"], "default": ["quantity=2"]}, "default"),
    ],
)
def test_a_contradiction_names_a_field(options: dict[str, Any], field: str) -> None:
    """Settings that are right alone and wrong together are shown under one of them."""
    with pytest.raises(ConfigError) as caught:
        registry.check_settings(apply(options, WebhookSettings()))
    assert caught.value.field == field


def test_a_market_that_is_not_listed_names_its_field() -> None:
    """Also the name of a webhook that cannot be used."""
    with pytest.raises(ConfigError) as caught:
        registry.check_listed(["PERP_NOPE_USDC"], ["PERP_BTC_USDC"])
    assert caught.value.field == "allowed_symbols"
    with pytest.raises(ConfigError) as caught:
        registry.check_name("a b")
    assert caught.value.field == "name"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.parameter))
def test_what_is_shown_is_parsed_back(row: Any) -> None:
    """A form that nobody changed changes nothing."""
    settings = WebhookSettings(limits=Limits(allowed_symbols=("PERP_BTC_USDC",)), locked={"quantity": "1"})
    text = text_of(row, settings)
    if text and row.field != "require_signature" and row.parser is not None:
        value = getattr(getattr(settings, row.part) if row.part else settings, row.field)
        assert parse(row, text) == value
