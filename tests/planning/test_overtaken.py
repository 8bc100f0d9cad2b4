"""Which earlier entries of its webhook a step of an alert ends: those left or replaced, none that still belongs to the strategy."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from kekbridge.model import Side, StrategyHistory, StrategyStep
from tests.bridge import position_fields
from tests.planning.test_target import plan
from tests.trading import BTC, NOW, D

LIMIT = {"orderType": "limit", "limitPrice": "60000"}
POSITION = {"follow": "position"}
BOTH = {Side.BUY, Side.SELL}


def ended_sides(fields: dict[str, Any], held: str = "0", **options: Any) -> set[Side]:
    """The sides whose entries end, in the step's own market."""
    found = plan(fields, held, **options).overtaken
    assert all(each.symbol == BTC for each in found)
    return {side for each in found for side in ([each.side] if each.side is not None else BOTH)}


@pytest.mark.parametrize("settings", [{}, POSITION])
@pytest.mark.parametrize("held", ["0", "0.04"])
def test_a_strategy_that_is_flat_ends_the_entries_of_the_side_that_it_left(settings: dict[str, Any], held: str) -> None:
    """Also while nothing is open. A short that its next bar opens may arrive first, and stays."""
    assert ended_sides(position_fields("sell", "0.04", "0"), held, **settings) == {Side.BUY}
    assert ended_sides(position_fields("buy", "-0.04", "0"), **settings) == {Side.SELL}


@pytest.mark.parametrize("settings", [{}, POSITION])
def test_a_reversal_ends_the_entries_of_the_other_side(settings: dict[str, Any]) -> None:
    """The strategy has left that side, whatever of it was filled."""
    for order in ({}, LIMIT):
        assert ended_sides(position_fields("sell", "0.04", "-0.04") | order, **settings) == {Side.BUY}


@pytest.mark.parametrize(
    ("held", "settings", "ended"),
    [
        ("0.04", POSITION, BOTH),  # the account is where the strategy was: it moves to the target, whatever rests
        ("0", POSITION, {Side.SELL}),  # something of it rests still: only the step counts
        ("0", {**POSITION, "resync": True}, BOTH),
        ("0.04", {}, {Side.SELL}),
    ],
)
def test_a_target_replaces_entries_where_it_alone_counts(held: str, settings: dict[str, Any], ended: set[Side]) -> None:
    """A step that is added to the position keeps what rests of the steps before it."""
    assert ended_sides(position_fields("buy", "0.04", "0.06") | LIMIT, held, **settings) == ended


def test_a_step_that_a_newer_one_has_overtaken_ends_nothing() -> None:
    """The late flat of an earlier second does not cancel what was entered since."""
    entered = StrategyStep(fired_at=NOW + timedelta(seconds=5), before=D(0), now=D("0.04"))
    history = StrategyHistory(start=D("0.02"), steps=(entered,))
    assert ended_sides(position_fields("sell", "0.02", "0"), history=history, **POSITION) == set()


@pytest.mark.parametrize(
    ("fields", "held", "settings", "ended"),
    [
        ({"action": "close"}, "0", {}, BOTH),
        ({"action": "close"}, "0.04", {}, BOTH),
        ({"action": "close", "quantity": "100%"}, "0.04", {}, BOTH),
        ({"action": "close", "quantity": "50%"}, "0.04", {}, set()),
        ({"action": "close", "quantity": "0.04"}, "0.04", {}, set()),
        ({"action": "close", **LIMIT}, "0.04", {}, set()),  # it rests itself
        ({"action": "close_long"}, "0", {}, {Side.BUY}),
        ({"action": "close_short"}, "0.04", {}, {Side.SELL}),
        ({"action": "flip"}, "0.04", {}, {Side.BUY}),
        ({"action": "flip", **LIMIT}, "0.04", {}, set()),
        ({"action": "sell", "quantity": "0.08"}, "0.04", {"reverse": True}, {Side.BUY}),
        ({"action": "sell", "quantity": "0.08"}, "0", {"reverse": True}, set()),  # both sides of a range may rest
        ({"action": "sell", "quantity": "0.08"}, "0.04", {}, set()),
        ({"action": "buy", "quantity": "0.08"}, "0.04", {}, set()),
    ],
)
def test_an_exit_of_the_whole_position_ends_entries(
    fields: dict[str, Any], held: str, settings: dict[str, Any], ended: set[Side]
) -> None:
    """If it is carried out at once; a close of one side ends that side's only, a close of a part none."""
    assert ended_sides(fields, held, **settings) == ended
