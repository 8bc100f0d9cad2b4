"""Running totals of trades equal the sum of the trades themselves."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from kekbridge.paper.models import PaperTrade
from kekbridge.paper.positions import CROSS
from kekbridge.paper.traded import TradedSince

_AMOUNTS = st.decimals(min_value=-1000, max_value=1000, places=4)


def _trade(number: int, at: int, quantity: Decimal, fee: Decimal, realized: Decimal) -> PaperTrade:
    return PaperTrade(
        trade_id=number,
        order_id=number,
        symbol="PERP_BTC_USDC",
        side="BUY",
        price=Decimal("65000.5"),
        quantity=quantity,
        fee=fee,
        is_maker=False,
        realized=realized,
        at=at,
        match_id=number,
        margin_mode=CROSS,
    )


@given(
    times=st.lists(st.integers(0, 50), max_size=30).map(sorted),
    since=st.integers(-1, 52),
    data=st.data(),
)
def test_the_totals_since_a_time_are_the_sums_of_the_trades_since_it(
    times: list[int], since: int, data: st.DataObject
) -> None:
    """A trade at exactly that time counts; none leaves zeros."""
    trades = [
        _trade(number, at, *(data.draw(_AMOUNTS) for _ in ("quantity", "fee", "realized")))
        for number, at in enumerate(times)
    ]
    traded = TradedSince()
    for trade in trades:
        traded.add(trade)
    found, inside = traded.since(since), [trade for trade in trades if trade.at >= since]
    assert found.quantity == sum(trade.quantity for trade in inside)
    assert found.amount == sum(trade.quantity * trade.price for trade in inside)
    assert found.fees == sum(trade.fee for trade in inside)
    assert found.realized == sum(trade.realized for trade in inside)


def test_a_clock_that_is_set_back_loses_no_trade() -> None:
    """A trade that is dated before an earlier one counts with that."""
    traded = TradedSince()
    for number, at in enumerate((10, 5, 12)):
        traded.add(_trade(number, at, Decimal(1), Decimal(0), Decimal(0)))
    assert [traded.since(time).quantity for time in (0, 10, 11, 13)] == [3, 3, 1, 0]
