"""Rate limiter: at most N requests in any window of a given length, per endpoint; exits first, with room kept for them.

A sliding window over the actual sends, not a token bucket: a bucket of 10 lets up to 20 into one second, which the exchange rejects
(docs/internals/reliability.md section 9.2). Clock and sleep are arguments.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final


class Endpoint(StrEnum):
    """Endpoints by rate-limit window (docs/internals/orderly.md sections 3 to 10). Not documented: queries by either id share one."""

    ORDER_CREATE = "order_create"
    ORDER_CANCEL = "order_cancel"
    ORDERS_CANCEL = "orders_cancel"
    ORDER_GET = "order_get"
    ORDERS_LIST = "orders_list"
    TRADES = "trades"
    ALGO_CREATE = "algo_create"
    ALGO_CANCEL = "algo_cancel"
    ALGOS_CANCEL = "algos_cancel"
    ALGO_GET = "algo_get"
    ALGOS_LIST = "algos_list"
    ALGO_TRADES = "algo_trades"
    POSITIONS = "positions"
    CLIENT_INFO = "client_info"
    LEVERAGE_GET = "leverage_get"
    LEVERAGE_SET = "leverage_set"
    KEY_INFO = "key_info"
    FUNDING_HISTORY = "funding_history"
    ASSET_HISTORY = "asset_history"
    LIQUIDATIONS = "liquidations"
    POSITION_HISTORY = "position_history"
    MARGIN_MODES = "margin_modes"
    SYSTEM_INFO = "system_info"
    PUBLIC = "public"


@dataclass(frozen=True, slots=True)
class Rate:
    """A documented rate limit."""

    #: Requests allowed in any window.
    count: int
    #: Length of the window in seconds.
    window_s: float
    #: Requests of them that only urgent ones (exits and what they need) may use.
    kept: int = 0


RATES: Final[Mapping[Endpoint, Rate]] = {
    Endpoint.ORDER_CREATE: Rate(10, 1, kept=1),
    Endpoint.ORDER_CANCEL: Rate(10, 1),
    Endpoint.ORDERS_CANCEL: Rate(10, 1),
    Endpoint.ORDER_GET: Rate(10, 1, kept=1),
    Endpoint.ORDERS_LIST: Rate(10, 1),
    Endpoint.TRADES: Rate(10, 1),
    Endpoint.ALGO_CREATE: Rate(1, 1),
    Endpoint.ALGO_CANCEL: Rate(5, 1),
    Endpoint.ALGOS_CANCEL: Rate(5, 1),
    Endpoint.ALGO_GET: Rate(10, 1, kept=1),
    Endpoint.ALGOS_LIST: Rate(5, 1),
    Endpoint.ALGO_TRADES: Rate(10, 1),
    Endpoint.POSITIONS: Rate(30, 10),
    Endpoint.CLIENT_INFO: Rate(10, 60),
    Endpoint.LEVERAGE_GET: Rate(1, 1),
    Endpoint.LEVERAGE_SET: Rate(5, 60),
    Endpoint.KEY_INFO: Rate(10, 60),
    Endpoint.FUNDING_HISTORY: Rate(20, 60),
    Endpoint.ASSET_HISTORY: Rate(10, 60),
    Endpoint.LIQUIDATIONS: Rate(10, 1),
    Endpoint.POSITION_HISTORY: Rate(10, 1),
    Endpoint.MARGIN_MODES: Rate(10, 1),
    Endpoint.SYSTEM_INFO: Rate(1, 1),
    Endpoint.PUBLIC: Rate(10, 1),
}


def scaled(factor: int) -> Mapping[Endpoint, Rate]:
    """The published limits times `factor`, which the exchange granted to this account (1: as published)."""
    return {name: Rate(rate.count * factor, rate.window_s, rate.kept * factor) for name, rate in RATES.items()}


# The exchange counts arrivals, we count sends. Delays on the way are learned from the reply (`WindowPermit.mark_answered`); this margin
# covers the rest, at a cost of 0.16 s for a burst of 50 orders. What it does not cover comes back as 429, which proves that nothing was
# placed.
JITTER_S: Final = 0.04
_SAMPLES: Final = 64
# How long urgent requests are held at most after one of them got a 429, whatever Retry-After says: an exit is tried again, carefully.
_LONGEST_URGENT_PAUSE_S: Final = 4.0
_MIN_SLEEP_S: Final = 0.0005


class _Rank(IntEnum):
    """Who is served first."""

    STOP = 0
    URGENT = 1
    OTHER = 2


class WindowPermit:
    """One slot of a rate-limit window. Counts as used from the grant on.

    `mark_sent` sets its time when the request is written, because a burst that opens connections first is sent late.
    """

    __slots__ = ("_window", "counted_at", "sent_at")

    def __init__(self, window: _Window) -> None:
        self._window = window
        #: When the request was written (monotonic s); None before.
        self.sent_at: float | None = None
        #: Latest time at which the exchange can have counted it (monotonic s); None before it was sent.
        self.counted_at: float | None = None

    @property
    def is_held(self) -> bool:
        """True until the request is sent or the slot is released."""
        return self._window.is_held(self)

    def mark_sent(self) -> None:
        """The request is written now."""
        self._window.mark_sent(self)

    def mark_answered(self, exchange_ms: int | None = None) -> None:
        """The reply is read (or will never come): the exchange counted the request at some time before now.

        What exceeds the shortest known round trip may have passed before it was counted. `exchange_ms` is when the exchange wrote the
        reply (Unix ms of its clock): the time that the reply spent in the network, or waiting for a busy loop, came after that.
        """
        self._window.mark_answered(self, exchange_ms)

    def release(self) -> None:
        """Nothing was sent: free the slot. No effect after `mark_sent`."""
        self._window.release(self)


class RateLimiter:
    """The windows of one account: `acquire` before each request, `pause` after a 429, `close` at the end."""

    def __init__(
        self,
        rates: Mapping[Endpoint, Rate] = RATES,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter_s: float = JITTER_S,
    ) -> None:
        round_trips = _RoundTrips()
        self._windows = {name: _Window(rate, monotonic, sleep, jitter_s, round_trips) for name, rate in rates.items()}

    async def acquire(self, endpoint: Endpoint, *, is_urgent: bool = False, is_stop: bool = False) -> WindowPermit:
        """Wait until one more request fits. Urgent ones (exits, protective orders, queries for them) overtake the others, and urgent ones
        that place a stop (`is_stop`) overtake these: a position waits for it, a take-profit can wait."""
        rank = _Rank.OTHER if not is_urgent else _Rank.STOP if is_stop else _Rank.URGENT
        return await self._windows[endpoint].acquire(rank)

    def try_acquire(self, endpoint: Endpoint, *, is_urgent: bool = False) -> WindowPermit | None:
        """A permit that is free now and for which no request waits, else None. The only method that is safe on any thread.

        Requests that are not urgent do not hold back an urgent one.
        """
        return self._windows[endpoint].try_acquire(is_urgent=is_urgent)

    def pause(self, endpoint: Endpoint, seconds: float | None = None, *, is_urgent: bool = False) -> None:
        """After a 429: grant nothing for a whole window, or for `seconds` if that is longer.

        Urgent requests are held only if an urgent one was refused (`is_urgent`), and then for 4 s at most: what entries earned holds no
        exit, and a 429 proves that nothing was placed.
        """
        self._windows[endpoint].pause(seconds or 0.0, is_urgent=is_urgent)

    async def close(self) -> None:
        """Stop the timers; cancel the requests that wait."""
        for window in self._windows.values():
            await window.close()


class _RoundTrips:
    """The shortest recent network times, over all endpoints: the requests of one burst may all have been delayed."""

    def __init__(self) -> None:
        self._round_trips: deque[float] = deque(maxlen=_SAMPLES)
        # Exchange's clock in the reply minus our clock at the send: outbound time and clock offset.
        self._outbound: deque[float] = deque(maxlen=_SAMPLES)

    def latest_count_at(self, sent_at: float, received_at: float, exchange_ms: int | None) -> float:
        """The latest time (our clock) at which the exchange can have counted a request, given the shortest known network times."""
        self._round_trips.append(received_at - sent_at)
        latest_count_at = received_at - min(self._round_trips)
        if exchange_ms is None:
            return latest_count_at
        written_at = (exchange_ms + 1) / 1000  # rounded up to the next ms
        self._outbound.append(written_at - sent_at)
        # After a clock was set forward this is the later of the two. Never before the send, whose own sample is included.
        return min(latest_count_at, written_at - min(self._outbound))


class _Window:
    """The window of one endpoint, its permits and the requests that wait for one."""

    def __init__(
        self,
        rate: Rate,
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        jitter_s: float,
        round_trips: _RoundTrips,
    ) -> None:
        self._count = rate.count
        self._kept = rate.kept
        self._window_s = rate.window_s + jitter_s
        self._monotonic = monotonic
        self._sleep = sleep
        self._sent: list[WindowPermit] = []
        self._round_trips = round_trips
        self._held: set[WindowPermit] = set()
        self._paused_until = float("-inf")
        self._urgent_paused_until = float("-inf")  # never later than the other
        self._queue: list[tuple[_Rank, int, asyncio.Future[WindowPermit]]] = []
        self._sequence = itertools.count()
        self._lock = threading.Lock()  # permits are also taken on the writer thread
        self._timer: asyncio.Task[None] | None = None
        self._timer_due_at = float("inf")

    async def acquire(self, rank: _Rank) -> WindowPermit:
        future: asyncio.Future[WindowPermit] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (rank, next(self._sequence), future))
        self._grant()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                future.result().release()  # granted in the moment of the cancellation
            raise

    def try_acquire(self, *, is_urgent: bool) -> WindowPermit | None:
        with self._lock:
            now = self._monotonic()
            is_awaited = any(
                not future.done() and not (rank is _Rank.OTHER and is_urgent) for rank, _, future in self._queue
            )
            return None if is_awaited or not self._has_room(now, is_urgent=is_urgent) else self._new_permit()

    def is_held(self, permit: WindowPermit) -> bool:
        return permit in self._held

    def mark_sent(self, permit: WindowPermit) -> None:
        if permit in self._held:
            with self._lock:
                permit.counted_at = permit.sent_at = self._monotonic()
                self._sent.append(permit)
                self._held.discard(permit)
            if self._queue:
                self._grant()

    def mark_answered(self, permit: WindowPermit, exchange_ms: int | None) -> None:
        if permit.sent_at is None:
            return
        permit.counted_at = self._round_trips.latest_count_at(permit.sent_at, self._monotonic(), exchange_ms)

    def release(self, permit: WindowPermit) -> None:
        if permit in self._held:
            self._held.discard(permit)
            if self._queue:
                self._grant()

    def pause(self, seconds: float, *, is_urgent: bool) -> None:
        now, pause = self._monotonic(), max(seconds, self._window_s)
        self._paused_until = max(self._paused_until, now + pause)
        if is_urgent:
            held_until = now + min(pause, max(_LONGEST_URGENT_PAUSE_S, self._window_s))
            self._urgent_paused_until = max(self._urgent_paused_until, held_until)

    async def close(self) -> None:
        for _, _, future in self._queue:
            future.cancel()
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            await asyncio.gather(self._timer, return_exceptions=True)
            self._timer = None

    def _grant(self) -> None:
        """Grant as many waiting requests as fit, then set the timer for when the next slot is free."""
        with self._lock:
            now = self._monotonic()
            while self._queue:
                rank, _, future = self._queue[0]
                if future.done():  # cancelled
                    heapq.heappop(self._queue)
                    continue
                if not self._has_room(now, is_urgent=rank is not _Rank.OTHER):
                    break
                heapq.heappop(self._queue)
                future.set_result(self._new_permit())
        if self._queue:
            self._schedule_timer(now)

    def _has_room(self, now: float, *, is_urgent: bool) -> bool:
        if now < (self._urgent_paused_until if is_urgent else self._paused_until):
            return False
        most = self._count if is_urgent else self._count - self._kept
        if len(self._sent) + len(self._held) >= most:  # else it does not matter which have expired
            self._sent = [permit for permit in self._sent if now < self._frees_at(permit)]
        return len(self._sent) + len(self._held) < most

    def _new_permit(self) -> WindowPermit:
        permit = WindowPermit(self)
        self._held.add(permit)
        return permit

    def _schedule_timer(self, now: float) -> None:
        paused_until = self._paused_until if self._queue[0][0] is _Rank.OTHER else self._urgent_paused_until
        due = paused_until if now < paused_until else None
        if due is None and self._sent:
            due = min(self._frees_at(permit) for permit in self._sent)
        if due is None:
            return  # all slots are held by requests not sent yet: `mark_sent` or `release` continues
        if self._timer is not None and not self._timer.done() and self._timer_due_at <= due:
            return
        if self._timer is not None and self._timer is not asyncio.current_task():
            self._timer.cancel()
        self._timer_due_at = due
        self._timer = asyncio.ensure_future(self._run_timer(due))

    def _frees_at(self, permit: WindowPermit) -> float:
        """When the slot of a request that was sent is free again."""
        return (permit.counted_at or 0.0) + self._window_s

    async def _run_timer(self, due: float) -> None:
        # A sleep may end slightly early by this clock: repeat until it is due.
        while (left := due - self._monotonic()) > 0:
            await self._sleep(max(left, _MIN_SLEEP_S))
        self._timer_due_at = float("inf")
        self._grant()
