"""Money arithmetic: the worked examples of docs/internals/orderly.md, sections 6, 9 and 10."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.paper import money
from kekbridge.paper.instruments import PaperInstrument, load_instruments
from kekbridge.paper.models import PaperPosition
from kekbridge.paper.settings import PaperSettings

D = Decimal
BTC = "PERP_BTC_USDC"


@pytest.fixture
def btc() -> PaperInstrument:
    """The trading rules of PERP_BTC_USDC."""
    return load_instruments(PaperSettings(prices="static"))[BTC]


def test_short_position_example() -> None:
    """−0.5 at 2500.1 with fee 0.56: cost −1249.49, settle price 2498.98, unsettled PnL 4.49 at 2490."""
    position = PaperPosition(BTC, "CROSS")
    money.apply_fill(position, D("-0.5"), D("2500.1"), D("0.56"), D(0))
    assert position.cost == D("-1249.49")
    assert position.cost / position.qty == D("2498.98")
    assert money.unsettled_pnl(position, D(2490), D(0)) == D("4.49")


def test_fee_example() -> None:
    """The fee of 0.2 at 2500.1 with 4.5 bps is 0.225009 USDC."""
    assert money.trading_fee(D("2500.1"), D("0.2"), D("4.5")) == D("0.225009")


def test_fill_charges_funding_on_the_quantity_before_it() -> None:
    """A fill charges funding on the quantity held before it."""
    position = PaperPosition(BTC, "CROSS", last_funding=D(500))
    money.apply_fill(position, D(2), D(100), D(0), D(500))
    money.apply_fill(position, D(1), D(100), D(0), D("500.5"))
    assert (position.cost, position.funding, position.last_funding) == (D(301), D(1), D("500.5"))


def test_margin_rates(btc: PaperInstrument) -> None:
    """The margin rate is the largest of 1/leverage, base rate and size factor."""
    assert money.initial_margin_rate(btc, 10, D(1000)) == D("0.1")
    assert money.initial_margin_rate(btc, 100, D(1000)) == D("0.01")
    assert money.maintenance_margin_rate(btc, D(0)) == D("0.006")
    large = money.initial_margin_rate(btc, 100, D(10_000_000))
    assert large == btc.imr_factor * D(10_000_000) ** D("0.8")
    assert money.max_leverage(btc, D(10_000_000), 100) == int(1 / large)
    limit = money.max_notional(btc, 20)
    assert money.initial_margin_rate(btc, 20, limit) == D("0.05")
    assert money.initial_margin_rate(btc, 20, limit * D("1.001")) > D("0.05")
    assert money.max_leverage(btc, limit * D("0.999"), 100) == 20
    assert money.max_leverage(btc, limit * D("1.001"), 100) == 19


@given(
    qty=st.decimals("-50", "50", places=3).filter(bool),
    mark=st.decimals("10", "100000", places=2),
    collateral=st.decimals("1", "100000", places=2),
)
def test_margin_is_used_up_at_the_liquidation_price(qty: Decimal, mark: Decimal, collateral: Decimal) -> None:
    """At est_liq_price the collateral of a single position equals its maintenance margin."""
    rate = D("0.006")
    price = money.liquidation_price(mark, qty, rate, collateral, abs(qty) * mark * rate)
    if price > 0:
        left = collateral + qty * (price - mark)
        assert abs(left - rate * abs(qty) * price) < D("0.000001")
