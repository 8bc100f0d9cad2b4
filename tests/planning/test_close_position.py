"""Closing a position: reduce-only market orders that the exchange accepts, in the position's own margin mode, and dust by name."""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from kekbridge.model import MarginMode, OrderType, Position, Side
from kekbridge.planning.close_position import close_position
from tests.trading import BTC, PEPE, D, snapshot


def position(quantity: str, symbol: str = BTC, mode: MarginMode = MarginMode.CROSS) -> Position:
    return Position(symbol, D(quantity), D(65_000), mode)


@pytest.mark.parametrize(
    ("held", "wanted", "sizes", "dust"),
    [
        ("18", None, ["10", "8"], None),
        ("-18", "12", ["10", "2"], None),
        ("0.5", "0.2", ["0.2"], None),
        ("0.5", "3", ["0.5"], None),
        ("0.500004", None, ["0.5"], "0.000004"),
        ("-0.000004", None, [], "-0.000004"),
    ],
)
def test_sizes_and_dust(held: str, wanted: str | None, sizes: list[str], dust: str | None) -> None:
    """Split at base_max, never more than is held; what is below base_min is dust, signed as the position."""
    closing = close_position(position(held), snapshot(), quantity=None if wanted is None else D(wanted))
    assert [intent.quantity for intent in closing.intents] == [D(size) for size in sizes]
    assert (closing.dust and closing.dust.quantity) == (None if dust is None else D(dust))
    for intent in closing.intents:
        assert intent.side is (Side.SELL if D(held) > 0 else Side.BUY)
        assert (intent.reduce_only, intent.order_type) == (True, OrderType.MARKET)


def test_an_isolated_position_is_closed_as_isolated() -> None:
    """A cross order would open a second position beside it, or be refused."""
    closing = close_position(position("2", mode=MarginMode.ISOLATED), snapshot())
    assert [intent.margin_mode for intent in closing.intents] == [MarginMode.ISOLATED]


def test_dust_is_named() -> None:
    """Market, quantity, and that it is below the minimum."""
    dust = close_position(position("4", PEPE, MarginMode.ISOLATED), snapshot()).dust
    assert dust is not None
    assert dust.describe() == "4 1000PEPE isolated is dust: below 10 1000PEPE, the exchange's smallest order"


def test_a_market_without_rules_is_closed_by_its_exact_size() -> None:
    """Of a market that is not listed any more the exchange's own answer decides."""
    bare = replace(snapshot(), instruments={})
    closing = close_position(position("0.1234567"), bare)
    assert ([intent.quantity for intent in closing.intents], closing.dust) == ([Decimal("0.1234567")], None)
