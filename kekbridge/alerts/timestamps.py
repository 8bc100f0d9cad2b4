"""When an alert fired: the spellings of time that TradingView, Pine and scripts use, and whether that is too long ago.

Pure: `now` is always an argument. payload.py calls this; nothing here knows the rest of a message.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import lru_cache

from kekbridge.alerts.numbers import decimal_of
from kekbridge.alerts.redaction import show
from kekbridge.errors import Refused, Unauthenticated

_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?"
    r"(?:([Zz])|([+-])([0-9]{2}):?([0-9]{2})?)"
)
# Seconds since 1970 have nine to eleven digits (1973 to 5138), milliseconds twelve to fourteen; nothing lies in both ranges.
_FIRST_SECOND, _FIRST_MILLISECOND, _END_MILLISECOND = Decimal(10) ** 8, Decimal(10) ** 11, Decimal(10) ** 14
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant_of(value: object) -> datetime:
    """The instant that `value` names, in UTC: ISO 8601 with a zone (`Z`, `+00:00`, `+0000`), or Unix seconds or milliseconds.

    Raises Refused(field_invalid) for anything else; a time without a zone is refused rather than guessed.
    """
    instant = _from_iso(value) if isinstance(value, str) else None
    if instant is None:
        instant = _from_unix(value)
    if instant is None:
        raise Refused(
            "field_invalid",
            f"timestamp: found {show(value)}, expected a time with its zone such as 2026-01-15T10:30:03Z or Unix seconds or "
            'milliseconds; write "timestamp":"{{timenow}}"',
            field="timestamp",
        )
    return instant


# A message is asked twice when it fired, and all alerts of one bar say the same second.
@lru_cache(maxsize=64)
def _from_iso(text: str) -> datetime | None:
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute = (int(match.group(i)) for i in range(1, 6))
    second = int(match.group(6) or 0)
    microsecond = int((match.group(7) or "")[:6].ljust(6, "0"))
    zone = UTC
    try:
        if match.group(9):
            offset = timedelta(hours=int(match.group(10)), minutes=int(match.group(11) or 0))
            zone = timezone(-offset if match.group(9) == "-" else offset)
        return datetime(year, month, day, hour, minute, second, microsecond, tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        return None  # the 30th of February, 25 o'clock, a zone of 99 hours, year 0 or 9999 shifted out of the calendar


def _from_unix(value: object) -> datetime | None:
    number = decimal_of(value)
    if number is None or not _FIRST_SECOND <= number < _END_MILLISECOND:
        return None
    milliseconds = number if number >= _FIRST_MILLISECOND else number * 1000
    return _EPOCH + timedelta(microseconds=int(milliseconds * 1000))


def check_age(fired_at: datetime, *, now: datetime, max_age_s: float, max_future_s: float) -> None:
    """Raise Unauthenticated when the alert is older than `max_age_s` or lies more than `max_future_s` ahead of `now`."""
    age_s = (now - fired_at).total_seconds()
    if age_s > max_age_s:
        raise Unauthenticated("timestamp_stale", _stale_message(fired_at, age_s, max_age_s), field="timestamp")
    if -age_s > max_future_s:
        raise Unauthenticated(
            "timestamp_future",
            f"timestamp {fired_at:%Y-%m-%dT%H:%M:%SZ} lies {spoken_duration(-age_s)} in the future, allowed are {max_future_s:g} s; "
            "check the clocks of the sender and of this machine",
            field="timestamp",
        )


def _stale_message(fired_at: datetime, age_s: float, max_age_s: float) -> str:
    said = f"timestamp {fired_at:%Y-%m-%dT%H:%M:%SZ} is {spoken_duration(age_s)} old, allowed are {max_age_s:g} s"
    if fired_at.second == 0 and fired_at.microsecond == 0:
        return (
            said + "; it looks like the opening of a bar: use {{timenow}} (fire time) instead of {{time}} (bar opening)"
        )
    return said + "; use {{timenow}}, and check the clocks of the sender and of this machine"


def spoken_duration(seconds: float) -> str:
    """`75` -> `1 min 15 s`; days, hours, minutes or seconds, the two largest units."""
    left = int(seconds)
    parts: list[str] = []
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "under 1 s"
