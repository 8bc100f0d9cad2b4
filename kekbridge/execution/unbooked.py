"""Executions that the account shows already while the store still holds the room of their orders.

Whoever decides in between counts them twice, as a position and as an order on its way, and says no to what fits. So a decision waits a
moment for them. Memory only; it errs on the safe side: what is not booked in time is counted twice, never left out.
"""

from __future__ import annotations

import asyncio
from typing import Final

from kekbridge.execution.bell import Bell

# Booking takes a few turns of the loop; where it takes an answer of the exchange, an alert must not wait for that.
LONGEST_S: Final = 0.2


class Unbooked:
    """By client order id, of all orders whose report of an execution is not on its way into the store. The loop's thread only."""

    def __init__(self) -> None:
        self._orders: set[str] = set()
        self._waiting: set[Bell] = set()

    def heard(self, client_order_id: str) -> None:
        """The account shows an execution of this order since now."""
        self._orders.add(client_order_id)

    def booked(self, client_order_id: str) -> None:
        """What is known of the order stands in the writer's queue, in front of whatever is decided next."""
        self._orders.discard(client_order_id)
        if not self._orders:
            for bell in self._waiting:
                bell.ring()

    async def wait(self) -> None:
        """Return when nothing is unbooked, at the latest after LONGEST_S; at once, without a turn of the loop, when nothing is."""
        if not self._orders:
            return
        now = asyncio.get_running_loop().time
        deadline = now() + LONGEST_S
        while self._orders and (left := deadline - now()) > 0:
            bell = Bell()
            self._waiting.add(bell)
            try:
                await bell.wait(left)
            finally:
                self._waiting.discard(bell)
