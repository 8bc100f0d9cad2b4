"""Parse an alert's timestamp in the formats of TradingView, Pine and scripts, and check its age. Pure: `now` is an argument."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import lru_cache

from kekbridge.alerts.numbers import parse_decimal
from kekbridge.alerts.redaction import show
from kekbridge.errors import Refused, Unauthenticated
from kekbridge.formatting import duration

_ISO = re.compile(
    r"([0-9]{4})-?([0-9]{2})-?([0-9]{2})[T ]([0-9]{2}):?([0-9]{2})(?::?([0-9]{2})(?:[.,]([0-9]{1,9}))?)?"
    r"(?: ?(Z|UTC|GMT)| ?([+-])([0-9]{2}):?([0-9]{2})?(?: (UTC|GMT))?)",
    re.IGNORECASE | re.ASCII,
)
# RFC 1123, the form of HTTP dates and e-mail: Thu, 15 Jan 2026 10:30:03 GMT. Other zone names are ambiguous: IST is three zones.
_RFC_1123 = re.compile(
    r"(?:[a-z]{3}, )?([0-9]{1,2} [a-z]{3} [0-9]{4} [0-9]{2}:[0-9]{2}(?::[0-9]{2})?) (?:GMT|UTC|([+-][0-9]{4}))",
    re.IGNORECASE | re.ASCII,
)
# JavaScript's own text of a date: Thu Jan 15 2026 10:30:03 GMT+0000 (Coordinated Universal Time).
_JAVASCRIPT = re.compile(
    r"[a-z]{3} ([a-z]{3}) ([0-9]{2}) ([0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2}) GMT([+-][0-9]{4})(?: \([^()]{0,60}\))?",
    re.IGNORECASE | re.ASCII,
)
# Unix seconds have nine to eleven digits (1973 to 5138), milliseconds twelve to fourteen; the ranges do not overlap.
_FIRST_SECOND, _FIRST_MILLISECOND, _END_MILLISECOND = Decimal(10) ** 8, Decimal(10) ** 11, Decimal(10) ** 14
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_timestamp(value: object) -> datetime:
    """Parse ISO 8601 with a zone (`Z`, `UTC`, `GMT`, `+00:00`, `+0000`), RFC 1123, JavaScript's text, Unix seconds or milliseconds.

    Returns a time in UTC.

    Raises Refused(field_invalid) for anything else, also for a time without a zone.
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


# The timestamp is parsed twice per message, and all alerts of one bar carry the same second.
@lru_cache(maxsize=64)
def _from_iso(text: str) -> datetime | None:
    match = _ISO.fullmatch(text)
    if match is None:
        return _from_date_text(text)
    year, month, day, hour, minute = (int(match.group(i)) for i in range(1, 6))
    second = int(match.group(6) or 0)
    microsecond = int((match.group(7) or "")[:6].ljust(6, "0"))
    zone = UTC
    try:
        if match.group(9):
            if match.group(12) and int(match.group(10) + (match.group(11) or "")) != 0:
                return None  # +0530 UTC contradicts itself
            offset = timedelta(hours=int(match.group(10)), minutes=int(match.group(11) or 0))
            zone = timezone(-offset if match.group(9) == "-" else offset)
        return datetime(year, month, day, hour, minute, second, microsecond, tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        return None  # the 30th of February, 25 o'clock, a zone of 99 hours, year 0 or 9999 shifted out of the calendar


def _from_date_text(text: str) -> datetime | None:
    written = _RFC_1123.fullmatch(text)
    script = _JAVASCRIPT.fullmatch(text)
    if written is not None:
        text = f"{written[1]} {written[2] or '+0000'}"
    elif script is not None:
        text = f"{script[2]} {script[1]} {script[3]} {script[4]}"
    else:
        return None
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None  # the 30th of February, a month that is none


def _from_unix(value: object) -> datetime | None:
    number = parse_decimal(value)
    if number is None or not _FIRST_SECOND <= number < _END_MILLISECOND:
        return None
    milliseconds = number if number >= _FIRST_MILLISECOND else number * 1000
    return _EPOCH + timedelta(microseconds=int(milliseconds * 1000))


def check_age(fired_at: datetime, *, now: datetime, max_age_s: float, max_future_s: float) -> None:
    """Raise Unauthenticated if the alert is older than `max_age_s`, or more than `max_future_s` ahead of `now`."""
    age_s = (now - fired_at).total_seconds()
    if age_s > max_age_s:
        raise Unauthenticated("timestamp_stale", _stale_message(fired_at, age_s, max_age_s), field="timestamp")
    if -age_s > max_future_s:
        raise Unauthenticated(
            "timestamp_future",
            f"timestamp {fired_at:%Y-%m-%dT%H:%M:%SZ} is {duration(-age_s)} in the future, at most {max_future_s:g} s are allowed; "
            "check the clocks of the sender and of this machine",
            field="timestamp",
        )


def _stale_message(fired_at: datetime, age_s: float, max_age_s: float) -> str:
    text = f"timestamp {fired_at:%Y-%m-%dT%H:%M:%SZ} is {duration(age_s)} old, at most {max_age_s:g} s are allowed"
    if fired_at.second == 0 and fired_at.microsecond == 0:
        return (
            text + "; it looks like a bar's opening time: use {{timenow}} (fire time) instead of {{time}} (bar opening)"
        )
    return text + "; use {{timenow}}, and check the clocks of the sender and of this machine"
