"""How times are written in the database: UTC text `YYYY-MM-DDTHH:MM:SS.mmmZ`, fixed width, so that text order is time order.

The one place where a datetime becomes text or text a datetime; it knows no table. Days are UTC days.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


# One moment stands in many columns of an alert, its orders and their history; equal moments have the same text, whatever their zone.
@lru_cache(maxsize=256)
def to_text(moment: datetime) -> str:
    """UTC text with milliseconds (the rest is cut off). Raises ValueError for a naive datetime."""
    if moment.tzinfo is UTC:  # nearly always
        return moment.isoformat(timespec="milliseconds")[:23] + "Z"
    if moment.tzinfo is None:
        raise ValueError(f"time {moment.isoformat()} has no zone, expected an aware datetime in UTC")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:23] + "Z"


def from_text(text: str) -> datetime:
    """The aware UTC datetime that `to_text` wrote."""
    return datetime.fromisoformat(text)


def optional_text(moment: datetime | None) -> str | None:
    return None if moment is None else to_text(moment)


def optional_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def day_of(moment: datetime) -> str:
    """The UTC day `YYYY-MM-DD` that daily limits count by."""
    return to_text(moment)[:10]


def as_stored(moment: datetime) -> datetime:
    """What is read again of a moment that was written: its whole milliseconds."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
