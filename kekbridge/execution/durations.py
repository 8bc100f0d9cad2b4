"""How long the stages of alerts took, counted by bucket: each stage of each alert once, in the moment it happens.

Memory only; like all of Prometheus' histograms they begin anew with the process. metrics.py shows them.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from itertools import accumulate
from typing import Final

from kekbridge.execution.latency import StageWatch

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0)
_NAMES: Final = (*map(str, _BUCKETS), "+Inf")


class Histogram:
    """The durations of one stage, in seconds. prometheus_client's own takes a lock for each of two numbers; alerts are on one thread."""

    def __init__(self) -> None:
        self.created_at = time.time()
        self.sum_s = 0.0
        self._counts = [0] * len(_NAMES)

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """Upper bound and how many were no longer than it."""
        return list(zip(_NAMES, accumulate(self._counts), strict=True))

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(_BUCKETS, seconds)] += 1
        self.sum_s += seconds


class Durations:
    """One per daemon; it listens from now on. The loop's thread only."""

    def __init__(self, stages: StageWatch) -> None:
        self.by_stage: defaultdict[str, Histogram] = defaultdict(Histogram)
        stages.listen(lambda stage, seconds: self.by_stage[stage].observe(seconds))
