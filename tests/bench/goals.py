"""What kekbridge should reach, as ratios within one run or as counts: never as milliseconds of this machine or that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_OURS: Final = "kekbridge"
_BESIDE_REFERENCE: Final = "kekbridge / reference"
_BESIDE_FLASK: Final = "kekbridge / flask"
_BESIDE_ONE_COMMIT: Final = "kekbridge / one commit each"


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for the median of a figure."""

    bound: float
    is_floor: bool = False

    def told(self, median: float) -> str:
        """The bound, and whether the median keeps it."""
        is_met = median >= self.bound if self.is_floor else median <= self.bound
        return f"{'≥' if self.is_floor else '≤'} {self.bound:g}: {'met' if is_met else 'missed'}"


# By scenario, figure and row of the table.
GOALS: Final[Mapping[tuple[str, str, str], Goal]] = {
    ("lone", "order p50 ms", _BESIDE_REFERENCE): Goal(1.4),
    ("lone", "order p99 ms", _BESIDE_REFERENCE): Goal(1.6),
    ("ten", "order p99/p50", _OURS): Goal(2),
    ("burst", "last order ms", _BESIDE_REFERENCE): Goal(1.5),
    ("burst", "last order ms", _BESIDE_FLASK): Goal(0.4),
    ("burst", "ack p99 ms", _BESIDE_REFERENCE): Goal(1.6),
    ("sustained", "alerts/s", _BESIDE_REFERENCE): Goal(0.65, is_floor=True),
    ("sustained", "cpu ms/alert", _BESIDE_REFERENCE): Goal(1.5),
    ("slow", "slow/instant", _OURS): Goal(1.3),
    ("slow", "past 3 s", _OURS): Goal(0),
    ("slow", "past 3 s, waiting", _OURS): Goal(0),
    ("limited", "last order s", _OURS): Goal(4.4),
    ("limited", "refused", _OURS): Goal(0),
    ("limited", "never ordered", _OURS): Goal(0),
    ("brackets", "last bracket s", _OURS): Goal(7.7),
    ("brackets", "last close s", _OURS): Goal(1),
    ("brackets", "refused", _OURS): Goal(0),
    ("twice", "double orders", _OURS): Goal(0),
    ("memory", "idle MiB", _BESIDE_REFERENCE): Goal(1.4),
    ("memory", "late/early", _OURS): Goal(1.15),
    ("start", "start s", _BESIDE_REFERENCE): Goal(1.6),
    ("restart", "start, 10000 / empty", _OURS): Goal(1.2),
    ("restart", "order p50, 1000000 / empty", _OURS): Goal(1.15),
    ("flushes", "per alert, lone", _OURS): Goal(2),
    ("flushes", "per alert, burst", _OURS): Goal(0.15),
    ("disk", "alerts/s", _BESIDE_ONE_COMMIT): Goal(15, is_floor=True),
    ("cli", "--help x bare", _OURS): Goal(9),
    ("cli", "--version x bare", _OURS): Goal(4),
}
