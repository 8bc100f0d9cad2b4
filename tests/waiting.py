"""Wait for a condition with a deadline, instead of sleeping for a fixed time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

DEADLINE_S = 20.0


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
