"""Wait for the exchange's rate windows: at most N requests in ANY window of a given length, per endpoint; exits go first.

A sliding window over the real sends, not a token bucket: a bucket of 10 lets up to 20 into one second, and the exchange refuses
(docs/internals/reliability.md section 9.2). Clock and sleep are arguments. Knows nothing of requests but the name of their endpoint.
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
from enum import StrEnum
from typing import Final


class Endpoint(StrEnum):
    """The windows of docs/internals/orderly.md sections 3 to 10. Lookups by id and by client id share one: not documented."""

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
    SYSTEM_INFO = "system_info"
    PUBLIC = "public"


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` requests in any `window_s` seconds."""

    count: int
    window_s: float


RATES: Final[Mapping[Endpoint, Rate]] = {
    Endpoint.ORDER_CREATE: Rate(10, 1),
    Endpoint.ORDER_CANCEL: Rate(10, 1),
    Endpoint.ORDERS_CANCEL: Rate(10, 1),
    Endpoint.ORDER_GET: Rate(10, 1),
    Endpoint.ORDERS_LIST: Rate(10, 1),
    Endpoint.TRADES: Rate(10, 1),
    Endpoint.ALGO_CREATE: Rate(1, 1),
    Endpoint.ALGO_CANCEL: Rate(5, 1),
    Endpoint.ALGOS_CANCEL: Rate(5, 1),
    Endpoint.ALGO_GET: Rate(10, 1),
    Endpoint.ALGOS_LIST: Rate(5, 1),
    Endpoint.ALGO_TRADES: Rate(10, 1),
    Endpoint.POSITIONS: Rate(30, 10),
    Endpoint.CLIENT_INFO: Rate(10, 60),
    Endpoint.LEVERAGE_GET: Rate(1, 1),
    Endpoint.LEVERAGE_SET: Rate(5, 60),
    Endpoint.KEY_INFO: Rate(10, 60),
    Endpoint.FUNDING_HISTORY: Rate(20, 60),
    Endpoint.ASSET_HISTORY: Rate(10, 60),
    Endpoint.SYSTEM_INFO: Rate(1, 1),
    Endpoint.PUBLIC: Rate(10, 1),
}


def scaled(factor: int) -> Mapping[Endpoint, Rate]:
    """The published windows, as many times as wide as the exchange granted to this key (1: as published)."""
    return {name: Rate(rate.count * factor, rate.window_s) for name, rate in RATES.items()}


# The exchange counts arrivals, we count departures. What the network or a busy machine delays on the way is learnt from the answer (see
# Ticket.answered); 40 ms of room cover the rest, at 0.16 s for a burst of 50 orders. What they do not cover comes back as 429, which
# proves that nothing happened.
JITTER_S: Final = 0.04
_SAMPLES: Final = 64
_SHORTEST_SLEEP_S: Final = 0.0005


class WindowPermit:
    """A place in the window. It counts from the grant on, and its time is set when the request is really written (`stamp`):
    a burst that first has to open connections leaves late, and the next window must not close up on it."""

    __slots__ = ("_window", "at", "left_at")

    def __init__(self, window: _Window) -> None:
        self._window = window
        self.left_at: float | None = None
        self.at: float | None = None

    @property
    def is_held(self) -> bool:
        """True until the request leaves or the place is given back."""
        return self._window.is_held(self)

    def mark_sent(self) -> None:
        """The request leaves now."""
        self._window.mark_sent(self)

    def mark_answered(self, exchange_ms: int | None = None) -> None:
        """The answer is here (or will never come): the exchange counted the request at some time before now.

        It took part of the round trip to come back, so what exceeds the shortest round trip may have been spent before it was counted.
        `exchange_ms` is when the exchange wrote the answer, in Unix milliseconds of its own clock: what the answer then spent on its way
        back, or waiting for a busy loop to read it, was after that.
        """
        self._window.mark_answered(self, exchange_ms)

    def release(self) -> None:
        """Nothing was sent: the place is free again. No effect once stamped."""
        self._window.release(self)


class RateLimiter:
    """The windows of one key. `wait` before each request, `stamp` when it leaves, `hold` after a 429, `close` at the end."""

    def __init__(
        self,
        rates: Mapping[Endpoint, Rate] = RATES,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter_s: float = JITTER_S,
    ) -> None:
        ways = _RoundTrips()
        self._windows = {name: _Window(rate, monotonic, sleep, jitter_s, ways) for name, rate in rates.items()}

    async def acquire(self, endpoint: Endpoint, *, is_urgent: bool = False) -> WindowPermit:
        """Return when one more request fits; urgent ones (exits, protection, questions about them) overtake the others."""
        return await self._windows[endpoint].acquire(is_urgent=is_urgent)

    def try_acquire(self, endpoint: Endpoint) -> WindowPermit | None:
        """A place that is free this instant and that nobody waits for, else None. The one method that any thread may call."""
        return self._windows[endpoint].try_acquire()

    def pause(self, endpoint: Endpoint, seconds: float | None = None) -> None:
        """After a 429: let nothing out for a whole window (or `seconds`, if that is longer)."""
        self._windows[endpoint].pause(seconds or 0.0)

    def waiting(self, endpoint: Endpoint) -> int:
        """How many requests wait for this window now."""
        return self._windows[endpoint].waiting

    async def close(self) -> None:
        """Stop the timers; whoever still waits is cancelled."""
        for window in self._windows.values():
            await window.close()


