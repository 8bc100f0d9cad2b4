"""Wait for a condition with a deadline, instead of sleeping for a fixed time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

#: Reached on failure only: long enough for a busy machine, shorter than pytest's timeout.
DEADLINE_S = 60.0


async def until(condition: Callable[[], Awaitable[bool] | bool], *, deadline_s: float = DEADLINE_S) -> None:
    """Return as soon as the condition holds; fail if it does not within `deadline_s` seconds."""
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                value = condition()
                if await value if isinstance(value, Awaitable) else value:
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"the condition did not come true within {deadline_s:.0f} s") from None


@asynccontextmanager
async def measuring_stalls(processes: Callable[[], Iterable[int]]) -> AsyncIterator[Callable[[], float]]:
    """Yield a function that returns the seconds that the machine kept this process and others waiting so far: it adds them to a limit.

    `processes`: the ids of the others that run now. This one is woken too late; they wait for a processor, often longer, because a process
    that has slept is preferred to one that works (field 2 of /proc/PID/schedstat, in ns; of the event loop's thread).
    """
    loop = asyncio.get_running_loop()
    late_s = 0.0
    waited_ns: dict[int, list[int]] = {}  # by process: at first and now

    async def measure() -> None:
        nonlocal late_s
        while True:
            due = loop.time() + 0.05
            await asyncio.sleep(0.05)
            late_s += loop.time() - due
            for process in processes():
                try:
                    now = int(Path(f"/proc/{process}/schedstat").read_text().split()[1])
                except (OSError, IndexError):  # it has ended, or the kernel does not count
                    continue
                waited_ns.setdefault(process, [now, now])[1] = now

    measuring = asyncio.create_task(measure())
    try:
        yield lambda: late_s + sum(now - first for first, now in waited_ns.values()) / 1e9
    finally:
        measuring.cancel()
