"""What is open and whose it is, read from the executions."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import assume, given
from hypothesis import strategies as st

from kekbridge.model import Fill, Side
from kekbridge.risk.exposure import was_left
from tests.trading import BTC

D = Decimal


@given(
    st.sampled_from(Side),
    st.integers(1, 3),
    st.lists(st.tuples(st.booleans(), st.integers(1, 3)), max_size=6),
)
def test_whether_a_position_was_left_is_read_from_the_executions(
    side: Side, entered: int, fills: list[tuple[bool, int]]
) -> None:
    """Left means: flat or on the other side at some moment since the entry."""
    executions, open_now, was_flat = [], entered, False
    for number, (is_more, size) in enumerate(fills):
        executions.append(_fill(number, side if is_more else side.opposite, size))
        open_now += size if is_more else -size
        was_flat = was_flat or open_now <= 0
    assume(open_now > 0)
    assert was_left(side, D(open_now), executions) is was_flat


def test_a_fill_that_the_position_does_not_show_yet_proves_nothing() -> None:
    """The account still shows the entry alone: taking the new fill off it must not look as if the entry had been closed."""
    assert not was_left(Side.BUY, D(1), [_fill(1, Side.BUY, 1)])


def _fill(number: int, side: Side, size: int) -> Fill:
    moment = datetime(2026, 1, 15, 10, 30, number, tzinfo=UTC)
    return Fill(
        trade_id=str(number), order_id="1", client_order_id=None, symbol=BTC, side=side, price=D(65000), quantity=D(size),
        fee=D(0), realized_pnl=None, is_maker=False, executed_at=moment,
    )  # fmt: skip
