"""Rate limits of entries per webhook and over all webhooks, in any sliding minute, hour and day, counted in memory.

Exact: a window of N is full while it contains the N-th newest counted alert. What counts is an alert with an entry that was admitted, or
denied by another limit. Exits, cancels and pings neither count nor wait: TradingView does not send again after a 429, and a position must
not stay open for it (docs/internals/architecture.md section 1, promise 6).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from kekbridge.model import RateExcess, RateLimits

LONGEST_WINDOW: Final = timedelta(days=1)
# Counted by webhook id; the entries of all webhooks under this one.
ALL_ENTRIES: Final = ""
_TRIM_AT: Final = 4096


class RateWindows:
    """Times of the counted entries, by webhook. Times never decrease, even if alerts are admitted in another order than received."""

    def __init__(self) -> None:
        self._times: dict[str, list[datetime]] = {}

    def find_excess(
        self, webhook_id: str, *, rates: RateLimits, account_rates: RateLimits, now: datetime
    ) -> RateExcess | None:
        """The full window that blocks an entry longest; None if every window has room."""
        own = self._wait_s(webhook_id, rates, now)
        of_all = self._wait_s(ALL_ENTRIES, account_rates, now)
        if own == of_all == 0:
            return None
        is_of_account = of_all > own
        return RateExcess(
            retry_after_s=max(own, of_all), is_of_account=is_of_account, rates=account_rates if is_of_account else rates
        )

    def count(self, webhook_id: str, *, at: datetime) -> None:
        """Count an alert with an entry for its webhook and for all webhooks."""
        self._add(webhook_id, at)
        self._add(ALL_ENTRIES, at)

    def uncount(self, webhook_id: str, *, at: datetime) -> None:
        """Undo one `count`: the alert was not stored."""
        for counter in (webhook_id, ALL_ENTRIES):
            times = self._times.get(counter, [])
            index = bisect_left(times, at)  # its own or, after a clock set back, an earlier one: no window opens early
            if index < len(times):
                del times[index]

    def load(self, counter: str, times: Iterable[datetime]) -> None:
        """Replace what is counted, oldest first: at a start."""
        self._times[counter] = list(times)

    def _add(self, counter: str, at: datetime) -> None:
        times = self._times.setdefault(counter, [])
        times.append(at if not times or at > times[-1] else times[-1])
        if len(times) > _TRIM_AT and times[len(times) // 2] < at - LONGEST_WINDOW:
            del times[: len(times) // 2]

    def _wait_s(self, counter: str, rates: RateLimits, now: datetime) -> int:
        """Whole seconds until every window has room; 0 if there is room now."""
        times = self._times.get(counter)
        if not times:
            return 0
        longest = 0.0
        for limit, length_s in ((rates.per_minute, 60), (rates.per_hour, 3600), (rates.per_day, 86_400)):
            if 0 < limit <= len(times):
                left = length_s - (now - times[-limit]).total_seconds()
                longest = max(longest, left)
        return math.ceil(longest)
