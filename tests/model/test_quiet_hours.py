"""Quiet hours: a span of each day, in the trader's time zone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kekbridge.model.quiet_hours import QuietHours, read_zone


@pytest.mark.parametrize(
    ("hours", "quiet", "loud"),
    [
        ("22:00-07:00", ("22:00", "23:59", "00:00", "06:59"), ("07:00", "12:00", "21:59")),
        ("12:30 - 13:00", ("12:30", "12:59"), ("12:29", "13:00", "00:00")),
    ],
)
def test_the_start_is_quiet_and_the_end_is_not(hours: str, quiet: tuple[str, ...], loud: tuple[str, ...]) -> None:
    """An end before the start is on the next day."""
    found = QuietHours.parse(hours, "UTC")
    assert found is not None
    for text in (*quiet, *loud):
        hour, minute = map(int, text.split(":"))
        assert found.contains(datetime(2026, 1, 15, hour, minute, tzinfo=UTC)) is (text in quiet)


def test_hours_are_those_of_the_zone_also_in_summer() -> None:
    """22:00 in Berlin is 21:00 UTC in winter and 20:00 UTC in summer."""
    found = QuietHours.parse("22:00-07:00", "Europe/Berlin")
    assert found is not None
    times = [datetime(2026, month, 15, hour, 0, tzinfo=UTC) for month in (1, 7) for hour in (20, 21)]
    assert [found.contains(each) for each in times] == [False, True, True, True]


@pytest.mark.parametrize("hours", ["22:00", "22:00-22:00", "24:00-07:00", "22:00-7:00", "22:00-07:00 UTC"])
def test_wrong_hours_are_refused(hours: str) -> None:
    """What is no span of a day is an error that shows one."""
    with pytest.raises(ValueError, match="expected two times of day such as 22:00-07:00"):
        QuietHours.parse(hours)


@pytest.mark.parametrize("name", ["Berlin", "/etc/passwd", "../UTC", "Europe", "\x00"])
def test_wrong_zones_are_refused(name: str) -> None:
    """Only names of time zones are looked up, and a directory of them is none."""
    with pytest.raises(ValueError, match="expected a time zone such as Europe/Berlin"):
        read_zone(name)
    assert QuietHours.parse("") is None
    assert read_zone("") is None
