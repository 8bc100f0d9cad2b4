"""Quiet hours such as `22:00-07:00` in a named time zone, in which only failures are notified. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Final, Self

from kekbridge.formatting import sanitize

_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\s*-\s*([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_LONGEST_FOUND: Final = 40


@dataclass(frozen=True, slots=True)
class QuietHours:
    """A span of each day."""

    #: Minute of the day.
    start: int
    #: Minute of the day, excluded; before `start`: it ends on the next day.
    end: int
    #: None: the machine's zone.
    zone: tzinfo | None

    @classmethod
    def parse(cls, hours: str, zone: str = "") -> Self | None:
        """Read `22:00-07:00` and the name of a zone (empty: the machine's); None for empty hours. Raises ValueError."""
        if not hours.strip():
            return None
        match = _HOURS.fullmatch(hours.strip())
        numbers = [] if match is None else [int(part) for part in match.groups()]
        if not numbers or numbers[:2] == numbers[2:]:
            raise ValueError(
                f"found {sanitize(hours)[:_LONGEST_FOUND]!r}, expected two times of day such as 22:00-07:00"
            )
        return cls(numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3], read_zone(zone))

    def contains(self, now: datetime) -> bool:
        """True if a time is within the span."""
        local = now.astimezone(self.zone)
        minute = local.hour * 60 + local.minute
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


def read_zone(name: str) -> tzinfo | None:
    """A time zone by its name in the IANA database, such as `Europe/Berlin`; None, the machine's, if it is empty. Raises ValueError."""
    if not name:
        return None
    from zoneinfo import ZoneInfo  # late: most commands show no time of another zone

    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # no such zone; a directory; an absolute path
        found = sanitize(name)[:_LONGEST_FOUND]
        raise ValueError(f"found {found!r}, expected a time zone such as Europe/Berlin or UTC") from None
