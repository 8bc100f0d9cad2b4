"""Rate limits of entries: exact in every window, of a webhook and over all webhooks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.model import RateExcess, RateLimits
from kekbridge.risk.rates import ALL_ENTRIES, RateWindows
from tests.store.factories import NO_RATES
from tests.trading import NOW

TWO_A_MINUTE = RateLimits(per_minute=2, per_hour=0, per_day=0)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def excess(
    windows: RateWindows,
    seconds: float = 0,
    *,
    rates: RateLimits = NO_RATES,
    account_rates: RateLimits = NO_RATES,
    webhook_id: str = "hook",
) -> RateExcess | None:
    return windows.find_excess(webhook_id, rates=rates, account_rates=account_rates, now=after(seconds))


def retry_after_s(found: RateExcess | None) -> int | None:
    return None if found is None else found.retry_after_s


def counted(*seconds: float, webhook_id: str = "hook") -> RateWindows:
    windows = RateWindows()
    for each in seconds:
        windows.count(webhook_id, at=after(each))
    return windows


@pytest.mark.parametrize(
    ("rates", "length"),
    [
        (RateLimits(per_minute=3, per_hour=100, per_day=100), 60),
        (RateLimits(per_minute=0, per_hour=3, per_day=100), 3600),
        (RateLimits(per_minute=100, per_hour=0, per_day=3), 86_400),
    ],
)
@pytest.mark.parametrize("is_of_account", [False, True])
def test_each_window_slides(rates: RateLimits, length: int, *, is_of_account: bool) -> None:
    """With room for three, a fourth is refused with the seconds until the oldest leaves the window; then there is room."""
    windows = counted(0, 10, 20)
    given_rates: Any = {"account_rates" if is_of_account else "rates": rates}
    webhook_id = "another" if is_of_account else "hook"
    assert retry_after_s(excess(windows, 30.5, **given_rates, webhook_id=webhook_id)) == length - 30
    assert retry_after_s(excess(windows, length - 0.001, **given_rates, webhook_id=webhook_id)) == 1
    assert excess(windows, length, **given_rates, webhook_id=webhook_id) is None
    windows.count(webhook_id, at=after(length))
    assert retry_after_s(excess(windows, length, **given_rates, webhook_id="hook")) == 10


def test_webhooks_have_separate_limits() -> None:
    """One noisy strategy does not block another."""
    windows = counted(0, 0)
    assert excess(windows, rates=TWO_A_MINUTE, webhook_id="other") is None


def test_longer_wait_is_returned_with_its_limit() -> None:
    """If both limits are exhausted, the sender gets the time when both have room, and which limit it is."""
    windows = counted(0, 30)
    own = RateLimits(per_minute=0, per_hour=1, per_day=0)
    found = excess(windows, 40, rates=own, account_rates=TWO_A_MINUTE)
    assert found is not None
    assert (found.retry_after_s, found.is_of_account, found.rates) == (3590, False, own)
    assert "than the webhook allows (0 a minute, 1 an hour, 0 a day)" in found.describe()
    found = excess(windows, 40, rates=RateLimits(per_minute=2, per_hour=0, per_day=0), account_rates=own)
    assert found is not None
    assert (found.retry_after_s, found.is_of_account) == (3590, True)
    text = found.describe()
    assert text.startswith("more entries than all webhooks together are allowed")
    assert "risk.rate_per_minute" in text
    assert "\n" not in text


def test_times_never_decrease() -> None:
    """Alerts admitted in another order than received, or a clock set back, open no window early."""
    windows = counted(30, 10)
    assert retry_after_s(excess(windows, 71, account_rates=TWO_A_MINUTE)) == 19


@given(
    offsets=st.lists(st.integers(0, 200), max_size=60).map(sorted),
    minute=st.integers(0, 6),
    hour=st.integers(0, 12),
    day=st.integers(0, 20),
)
def test_result_equals_a_plain_recount(offsets: list[int], minute: int, hour: int, day: int) -> None:
    """For any times of arrival: room exactly when fewer than the limit were counted within each window before."""
    rates = RateLimits(per_minute=minute, per_hour=hour, per_day=day)
    windows = RateWindows()
    taken: list[int] = []
    for offset in offsets:
        found = excess(windows, offset * 20, account_rates=rates)
        fits = all(
            limit == 0 or sum(1 for one in taken if (offset - one) * 20 < length) < limit
            for limit, length in ((minute, 60), (hour, 3600), (day, 86_400))
        )
        assert (found is None) == fits
        if fits:
            taken.append(offset)
            windows.count("hook", at=after(offset * 20))


@given(
    kept=st.lists(st.integers(0, 90), max_size=12).map(sorted),
    undone=st.integers(0, 90),
    later=st.lists(st.integers(0, 90), max_size=3).map(sorted),
)
def test_uncounted_alert_leaves_no_trace(kept: list[int], undone: int, later: list[int]) -> None:
    """An alert that could not be stored takes no room, also if others were counted meanwhile; with a clock that was set back no window
    opens early."""
    windows, plain = counted(*kept), counted(*kept)
    windows.count("hook", at=after(undone))
    for each in later:
        windows.count("hook", at=after(each))
        plain.count("hook", at=after(each))
    windows.uncount("hook", at=after(undone))
    for limit in range(1, len(kept) + len(later) + 2):
        rates = RateLimits(per_minute=limit, per_hour=0, per_day=0)
        latest = max([*kept, undone, *later])
        one, other = (
            retry_after_s(excess(each, latest, rates=rates, account_rates=rates)) or 0 for each in (windows, plain)
        )
        is_in_order = [*kept, undone, *later] == sorted([*kept, undone, *later])
        assert one == other if is_in_order else one >= other


def test_loaded_times_replace_what_was_counted() -> None:
    """A start, or a webhook whose limits look back further than before."""
    windows = counted(0, 1)
    windows.load("hook", [after(2), after(3)])
    windows.load(ALL_ENTRIES, [after(3)])
    assert retry_after_s(excess(windows, 4, rates=TWO_A_MINUTE)) == 58
    assert excess(windows, 4, account_rates=TWO_A_MINUTE) is None


@pytest.mark.parametrize("spacing_s", [1, 60])
def test_memory_is_bounded_by_what_a_window_can_need(spacing_s: int) -> None:
    """Weeks of alerts leave at most a day's, and the day's limit is still exact."""
    windows = RateWindows()
    number = 30_000
    rates = RateLimits(per_minute=0, per_hour=0, per_day=86_400 // spacing_s)
    for index in range(number):
        windows.count("hook", at=after(index * spacing_s))
    kept: Sequence[datetime] = windows._times["hook"]
    assert len(kept) <= max(2 * 86_400 // spacing_s, 4096) + 1
    is_full = number * spacing_s >= 86_400
    found = excess(windows, (number - 1) * spacing_s, rates=rates)
    assert (found is not None) == is_full
