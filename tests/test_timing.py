"""median_interval: its error rate, and that it finds a difference under noise."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.timing import median_interval

PAIRS = 400
noise_s = st.floats(-1, 1)


@given(st.integers(21, 1200))
def test_the_error_rate_is_as_stated_and_no_smaller_than_needed(count: int) -> None:
    """The differences left out on each side are as many as an error rate of half of one in a million permits, and no more."""
    low, high = median_interval(range(count))
    assert low + high == count - 1

    def at_most(heads: int) -> Fraction:
        return Fraction(sum(math.comb(count, n) for n in range(heads + 1)), 2**count)

    left_out = round(low)
    assert at_most(left_out) <= Fraction(1, 2_000_000) < at_most(left_out + 1)


@given(st.lists(noise_s, min_size=21, max_size=200))
def test_the_interval_contains_the_median(differences: list[float]) -> None:
    low, high = median_interval(differences)
    assert low <= statistics.median(differences) <= high


@given(st.lists(noise_s, min_size=150, max_size=150), st.booleans())
def test_a_difference_is_found_although_three_pairs_in_eight_are_disturbed(
    disturbed: list[float], is_slower: bool
) -> None:
    """If all other pairs differ by 1 ms, the whole interval is at least 1 ms from zero."""
    sign = 1 if is_slower else -1
    low, high = median_interval([sign * 0.001] * (PAIRS - len(disturbed)) + disturbed)
    assert low >= 0.001 if is_slower else high <= -0.001


@pytest.mark.parametrize("planted_s", [0.0, 0.001, -0.001])
def test_a_planted_millisecond_is_found_on_a_busy_machine(planted_s: float) -> None:
    """With a third of the pairs disturbed by 20 ms on average, 1 ms is found to exceed 0.5 ms, and a difference of 0 is not."""
    rng = Random(1)

    def noise() -> float:
        return rng.gauss(0, 50e-6) + (rng.choice((-1, 1)) * rng.expovariate(1 / 0.02) if rng.random() < 1 / 3 else 0)

    low, high = median_interval([planted_s + noise() for _ in range(PAIRS)])
    assert (low > 500e-6, high < -500e-6) == (planted_s > 0, planted_s < 0)


def test_too_few_differences_raise() -> None:
    """Twenty equal signs in a row have a chance of about one in a million."""
    with pytest.raises(ValueError, match="20 differences"):
        median_interval([1.0] * 20)
