"""Compare durations on a busy machine: a confidence interval for the median difference that assumes nothing about the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate


def median_interval(differences: Sequence[float], *, one_in: int = 1_000_000) -> tuple[float, float]:
    """Return an interval that contains the true median difference, except in one of `one_in` runs.

    It inverts the sign test: each difference is above the median with a probability of 1/2, so their number is binomial for any
    distribution. One in a million needs at least 21 differences; with fewer it raises ValueError.
    """
    count = len(differences)
    tails = accumulate(math.comb(count, above) for above in range(count // 2 + 1))
    left_out = sum(2 * tail * one_in <= 2**count for tail in tails)
    if left_out == 0:
        raise ValueError(f"{count} differences are too few for an error rate of one in {one_in}")
    ordered = sorted(differences)
    return ordered[left_out - 1], ordered[-left_out]
