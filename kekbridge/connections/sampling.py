"""How often an event that repeats is logged: once a minute for each kind, with the number of times it happened. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

PERIOD_S: Final = 60.0
_MOST_KINDS: Final = 1000
_MOST_LINES: Final = 100


@dataclass(slots=True)
class _Kind:
    """Occurrences of one kind of event since it was last logged."""

    logged_at: float
    count: int = 0


class Sampler:
    """Decides which occurrences of an event are logged. Its memory and its lines are bounded however many kinds there are."""

    def __init__(self, *, most_lines: int = _MOST_LINES) -> None:
        """At most `most_lines` lines are due in a minute, over all kinds: an attacker may have many addresses."""
        self._most_lines = most_lines
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()
        self._minute_began_at = float("-inf")
        self._lines = 0

    def due(self, kind: Hashable, now: float) -> int:
        """Count one occurrence at `now` (seconds of any monotonic clock). 0: do not log it; else how many the line stands for.

        The first one is due at once; those of the following minute are counted in the next line.
        """
        found = self._kinds.get(kind)
        if found is not None and now - found.logged_at < PERIOD_S:
            found.count += 1
            return 0
        if now - self._minute_began_at >= PERIOD_S:
            self._minute_began_at, self._lines = now, 0
        if self._lines >= self._most_lines:
            if found is not None:
                found.count += 1
            return 0
        self._lines += 1
        if found is None:
            found = self._kinds[kind] = _Kind(now)
            if len(self._kinds) > _MOST_KINDS:
                self._kinds.popitem(last=False)
        self._kinds.move_to_end(kind)
        count, found.count, found.logged_at = found.count + 1, 0, now
        return count
