"""Parser for trading hours such as `Mon-Fri 07:00-22:00 UTC`; several windows are separated by `,` or `;`.

Used for every entry and when a limit is set. Times are UTC; an end before the start runs overnight. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from kekbridge.errors import ConfigError

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY: Final = r"(?:mon|tue|wed|thu|fri|sat|sun)"
_RANGE: Final = rf"{_DAY}(?:\s*-\s*{_DAY})?"
_WINDOW: Final = re.compile(
    rf"\s*(?:(?P<days>{_RANGE}(?:\s*,\s*{_RANGE})*)\s+)?(?P<start>\d?\d:\d\d)\s*-\s*(?P<end>\d?\d:\d\d)(?:\s*(?:utc|z))?\s*(?:[,;]|$)",
    re.IGNORECASE | re.ASCII,
)
_DAY_MINUTES: Final = 24 * 60
_MAX_LENGTH: Final = 400


@dataclass(frozen=True, slots=True)
class Window:
    """One daily time window."""

    #: Weekdays on which it starts; 0 is Monday.
    days: frozenset[int]
    #: Minute of the day.
    start: int
    #: Minute of the day, excluded; `end <= start` runs into the next day.
    end: int

    def contains(self, now: datetime) -> bool:
        now = now.astimezone(UTC)
        minute = now.hour * 60 + now.minute
        today = now.weekday()
        if self.start < self.end:
            return today in self.days and self.start <= minute < self.end
        return (today in self.days and minute >= self.start) or ((today - 1) % 7 in self.days and minute < self.end)


@lru_cache(maxsize=256)
def parse_hours(text: str) -> tuple[tuple[Window, ...], ...]:
    """Parse windows such as `Mon-Fri 07:00-22:00 UTC, Sat 10:00-14:00`; groups joined by `&` must all be open.

    A window without days applies every day; `24:00` is the midnight that ends the day. Raises ConfigError quoting the unreadable part.
    """
    if len(text) > _MAX_LENGTH:
        raise _unreadable(text[:40])
    return tuple(_parse_group(group) for group in text.split("&"))


def is_open(text: str, now: datetime) -> bool:
    """Return whether entries are allowed at `now` (aware). Raises ConfigError if the text cannot be read."""
    return all(any(window.contains(now) for window in group) for group in parse_hours(text))


def next_opening(text: str, now: datetime) -> datetime | None:
    """`now` if entries are allowed, else the next minute at which they are; None if there is none within eight days."""
    first = now.astimezone(UTC).replace(second=0, microsecond=0)
    edges = sorted({window.start for group in parse_hours(text) for window in group})
    if is_open(text, now):
        return now
    for day in range(9):
        midnight = (first + timedelta(days=day)).replace(hour=0, minute=0)
        for edge in (
            0,
            *edges,
        ):  # midnight too: yesterday's overnight window may overlap a day on which another group opens
            moment = midnight + timedelta(minutes=edge)
            if moment > now and is_open(text, moment):
                return moment
    return None


def _parse_group(text: str) -> tuple[Window, ...]:
    text = text.strip()
    windows: list[Window] = []
    position = 0
    while position < len(text):
        found = _WINDOW.match(text, position)
        if found is None:
            raise _unreadable(text[position : position + 40])
        windows.append(Window(_days_of(found["days"]), _minute_of(found["start"]), _minute_of(found["end"])))
        position = found.end()
    if not windows:
        raise _unreadable(text)
    return tuple(windows)


def _days_of(text: str | None) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = (name.strip() for name in part.partition("-"))
        start = _DAYS.index(first)
        length = (_DAYS.index(last) - start) % 7 if last else 0
        days |= {(start + offset) % 7 for offset in range(length + 1)}
    return frozenset(days)


def _minute_of(text: str) -> int:
    hours, minutes = map(int, text.split(":"))
    total = hours * 60 + minutes
    if minutes > 59 or total > _DAY_MINUTES:
        raise _unreadable(text)
    return total


def _unreadable(found: str) -> ConfigError:
    return ConfigError(
        f"trading hours: found {found!r}, expected days and times in UTC such as 'Mon-Fri 07:00-22:00 UTC'",
        field="trading_hours",
    )
