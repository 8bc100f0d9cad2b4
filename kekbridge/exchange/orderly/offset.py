"""How far this machine's clock is from the exchange's, learnt from the `timestamp` of its answers (orderly-api.md section 15, trap 10).

Pure arithmetic on milliseconds. A small offset is noise of the round trip and is left alone; a large one would make every signed
request too old or from the future, so signing uses the corrected time then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

APPLIED_FROM_MS: Final = 500
"""Below this the offset is reported but not applied: half of the smallest receive window that can be set is 250 ms away."""


@dataclass(slots=True)
class ClockOffset:
    """The bounds that all recent answers agree on: exchange clock minus ours lies between `low` and `high` ms."""

    low: float = float("-inf")
    high: float = float("inf")

    def observe(self, *, sent_ms: int, received_ms: int, server_ms: int) -> None:
        """Learn from one answer: the exchange read its clock between our sending and our receiving.

        Bounds that contradict the known ones mean that a clock was moved (or drifted): then only the new ones count.
        """
        if received_ms < sent_ms:
            return  # our clock was set back in between: this answer says nothing
        low, high = float(server_ms - received_ms), float(server_ms + 1 - sent_ms)
        if low > self.high or high < self.low:
            self.low, self.high = low, high
        else:
            self.low, self.high = max(low, self.low), min(high, self.high)

    @property
    def ms(self) -> int | None:
        """The best estimate, None before the first answer; positive = the exchange is ahead of us."""
        if self.low == float("-inf"):
            return None
        return round((self.low + self.high) / 2)

    def correct(self, local_ms: int) -> int:
        """The time to sign with."""
        offset = self.ms
        return local_ms + offset if offset is not None and abs(offset) >= APPLIED_FROM_MS else local_ms
