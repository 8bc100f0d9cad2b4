"""Resizing before an order is sent: sizes follow the real position and never grow beyond what was judged."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kekbridge.model import OrderIntent, OrderType, PositionPart, Purpose, Side, TakeProfit
from kekbridge.planning.build_orders import resize
from tests.trading import BTC, D, snapshot

amounts = st.decimals(min_value="0.00001", max_value=9, places=5)


def exit_order(quantity: str, side: Side = Side.SELL, **fields: Any) -> OrderIntent:
    return OrderIntent(
        symbol=BTC,
        side=side,
        order_type=OrderType.MARKET,
        quantity=D(quantity),
        purpose=Purpose.EXIT,
        reference_price=D(65_000),
        reduce_only=True,
        **fields,
    )


def entry_order(quantity: str, side: Side = Side.SELL, **fields: Any) -> OrderIntent:
    return replace(exit_order(quantity, side), purpose=Purpose.ENTRY, reduce_only=False, **fields)


@pytest.mark.parametrize(
    ("held", "fields", "expected"),
    [
        ("0.03", {}, "0.02"),
        ("0.01", {}, "0.01"),
        (None, {}, None),
        ("-0.5", {}, None),
        ("0.05", {"close_fraction": D(1)}, "0.05"),
        ("0.05", {"close_fraction": D("0.5")}, "0.025"),
        ("0.000004", {"close_fraction": D(1)}, None),
        ("25", {"close_fraction": D(1)}, "10"),
    ],
)
def test_an_exit_follows_the_real_position(held: str | None, fields: dict[str, Any], expected: str | None) -> None:
    """Capped by the open position and base_max; a fraction is of the current position; nothing is sent if nothing is left."""
    resized = resize(exit_order("0.02", **fields), snapshot({BTC: held} if held else None))
    assert (None if resized is None else resized.quantity) == (None if expected is None else D(expected))


def test_a_close_to_flat_changes_side_with_the_position() -> None:
    """`close` means flat: if the position was reversed while the close waited, the other side is closed."""
    resized = resize(exit_order("0.02", close_fraction=D(1), target_quantity=D(0)), snapshot({BTC: "-0.07"}))
    assert resized is not None
    assert (resized.side, resized.quantity) == (Side.BUY, D("0.07"))


@given(
    held=st.decimals(min_value=-9, max_value=9, places=5),
    quantity=amounts,
    share=st.none() | st.decimals("0.01", 1, places=2),
)
def test_an_exit_never_reverses_a_position(held: Decimal, quantity: Decimal, share: Decimal | None) -> None:
    """Whatever happened while it waited, it leaves the position smaller or flat, never on the other side."""
    for target in (None, D(0)):
        intent = exit_order(str(quantity), close_fraction=share, target_quantity=target)
        resized = resize(intent, snapshot({BTC: str(held)}))
        if resized is not None:
            after = held + resized.signed_quantity
            assert abs(after) < abs(held)
            assert after * held >= 0


@given(
    position=st.decimals(-9, 9, places=5),
    others=st.decimals(-9, 9, places=5),
    quantity=amounts,
    share=st.none() | st.decimals("0.01", 1, places=2),
    target=st.none() | st.just(D(0)),
)
def test_an_exit_of_its_own_part_leaves_what_others_hold(
    position: Decimal,
    others: Decimal,
    quantity: Decimal,
    share: Decimal | None,
    target: Decimal | None,
) -> None:
    """Whatever has changed since it was planned: at most the webhook's part of the real position is closed."""
    for part in PositionPart:
        intent = exit_order(str(quantity), close_fraction=share, target_quantity=target, part=part)
        resized = resize(intent, snapshot({BTC: str(position)}), others=others)
        if resized is not None:
            assert resized.quantity <= abs(part.of(position, others)) <= abs(position)
            assert resized.signed_quantity * position < 0


@pytest.mark.parametrize(
    ("position", "others", "expected"),
    [
        ("0.08", "0.04", "0.04"),
        ("0.04", "0.04", None),
        ("0.06", "0.04", "0.02"),
        ("0.04", "0", "0.04"),
        ("0", "0", None),
    ],
)
def test_a_whole_exit_follows_its_own_part(position: str, others: str, expected: str | None) -> None:
    """Right before it is sent it is what the webhook then holds: its stop may have fired, another webhook may have left."""
    intent = exit_order("0.04", close_fraction=D(1), largest_quantity=D("0.04"), part=PositionPart.OWN)
    resized = resize(intent, snapshot({BTC: position}), others=D(others))
    assert (None if resized is None else resized.quantity) == (None if expected is None else D(expected))


@pytest.mark.parametrize(
    ("position", "others", "expected"), [("0.04", "0.04", "0.1"), ("0", "0", "0.1"), ("-0.06", "-0.06", "0.1")]
)
def test_a_reversal_opens_beside_what_others_hold(position: str, others: str, expected: str) -> None:
    """Its target is of the webhook's own part, on whichever side the account is."""
    entry = entry_order("0.1", after_leg=0, target_quantity=D("-0.1"), part=PositionPart.OWN)
    resized = resize(entry, snapshot({BTC: position}), others=D(others))
    assert resized is not None
    assert resized.quantity == D(expected)


@pytest.mark.parametrize(
    ("held", "expected"),
    [(None, "0.5"), ("0.2", "0.7"), ("-0.1", "0.4"), ("-0.5", None), ("-0.9", None), ("-0.4999", None)],
)
def test_the_second_leg_of_a_reversal_trades_what_is_missing(held: str | None, expected: str | None) -> None:
    """Also after a partially filled close: the end is the target, never doubled (a remainder below 10 USDC is left)."""
    entry = entry_order("0.5", after_leg=0, target_quantity=D("-0.5"))
    left_open = max(D(held or 0), D(0))
    resized = resize(entry, snapshot({BTC: held} if held else None), left_open=left_open)
    assert (None if resized is None else resized.quantity) == (None if expected is None else D(expected))


def test_the_second_leg_does_not_trade_what_others_bought() -> None:
    """A close that filled left nothing open: what somebody else bought since does not enlarge the entry behind it."""
    entry = entry_order("0.5", after_leg=0, target_quantity=D("-0.5"))
    resized = resize(entry, snapshot({BTC: "0.6"}))
    assert resized is not None
    assert resized.quantity == D("0.5")


def test_an_entry_without_an_earlier_leg_never_grows() -> None:
    """An earlier order that failed must not enlarge this one."""
    entry = entry_order("0.5", Side.BUY, target_quantity=D(1))
    resized = resize(entry, snapshot())
    assert resized is not None
    assert resized.quantity == D("0.5")


def test_take_profits_keep_their_shares() -> None:
    """An entry of half the size has take-profits of half the size."""
    parts = (TakeProfit(D(60_000), D("0.2")), TakeProfit(D(55_000), D("0.2")))
    resized = resize(entry_order("0.4", after_leg=0, target_quantity=D("-0.2"), take_profits=parts), snapshot())
    assert resized is not None
    assert [part.quantity for part in resized.take_profits] == [D("0.1"), D("0.1")]
    whole = resize(
        entry_order("0.4", after_leg=0, target_quantity=D("-0.2"), take_profits=(TakeProfit(D(60_000), D("0.4")),)),
        snapshot(),
    )
    assert whole is not None
    assert whole.take_profits[0].quantity == whole.quantity


def test_an_entry_without_a_target_is_not_resized() -> None:
    """Its size is the trader's, whatever the position."""
    entry = entry_order("0.5", Side.BUY)
    assert resize(entry, snapshot({BTC: "3"})) is entry
