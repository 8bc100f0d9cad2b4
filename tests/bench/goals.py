"""Performance goals, as ratios within one run or as counts: milliseconds would depend on the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_KEKBRIDGE: Final = "kekbridge"
_TO_REFERENCE: Final = "kekbridge / reference"
_TO_FLASK: Final = "kekbridge / flask"
_TO_ONE_COMMIT: Final = "kekbridge / one commit each"


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for the median of a figure."""

    bound: float
    is_floor: bool = False

    def describe(self, median: float) -> str:
        """Format the bound, and whether the median meets it."""
        is_met = median >= self.bound if self.is_floor else median <= self.bound
        return f"{'≥' if self.is_floor else '≤'} {self.bound:g}: {'met' if is_met else 'missed'}"


# By scenario, figure and row of the table.
GOALS: Final[Mapping[tuple[str, str, str], Goal]] = {
    ("lone", "order p50 ms", _TO_REFERENCE): Goal(1.3),
    ("lone", "order p50 ms", _TO_FLASK): Goal(1),
    ("lone", "order p99 ms", _TO_REFERENCE): Goal(1.6),
    ("ten", "order p99/p50", _KEKBRIDGE): Goal(2),
    ("burst", "last order ms", _TO_REFERENCE): Goal(1.5),
    ("burst", "last order ms", _TO_FLASK): Goal(0.5),
    ("burst", "ack p99 ms", _TO_REFERENCE): Goal(1.7),
    ("spread", "last order ms", _TO_REFERENCE): Goal(1.7),
    ("sustained", "alerts/s", _TO_REFERENCE): Goal(0.55, is_floor=True),
    ("sustained", "alerts/s", _TO_FLASK): Goal(1.8, is_floor=True),
    ("sustained", "cpu ms/alert", _TO_REFERENCE): Goal(1.8),
    ("sustained", "cpu ms/alert", _TO_FLASK): Goal(0.5),
    ("calls", "calls per alert, lone", _KEKBRIDGE): Goal(1500),
    ("calls", "calls per alert, sustained", _KEKBRIDGE): Goal(1500),
    ("decide", "decide, 50 / 5 markets", _KEKBRIDGE): Goal(1.2),
    ("onemarket", "last order s", _KEKBRIDGE): Goal(10),
    ("onemarket", "never ordered", _KEKBRIDGE): Goal(0),
    ("slow", "slow/instant", _KEKBRIDGE): Goal(1.3),
    ("slow", "past 3 s", _KEKBRIDGE): Goal(0),
    ("slow", "past 3 s, waiting", _KEKBRIDGE): Goal(0),
    ("limited", "last order s", _KEKBRIDGE): Goal(4.4),
    ("limited", "refused", _KEKBRIDGE): Goal(0),
    ("limited", "never ordered", _KEKBRIDGE): Goal(0),
    ("brackets", "last bracket s", _KEKBRIDGE): Goal(7.7),
    ("brackets", "last close s", _KEKBRIDGE): Goal(1),
    ("brackets", "refused", _KEKBRIDGE): Goal(0),
    ("exits", "beside lost answers ms", _KEKBRIDGE): Goal(300),
    ("exits", "behind a resting leg ms", _KEKBRIDGE): Goal(300),
    ("exits", "behind brackets ms", _KEKBRIDGE): Goal(300),
    ("exits", "beside slow entries ms", _KEKBRIDGE): Goal(300),
    ("exits", "during Retry-After ms", _KEKBRIDGE): Goal(300),
    ("twice", "double orders", _KEKBRIDGE): Goal(0),
    ("memory", "idle MiB", _TO_REFERENCE): Goal(1.4),
    ("memory", "late/early", _KEKBRIDGE): Goal(1.15),
    ("start", "start s", _TO_REFERENCE): Goal(1.6),
    ("restart", "start, 10000 / empty", _KEKBRIDGE): Goal(1.2),
    ("restart", "start, 1000000 / empty", _KEKBRIDGE): Goal(1.15),
    ("restart", "order p50, 1000000 / empty", _KEKBRIDGE): Goal(1.15),
    ("flushes", "per alert, lone", _KEKBRIDGE): Goal(2),
    ("flushes", "per alert, burst", _KEKBRIDGE): Goal(0.15),
    ("flushes", "before the order, least", _KEKBRIDGE): Goal(1, is_floor=True),
    ("flushes", "before the order, most", _KEKBRIDGE): Goal(1),
    ("written", "write calls", _KEKBRIDGE): Goal(20),
    ("written", "written KB", _KEKBRIDGE): Goal(40),
    ("disk", "alerts/s", _TO_ONE_COMMIT): Goal(10, is_floor=True),
    ("cli", "--help x bare", _KEKBRIDGE): Goal(9),
    ("cli", "--version x bare", _KEKBRIDGE): Goal(4),
}
