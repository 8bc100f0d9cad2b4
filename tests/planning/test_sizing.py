"""Order sizes: the exchange's grid, the units of a quantity, and the split among take-profits."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.alerts.signal import QuantityType
from kekbridge.errors import Refused
from kekbridge.planning.sizing import (
    check_entry_size,
    closing_sizes,
    floor_quantity,
    format_12dp,
    format_usdc,
    smallest_quantity,
    split_quantity,
    to_base_units,
)
from tests.trading import D, instrument

sizes = st.decimals(min_value=0, max_value=10**9, allow_nan=False, allow_infinity=False, places=15)
steps = st.sampled_from([D("0.00001"), D("0.0001"), D("0.01"), D("0.5"), D(1), D(10)])
minimums = st.sampled_from([D("0.00001"), D("0.00015"), D("0.3"), D(1), D(7), D(10)])


@given(quantity=sizes, tick=steps, least=minimums)
def test_sizes_are_rounded_down_to_the_exchanges_grid(quantity: Decimal, tick: Decimal, least: Decimal) -> None:
    """Orderly's size filter: (quantity - base_min) is a multiple of base_tick, also if base_min is not."""
    rules = instrument(base_min=least, base_tick=tick)
    rounded = floor_quantity(quantity, rules)
    assert rounded <= quantity
    if rounded == 0:
        assert quantity < least
    else:
        assert rounded >= least
        assert (rounded - least) % tick == 0
        assert quantity - rounded < tick


@given(quantity=st.decimals(0, 10**5, places=9), tick=steps, least=minimums, times=st.integers(1, 1000))
def test_a_position_is_closed_up_to_less_than_a_step(
    quantity: Decimal, tick: Decimal, least: Decimal, times: int
) -> None:
    """Every order is accepted (grid, base_min, base_max), and together they leave dust only, unless more than 20 would be needed."""
    rules = instrument(base_min=least, base_tick=tick, base_max=2 * least + tick * times)
    sizes_found = closing_sizes(quantity, rules)
    assert all(least <= size <= rules.base_max and (size - least) % tick == 0 for size in sizes_found)
    left = quantity - sum(sizes_found)
    assert left >= 0
    if len(sizes_found) < 20 and quantity >= least:
        assert left < tick


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [("18", ["10", "8"]), ("10.5", ["9.5", "1"]), ("5.1234", ["5.1"]), ("0.9", []), ("30", ["10", "10", "10"])],
)
def test_the_last_of_several_orders_is_not_below_the_minimum(quantity: str, expected: list[str]) -> None:
    """10.5 with a maximum of 10 and a minimum of 1 is 9.5 and 1, not 10 and half a coin that stays open."""
    rules = instrument(base_min=D(1), base_tick=D("0.1"), base_max=D(10))
    assert closing_sizes(D(quantity), rules) == tuple(map(D, expected))


def test_long_decimals_are_not_rounded_up_by_the_context() -> None:
    """Python's default is 28 digits: 0.99…9 with forty nines must stay below 1."""
    assert floor_quantity(D("0." + "9" * 40), instrument(base_min=D("0.5"), base_tick=D("0.5"))) == D("0.5")


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("0.3", QuantityType.BASE, "0.3"),
        ("250", QuantityType.USD, "0.125"),
        ("10", QuantityType.PERCENT_EQUITY, "2.5"),
        ("50", QuantityType.PERCENT_POSITION, "0.2"),
        ("1", QuantityType.RISK_PERCENT, "5"),
    ],
)
def test_each_unit_has_one_meaning(value: str, kind: QuantityType, expected: str) -> None:
    """usd and percent_equity give the notional, percent_position a share of the position, risk_percent the loss at the stop."""
    found = to_base_units(
        D(value), kind, price=D(2000), account_value=D(50_000), position=D("-0.4"), stop_price=D(1900)
    )
    assert found == D(expected)


@given(
    value=st.decimals(min_value="0.01", max_value=100, places=2),
    price=st.decimals(min_value="0.0001", max_value=100_000, places=4),
    stop_percent=st.decimals(min_value="0.01", max_value=99, places=2),
    equity=st.decimals(min_value=1, max_value=10**7, places=2),
)
def test_amount_and_risk_are_never_exceeded(
    value: Decimal, price: Decimal, stop_percent: Decimal, equity: Decimal
) -> None:
    """After rounding, the notional is at most the amount requested, and the loss at the stop at most the share risked."""
    rules = instrument(base_tick=D("0.00000001"), base_min=D("0.00000001"))
    stop = price - price * stop_percent / 100
    common: dict[str, Any] = {"price": price, "account_value": equity, "position": D(0), "stop_price": stop}
    usd_size = floor_quantity(to_base_units(value, QuantityType.USD, **common), rules)
    share_size = floor_quantity(to_base_units(value, QuantityType.PERCENT_EQUITY, **common), rules)
    risk_size = floor_quantity(to_base_units(value, QuantityType.RISK_PERCENT, **common), rules)
    assert usd_size * price <= value
    assert share_size * price <= equity * value / 100
    assert risk_size * (price - stop) <= equity * value / 100


