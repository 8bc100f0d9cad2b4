"""The positions table contains exactly the positions that the exchange reported."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from decimal import Decimal

from msgspec.structs import replace

from kekbridge.model import AccountSnapshot, MarginMode, Mark, Position
from kekbridge.store import positions
from tests.store.factories import NOW

BTC = Position(
    symbol="PERP_BTC_USDC",
    quantity=Decimal("-0.5"),
    average_open_price=Decimal("64999.123456789"),
    leverage=Decimal(10),
    liquidation_price=Decimal(99999),
    cost_position=Decimal("-32499.5"),
    unsettled_pnl=Decimal("-0.0000001"),
)
ETH = Position(symbol="PERP_ETH_USDC", quantity=Decimal(2), average_open_price=Decimal(1800), mark_price=Decimal(1801))


def test_the_last_look_is_stored_also_if_nothing_changed(connection: sqlite3.Connection) -> None:
    """`positions` shows when the exchange was last asked, not when a position last changed."""
    assert positions.seen_at(connection) is None
    for minutes in (0, 5):
        seen = replace(snapshot(BTC), taken_at=NOW + timedelta(minutes=minutes))
        positions.replace_all(connection, seen, now=seen.taken_at)
        assert positions.seen_at(connection) == seen.taken_at


def snapshot(*cross: Position, others: tuple[Position, ...] = ()) -> AccountSnapshot:
    return AccountSnapshot(
        taken_at=NOW,
        instruments={},
        marks={"PERP_BTC_USDC": Mark(Decimal(65000), NOW), "PERP_ETH_USDC": Mark(Decimal(1), NOW)},
        positions={position.symbol: position for position in cross},
        account_value=Decimal(1),
        free_collateral=Decimal(1),
        other_positions=others,
    )


def test_table_equals_the_snapshot(connection: sqlite3.Connection) -> None:
    """Closed positions are removed, flat ones not listed, marks filled in, isolated ones kept beside cross ones."""
    isolated = replace(BTC, margin_mode=MarginMode.ISOLATED, quantity=Decimal(1), mark_price=Decimal(7))
    positions.replace_all(connection, snapshot(BTC, ETH, others=(isolated,)), now=NOW)
    assert positions.list_all(connection) == (
        replace(BTC, mark_price=Decimal(65000), updated_at=NOW),
        replace(isolated, updated_at=NOW),
        replace(ETH, updated_at=NOW),
    )
    later = NOW + timedelta(seconds=1)
    flat = replace(ETH, quantity=Decimal(0))
    positions.replace_all(connection, snapshot(BTC, flat), now=later)
    assert positions.list_all(connection) == (replace(BTC, mark_price=Decimal(65000), updated_at=later),)


def test_position_keeps_its_own_time(connection: sqlite3.Connection) -> None:
    """A position with a time of its own is stored with that time, not with the time of writing."""
    earlier = NOW - timedelta(hours=1)
    positions.replace_all(connection, snapshot(BTC, replace(ETH, updated_at=earlier)), now=NOW)
    assert [one.updated_at for one in positions.list_all(connection)] == [NOW, earlier]
