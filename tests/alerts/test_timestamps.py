"""Timestamps of alerts: accepted formats, and the age check with its advice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.alerts.numbers import NumberText
from kekbridge.alerts.timestamps import check_age, parse_timestamp
from kekbridge.errors import Refused, Unauthenticated
from kekbridge.formatting import duration

INSTANT = datetime(2026, 1, 15, 10, 30, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-15T10:30:03Z",
        "2026-01-15t10:30:03z",
        "2026-01-15 10:30:03Z",
        "2026-01-15T10:30:03.000Z",
        "2026-01-15T10:30:03+00:00",
        "2026-01-15T10:30:03+0000",
        "2026-01-15T05:30:03-0500",
        "2026-01-15T16:00:03+05:30",
        "2026-01-15T10:30:03+00",
        "2026-01-15 10:30:03 UTC",
        "2026-01-15T10:30:03utc",
        "2026-01-15 10:30:03 GMT",
        "2026-01-15 05:30:03 -0500",
        "Thu, 15 Jan 2026 10:30:03 GMT",
        "thu, 15 jan 2026 10:30:03 utc",
        "15 Jan 2026 16:00:03 +0530",
        "2026-01-15 10:30:03 +0000 UTC",
        "20260115T103003Z",
        "Thu Jan 15 2026 11:30:03 GMT+0100 (Central European Standard Time)",
        "1768473003",
        "1768473003000",
        "1768473003.000",
        "1.768473003e12",
        NumberText("1768473003000"),
        NumberText("1768473003"),
    ],
    ids=lambda value: f"{type(value).__name__} {value}",
)
def test_formats_of_one_time(value: str) -> None:
    """TradingView, Pine's str.format_time, and scripts (docs/internals/tradingview.md section 2)."""
    assert parse_timestamp(value) == INSTANT


def test_fractions_of_a_second() -> None:
    """Fractions are kept to the microsecond."""
    assert parse_timestamp("2026-01-15T10:30:03.123456789Z") == INSTANT + timedelta(microseconds=123_456)
    assert parse_timestamp(NumberText("1768473003123")) == INSTANT + timedelta(milliseconds=123)


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-15T10:30:03", "2026-01-15", "2026-02-30T10:30:03Z", "2026-01-15T25:30:03Z", "2026-01-15T10:30:03+99:00",
        "0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00", "0000-01-01T00:00:00Z", "yesterday", "10:30:03Z",
        "２０26-01-15T10:30:03Z", "2026-01-15T10:30:03Z\n", NumberText("0"), NumberText("-1768473003"), "1768473003000000",
        "2026-01-15 10:30:03 EST", "Thu, 15 Jan 2026 10:30:03 IST", "Thu, 15 Jan 2026 10:30:03", "31 Feb 2026 10:30:03 GMT",
        "2026-01-15 10:30:03 +0530 UTC", "Thu Jan 15 10:30:03 2026", "20260115T103003",
        "15 Foo 2026 10:30:03 GMT", "12345", "1e12e", True, False, [], {}, "NaN",
    ],
    ids=lambda value: f"{type(value).__name__} {value!r}",
)  # fmt: skip
def test_times_that_are_refused(value: object) -> None:
    """No zone, an impossible date, microseconds since 1970: refused, not guessed."""
    with pytest.raises(Refused) as caught:
        parse_timestamp(value)
    assert (caught.value.code, caught.value.field) == ("field_invalid", "timestamp")


@given(st.text() | st.integers().map(lambda number: NumberText(str(number))))
def test_any_value_is_parsed_or_refused(value: str) -> None:
    """No text or number raises another exception; an accepted time is in UTC."""
    try:
        assert parse_timestamp(value).tzinfo is UTC
    except Refused:
        pass


@pytest.mark.parametrize("age_s", [-10, 0, 59, 60])
def test_fresh_alerts_pass(age_s: int) -> None:
    """Up to the maximum age, and slightly in the future for clocks that differ."""
    check_age(INSTANT, now=INSTANT + timedelta(seconds=age_s), max_age_s=60, max_future_s=10)


@pytest.mark.parametrize(
    ("age_s", "code"), [(60.001, "timestamp_stale"), (86_400, "timestamp_stale"), (-11, "timestamp_future")]
)
def test_old_and_future_alerts_are_refused(age_s: float, code: str) -> None:
    """The message states the difference."""
    with pytest.raises(Unauthenticated) as caught:
        check_age(INSTANT, now=INSTANT + timedelta(seconds=age_s), max_age_s=60, max_future_s=10)
    assert caught.value.code == code
    assert duration(abs(age_s)) in caught.value.message


def test_a_bar_opening_time_is_recognised() -> None:
    """A full minute in the past usually means {{time}} instead of {{timenow}}."""
    with pytest.raises(Unauthenticated) as caught:
        check_age(INSTANT.replace(hour=6, minute=0, second=0), now=INSTANT, max_age_s=60, max_future_s=10)
    assert "{{time}}" in caught.value.message
    assert "4 h 30 min" in caught.value.message
