"""Statistics from facts: sums that add up, rates without data, percentiles, sparklines."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kekbridge.model import OrderStatus
from kekbridge.model.statistics import (
    Execution,
    Facts,
    Reason,
    ResultLine,
    Tally,
    build_report,
    divide,
    group_of,
    latency_histogram,
    percentile,
    reasons_of,
    slippage_histogram,
    sparkline,
    total_of,
)

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


@given(st.lists(st.floats(0, 1e7)))
def test_every_value_is_in_its_bin(values: list[float]) -> None:
    """Bins meet without a gap, begin and end with a value, and hold exactly the values between their bounds."""
    bins = latency_histogram(values)
    assert sum(one.count for one in bins) == len(values)
    for one in bins:
        low, high = one.low or 0.0, float("inf") if one.high is None else one.high
        assert one.count == sum(1 for value in values if low <= value < high)
    assert all(left.high == right.low for left, right in pairwise(bins))
    assert not bins or (bins[0].count > 0 < bins[-1].count)


def test_slippage_is_counted_in_basis_points() -> None:
    """A price 0.3 % worse is in the bin of 20 to 50 bp, one better below zero; an alert without a price is left out."""
    worse = Execution(sign=1, average_price=Decimal("100.3"), signal=Decimal(100), mark=Decimal("100.3"))
    better = Execution(sign=-1, average_price=Decimal("100.3"), signal=None, mark=Decimal(100))
    facts = Facts(since=None, executions=[worse, better])
    (only,) = slippage_histogram(facts, against="signal")
    assert (only.low, only.high, only.count) == (20.0, 50.0, 1)
    bins = slippage_histogram(facts, against="mark")
    assert ((bins[0].low, bins[0].high, bins[0].count), (bins[-1].low, bins[-1].count)) == ((-50.0, -20.0, 1), (0.0, 1))


def test_reasons_name_the_outcome_and_the_code() -> None:
    """Refused, denied by a rule, rejected by the exchange and unknown stay apart; done and duplicate alerts are no failure."""
    facts = Facts(
        since=None,
        alerts=[
            Tally("denied", "daily_limit", 4),
            Tally("rejected", "insufficient_margin", 2),
            Tally("unknown", "", 1),
            Tally("alert_conflict", "", 1),
            Tally("filled", "", 90),
            Tally("alert_duplicate", "", 9),
            Tally("refused", "symbol_unknown", 0),
        ],
        refusals=[Tally("refused", "api_key_unknown", 4)],
    )
    assert reasons_of(facts) == (
        Reason("denied", "daily_limit", 4),
        Reason("refused", "api_key_unknown", 4),
        Reason("rejected", "insufficient_margin", 2),
        Reason("refused", "alert_id_reused", 1),
        Reason("unknown", "unknown", 1),
    )


def test_lines_add_up_exactly() -> None:
    """Lines of one webhook are one part, net of fees and funding to the last digit; the best is first, what came to nothing is left out."""
    tiny, zero = Decimal("0.000000000000000000000000000000001"), Decimal(0)
    lines = [
        ResultLine("2026-01-16", "1", "BTC", Decimal(10**9), zero, zero, 1, 1),
        ResultLine("2026-01-15", "2", "ETH", zero, Decimal(1), zero, 0, 0),
        ResultLine("2026-01-16", "1", "BTC", tiny, zero, Decimal(2), 1, 0),
        ResultLine("2026-01-17", "3", "SOL", zero, zero, zero, 0, 0),
    ]
    found = divide(lines, {"1": "one", "2": "two", "3": "three"})
    assert [part.name for part in found.by_webhook] == ["one", "two"]
    assert [part.name for part in found.by_day] == ["2026-01-15", "2026-01-16"]
    best, worst = found.by_market
    assert (best.net_pnl, worst.net_pnl) == (Decimal("999999998.000000000000000000000000000000001"), Decimal(-1))
    assert (best.win_rate, worst.win_rate) == (Decimal("0.5"), None)
    assert found.total == total_of(lines)
    assert found.total.net_pnl == Decimal("999999997.000000000000000000000000000000001")
