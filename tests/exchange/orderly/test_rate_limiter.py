"""The sliding windows: never more than allowed in any window, exits first, nothing lost, nobody waits for real."""

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
    """A clock that moves when somebody sleeps on it; `run` lets many sleep side by side, earliest first."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._is_run = False
        self._alarms: list[tuple[float, int, asyncio.Event]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if self._is_run:
            await self.sleep_beside(seconds)
        else:
            await asyncio.sleep(0)
            self.now += seconds

    async def sleep_beside(self, seconds: float) -> None:
        if not self._is_run:
            self.now += seconds
            return
        event = asyncio.Event()
        heapq.heappush(self._alarms, (self.now + seconds, next(self._order), event))
        await event.wait()

    async def run(self, tasks: list[asyncio.Task[None]]) -> None:
        """Wake the earliest sleeper whenever everybody sleeps, until the tasks are done."""
        self._is_run = True
        while not all(task.done() for task in tasks):
            for _ in range(20):
                await asyncio.sleep(0)
            if self._alarms:
                due, _, event = heapq.heappop(self._alarms)
                self.now = max(self.now, due)
                event.set()
        await asyncio.gather(*tasks)


def pacer_of(time: FakeTime, count: int = 10, window_s: float = 1.0) -> RateLimiter:
    return RateLimiter({CREATE: Rate(count, window_s)}, monotonic=time.monotonic, sleep=time.sleep)


def most_in_a_window(times: list[float], window_s: float) -> int:
    """The largest number of sends within any half-open window of that length."""
    return max((sum(start <= at < start + window_s for at in times) for start in times), default=0)


async def test_burst_of_fifty() -> None:
    """50 at once at 10 a second: the last leaves within 4.4 s, no window holds 11 (docs/internals/reliability.md section 9.3, goal 5)."""
    time = FakeTime()
    pacer = pacer_of(time)
    sent: list[float] = []

    async def one() -> None:
        ticket = await pacer.acquire(CREATE)
        ticket.mark_sent()
        sent.append(time.now)

    await asyncio.gather(*(one() for _ in range(50)))
    await pacer.close()
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
    """Whatever the arrivals, and however long a request takes from its grant to its leaving: no window holds more than allowed."""

    async def story() -> list[float]:
        time = FakeTime()
        pacer = pacer_of(time, count, window_s)
        sent: list[float] = []

        async def one(delay: float) -> None:
            ticket = await pacer.acquire(CREATE)
            await time.sleep(delay)
            ticket.mark_sent()
            sent.append(time.now)

        tasks = []
        for gap, delay in zip(gaps, delays, strict=False):
            await time.sleep(gap)
            tasks.append(asyncio.create_task(one(delay)))
        await asyncio.gather(*tasks)
        await pacer.close()
        return sent

    sent = asyncio.run(story())
    assert len(sent) == min(len(gaps), len(delays))
    assert most_in_a_window(sorted(sent), window_s) <= count


@settings(max_examples=examples(60), deadline=None)
@given(
    count=st.integers(1, 10),
    ways=st.lists(st.tuples(st.floats(0.01, 0.4), st.floats(0.01, 0.4)), min_size=1, max_size=40),
    ahead_s=st.none() | st.floats(-1000, 1000),
)
def test_the_exchange_s_own_window_does_not_overflow(
    count: int, ways: list[tuple[float, float]], ahead_s: float | None
) -> None:
    """Requests that dawdle on the way out are counted late by the exchange: with the shortest way known, it never counts more than
    allowed in any of its windows, whether its answers tell its own time (`ahead_s` of ours) or not."""

    async def story() -> list[float]:
        time = FakeTime()
        pacer = pacer_of(time, count)
        counted: list[float] = []

        async def one(out: float, back: float) -> None:
            ticket = await pacer.acquire(CREATE)
            ticket.mark_sent()
            await time.sleep_beside(out)
            counted.append(time.now)
            told_ms = None if ahead_s is None else int((time.now + ahead_s) * 1000)
            await time.sleep_beside(back)
            ticket.mark_answered(told_ms)

        await one(0.01, 0.01)
        tasks = [asyncio.create_task(one(out, back)) for out, back in ways]
        await time.run(tasks)
        await pacer.close()
        return counted

    counted = asyncio.run(story())
    assert len(counted) == len(ways) + 1
    assert most_in_a_window(sorted(counted), 1.0) <= count


@pytest.mark.parametrize(
    ("told_s", "longest_s"),
    [(0.0, 1.0), (3600.0, 1.5), (-3600.0, 1.0), (None, 1.5)],
    ids=["exact", "clock set forward", "clock set back", "not told"],
)
async def test_an_answer_that_is_read_late(told_s: float | None, longest_s: float) -> None:
    """A busy loop reads an answer half a second late: where it tells the exchange's time, its place is free again a second after it was
    counted; a clock that was set in between, or tells nothing, costs no more than the round trip, and never shortens the second."""
    time = FakeTime()
    pacer = pacer_of(time, count=1)
    ticket = await pacer.acquire(CREATE)
    ticket.mark_sent()
    ticket.mark_answered(round(time.now * 1000))
    ticket = await pacer.acquire(CREATE)
    ticket.mark_sent()
    left_at = time.now
    await time.sleep(0.5)
    ticket.mark_answered(None if told_s is None else round((left_at + told_s) * 1000))
    await pacer.acquire(CREATE)
    assert 1.0 <= time.now - left_at <= longest_s + JITTER_S + 0.002  # the exchange's milliseconds are whole ones
    await pacer.close()


async def test_exits_overtake() -> None:
    """An exit that comes last leaves with the first free place."""
    time = FakeTime()
    pacer = pacer_of(time, count=1)
    order: list[str] = []

    async def one(name: str, *, is_urgent: bool = False) -> None:
        ticket = await pacer.acquire(CREATE, is_urgent=is_urgent)
        ticket.mark_sent()
        order.append(name)

    tasks = [asyncio.create_task(one(f"entry{n}")) for n in range(3)]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(one("exit", is_urgent=True)))
    await asyncio.gather(*tasks)
    await pacer.close()
    assert order == ["entry0", "exit", "entry1", "entry2"]


async def test_a_request_that_did_not_leave_gives_its_place_back() -> None:
    """A place taken for a request that was never written is free again at once."""
    time = FakeTime()
    pacer = pacer_of(time, count=1)
    (await pacer.acquire(CREATE)).release()
    ticket = await pacer.acquire(CREATE)
    assert time.now == 1000.0
    ticket.mark_sent()
    ticket.release()  # no effect once it has left
    await pacer.acquire(CREATE)
    assert time.now >= 1001.0
    await pacer.close()


async def test_places_count_while_a_request_is_on_its_way_out() -> None:
    """A granted request that has not left yet holds its place for as long as it takes."""
    time = FakeTime()
    pacer = pacer_of(time, count=1)
    first = await pacer.acquire(CREATE)
    waiting = asyncio.create_task(pacer.acquire(CREATE))
    for _ in range(5):
        await time.sleep(1)
    assert not waiting.done()
    first.mark_sent()
    await waiting
    assert time.now >= 1006.0 + JITTER_S
    await pacer.close()


async def test_hold_after_429() -> None:
    """After a refusal nothing leaves for a whole window, or for as long as the exchange asked."""
    time = FakeTime()
    pacer = pacer_of(time)
    pacer.pause(CREATE)
    await pacer.acquire(CREATE)
    assert time.now >= 1001.0
    pacer.pause(CREATE, 7)
    before = time.now
    await pacer.acquire(CREATE, is_urgent=True)
    assert time.now >= before + 7
    await pacer.close()


async def test_giving_up_frees_the_place() -> None:
    """A waiter that is cancelled, before or in the moment of its grant, leaves no place taken."""
    time = FakeTime()
    pacer = pacer_of(time, count=1)
    first = await pacer.acquire(CREATE)
    waiting = asyncio.create_task(pacer.acquire(CREATE))
    await asyncio.sleep(0)
    first.release()  # grants `waiting`, which has not run yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    late = asyncio.create_task(pacer.acquire(CREATE))
    await asyncio.sleep(0)
    late_ticket = await late
    assert isinstance(late_ticket, WindowPermit)
    late_ticket.release()
    assert pacer.try_acquire(CREATE) is not None, "nothing waits any more"
    await pacer.close()


async def test_close_cancels_the_waiting() -> None:
    """Nobody hangs on a closed pacer."""
    pacer = RateLimiter({CREATE: Rate(1, 1000)})
    (await pacer.acquire(CREATE)).mark_sent()
    waiting = asyncio.create_task(pacer.acquire(CREATE))
    await asyncio.sleep(0)
    await pacer.close()
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
    """The tight windows of the guide, and every endpoint has one."""
    assert RATES[endpoint] == Rate(count, window_s)
    assert set(RATES) == set(Endpoint)


async def test_a_place_taken_at_once_counts_and_never_overtakes() -> None:
    """`take` gives what is free this instant; a place given back is free again, and whoever waits goes first."""
    time = FakeTime()
    pacer = pacer_of(time, count=2)
    first, second = pacer.try_acquire(CREATE), pacer.try_acquire(CREATE)
    assert first is not None
    assert second is not None
    assert pacer.try_acquire(CREATE) is None
    first.release()
    assert not first.is_held
    third = pacer.try_acquire(CREATE)
    assert third is not None
    waiting = asyncio.create_task(pacer.acquire(CREATE))
    await asyncio.sleep(0)
    second.release()
    assert pacer.try_acquire(CREATE) is None
    granted = await waiting
    granted.mark_sent()
    assert not granted.is_held
    await pacer.close()


def test_places_taken_by_many_threads_are_never_too_many() -> None:
    """Orders are claimed on the writer thread while others are granted on the loop: the window holds what it holds."""
    pacer = RateLimiter({CREATE: Rate(50, 60)})
    taken: list[WindowPermit] = []

    def take_all() -> None:
        while (ticket := pacer.try_acquire(CREATE)) is not None:
            taken.append(ticket)

    threads = [threading.Thread(target=take_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 50
