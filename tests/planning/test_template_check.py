"""A template says which of its alerts the webhook would refuse, and each fix that it names leaves nothing to warn of."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from kekbridge.alerts.profiles import PROFILES
from kekbridge.alerts.template import KINDS, build
from kekbridge.model import Limits, WebhookSettings
from kekbridge.planning.template_check import TemplateTarget, find_problems

BTC, ETH, SOL = "PERP_BTC_USDC", "PERP_ETH_USDC", "PERP_SOL_USDC"
NO_LIMITS = Limits(min_order_size=None, max_notional=None, max_leverage=None, max_open_positions=None)


MARKS = {BTC: Decimal(65_000), ETH: Decimal(1800), SOL: Decimal(150)}


def problems(
    kind: str = "indicator",
    *,
    limits: dict[str, Any] | None = None,
    markets: tuple[str, ...] = (BTC, ETH, SOL),
    **fields: Any,
) -> tuple[str, ...]:
    """What is found for a template with these fields on a webhook with these limits."""
    settings = WebhookSettings(limits=replace(NO_LIMITS, **(limits or {})))
    if kind == "position":
        settings = replace(settings, follow="position")
    made = build(kind, api_key="wh_test_x", api_secret="whs_x", **fields)
    target = TemplateTarget(settings=settings, limits=settings.limits, markets=markets, marks=MARKS)
    return find_problems(made.message, target, kind=kind)


@pytest.mark.parametrize(
    ("limits", "fields", "words", "fix"),
    [
        ({"require_stop_loss": True}, {}, "a stop loss is required", {"stop_loss": "2%"}),
        (
            {"require_stop_loss": True, "max_stop_distance": Decimal("0.01")},
            {},
            "add --stop-loss 1%",
            {"stop_loss": "1%"},
        ),
        (
            {"max_stop_distance": Decimal("0.05")},
            {"stop_loss": "8%"},
            "8 % away, the limit is 5 %; use --stop-loss 5%",
            {"stop_loss": "5%"},
        ),
        ({"max_order_size": Decimal("0.05")}, {"quantity": "1"}, "the largest order is 0.05", {"quantity": "0.05"}),
        ({"min_order_size": Decimal("0.5")}, {}, "the smallest order is 0.5 coins", {"quantity": "0.5"}),
        (
            {"max_notional": Decimal(500)},
            {"quantity": "600", "quantity_type": "usd"},
            "the largest order value is 500.00 USDC",
            {"quantity": "500", "quantity_type": "usd"},
        ),
        (
            {"max_leverage": Decimal(3)},
            {"leverage": "5"},
            "leverage 5 is above the limit 3; use --leverage 3",
            {"leverage": "3"},
        ),
        ({}, {"quantity": "1", "max_quantity": "0.5"}, "above the message's own --max-quantity", {"quantity": "0.5"}),
        (
            {"allowed_symbols": (BTC, SOL)},
            {"symbol": "ETHUSDT.P"},
            "ETH is not among the allowed symbols (BTC, SOL)",
            {"symbol": "SOLUSDT.P"},
        ),
        (
            {"allowed_symbols": (BTC,)},
            {"symbols": "BTCUSDT.P,ETHUSDT.P"},
            "--symbols: ETH is not among the allowed symbols (BTC)",
            {"symbols": "BTCUSDT.P"},
        ),
        (
            {},
            {"symbol": "BTCUSDT.P", "stop_loss": "2"},
            "--stop-loss 2 is read as a price, and BTC is at 65000; use --stop-loss 2% for a distance",
            {"symbol": "BTCUSDT.P", "stop_loss": "2%"},
        ),
        (
            {},
            {"symbol": "ETHUSDT.P", "take_profit": "4"},
            "--take-profit 4 is read as a price, and ETH is at 1800; use --take-profit 4%",
            {"symbol": "ETHUSDT.P", "take_profit": "4%"},
        ),
        ({}, {"symbol": "BTXUSDT.P"}, "did you mean", {"symbol": "BTCUSDT.P"}),
    ],
)
def test_what_would_be_refused_is_named_with_a_fix_that_works(
    limits: dict[str, Any], fields: dict[str, Any], words: str, fix: dict[str, Any]
) -> None:
    """One sentence; with its fix nothing is left."""
    (found,) = problems(limits=limits, **fields)
    assert words in found
    assert problems(limits=limits, **{**fields, **fix}) == ()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "pine"])
def test_a_template_without_limits_has_no_problem(kind: str) -> None:
    """Each kind, as the command builds it by default, on a webhook without limits."""
    fields: dict[str, Any] = {"quantity": "0.01"} if kind == "flip" else {}
    assert problems(kind, **fields) == ()


@pytest.mark.parametrize("kind", ["close", "ping"])
def test_exits_are_not_judged_by_the_limits_of_entries(kind: str) -> None:
    """Limits do not apply to them."""
    strict = {"require_stop_loss": True, "max_order_size": Decimal("0.001"), "max_leverage": Decimal(1)}
    assert problems(kind, limits=strict) == ()


def test_values_that_tradingview_fills_in_are_not_judged() -> None:
    """The example for {{ticker}} or {{strategy.order.contracts}} says nothing about the alert that will come."""
    strict = {"allowed_symbols": (SOL,), "max_order_size": Decimal("0.001")}
    assert problems("strategy", limits=strict) == ()


def test_markets_that_are_not_known_are_not_judged() -> None:
    """Before a bridge has read them, only the webhook's own list counts."""
    assert problems(markets=(), symbol="NEWUSDT.P") == ()
    (found,) = problems(markets=(), symbol="NEWUSDT.P", limits={"allowed_symbols": (BTC,)})
    assert "not among the allowed symbols (BTC)" in found


def test_a_message_that_the_webhook_cannot_read_is_named() -> None:
    """A locked field, another format, or a target position on a webhook that takes orders."""
    settings = WebhookSettings(limits=NO_LIMITS)
    made = build("position", api_key="wh_test_x", api_secret="whs_x")
    target = TemplateTarget(settings=settings, limits=NO_LIMITS, markets=(BTC,))
    (found,) = find_problems(made.message, target, kind="position")
    assert "--follow position" in found
    (unreadable,) = find_problems(made.message.replace('"action"', '"acton"'), target, kind="strategy")
    assert unreadable.startswith("its alerts would be refused: ")


# Its format has no stop loss.
@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "wundertrading"])
def test_other_formats_are_checked_as_they_are_read(profile: str) -> None:
    """A message in the words of another service lacks the stop just as well, and has it just as well."""
    limits = replace(NO_LIMITS, require_stop_loss=True)
    settings = WebhookSettings(limits=limits, profile=profile)
    target = TemplateTarget(settings=settings, limits=limits, markets=(BTC,))
    for stop, count in ((None, 1), ("2%", 0)):
        made = build("indicator", api_key="wh_test_x", api_secret="whs_x", profile=profile, stop_loss=stop)
        found = find_problems(made.message, target, kind="indicator")
        assert len([text for text in found if "stop loss is required" in text]) == count
