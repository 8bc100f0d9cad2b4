"""Gives swapped alerts their order back: one that does not follow from the position we know waits a moment for the one it overtook.

Two fills of one second leave TradingView as separate requests and may arrive swapped (tradingview.md section 2.2). Only webhooks that
follow a position wait, at most `reorder_ms`; nothing is stored or answered meanwhile, and nothing is decided here.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable


class Reorder:
    """One per daemon. Memory only: an alert that waits was not answered yet."""

    def __init__(self) -> None:
        self._moved: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def moved(self, webhook_id: str) -> None:
        """An alert of this webhook was admitted: what waits may follow from it."""
        event = self._moved.pop(webhook_id, None)
        if event is not None:
            event.set()

    async def wait_for_turn(
        self, webhook_id: str, is_out_of_turn: Callable[[], Awaitable[bool]], *, reorder_ms: int
    ) -> bool:
        """Return once the alert follows from what is known, or after `reorder_ms`; True when it had to wait.

        Looks again whenever another alert of the webhook was admitted.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + reorder_ms / 1000
        has_waited = False
        while await is_out_of_turn():
            left = deadline - loop.time()
            if left <= 0:
                break
            has_waited = True
            event = self._moved[webhook_id]
            try:
                async with asyncio.timeout(left):
                    await event.wait()
            except TimeoutError:
                break
        return has_waited