@pytest.mark.parametrize("kind", [QuantityType.PERCENT_POSITION, QuantityType.RISK_PERCENT])
def test_a_unit_without_its_measure_is_refused(kind: QuantityType) -> None:
    """A share of no position and a risk without a stop are meaningless; no size is guessed."""
    with pytest.raises(Refused) as refused:
        to_base_units(D(5), kind, price=D(100), account_value=D(1000), position=D(0))
    assert refused.value.code == "quantity_type_unsupported"


def test_a_negative_account_buys_nothing() -> None:
    """A percent of a negative account value is zero, not a size with the other sign."""
    assert to_base_units(D(10), QuantityType.PERCENT_EQUITY, price=D(100), account_value=D(-5), position=D(0)) == 0


@given(price=st.decimals(min_value="0.000001", max_value=100_000, places=6), tick=steps, least=minimums)
def test_a_refusal_names_the_smallest_accepted_size(price: Decimal, tick: Decimal, least: Decimal) -> None:
    """The named size passes, one step less does not."""
    rules = instrument(base_min=least, base_tick=tick, base_max=D(10) ** 12)
    named = smallest_quantity(rules, price)
    check_entry_size(named, wanted=named, price=price, instrument=rules)
    below = floor_quantity(named - tick, rules)
    with pytest.raises(Refused) as refused:
        check_entry_size(below, wanted=below, price=price, instrument=rules)
    assert refused.value.code == "quantity_too_small"
    assert f"send {format_12dp(named)} or more" in refused.value.message


def test_zero_is_too_small_without_a_minimum_notional() -> None:
    """A market without min_notional still accepts no order of zero."""
    with pytest.raises(Refused) as refused:
        check_entry_size(D(0), wanted=D("0.000001"), price=D(65_000), instrument=instrument(min_notional=D(0)))
    assert refused.value.code == "quantity_too_small"


def test_an_entry_above_base_max_is_refused() -> None:
    """An entry is never split without the trader's knowledge; the refusal names the maximum."""
    with pytest.raises(Refused) as refused:
        check_entry_size(D("10.00001"), wanted=D("10.00001"), price=D(65_000), instrument=instrument())
    assert (refused.value.code, refused.value.field) == ("order_too_large", "quantity")
    assert "at most 10," in refused.value.message


@given(
    quantity=st.decimals(min_value="0.01", max_value=10, places=5),
    shares=st.lists(st.none() | st.integers(min_value=1, max_value=20).map(Decimal), min_size=1, max_size=5),
)
def test_take_profits_never_close_more_than_the_entry(quantity: Decimal, shares: list[Decimal | None]) -> None:
    """Each share is rounded down; with an open share the last one takes the remainder, so that nothing is left uncovered."""
    rules = instrument()
    parts = split_quantity(quantity, shares, rules)
    assert len(parts) == len(shares)
    assert sum(parts) <= quantity
    assert all(floor_quantity(part, rules) == part for part in parts)
    if None in shares:
        assert quantity - sum(parts) < rules.base_tick


def test_a_take_profit_under_the_smallest_order_is_refused() -> None:
    """Leaving out a take-profit is the trader's decision, not the bridge's."""
    with pytest.raises(Refused) as refused:
        split_quantity(D("0.00002"), [D(10), None], instrument())
    assert (refused.value.code, refused.value.field) == ("quantity_too_small", "takeProfit")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0.00000001", "0.00000001"), ("1E+3", "1000"), ("100.500", "100.5"), ("-0", "0"), ("1E+30", "1" + "0" * 30)],
)
def test_numbers_are_shown_without_exponents(value: str, expected: str) -> None:
    """A number that a message suggests must be one that the bridge accepts."""
    assert format_12dp(D(value)) == expected


def test_small_amounts_are_not_shown_as_zero() -> None:
    """A notional of 0.000118 USDC shown as 0.00 would hide the problem."""
    assert (format_usdc(D("0.000118")), format_usdc(D("650.129"))) == ("0.000118", "650.12")
