"""Statistics from facts: sums that add up, rates without data, percentiles, sparklines."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from kekbridge.model import OrderStatus
from kekbridge.model.statistics import Execution, Facts, Tally, build_report, group_of, percentile, sparkline

STATUSES = [*(status.value for status in OrderStatus), "refused", "ignored", "done", "failed", "alert_duplicate"]


@given(st.lists(st.builds(Tally, st.sampled_from(STATUSES), st.just(""), st.integers(0, 10**6))))
def test_every_alert_is_in_exactly_one_group(tallies: list[Tally]) -> None:
    """received = refused + duplicate + expired + done + unknown + waiting, for any mix of statuses."""
    counts = build_report(Facts(since=None, alerts=tallies)).counts
    parts = (counts.refused, counts.duplicate, counts.expired, counts.done, counts.unknown, counts.waiting)
    assert counts.received == sum(parts) == sum(one.count for one in tallies)


def test_statuses_are_grouped() -> None:
    """Denied, rejected and conflicting alerts are refused; an alert whose order rests is done."""
    assert {group_of(name) for name in ("refused", "denied", "rejected", "failed", "alert_conflict")} == {"refused"}
    assert {group_of(name) for name in ("filled", "accepted", "canceled", "ignored")} == {"done"}
    assert {group_of(name) for name in ("queued", "submitting")} == {"waiting"}


def test_refusals_are_counted_by_code() -> None:
    """Unauthenticated requests count as received and refused; the most frequent code comes first."""
    facts = Facts(
        since=None,
        alerts=[Tally("denied", "daily_limit", 2), Tally("alert_conflict", "", 1), Tally("filled", "", 7)],
        refusals=[Tally("refused", "unknown_key", 5)],
    )
    found = build_report(facts)
    assert found.counts.by_code == {"unknown_key": 5, "daily_limit": 2, "alert_id_reused": 1}
    assert (found.counts.received, found.counts.refused) == (15, 8)
    assert (found.success_rate, found.error_rate) == (Decimal(7) / 15, Decimal(8) / 15)


def test_rates_without_data_are_none() -> None:
    """An empty history has no rates, rather than rates of zero."""
    found = build_report(Facts(since=None))
    assert (found.success_rate, found.fill_rate, found.win_rate, found.leverage, found.slippage_mark) == (None,) * 5


def test_money_is_exact() -> None:
    """Net P&L is realized P&L minus fees and funding, to the last digit."""
    facts = Facts(
        since=None,
        realized=Decimal("10.00000001"),
        fees=Decimal("0.1"),
        funding=Decimal("-0.00000001"),
        closings=4,
        wins=3,
    )
    found = build_report(facts)
    assert found.net_pnl == Decimal("9.90000002")
    assert found.win_rate == Decimal("0.75")


def test_slippage_has_the_sign_of_the_side() -> None:
    """Buying above and selling below the expected price are both positive; an alert without a price is left out."""
    bought = Execution(sign=1, average_price=Decimal(101), signal=Decimal(100), mark=Decimal(101))
    sold = Execution(sign=-1, average_price=Decimal(98), signal=None, mark=Decimal(100))
    found = build_report(Facts(since=None, executions=[bought, sold]))
    assert found.slippage_signal is not None
    assert found.slippage_mark is not None
    assert (found.slippage_signal.count, found.slippage_signal.mean) == (1, Decimal("0.01"))
    assert (found.slippage_mark.mean, found.slippage_mark.worst) == (Decimal("0.01"), Decimal("0.02"))


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 100))
def test_percentiles_are_measured_values(values: list[float], percent: int) -> None:
    """At least `percent` % of the values are not above it, and fewer are below it."""
    ordered = sorted(values)
    found = percentile(ordered, percent)
    assert sum(1 for value in ordered if value <= found) * 100 >= percent * len(ordered)
    assert sum(1 for value in ordered if value < found) * 100 < percent * len(ordered)


def test_sparkline_scales_from_minimum_to_maximum() -> None:
    """Minimum and maximum are the lowest and highest bar; constant values are flat, and the width is kept."""
    assert sparkline([1, 2, 8], 10) == "▁▂█"
    assert sparkline([0, 0], 10) == "▁▁"
    assert len(sparkline(list(range(1000)), 40)) == 40
    assert sparkline([], 5) == ""
