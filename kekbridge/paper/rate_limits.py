"""Rate limits: sliding windows, one per endpoint and key. Pure. See docs/internals/orderly.md, section 11."""

from __future__ import annotations

from collections import deque

from kekbridge.paper.codec import ApiError

#: (calls, window in ms): at most that many calls in any window of that length.
Limit = tuple[int, int]

TEN_PER_SECOND: Limit = (10, 1_000)
ONE_PER_SECOND: Limit = (1, 1_000)
FIVE_PER_SECOND: Limit = (5, 1_000)
TWENTY_PER_SECOND: Limit = (20, 1_000)
THIRTY_PER_SECOND: Limit = (30, 1_000)
THIRTY_PER_TEN_SECONDS: Limit = (30, 10_000)
FIVE_PER_TEN_SECONDS: Limit = (5, 10_000)
TEN_PER_MINUTE: Limit = (10, 60_000)
FIVE_PER_MINUTE: Limit = (5, 60_000)
TWENTY_PER_MINUTE: Limit = (20, 60_000)


class RequestLimiter:
    """Counts the calls per window; a rejected call does not count."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._calls: dict[str, deque[int]] = {}

    def check(self, bucket: str, limit: Limit, now: int, cost: int = 1) -> None:
        """Count `cost` calls at time `now` (ms); ApiError -1003 (HTTP 429) if the window is full."""
        if not self.enabled:
            return
        count, window = limit
        calls = self._calls.setdefault(bucket, deque())
        while calls and calls[0] <= now - window:
            calls.popleft()
        if len(calls) + cost > count:
            raise ApiError(-1003, f"Too many requests: at most {count} in {window / 1000:g} s.")
        calls.extend([now] * cost)

    def reset(self) -> None:
        """Forget all counted calls."""
        self._calls.clear()
