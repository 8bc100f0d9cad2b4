"""Limits as values: from the configuration, combined, described and formatted."""

from __future__ import annotations

from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.config import Risk
from kekbridge.model import Limits, Usage
from kekbridge.risk import rules
from kekbridge.risk.check import AccountPolicy
from kekbridge.risk.limits import account_limits, describe_usage, limit_number, percent, tighter, usdc
from tests.trading import BTC, ETH, NO_LIMITS, NOW, D, commitments_of, entry, reservation, snapshot, webhook


def test_zero_and_empty_mean_no_limit_for_the_account() -> None:
    """The defaults of [risk] limit only the account's leverage and its number of positions."""
    limits = account_limits(**Risk().limits())
    assert limits == replace(NO_LIMITS, max_leverage=D(10), max_open_positions=10)
    assert account_limits() == NO_LIMITS


def test_settings_become_limits() -> None:
    """Each setting of [risk] becomes the limit of its name; an unknown name is a programming error."""
    section = Risk(
        allowed_symbols=("BTC",), max_order_size=D(2), daily_orders=5, require_stop_loss=True, max_leverage=D(0)
    )
    limits = account_limits(**section.limits())
    assert (limits.allowed_symbols, limits.max_order_size, limits.daily_orders) == (("BTC",), D(2), 5)
    assert limits.require_stop_loss
    assert limits.max_leverage is None
    with pytest.raises(TypeError):
        account_limits(max_ordersize=D(1))


def test_tighter_keeps_the_tighter_of_each_limit() -> None:
    """Smaller maxima, larger minima and cool-downs, common symbols, common hours."""
    one = Limits(
        allowed_symbols=(BTC, ETH),
        min_order_size=D(1),
        max_order_size=D(5),
        cooldown_s=10,
        trading_hours="Mon-Fri 07:00-22:00",
    )
    other = Limits(
        allowed_symbols=("ETH",),
        min_order_size=D(2),
        max_order_size=None,
        cooldown_s=30,
        trading_hours="09:00-24:00",
        require_stop_loss=True,
        daily_limit=D(9),
    )
    both = tighter(one, other)
    assert (both.allowed_symbols, both.min_order_size, both.max_order_size) == ((ETH,), D(2), D(5))
    assert (both.cooldown_s, both.require_stop_loss, both.daily_limit) == (30, True, D(9))
    assert both.trading_hours == "Mon-Fri 07:00-22:00 & 09:00-24:00"


amounts = st.none() | st.decimals("0.01", 100_000, places=2)
some_limits = st.builds(
    Limits,
    allowed_symbols=st.none() | st.lists(st.sampled_from([BTC, ETH]), max_size=2).map(tuple),
    min_order_size=st.none() | st.decimals("0.001", 1, places=3),
    max_order_size=st.none() | st.decimals("0.001", 1, places=3),
    max_position_size=st.none() | st.decimals("0.001", 2, places=3),
    max_notional=amounts,
    daily_limit=amounts,
    daily_orders=st.none() | st.integers(1, 3),
    max_leverage=st.none() | st.decimals("0.1", 5, places=1),
    max_open_positions=st.none() | st.integers(1, 2),
    require_stop_loss=st.booleans(),
    trading_hours=st.none() | st.sampled_from(["Mon-Fri 07:00-22:00", "Sat 09:00-10:00", "22:00-11:00"]),
)


@given(one=some_limits, other=some_limits, quantity=st.decimals("0.001", 1, places=3), orders=st.integers(0, 3))
def test_the_tighter_limits_allow_what_both_allow(one: Limits, other: Limits, quantity: Decimal, orders: int) -> None:
    """`risk show` prints the combined limits: they must allow exactly what webhook and account both allow."""

    def passes(webhook_limits: Limits, account: Limits) -> bool:
        verdicts = rules.check_rules(
            entry(str(quantity)),
            webhook=webhook(webhook_limits),
            policy=AccountPolicy(account_limits=account, max_snapshot_age_s=30, max_mark_age_s=10),
            snapshot=snapshot({ETH: "1"}),
            usage=Usage(now=NOW, orders_today=orders, account_orders_today=orders),
        )
        return rules.first_denial(verdicts) is None

    assert passes(one, other) == passes(tighter(one, other), NO_LIMITS)


def test_usage_shows_what_is_left_and_when_it_resets() -> None:
    """Daily sums reset at midnight UTC; 10:30:05 is 13 h 30 min before."""
    limits = replace(
        NO_LIMITS,
        daily_limit=D(10_000),
        daily_orders=5,
        max_daily_loss=D(500),
        max_drawdown=D("0.2"),
        max_leverage=D(3),
    )
    usage = Usage(
        now=NOW,
        traded_today=D(2500),
        account_traded_today=D(12_000),
        orders_today=2,
        realized_today=D(-100),
        equity_peak=D(125_000),
        commitments=commitments_of(reservation("1")),
    )
    lines = {line.name: line for line in describe_usage(limits, usage, NOW, snapshot=snapshot())}
    traded = lines["traded a day"]
    assert (traded.limit, traded.used, traded.left) == ("10,000.00 USDC", "2,500.00 USDC", "7,500.00 USDC")
    assert traded.resets == "00:00 UTC, in 13 h 30 min"
    assert (lines["orders a day"].left, lines["loss a day"].left) == ("3", "400.00 USDC")
    assert (lines["drawdown"].used, lines["drawdown"].left) == ("20 %", "0 %")
    assert (lines["leverage"].used, lines["leverage"].left) == ("0.65x", "2.35x")
    account = {line.name: line for line in describe_usage(limits, usage, NOW, scope="account")}
    assert (account["traded a day"].left, account["leverage"].used) == ("0.00 USDC", "")


def test_limits_that_are_not_set_are_not_shown() -> None:
    """Without limits the list is empty."""
    assert describe_usage(NO_LIMITS, Usage(now=NOW), NOW, snapshot=snapshot()) == ()


def test_every_limit_has_its_line() -> None:
    """A limit missing from `risk show` would first be noticed when it denies an order."""
    values: dict[str, Any] = {
        "allowed_symbols": (BTC,),
        "require_stop_loss": True,
        "trading_hours": "Mon 07:00-08:00",
        "daily_orders": 1,
        "max_open_positions": 1,
        "cooldown_s": 1,
    }
    for field in fields(Limits):
        if field.name == "leverage_policy":
            continue
        limits = replace(NO_LIMITS, **{field.name: values.get(field.name, D("0.5"))})
        assert len(describe_usage(limits, Usage(now=NOW), NOW)) == 1, field.name
        assert len(describe_usage(limits, Usage(now=NOW), NOW, snapshot=snapshot())) == 1, field.name


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (limit_number(D("1E+3")), "1000"),
        (limit_number(D("0.00000001")), "0.00000001"),
        (limit_number(D("-0")), "0"),
        (limit_number(D(10) ** 40), "1" + "0" * 40),
        (usdc(D("1234567.891")), "1,234,567.89 USDC"),
        (percent(D("0.005")), "0.5 %"),
        (percent(D("1") / D("3")), "33.3333 %"),
    ],
)
def test_formatted_numbers(shown: str, expected: str) -> None:
    """No exponents, no trailing zeros."""
    assert shown == expected
