"""Which webhook holds how much of a position."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.risk.holdings import NOBODY, Holdings

BTC = "PERP_BTC_USDC"
Fill = tuple[str, int]


def held(*fills: Fill) -> Holdings:
    made = Holdings()
    for holder, quantity in fills:
        made.record(BTC, holder, Decimal(quantity))
    return made


@pytest.mark.parametrize(
    ("fills", "wanted"),
    [
        ([], {}),
        ([("a", 1), ("b", 2)], {"a": 1, "b": 2}),
        ([("a", -1), ("b", -2)], {"a": -1, "b": -2}),
        ([("a", 1), ("b", 2), ("a", -1)], {"b": 2}),
        ([("a", 1), ("b", 2), ("a", -3)], {}),
        ([("a", 1), ("b", 2), ("a", -2)], {"b": 1}),
        ([("a", 5), ("b", 2), ("c", -3)], {"a": 2, "b": 2}),
        ([("a", 1), ("b", 2), ("b", -5)], {"b": -2}),
        ([("a", 1), (NOBODY, 2), ("a", -3), ("b", 1)], {"b": 1}),
    ],
)
def test_each_holder_has_its_own_fills(fills: list[Fill], wanted: dict[str, int]) -> None:
    """A flat or reversed position begins from nothing; what is traded beyond a holding is taken from the largest others."""
    assert held(*fills).comparable().get(BTC, {}) == wanted


@pytest.mark.parametrize(
    ("holder", "position", "others"),
    [("a", 6, 2), ("b", 6, 1), ("c", 6, 3), ("a", 5, 0), ("a", 0, 0), ("a", -6, 0)],
)
def test_what_others_hold(holder: str, position: int, others: int) -> None:
    """Without what belongs to nobody; nothing where the holdings do not add up to the position, as after a liquidation."""
    found = held(("a", 1), ("b", 2), (NOBODY, 3)).of_others(BTC, holder, position=Decimal(position))
    assert found == others
    assert held(("a", 1)).of_others("PERP_ETH_USDC", "b", position=Decimal(1)) == 0


def test_total_is_the_position_that_fills_lead_to() -> None:
    """Signed, over all holders; zero for a market without fills."""
    assert held(("a", 1), ("b", 2), (NOBODY, -1)).total(BTC) == 2
    assert held(("a", 1), ("b", -3)).total(BTC) == -2
    assert held().total(BTC) == 0


def test_shares_are_known_only_if_they_add_up() -> None:
    """All of the position belongs to webhooks; else nothing is said about any of them."""
    made = held(("a", 1), ("b", 2))
    assert made.shares(BTC, position=Decimal(3)) == {"a": Decimal(1), "b": Decimal(2)}
    assert made.shares(BTC, position=Decimal(4)) is None
    assert held(("a", 1), (NOBODY, 2)).shares(BTC, position=Decimal(3)) is None
    assert held().shares(BTC, position=Decimal(0)) is None


def test_a_fill_that_moves() -> None:
    """A fill that was nobody's turns out to be of an order of ours."""
    made = held(("a", 1), (NOBODY, 2))
    made.move(BTC, Decimal(2), source=NOBODY, target="b")
    assert made.comparable() == {BTC: {"a": 1, "b": 2}}


@given(fills=st.lists(st.tuples(st.sampled_from(["a", "b", NOBODY]), st.integers(-5, 5).filter(bool)), max_size=30))
def test_holdings_add_up_to_the_position(fills: list[Fill]) -> None:
    """For any fills: all on the position's side, and their sum is the position; loading them gives the same."""
    made = held(*fills)
    position = sum(quantity for _, quantity in fills)
    found = made.comparable().get(BTC, {})
    assert sum(found.values()) == position
    assert all(quantity * position > 0 for quantity in found.values())
    loaded = Holdings()
    loaded.load(BTC, [(holder, Decimal(quantity)) for holder, quantity in fills])
    assert loaded.comparable() == made.comparable()
