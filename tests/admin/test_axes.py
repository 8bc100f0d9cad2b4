"""Axes: round ticks that cover what is shown, labels that tell them apart, days gathered without losing any."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.admin.axes import (
    amount_labels,
    gather_days,
    round_ticks,
    share_between,
    time_labels,
    time_share,
    time_ticks,
)
from kekbridge.formatting import EXACT

AMOUNTS = st.decimals(allow_nan=False, allow_infinity=False, min_value=Decimal("-1e30"), max_value=Decimal("1e30"))
TIMES = st.integers(0, 7_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


@given(AMOUNTS, AMOUNTS, st.integers(3, 12))
def test_amount_ticks_are_round_and_cover_both_values(one: Decimal, other: Decimal, most: int) -> None:
    """Equal steps of 1, 2 or 5 times a power of ten, multiples of the step, from at or below the lower to at or above the higher."""
    ticks = round_ticks(one, other, most=most)
    assert 2 <= len(ticks) <= most
    assert ticks[0] <= min(one, other) <= max(one, other) <= ticks[-1]
    steps = {EXACT.subtract(later, earlier).normalize(EXACT) for earlier, later in pairwise(ticks)}
    (step,) = steps
    assert step.as_tuple().digits in ((1,), (2,), (5,))
    assert all(EXACT.remainder(tick, step) == 0 for tick in ticks)


@given(AMOUNTS, AMOUNTS)
def test_amount_labels_differ(one: Decimal, other: Decimal) -> None:
    """No two ticks of one axis have the same label, and those of usual amounts are short."""
    labels = amount_labels(round_ticks(one, other))
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        ("-3.2", "11", ("-5", "0", "5", "10", "15")),
        ("0.0012", "0.0019", ("0.0012", "0.0014", "0.0016", "0.0018", "0.0020")),
        ("99000", "104000", ("99,000", "100,000", "101,000", "102,000", "103,000", "104,000")),
        ("0", "12500000", ("0", "5M", "10M", "15M")),
        ("100000.01", "100000.03", ("100,000.010", "100,000.015", "100,000.020", "100,000.025", "100,000.030")),
        ("-1e21", "1e21", ("-1.00e21", "-5.00e20", "0", "5.00e20", "1.00e21")),
        ("7", "7", ("6.0", "6.5", "7.0", "7.5", "8.0")),
        ("0", "0", ("-1.0", "-0.5", "0", "0.5", "1.0")),
    ],
)
def test_labels_of_usual_amounts(low: str, high: str, labels: tuple[str, ...]) -> None:
    """As people write them: equal decimals, separators of thousands, no exponent where it can be avoided."""
    assert amount_labels(round_ticks(Decimal(low), Decimal(high))) == labels


@given(TIMES, st.timedeltas(timedelta(seconds=1), timedelta(days=40_000)), st.integers(2, 10))
def test_time_ticks_are_inside_and_increasing(start: datetime, length: timedelta, most: int) -> None:
    """At most so many, in order, none outside the period; no two of one axis have the same label unless a day apart."""
    ticks = time_ticks(start, start + length, most=most)
    assert len(ticks) <= most
    assert all(start <= tick <= start + length for tick in ticks)
    assert all(earlier < later for earlier, later in pairwise(ticks))
    assert all(left != right for left, right in pairwise(time_labels(ticks)))


@given(TIMES, st.timedeltas(timedelta(minutes=1), timedelta(days=4000)))
def test_an_axis_of_time_has_enough_ticks(start: datetime, length: timedelta) -> None:
    """However long the period, at least two ticks, so that a scale can be read."""
    assert len(time_ticks(start, start + length)) >= 2


@pytest.mark.parametrize(
    ("start", "hours", "labels"),
    [
        ("2026-01-15T22:30", 4, ("23:00", "01-16", "01:00", "02:00")),
        ("2026-01-15T10:00", 24, ("12:00", "18:00", "01-16", "06:00")),
        ("2026-01-15T10:00", 7 * 24, ("01-16", "01-17", "01-18", "01-19", "01-20", "01-21", "01-22")),
        ("2026-01-15T10:00", 30 * 24, ("01-19", "01-26", "02-02", "02-09")),
        ("2025-11-20T10:00", 200 * 24, ("2025-12", "2026-01", "2026-02", "2026-03", "2026-04", "2026-05", "2026-06")),
    ],
)
def test_times_are_those_of_a_calendar(start: str, hours: int, labels: tuple[str, ...]) -> None:
    """Full hours, days, Mondays and months of UTC."""
    begin = datetime.fromisoformat(start).replace(tzinfo=UTC)
    assert time_labels(time_ticks(begin, begin + timedelta(hours=hours))) == labels


@given(AMOUNTS, AMOUNTS, AMOUNTS)
def test_shares_are_between_zero_and_one(value: Decimal, low: Decimal, high: Decimal) -> None:
    """Whatever the values, also outside or with an empty range."""
    assert 0 <= share_between(value, low, high) <= 1
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert [time_share(now + timedelta(hours=hour), now, now + timedelta(hours=4)) for hour in (-1, 1, 9)] == [
        0,
        0.25,
        1,
    ]
    assert time_share(now, now, now) == 0.5


@given(
    st.dictionaries(st.dates(date(2000, 1, 1), date(2060, 1, 1)), st.decimals(-1000, 1000, places=6), max_size=20),
    st.integers(5, 80),
)
def test_gathered_days_lose_nothing(days: dict[date, Decimal], most: int) -> None:
    """The sum stays, periods are consecutive and not more than asked for (unless years), and each day is in its own."""
    unit, found = gather_days(days, most=most)
    assert sum((value for _, value in found), Decimal(0)) == sum(days.values(), Decimal(0))
    assert all(earlier < later for (earlier, _), (later, _) in pairwise(found))
    assert len(found) <= most or unit == "year"
    assert bool(found) == bool(days)
    if days:
        assert found[0][0] <= min(days)
        assert found[-1][0] <= max(days)
