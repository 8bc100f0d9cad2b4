"""Trading hours: accepted spellings, when they are open, and the next opening."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.errors import ConfigError
from kekbridge.risk.trading_hours import is_open, next_opening, parse_hours

MONDAY = datetime(2026, 1, 12, tzinfo=UTC)


def at(day: int, clock: str) -> datetime:
    """A time in the week of Monday, 12 January 2026."""
    return MONDAY + timedelta(days=day, hours=int(clock[:2]), minutes=int(clock[3:]))


@pytest.mark.parametrize(
    ("text", "day", "clock", "expected"),
    [
        ("Mon-Fri 07:00-22:00 UTC", 0, "07:00", True),
        ("Mon-Fri 07:00-22:00 UTC", 0, "06:59", False),
        ("Mon-Fri 07:00-22:00 UTC", 4, "21:59", True),
        ("Mon-Fri 07:00-22:00 UTC", 4, "22:00", False),
        ("Mon-Fri 07:00-22:00 UTC", 5, "12:00", False),
        ("mon-fri 07:00-22:00, sat 10:00-12:00", 5, "11:00", True),
        ("Mon,Wed 08:00-09:00; Sun 08:00-09:00", 2, "08:30", True),
        ("Mon,Wed 08:00-09:00; Sun 08:00-09:00", 1, "08:30", False),
        ("Fri-Mon 00:00-24:00", 6, "23:59", True),
        ("Fri-Mon 00:00-24:00", 1, "00:00", False),
        ("22:00-06:00", 3, "23:00", True),
        ("22:00-06:00", 3, "05:59", True),
        ("22:00-06:00", 3, "06:00", False),
        ("Fri 22:00-06:00", 5, "03:00", True),
        ("Fri 22:00-06:00", 4, "03:00", False),
        ("Sun 22:00-06:00", 0, "03:00", True),
        ("Mon-Fri 07:00-22:00 & 09:00-24:00", 0, "08:00", False),
        ("Mon-Fri 07:00-22:00 & 09:00-24:00", 0, "09:00", True),
    ],
)
def test_open_and_closed_times(text: str, day: int, clock: str, *, expected: bool) -> None:
    """The start is included, the end is not; days may wrap around the week, hours around midnight."""
    assert is_open(text, at(day, clock)) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "always",
        "Mon-Fri",
        "07-22",
        "7-22:00",
        "007:00-22:00",
        "Mon-Fri 07:00-22:00 EST",
        "Foo 07:00-08:00",
        "07:00-25:00",
        "07:60-08:00",
        "Mon-Fri 07:00-22:00 UTC Sat 10:00-12:00",
        "Mon 07:00-08:00 &",
        "Mon 07:00-08:00 " * 40,
    ],
)
def test_unreadable_hours_are_refused(text: str) -> None:
    """With an example of what is accepted; nothing is guessed."""
    with pytest.raises(ConfigError) as refused:
        parse_hours(text)
    assert "Mon-Fri 07:00-22:00 UTC" in refused.value.message


def test_hours_need_no_leading_zero() -> None:
    """9:00 is 09:00; what cannot be read is quoted as it was typed."""
    assert parse_hours("Mon-Fri 9:00-17:00") == parse_hours("mon-fri 09:00-17:00 UTC")
    with pytest.raises(ConfigError, match="found 'Mon-Fri 9-17'"):
        parse_hours("Mon-Fri 9-17")


def test_other_time_zones_are_converted() -> None:
    """Windows are UTC, whatever the zone of `now`."""
    assert is_open("Mon 07:00-08:00", datetime(2026, 1, 12, 9, 30, tzinfo=timezone(timedelta(hours=2))))


@pytest.mark.parametrize(
    ("text", "now", "expected"),
    [
        ("Mon-Fri 07:00-22:00", at(0, "12:00"), at(0, "12:00")),
        ("Mon-Fri 07:00-22:00", at(4, "22:00"), at(7, "07:00")),
        ("Mon 07:00-08:00", at(0, "08:00"), at(7, "07:00")),
        ("Fri 22:00-06:00 & Sat 00:00-24:00", at(0, "08:00"), at(5, "00:00")),
        ("Mon 07:00-08:00 & Tue 07:00-08:00", at(0, "08:00"), None),
    ],
)
def test_next_opening(text: str, now: datetime, expected: datetime | None) -> None:
    """The next minute at which entries are allowed, or None if there is none."""
    assert next_opening(text, now) == expected


@given(st.text(alphabet="monfrisat0123456789:-,;& UTC", max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """No text raises anything but ConfigError, and the next opening is open."""
    try:
        parse_hours(text)
    except ConfigError:
        return
    assert next_opening(text, MONDAY) is None or is_open(text, next_opening(text, MONDAY) or MONDAY)
