"""Alert rate limits per webhook and over all webhooks, in any sliding minute, hour and day, counted in memory.

Exact: a window of N is full while it contains the N-th newest counted alert. Exits have a limit of their own per webhook and none over all
webhooks, so that one strategy's noise never blocks another's exits (docs/internals/architecture.md section 1, promise 6).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

import msgspec

from kekbridge.model import RateLimits

UNLIMITED: Final = RateLimits(per_minute=0, per_hour=0, per_day=0)
LONGEST_WINDOW: Final = timedelta(days=1)
# Webhook id and whether exits are counted; the entries of all webhooks are counted under `ALL_ENTRIES`.
Counter = tuple[str, bool]
ALL_ENTRIES: Final[Counter] = ("", False)
_TRIM_AT: Final = 4096


class Excess(msgspec.Struct, frozen=True, kw_only=True):
    """A full window."""

    #: Seconds until there is room again.
    retry_after_s: int
    #: It is the limit over all webhooks, not the webhook's own.
    is_of_account: bool
    #: The limits that it belongs to.
    rates: RateLimits

    def describe(self, *, is_exit: bool) -> str:
        """One line for the trader: what is full, and what to do."""
        kind, rates = "exits" if is_exit else "entries", self.rates
        numbers = f"({rates.per_minute} a minute, {rates.per_hour} an hour, {rates.per_day} a day)"
        if self.is_of_account:
            return (
                f"more {kind} than all webhooks together are allowed {numbers}; wait {self.retry_after_s} s, or raise"
                " risk.rate_per_minute, rate_per_hour or rate_per_day in the settings"
            )
        return (
            f"more {kind} than the webhook allows {numbers}; wait {self.retry_after_s} s, or raise --rate-per-minute,"
            " --rate-per-hour or --rate-per-day"
        )


class RateWindows:
    """Times of the counted alerts, by counter. Times never decrease, even if alerts are admitted in another order than received."""

    def __init__(self) -> None:
        self._times: dict[Counter, list[datetime]] = {}

    def find_excess(
        self, webhook_id: str, *, rates: RateLimits, account_rates: RateLimits, is_exit: bool, now: datetime
    ) -> Excess | None:
        """The full window that blocks this alert longest; None if every window has room."""
        own = self._wait_s((webhook_id, is_exit), rates, now)
        of_all = 0 if is_exit else self._wait_s(ALL_ENTRIES, account_rates, now)
        if own == of_all == 0:
            return None
        is_of_account = of_all > own
        return Excess(
            retry_after_s=max(own, of_all), is_of_account=is_of_account, rates=account_rates if is_of_account else rates
        )

    def count(self, webhook_id: str, *, is_exit: bool, at: datetime) -> None:
        """Count an alert for its webhook and, unless it is an exit, for all webhooks."""
        self._add((webhook_id, is_exit), at)
        if not is_exit:
            self._add(ALL_ENTRIES, at)

    def uncount(self, webhook_id: str, *, is_exit: bool, at: datetime) -> None:
        """Undo one `count`: the alert was not stored."""
        for counter in ((webhook_id, is_exit),) if is_exit else ((webhook_id, is_exit), ALL_ENTRIES):
            times = self._times.get(counter, [])
            index = bisect_left(times, at)  # its own or, after a clock set back, an earlier one: no window opens early
            if index < len(times):
                del times[index]

    def load(self, counter: Counter, times: Iterable[datetime]) -> None:
        """Replace what is counted, oldest first: at a start."""
        self._times[counter] = list(times)

    def _add(self, counter: Counter, at: datetime) -> None:
        times = self._times.setdefault(counter, [])
        times.append(at if not times or at > times[-1] else times[-1])
        if len(times) > _TRIM_AT and times[len(times) // 2] < at - LONGEST_WINDOW:
            del times[: len(times) // 2]

    def _wait_s(self, counter: Counter, rates: RateLimits, now: datetime) -> int:
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
