"""Liquidations and auto-deleveraging as fills: each base unit and each USDC of a position's history is counted once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kekbridge.exchange.base import ClosedPosition, LiquidatedPart
from kekbridge.execution import takeovers
from kekbridge.model import Fill, MarginMode, Side

D = Decimal
OPENED = datetime(2026, 3, 10, 9, tzinfo=UTC)
SECOND = timedelta(seconds=1)
BTC = "PERP_BTC_USDC"
quantities = st.decimals(min_value="0.001", max_value="100", places=3)
prices = st.decimals(min_value="1", max_value="100000", places=2)


def line(kind: str, closed: Decimal, average: Decimal, realized: Decimal, *, is_long: bool = True) -> ClosedPosition:
    return ClosedPosition(
        id="7",
        kind=kind,
        symbol=BTC,
        margin_mode=MarginMode.CROSS,
        is_long=is_long,
        quantity=closed,
        average_close=average,
        realized_pnl=realized,
        opened_at=OPENED,
        closed_at=OPENED + 60 * SECOND,
    )


def closing(price: Decimal, quantity: Decimal, entry: Decimal, second: int, *, is_long: bool = True) -> Fill:
    sign = 1 if is_long else -1
    return Fill(
        trade_id=f"t{second}",
        order_id=f"o{second}",
        client_order_id=None,
        symbol=BTC,
        side=Side.SELL if is_long else Side.BUY,
        price=price,
        quantity=quantity,
        fee=D(0),
        realized_pnl=quantity * (price - entry) * sign,
        is_maker=False,
        executed_at=OPENED + second * SECOND,
    )


@given(entry=prices, parts=st.lists(st.tuples(quantities, prices), min_size=1, max_size=4), is_long=st.booleans())
def test_deleveraging_takes_what_the_trades_leave(
    entry: Decimal, parts: list[tuple[Decimal, Decimal]], is_long: bool
) -> None:
    """The last part was taken over, the others were trades: its size and result are exact, and once it is known nothing is left."""
    fills = [closing(price, quantity, entry, number, is_long=is_long) for number, (quantity, price) in enumerate(parts)]
    *trades, taken = fills
    total = sum((each.quantity for each in fills), D(0))
    average = sum((each.quantity * each.price for each in fills), D(0)) / total
    realized = sum((each.realized_pnl or D(0) for each in fills), D(0))
    closed = line(takeovers.ADL, total, average, realized, is_long=is_long)
    fill = takeovers.adl_fill(closed, trades)
    assert fill is not None
    assert (fill.side, fill.quantity, fill.realized_pnl) == (taken.side, taken.quantity, taken.realized_pnl)
    assert abs(fill.price - taken.price) < D("0.0001")
    assert takeovers.is_takeover(fill)
    assert takeovers.adl_fill(closed, [*trades, fill]) is None


@given(entry=prices, quantity=quantities, price=prices, is_long=st.booleans())
def test_a_liquidated_part_realizes_the_same_by_average_and_by_history(
    entry: Decimal, quantity: Decimal, price: Decimal, is_long: bool
) -> None:
    """While the position is open its average price says it, afterwards the line of its history."""
    sign = 1 if is_long else -1
    part = LiquidatedPart("3", BTC, quantity * sign, price, D(1), OPENED + 30 * SECOND)
    expected = quantity * (price - entry) * sign
    assert takeovers.realized_at_average(part, entry) == expected
    closed = line("liquidated", quantity, price, expected, is_long=is_long)
    assert takeovers.line_of(part, [closed]) is closed
    assert takeovers.realized_of_line(part, closed, []) == expected
    fill = takeovers.liquidation_fill(part, expected, MarginMode.CROSS)
    assert (fill.side.sign, fill.quantity, fill.fee) == (-sign, quantity, D(1))


def test_a_line_explained_by_trades_leaves_nothing_to_a_liquidation() -> None:
    """The exchange has not written the rest of the history yet: the result is not known, rather than wrong."""
    part = LiquidatedPart("3", BTC, D("0.5"), D(64000), D(1), OPENED + 30 * SECOND)
    closed = line("normal", D("0.2"), D(66000), D(200))
    assert takeovers.realized_of_line(part, closed, [closing(D(66000), D("0.2"), D(65000), 10)]) is None


def test_another_position_is_no_line_of_a_liquidation() -> None:
    """Other side, other market, or closed long before."""
    part = LiquidatedPart("3", BTC, D("0.5"), D(64000), D(1), OPENED + timedelta(minutes=5))
    early = line("normal", D("0.5"), D(64000), D(-500))
    short = line("liquidated", D("0.5"), D(64000), D(-500), is_long=False)
    assert takeovers.line_of(part, [early, short]) is None


def test_the_isolated_position_beside_a_cross_one() -> None:
    """Both long in one market: the line that a liquidation closed is its own, and trades of the other position explain nothing of it."""
    part = LiquidatedPart("3", BTC, D("0.5"), D(64000), D(1), OPENED + 60 * SECOND)
    cross = line("normal", D("0.5"), D(64000), D(-500))
    isolated = replace(line("liquidated", D("0.5"), D(64000), D(-700)), margin_mode=MarginMode.ISOLATED)
    for lines in ([cross, isolated], [isolated, cross]):
        assert takeovers.line_of(part, lines) is isolated
    trade = closing(D(64000), D("0.5"), D(65000), 30)
    assert takeovers.realized_of_line(part, isolated, [trade]) == -700
    assert takeovers.realized_of_line(part, cross, [trade]) is None
