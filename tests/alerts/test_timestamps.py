"""When an alert fired: every spelling of one instant, and the age check with its advice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.alerts.numbers import NumberText
from kekbridge.alerts.timestamps import check_age, instant_of, spoken_duration
from kekbridge.errors import Refused, Unauthenticated

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
        "1768473003",
        "1768473003000",
        "1768473003.000",
        "1.768473003e12",
        NumberText("1768473003000"),
        NumberText("1768473003"),
    ],
    ids=lambda value: f"{type(value).__name__} {value}",
)
def test_spellings_of_one_instant(value: str) -> None:
    """TradingView, Pine's str.format_time, and scripts (docs/internals/tradingview.md section 2)."""
    assert instant_of(value) == INSTANT


def test_fractions_of_a_second() -> None:
    """Milliseconds are kept, finer digits cut to microseconds."""
    assert instant_of("2026-01-15T10:30:03.123456789Z") == INSTANT + timedelta(microseconds=123_456)
    assert instant_of(NumberText("1768473003123")) == INSTANT + timedelta(milliseconds=123)


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-15T10:30:03", "2026-01-15", "2026-02-30T10:30:03Z", "2026-01-15T25:30:03Z", "2026-01-15T10:30:03+99:00",
        "0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00", "0000-01-01T00:00:00Z", "yesterday", "10:30:03Z",
        "２０26-01-15T10:30:03Z", "2026-01-15T10:30:03Z\n", NumberText("0"), NumberText("-1768473003"), "1768473003000000",
        "12345", "1e12e", True, False, [], {}, "NaN",
    ],
    ids=lambda value: f"{type(value).__name__} {value!r}",
)  # fmt: skip
def test_times_that_are_refused(value: object) -> None:
    """No zone, no such day, microseconds since 1970: refused rather than guessed."""
    with pytest.raises(Refused) as caught:
        instant_of(value)
    assert (caught.value.code, caught.value.field) == ("field_invalid", "timestamp")


@given(st.text() | st.integers().map(lambda number: NumberText(str(number))))
def test_any_value_is_an_instant_or_refused(value: str) -> None:
    """No text and no number raises anything else; what is accepted is aware."""
    try:
        assert instant_of(value).tzinfo is UTC
    except Refused:
        pass


@pytest.mark.parametrize("age_s", [-10, 0, 59, 60])
def test_fresh_alerts_pass(age_s: int) -> None:
    """Up to the allowed age, and a little ahead for clocks that differ."""
    check_age(INSTANT, now=INSTANT + timedelta(seconds=age_s), max_age_s=60, max_future_s=10)


@pytest.mark.parametrize(
    ("age_s", "code"), [(60.001, "timestamp_stale"), (86_400, "timestamp_stale"), (-11, "timestamp_future")]
)
def test_old_and_future_alerts_do_not(age_s: float, code: str) -> None:
    """The message says how far off it is."""
    with pytest.raises(Unauthenticated) as caught:
        check_age(INSTANT, now=INSTANT + timedelta(seconds=age_s), max_age_s=60, max_future_s=10)
    assert caught.value.code == code
    assert spoken_duration(abs(age_s)) in caught.value.message


def test_the_opening_of_a_bar_is_recognised() -> None:
    """{{time}} in place of {{timenow}} is the usual reason for a full minute in the past."""
    with pytest.raises(Unauthenticated) as caught:
        check_age(INSTANT.replace(hour=6, minute=0, second=0), now=INSTANT, max_age_s=60, max_future_s=10)
    assert "{{time}}" in caught.value.message
    assert "4 h 30 min" in caught.value.message


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "under 1 s"), (59, "59 s"), (75, "1 min 15 s"), (3600, "1 h"), (90_061, "1 d 1 h")]
)
def test_durations_are_spoken(seconds: float, text: str) -> None:
    """Two units at most: a person reads it."""
    assert spoken_duration(seconds) == text
