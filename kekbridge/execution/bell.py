"""Something that one task waits for, at most so long: what asyncio.Event and asyncio.timeout do together, in a third of the steps.

An alert's order waits so for its place in line, for its end, and its sender for both. The loop's thread only.
"""

from __future__ import annotations

import asyncio


class Bell:
    """Rung at any time, also before anybody listens; it stays rung until `clear`. One task at a time may wait."""

    __slots__ = ("_waiter", "has_rung")

    def __init__(self) -> None:
        self.has_rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake whoever waits, or spare the next one the wait."""
        self.has_rung = True
        if self._waiter is not None:
            _end(self._waiter)

    def clear(self) -> None:
        """Forget that it has rung."""
        self.has_rung = False

    async def wait(self, longest_s: float) -> bool:
        """True once it has rung, at once if it has already; False after so many seconds."""
        if self.has_rung:
            return True
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = loop.call_later(longest_s, _end, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
        return self.has_rung


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