class _RoundTrips:
    """How quick the way to the exchange was at best, learnt from all requests: those of one burst may all have been held up."""

    def __init__(self) -> None:
        self._round_trips: deque[float] = deque(maxlen=_SAMPLES)
        self._out: deque[float] = deque(
            maxlen=_SAMPLES
        )  # from departure to the exchange's clock: the way and the clocks' difference

    def counted_by(self, left_at: float, answered_at: float, exchange_ms: int | None) -> float:
        """The latest moment at which the exchange can have counted a request, by our clock and as if it had gone the shortest way."""
        self._round_trips.append(answered_at - left_at)
        counted_by = answered_at - min(self._round_trips)
        if exchange_ms is None:
            return counted_by
        told_at = (exchange_ms + 1) / 1000  # what it rounded off was still before it
        self._out.append(told_at - left_at)
        # A clock that was set forward makes this the later of the two; it is never before the departure, whose own way is among them.
        return min(counted_by, told_at - min(self._out))


class _Window:
    def __init__(
        self,
        rate: Rate,
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        jitter_s: float,
        ways: _RoundTrips,
    ) -> None:
        self._count = rate.count
        self._length = rate.window_s + jitter_s
        self._monotonic = monotonic
        self._sleep = sleep
        self._stamped: list[WindowPermit] = []
        self._ways = ways
        self._unstamped: set[WindowPermit] = set()
        self._held_until = float("-inf")
        self._queue: list[tuple[int, int, asyncio.Future[WindowPermit]]] = []
        self._order = itertools.count()
        self._places = threading.Lock()  # places are also taken on the writer thread
        self._timer: asyncio.Task[None] | None = None
        self._wakes_at = float("inf")

    @property
    def waiting(self) -> int:
        return sum(not future.done() for _, _, future in self._queue)

    async def acquire(self, *, is_urgent: bool) -> WindowPermit:
        future: asyncio.Future[WindowPermit] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (0 if is_urgent else 1, next(self._order), future))
        self._grant()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                future.result().release()  # granted in the very moment of giving up
            raise

    def try_acquire(self) -> WindowPermit | None:
        with self._places:
            now = self._monotonic()
            is_wanted = any(not future.done() for _, _, future in self._queue)
            return None if is_wanted or not self._has_room(now) else self._new_permit()

    def is_held(self, ticket: WindowPermit) -> bool:
        return ticket in self._unstamped

    def mark_sent(self, ticket: WindowPermit) -> None:
        if ticket in self._unstamped:
            with self._places:
                ticket.at = ticket.left_at = self._monotonic()
                self._stamped.append(ticket)
                self._unstamped.discard(ticket)
            if self._queue:
                self._grant()

    def mark_answered(self, ticket: WindowPermit, exchange_ms: int | None) -> None:
        if ticket.left_at is None:
            return
        ticket.at = self._ways.counted_by(ticket.left_at, self._monotonic(), exchange_ms)

    def release(self, ticket: WindowPermit) -> None:
        if ticket in self._unstamped:
            self._unstamped.discard(ticket)
            if self._queue:
                self._grant()

    def pause(self, seconds: float) -> None:
        self._held_until = max(self._held_until, self._monotonic() + max(seconds, self._length))

    async def close(self) -> None:
        for _, _, future in self._queue:
            future.cancel()
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            await asyncio.gather(self._timer, return_exceptions=True)
            self._timer = None

    def _grant(self) -> None:
        """Let as many waiters go as there is room for, then set the alarm for the moment when there is more."""
        with self._places:
            now = self._monotonic()
            while self._queue:
                future = self._queue[0][2]
                if future.done():  # the waiter gave up
                    heapq.heappop(self._queue)
                    continue
                if not self._has_room(now):
                    break
                heapq.heappop(self._queue)
                future.set_result(self._new_permit())
        if self._queue:
            self._set_alarm(now)

    def _has_room(self, now: float) -> bool:
        if now < self._held_until:
            return False
        if len(self._stamped) + len(self._unstamped) >= self._count:  # else it does not matter which of them are over
            self._stamped = [ticket for ticket in self._stamped if now < self._ends_at(ticket)]
        return len(self._stamped) + len(self._unstamped) < self._count

    def _new_permit(self) -> WindowPermit:
        ticket = WindowPermit(self)
        self._unstamped.add(ticket)
        return ticket

    def _set_alarm(self, now: float) -> None:
        due = self._held_until if now < self._held_until else None
        if due is None and self._stamped:
            due = min(self._ends_at(ticket) for ticket in self._stamped)
        if due is None:
            return  # every place is taken by a request that has not left yet: its stamp or its return wakes us
        if self._timer is not None and not self._timer.done() and self._wakes_at <= due:
            return
        if self._timer is not None and self._timer is not asyncio.current_task():
            self._timer.cancel()
        self._wakes_at = due
        self._timer = asyncio.ensure_future(self._alarm(due))

    def _ends_at(self, ticket: WindowPermit) -> float:
        """When a stamped place is free again."""
        return (ticket.at or 0.0) + self._length

    async def _alarm(self, due: float) -> None:
        # A sleep may end a little early by the clock that is read here: repeat until the moment has really come.
        while (left := due - self._monotonic()) > 0:
            await self._sleep(max(left, _SHORTEST_SLEEP_S))
        self._wakes_at = float("inf")
        self._grant()
