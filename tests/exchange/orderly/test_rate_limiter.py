"""Rate limiter: never more than allowed in any window, exits first, no request lost. Time is simulated."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kekbridge.exchange.orderly.rate_limiter import JITTER_S, RATES, Endpoint, Rate, RateLimiter, WindowPermit
from tests.examples import examples

CREATE = Endpoint.ORDER_CREATE


class FakeTime:
    """A clock that advances with every sleep; `run` lets several tasks sleep in parallel, earliest first."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._is_running = False
        self._timers: list[tuple[float, int, asyncio.Event]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if self._is_running:
            await self.sleep_beside(seconds)
        else:
            await asyncio.sleep(0)
            self.now += seconds

    async def sleep_beside(self, seconds: float) -> None:
        if not self._is_running:
            self.now += seconds
            return
        event = asyncio.Event()
        heapq.heappush(self._timers, (self.now + seconds, next(self._order), event))
        await event.wait()

    async def run(self, tasks: list[asyncio.Task[None]]) -> None:
        """Wake the earliest sleeper whenever all tasks sleep, until they are done."""
        self._is_running = True
        while not all(task.done() for task in tasks):
            for _ in range(20):
                await asyncio.sleep(0)
            if self._timers:
                due, _, event = heapq.heappop(self._timers)
                self.now = max(self.now, due)
                event.set()
        await asyncio.gather(*tasks)


def limiter_with(time: FakeTime, count: int = 10, window_s: float = 1.0) -> RateLimiter:
    return RateLimiter({CREATE: Rate(count, window_s)}, monotonic=time.monotonic, sleep=time.sleep)


def most_in_a_window(times: list[float], window_s: float) -> int:
    """The largest number of sends within any half-open window of that length."""
    return max((sum(start <= at < start + window_s for at in times) for start in times), default=0)


async def test_burst_of_fifty() -> None:
    """50 at once at 10 a second: the last is sent within 4.4 s, no window has 11 (docs/internals/reliability.md section 9.3, goal 5)."""
    time = FakeTime()
    rate_limiter = limiter_with(time)
    sent: list[float] = []

    async def one() -> None:
        permit = await rate_limiter.acquire(CREATE)
        permit.mark_sent()
        sent.append(time.now)

    await asyncio.gather(*(one() for _ in range(50)))
    await rate_limiter.close()
    assert len(sent) == 50
    assert most_in_a_window(sent, 1.0) == 10
    assert sent[-1] - sent[0] <= 4.4


@settings(max_examples=examples(60), deadline=None)
@given(
    count=st.integers(1, 12),
    window_s=st.floats(0.5, 10),
    gaps=st.lists(st.floats(0, 2), min_size=1, max_size=40),
    delays=st.lists(st.floats(0, 0.5), min_size=40, max_size=40),
)
def test_no_window_overflows(count: int, window_s: float, gaps: list[float], delays: list[float]) -> None:
    """For any arrivals, and any delay from grant to send, no window has more than allowed."""

    async def scenario() -> list[float]:
        time = FakeTime()
        rate_limiter = limiter_with(time, count, window_s)
        sent: list[float] = []

        async def one(delay: float) -> None:
            permit = await rate_limiter.acquire(CREATE)
            await time.sleep(delay)
            permit.mark_sent()
            sent.append(time.now)

        tasks = []
        for gap, delay in zip(gaps, delays, strict=False):
            await time.sleep(gap)
            tasks.append(asyncio.create_task(one(delay)))
        await asyncio.gather(*tasks)
        await rate_limiter.close()
        return sent

    sent = asyncio.run(scenario())
    assert len(sent) == min(len(gaps), len(delays))
    assert most_in_a_window(sorted(sent), window_s) <= count


@settings(max_examples=examples(60), deadline=None)
@given(
    count=st.integers(1, 10),
    round_trips=st.lists(st.tuples(st.floats(0.01, 0.4), st.floats(0.01, 0.4)), min_size=1, max_size=40),
    ahead_s=st.none() | st.floats(-1000, 1000),
)
def test_the_exchange_s_own_window_does_not_overflow(
    count: int, round_trips: list[tuple[float, float]], ahead_s: float | None
) -> None:
    """The exchange counts requests that are delayed on the way late. With the shortest round trip known, none of its windows has more
    than allowed, whether its replies contain its time (`ahead_s` of ours) or not."""

    async def scenario() -> list[float]:
        time = FakeTime()
        rate_limiter = limiter_with(time, count)
        counted: list[float] = []

        async def one(out: float, back: float) -> None:
            permit = await rate_limiter.acquire(CREATE)
            permit.mark_sent()
            await time.sleep_beside(out)
            counted.append(time.now)
            exchange_ms = None if ahead_s is None else int((time.now + ahead_s) * 1000)
            await time.sleep_beside(back)
            permit.mark_answered(exchange_ms)

        await one(0.01, 0.01)
        tasks = [asyncio.create_task(one(out, back)) for out, back in round_trips]
        await time.run(tasks)
        await rate_limiter.close()
        return counted

    counted = asyncio.run(scenario())
    assert len(counted) == len(round_trips) + 1
    assert most_in_a_window(sorted(counted), 1.0) <= count


@pytest.mark.parametrize(
    ("offset_s", "longest_s"),
    [(0.0, 1.0), (3600.0, 1.5), (-3600.0, 1.0), (None, 1.5)],
    ids=["exact", "clock set forward", "clock set back", "not told"],
)
async def test_a_reply_that_is_read_late(offset_s: float | None, longest_s: float) -> None:
    """A busy loop reads a reply half a second late. If it contains the exchange's time, its slot is free a second after it was counted.
    A clock that was set, or no time at all, costs at most the round trip and never shortens the second."""
    time = FakeTime()
    rate_limiter = limiter_with(time, count=1)
    permit = await rate_limiter.acquire(CREATE)
    permit.mark_sent()
    permit.mark_answered(round(time.now * 1000))
    permit = await rate_limiter.acquire(CREATE)
    permit.mark_sent()
    sent_at = time.now
    await time.sleep(0.5)
    permit.mark_answered(None if offset_s is None else round((sent_at + offset_s) * 1000))
    await rate_limiter.acquire(CREATE)
    assert 1.0 <= time.now - sent_at <= longest_s + JITTER_S + 0.002  # the exchange's milliseconds are whole ones
    await rate_limiter.close()


async def test_exits_overtake() -> None:
    """An exit that comes last gets the first free slot."""
    time = FakeTime()
    rate_limiter = limiter_with(time, count=1)
    order: list[str] = []

    async def one(name: str, *, is_urgent: bool = False) -> None:
        permit = await rate_limiter.acquire(CREATE, is_urgent=is_urgent)
        permit.mark_sent()
        order.append(name)

    tasks = [asyncio.create_task(one(f"entry{n}")) for n in range(3)]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(one("exit", is_urgent=True)))
    await asyncio.gather(*tasks)
    await rate_limiter.close()
    assert order == ["entry0", "exit", "entry1", "entry2"]


