"""The worked numbers of orderly-api.md sections 9 and 10."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.paper import money
from kekbridge.paper.instruments import PaperInstrument, load_instruments
from kekbridge.paper.models import PaperPosition
from kekbridge.paper.settings import PaperSettings
from tests.paper.offline_exchange import OfflineExchange

D = Decimal
BTC = "PERP_BTC_USDC"


@pytest.fixture
def btc() -> PaperInstrument:
    """The BTC row of section 5."""
    return load_instruments(PaperSettings(prices="static"))[BTC]


def test_example_position_of_section_9() -> None:
    """q −0.5 at 2500.1, fee 0.56: cost −1249.49, settle price 2498.98, unsettled 4.49 at 2490."""
    position = PaperPosition(BTC, "CROSS")
    money.apply_fill(position, D("-0.5"), D("2500.1"), D("0.56"), D(0))
    assert position.cost == D("-1249.49")
    assert position.cost / position.qty == D("2498.98")
    assert money.unsettled_pnl(position, D(2490), D(0)) == D("4.49")


def test_fee_example_of_section_6() -> None:
    """0.2 at 2500.1 with 4.5 bps is 0.225."""
    assert money.trading_fee(D("2500.1"), D("0.2"), D("4.5")) == D("0.225009")


def test_funding_comes_first() -> None:
    """A fill charges funding on the quantity held before it."""
    position = PaperPosition(BTC, "CROSS", last_funding=D(500))
    money.apply_fill(position, D(2), D(100), D(0), D(500))
    money.apply_fill(position, D(1), D(100), D(0), D("500.5"))
    assert (position.cost, position.funding, position.last_funding) == (D(301), D(1), D("500.5"))


def test_rates(btc: PaperInstrument) -> None:
    """IMR and MMR: leverage, base rate and size factor, whichever is largest."""
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
def test_at_the_liquidation_price_the_margin_is_just_gone(qty: Decimal, mark: Decimal, collateral: Decimal) -> None:
    """est_liq_price solves collateral = MMR × notional for a single position."""
    rate = D("0.006")
    price = money.liquidation_price(mark, qty, rate, collateral, abs(qty) * mark * rate)
    if price > 0:
        left = collateral + qty * (price - mark)
        assert abs(left - rate * abs(qty) * price) < D("0.000001")


def test_liquidation_accounts_for_every_usdc(tmp_path: Path) -> None:
    """Balance, costs, liquidation fees and the insurance fund add up; the account never ends below zero."""
    offline = OfflineExchange(tmp_path / "paper.db", PaperSettings(prices="static", balance=D(10_000), leverage=20))
    offline.order(order_quantity="2")
    offline.run()
    offline.price(BTC, "55000")
    state = offline.exchange.state
    (event,) = [e for e in offline.journal.events() if e["event"] == "liquidation"]
    (handed,) = event["positions"]
    assert D(handed["position_qty"]) == 2
    assert offline.held(BTC) == 0
    fees = D(handed["abs_liquidator_fee"]) + D(handed["abs_insurance_fund_fee"])
    lost = 10_000 + 2 * (D(55000) - 65000) - D("58.5") - fees
    value = offline.exchange.portfolio.margin().account_value
    assert lost < 0
    assert value == 0
    (entry,) = state.history["liquidations"]
    assert json.loads(entry.body, parse_float=D)["transfer_amount_to_insurance_fund"] == lost
    assert state.account.frozen_until > offline.now
    offline.journal.close()
