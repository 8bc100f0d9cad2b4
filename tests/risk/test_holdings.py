"""Which webhook holds how much of a position."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.model import PositionPart
from kekbridge.risk.holdings import NOBODY, Holdings

BTC = "PERP_BTC_USDC"
Fill = tuple[str, int]


def held(*fills: Fill) -> Holdings:
    """Holdings after fills of orders of ours, and foreign ones, whose holder begins with `*`: their trade id is their place."""
    made = Holdings()
    for number, (holder, quantity) in enumerate(fills):
        foreign_id = str(number) if holder.startswith("*") else None
        made.record(BTC, holder.removeprefix("*"), Decimal(quantity), foreign_id)
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
    ("fills", "wanted"),
    [
        ([("*a", 3)], {NOBODY: 3}),
        ([("a", 1), ("*a", 3)], {"a": 1, NOBODY: 3}),
        ([("a", 1), ("*a", 3), ("*a", -2)], {"a": 1, NOBODY: 1}),
        ([("a", 2), ("*a", 3), ("*a", -4)], {"a": 1}),
        ([("a", 2), ("b", 2), ("*b", -3)], {"a": 1}),
        ([("a", 1), ("*a", 3), ("a", -1)], {NOBODY: 3}),
        ([("a", 1), ("*a", -3)], {NOBODY: -2}),
        ([("*a", -3), ("a", 1)], {NOBODY: -2}),
    ],
)
def test_what_a_foreign_fill_opens_is_nobodys(fills: list[Fill], wanted: dict[str, int]) -> None:
    """What it closes is taken from that first, then from its holder, whose stop the exchange may have executed."""
    assert held(*fills).comparable().get(BTC, {}) == wanted


@pytest.mark.parametrize(
    ("holder", "position", "webhooks"),
    [
        ("a", 6, 2),
        ("b", 6, 1),
        ("c", 6, 3),
        ("a", 7, 2),  # what no fill explains is left to the webhook
        ("a", 5, 2),  # some fill is not known yet: the webhook keeps its own
        ("a", 2, 1),
        ("c", 2, 0),  # whose it is is not known: nothing stays open on a guess
        ("c", 7, 0),
        ("a", 0, 0),
        ("a", -6, 0),
    ],
)
def test_what_others_hold(holder: str, position: int, webhooks: int) -> None:
    """Also where the holdings do not add up to the position; nothing is known of a position on the other side."""
    found = held(("a", 1), ("b", 2), (NOBODY, 3)).of_others(BTC, holder, position=Decimal(position))
    assert found == webhooks
    assert held(("a", 1)).of_others("PERP_ETH_USDC", "b", position=Decimal(1)) == 0


@given(
    fills=st.lists(st.tuples(st.sampled_from(["a", "b", "*a"]), st.integers(-5, 5).filter(bool)), max_size=20),
    position=st.integers(-20, 20).map(Decimal),
)
def test_parts_of_webhooks_are_at_most_the_position(fills: list[Fill], position: Decimal) -> None:
    """Whatever is known: each part is on the position's side and at most all of it; where the fills explain it, all but the other's."""
    made = held(*fills)
    parts = {name: PositionPart.OWN.of(position, made.of_others(BTC, name, position=position)) for name in "ab"}
    assert all(part * position >= 0 and abs(part) <= abs(position) for part in parts.values())
    if position and made.total(BTC) == position:
        known = made.comparable()[BTC]
        for name, other in ("ab", "ba"):
            assert parts[name] == PositionPart.OWN.of(position, Decimal(known.get(other, 0)))


def test_total_is_the_position_that_fills_lead_to() -> None:
    """Signed, over all holders; zero for a market without fills."""
    assert held(("a", 1), ("b", 2), (NOBODY, -1)).total(BTC) == 2
    assert held(("a", 1), ("b", -3)).total(BTC) == -2
    assert held().total(BTC) == 0


def test_shares_are_known_only_if_they_add_up() -> None:
    """The fills lead to the position, of which webhooks hold a part; else nothing is said about any of them."""
    made = held(("a", 1), ("b", 2))
    assert made.shares(BTC, position=Decimal(3)) == {"a": Decimal(1), "b": Decimal(2)}
    assert made.shares(BTC, position=Decimal(4)) is None
    assert held(("a", 1), (NOBODY, 2)).shares(BTC, position=Decimal(3)) == {"a": Decimal(1)}
    assert held((NOBODY, 2)).shares(BTC, position=Decimal(2)) is None
    assert held().shares(BTC, position=Decimal(0)) is None


def test_a_fill_that_moves() -> None:
    """A fill that was nobody's turns out to be of an order of ours."""
    made = held(("a", 1), (NOBODY, 2))
    made.move(BTC, Decimal(2), source=NOBODY, target="b")
    assert made.comparable() == {BTC: {"a": 1, "b": 2}}


@pytest.mark.parametrize(
    ("fills", "quantity", "target", "wanted"),
    [
        (
            [("a", 4), ("b", 4), ("*b", 10), ("*b", -4)],
            -4,
            "a",
            {"b": 4, NOBODY: 10},
        ),  # a's stop beside a trade by hand
        ([("a", 4), ("b", 2), ("*b", -4)], -4, "a", {"b": 2}),  # it had taken more than b held
        ([("a", 1), ("*b", 2)], 2, "b", {"a": 1, "b": 2}),
        ([("*b", 2), ("a", 1), ("a", -3), ("a", 5)], 2, "b", {"a": 5}),  # of an earlier position
    ],
)
def test_a_foreign_fill_that_moves(fills: list[Fill], quantity: int, target: str, wanted: dict[str, int]) -> None:
    """What it has taken is given back exactly, then it counts as its owner's."""
    made = held(*fills)
    number = next(number for number, fill in enumerate(fills) if fill == ("*b", quantity))
    made.move(BTC, Decimal(quantity), source="b", target=target, foreign_id=str(number))
    assert made.comparable().get(BTC, {}) == wanted


@given(
    fills=st.lists(st.tuples(st.sampled_from(["a", "b", "*a", NOBODY]), st.integers(-5, 5).filter(bool)), max_size=30)
)
def test_holdings_add_up_to_the_position(fills: list[Fill]) -> None:
    """For any fills: all on the position's side, and their sum is the position; loading them gives the same."""
    made = held(*fills)
    position = sum(quantity for _, quantity in fills)
    found = made.comparable().get(BTC, {})
    assert sum(found.values()) == position
    assert all(quantity * position > 0 for quantity in found.values())
    loaded = Holdings()
    loaded.load(
        BTC,
        [
            (holder.removeprefix("*"), Decimal(quantity), str(number) if holder.startswith("*") else None)
            for number, (holder, quantity) in enumerate(fills)
        ],
    )
    assert loaded.comparable() == made.comparable()