async def test_stops_overtake_other_exits() -> None:
    """A position waits for its stop: it goes before the take-profits of others that came first."""
    time = FakeTime()
    rate_limiter = limiter_with(time, count=1)
    order: list[str] = []

    async def one(name: str, *, is_urgent: bool = True, is_stop: bool = False) -> None:
        permit = await rate_limiter.acquire(CREATE, is_urgent=is_urgent, is_stop=is_stop)
        permit.mark_sent()
        order.append(name)

    tasks = [asyncio.create_task(one("entry0", is_urgent=False)), asyncio.create_task(one("entry1", is_urgent=False))]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(one(f"take-profit{n}")) for n in range(2)]
    tasks.append(asyncio.create_task(one("stop", is_stop=True)))
    await asyncio.gather(*tasks)
    await rate_limiter.close()
    assert order == ["entry0", "stop", "take-profit0", "take-profit1", "entry1"]


async def test_released_permit_is_free_at_once() -> None:
    """The slot of a request that was never written is free again; after the send, release has no effect."""
    time = FakeTime()
    rate_limiter = limiter_with(time, count=1)
    (await rate_limiter.acquire(CREATE)).release()
    permit = await rate_limiter.acquire(CREATE)
    assert time.now == 1000.0
    permit.mark_sent()
    permit.release()  # no effect once it has left
    await rate_limiter.acquire(CREATE)
    assert time.now >= 1001.0
    await rate_limiter.close()


async def test_a_granted_permit_counts_until_it_is_sent() -> None:
    """A granted request that is not sent yet holds its slot for as long as it takes."""
    time = FakeTime()
    rate_limiter = limiter_with(time, count=1)
    first = await rate_limiter.acquire(CREATE)
    waiting = asyncio.create_task(rate_limiter.acquire(CREATE))
    for _ in range(5):
        await time.sleep(1)
    assert not waiting.done()
    first.mark_sent()
    await waiting
    assert time.now >= 1006.0 + JITTER_S
    await rate_limiter.close()


async def test_pause_after_429() -> None:
    """A 429 holds requests for a whole window, or for as long as the exchange demands."""
    time = FakeTime()
    rate_limiter = limiter_with(time)
    rate_limiter.pause(CREATE)
    await rate_limiter.acquire(CREATE)
    assert time.now >= 1001.0
    rate_limiter.pause(CREATE, 7)
    before = time.now
    await rate_limiter.acquire(CREATE)
    assert time.now >= before + 7
    await rate_limiter.close()


