"""Wait for a condition with a deadline, instead of sleeping for a fixed time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

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
async def measuring_stalls() -> AsyncIterator[Callable[[], float]]:
    """Yield a function that returns how many seconds too late this process was woken so far, which a busy machine adds to a limit."""
    loop = asyncio.get_running_loop()
    late_s = 0.0

    async def measure() -> None:
        nonlocal late_s
        while True:
            due = loop.time() + 0.05
            await asyncio.sleep(0.05)
            late_s += loop.time() - due

    measuring = asyncio.create_task(measure())
    try:
        yield lambda: late_s
    finally:
        measuring.cancel()
