"""Drawdown adjusted for deposits and withdrawals, and which denials are breaches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.model import ZERO, EquityMark, Flow, Limits, Verdict
from kekbridge.risk.drawdown import breach_of, drawdown_of, follow_peak, next_midnight

D = Decimal
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
money = st.decimals(min_value=100, max_value=10**6, places=2)


def values(*amounts: str) -> list[tuple[datetime, Decimal]]:
    """Equity per minute after a base at noon."""
    return [(NOON + (number + 1) * MINUTE, D(amount)) for number, amount in enumerate(amounts)]


def base(amount: str = "1000", peak: str | None = None) -> EquityMark:
    return EquityMark(NOON, D(amount), ZERO, D(peak or amount))


def peak_after(*amounts: str, flows: tuple[Flow, ...] = (), start: EquityMark | None = None) -> Decimal:
    return follow_peak(start or base(), None, values(*amounts), flows)[-1].peak


def test_the_peak_is_the_highest_value() -> None:
    """It follows equity up and stays on the way down."""
    assert peak_after("1100", "1050", "900") == 1100


@pytest.mark.parametrize("late", [timedelta(0), timedelta(seconds=90), -timedelta(seconds=50)])
def test_a_withdrawal_is_no_loss(late: timedelta) -> None:
    """Half the equity is withdrawn: the drawdown in percent is unchanged, also if the clocks differ."""
    withdrawal = Flow(NOON + 2 * MINUTE + late, D(-450))
    assert drawdown_of(peak_after("900", "450", "450", flows=(withdrawal,)), D(450)) == D("0.1")


def test_a_deposit_is_no_gain() -> None:
    """Equity 10 % below the peak is doubled by a deposit: still 10 % below the peak."""
    deposit = Flow(NOON + 2 * MINUTE, D(900))
    assert drawdown_of(peak_after("900", "1800", flows=(deposit,)), D(1800)) == D("0.1")


def test_a_flow_included_in_the_base_is_not_counted_twice() -> None:
    """The equity change of the transfer is at the base, whose peak includes it."""
    start = EquityMark(NOON, D(1000), D(500), D(1200))
    deposit = Flow(NOON - timedelta(seconds=5), D(500))
    assert follow_peak(start, D(500), values("1010", "1000"), (deposit,))[-1].peak == 1200


def test_withdrawing_everything_resets_the_peak() -> None:
    """An emptied account is not a drawdown of 100 %."""
    withdrawal = Flow(NOON + MINUTE, D(-1000))
    assert peak_after("0", "200", flows=(withdrawal, Flow(NOON + 2 * MINUTE, D(200)))) == 200


@given(money, st.lists(money, min_size=1, max_size=8))
def test_the_peak_is_never_below_equity(start: Decimal, amounts: list[Decimal]) -> None:
    """Without transfers it is the largest value seen."""
    marks = follow_peak(base(str(start)), None, values(*(str(one) for one in amounts)), ())
    assert marks[-1].peak == max(start, *amounts)


@given(money, money, st.decimals(min_value="0.1", max_value=10, places=2))
def test_a_flow_keeps_the_drawdown(peak: Decimal, value: Decimal, factor: Decimal) -> None:
    """A transfer of any size leaves the drawdown unchanged, up to the rounding of the division."""
    start = base(str(value), str(max(peak, value)))
    after = value * factor
    flow = Flow(NOON + MINUTE, after - value)
    mark = follow_peak(start, None, [(NOON + MINUTE, after)], (flow,) if flow.amount else ())[-1]
    assert abs(drawdown_of(mark.peak, after) - drawdown_of(start.peak, value)) < D("1e-20")


def denial(rule: str) -> Verdict:
    return Verdict(rule=rule, scope="webhook", passed=False, found="found", limit="limit")


@pytest.mark.parametrize("rule", ["daily_limit", "daily_orders", "daily_loss"])
def test_a_daily_limit_closes_until_midnight(rule: str) -> None:
    """The scope stays closed until 00:00 UTC."""
    breach = breach_of(denial(rule), notional=D(10), limits=Limits(daily_limit=D(100)), now=NOON)
    assert breach is not None
    assert (breach.scope, breach.until) == ("webhook", datetime(2026, 3, 11, tzinfo=UTC))


def test_a_drawdown_closes_until_resume() -> None:
    """It does not reset by itself."""
    breach = breach_of(denial("drawdown"), notional=D(10), limits=Limits(), now=NOON)
    assert breach is not None
    assert breach.until is None


def test_one_order_over_the_whole_daily_limit_closes_nothing() -> None:
    """It is denied for its size; smaller orders must still pass."""
    assert breach_of(denial("daily_limit"), notional=D(101), limits=Limits(daily_limit=D(100)), now=NOON) is None
    assert breach_of(denial("order_too_large"), notional=D(1), limits=Limits(), now=NOON) is None


def test_midnight_is_utc_in_any_time_zone() -> None:
    """Half past midnight in Tokyo is still the day before in UTC."""
    tokyo = datetime.fromisoformat("2026-03-11T00:30:00+09:00")
    assert next_midnight(tokyo) == datetime(2026, 3, 11, tzinfo=UTC)