async def test_a_retry_after_of_others_holds_no_urgent_request() -> None:
    """What entries earned holds entries only: an exit may be tried at once, also the one that asks without waiting."""
    time = FakeTime()
    rate_limiter = limiter_with(time)
    rate_limiter.pause(CREATE, 300)
    assert rate_limiter.try_acquire(CREATE) is None
    assert rate_limiter.try_acquire(CREATE, is_urgent=True) is not None
    await rate_limiter.acquire(CREATE, is_urgent=True)
    assert time.now == 1000
    await rate_limiter.close()


async def test_a_retry_after_of_an_urgent_request_is_cut_short() -> None:
    """A refused exit is tried again after seconds, whatever the exchange demands; everything else waits as long as demanded."""
    time = FakeTime()
    rate_limiter = limiter_with(time)
    rate_limiter.pause(CREATE, 300, is_urgent=True)
    assert rate_limiter.try_acquire(CREATE, is_urgent=True) is None
    await rate_limiter.acquire(CREATE, is_urgent=True)
    assert 1001 <= time.now <= 1005
    assert rate_limiter.try_acquire(CREATE) is None
    await rate_limiter.close()


async def test_room_is_kept_for_urgent_requests() -> None:
    """A burst of entries leaves places of the window that only exits get."""
    rate_limiter = RateLimiter({CREATE: Rate(10, 1, kept=2)})
    assert sum(rate_limiter.try_acquire(CREATE) is not None for _ in range(10)) == 8
    waiting = asyncio.ensure_future(rate_limiter.acquire(CREATE))
    await asyncio.sleep(0)
    assert sum(rate_limiter.try_acquire(CREATE, is_urgent=True) is not None for _ in range(10)) == 2
    assert not waiting.done()
    await rate_limiter.close()


async def test_cancelled_waiter_leaves_no_slot_taken() -> None:
    """A request cancelled before its grant, or in the same moment."""
    time = FakeTime()
    rate_limiter = limiter_with(time, count=1)
    first = await rate_limiter.acquire(CREATE)
    waiting = asyncio.create_task(rate_limiter.acquire(CREATE))
    await asyncio.sleep(0)
    first.release()  # grants `waiting`, which has not run yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    late = asyncio.create_task(rate_limiter.acquire(CREATE))
    await asyncio.sleep(0)
    late_permit = await late
    assert isinstance(late_permit, WindowPermit)
    late_permit.release()
    assert rate_limiter.try_acquire(CREATE) is not None, "nothing waits any more"
    await rate_limiter.close()


async def test_close_cancels_waiting_requests() -> None:
    """No task hangs on a closed rate limiter."""
    rate_limiter = RateLimiter({CREATE: Rate(1, 1000)})
    (await rate_limiter.acquire(CREATE)).mark_sent()
    waiting = asyncio.create_task(rate_limiter.acquire(CREATE))
    await asyncio.sleep(0)
    await rate_limiter.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize(
    ("endpoint", "count", "window_s"),
    [
        (Endpoint.ORDER_CREATE, 10, 1),
        (Endpoint.ALGO_CREATE, 1, 1),
        (Endpoint.LEVERAGE_SET, 5, 60),
        (Endpoint.CLIENT_INFO, 10, 60),
        (Endpoint.POSITIONS, 30, 10),
        (Endpoint.SYSTEM_INFO, 1, 1),
        (Endpoint.LEVERAGE_GET, 1, 1),
        (Endpoint.ALGO_CANCEL, 5, 1),
    ],
)
def test_documented_rates(endpoint: Endpoint, count: int, window_s: int) -> None:
    """The narrow windows of the documentation, and every endpoint has a rate."""
    rate = RATES[endpoint]
    assert (rate.count, rate.window_s) == (count, window_s)
    assert set(RATES) == set(Endpoint)


async def test_try_acquire_counts_and_never_overtakes() -> None:
    """`try_acquire` returns what is free now; a released slot goes to waiting requests first."""
    time = FakeTime()
    rate_limiter = limiter_with(time, count=2)
    first, second = rate_limiter.try_acquire(CREATE), rate_limiter.try_acquire(CREATE)
    assert first is not None
    assert second is not None
    assert rate_limiter.try_acquire(CREATE) is None
    first.release()
    assert not first.is_held
    third = rate_limiter.try_acquire(CREATE)
    assert third is not None
    waiting = asyncio.create_task(rate_limiter.acquire(CREATE))
    await asyncio.sleep(0)
    second.release()
    assert rate_limiter.try_acquire(CREATE) is None
    granted = await waiting
    granted.mark_sent()
    assert not granted.is_held
    await rate_limiter.close()


def test_try_acquire_from_many_threads() -> None:
    """Orders are claimed on the writer thread while others are granted on the loop: never more than the window holds."""
    rate_limiter = RateLimiter({CREATE: Rate(50, 60)})
    permits: list[WindowPermit] = []

    def acquire_all() -> None:
        while (permit := rate_limiter.try_acquire(CREATE)) is not None:
            permits.append(permit)

    threads = [threading.Thread(target=acquire_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(permits) == 50
