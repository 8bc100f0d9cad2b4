"""Default and locked fields: a value for which every alert would be refused is not stored."""

from __future__ import annotations

from decimal import Decimal

import pytest

from kekbridge.errors import ConfigError
from kekbridge.model import Limits, WebhookSettings
from kekbridge.webhooks.fixed_fields import check_fixed_fields

BTC, ETH = "PERP_BTC_USDC", "PERP_ETH_USDC"
MARKS = {BTC: Decimal(65_000), ETH: Decimal(1800)}


def check(name: str, value: str, symbols: tuple[str, ...] | None = None, *, is_locked: bool = False) -> None:
    fields = {name: value}
    settings = WebhookSettings(
        limits=Limits(allowed_symbols=symbols),
        defaults={} if is_locked else fields,
        locked=fields if is_locked else {},
    )
    check_fixed_fields(settings, MARKS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quantity", "0.01"), ("quantity", "50%"), ("quantityType", "risk_percent"), ("stopLoss", "2%"), ("take_profit", "4%"),
        ("trailingStop", "1.5%"), ("orderType", "limit"), ("limitPrice", "64000"), ("triggerPrice", "64000"), ("leverage", "5"),
        ("slippage", "0.5%"), ("reduceOnly", "true"), ("symbol", "BTCUSDT.P"), ("action", "close"), ("comment", "dip"),
        ("symbols", "BTCUSDT.P,ETHUSDT.P"), ("maxQuantity", "1"), ("marketPosition", "long"), ("price", "65000"),
    ],
)  # fmt: skip
def test_values_that_a_message_may_have_are_stored(name: str, value: str) -> None:
    """Whatever else the message says: a limit without its price is the message's business."""
    for is_locked in (False, True):
        check(name, value, is_locked=is_locked)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("quantity", "0,01", "a plain number such as 0.01"),
        ("quantity", "0", "more than zero"),
        ("quantityType", "coins", "base, usd"),
        ("stop_loss", "x", "a price such as 64000 or a percent"),
        ("stopLoss", "2", "write stopLoss=2% for a distance"),
        ("takeProfit", "4", "write takeProfit=4% for a distance"),
        ("takeProfit", "70000", "allow one market (--allowed-symbols)"),
        ("orderType", "now", "market, limit"),
        ("leverage", "x5", "a whole number from 1 to 100"),
        ("slippage", "0.5", 'a percent such as "0.5%"'),
        ("maxQuantity", "x", "such as 0.05"),
    ],
)
def test_values_that_a_message_may_not_have_are_refused(name: str, value: str, expected: str) -> None:
    """By the reader of messages itself, under the option that was given."""
    for option, is_locked in (("default", False), ("lock", True)):
        with pytest.raises(ConfigError) as refused:
            check(name, value, is_locked=is_locked)
        assert refused.value.field == option
        assert refused.value.message.startswith(f"--{option} {name}={value}: ")
        assert expected in refused.value.message


def test_a_fixed_price_fits_one_market() -> None:
    """Where one market may be traded, and only near its price if that is known."""
    check("stopLoss", "60000", (BTC,))
    check("stopLoss", "20", ("PERP_SOL_USDC",))
    with pytest.raises(ConfigError, match="a price far from BTC at 65000; write stopLoss=2% for a distance"):
        check("stopLoss", "2", (BTC,))
    with pytest.raises(ConfigError, match="fits one market at most"):
        check("stopLoss", "60000", (BTC, ETH))
