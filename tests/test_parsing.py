"""Option values: parsed exactly, or refused in one line that names what was expected."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge import parsing
from kekbridge.errors import ConfigError

NOW = datetime(2026, 11, 22, 16, 0, tzinfo=UTC)


@given(st.decimals(min_value=Decimal("0.000000000001"), max_value=Decimal(10) ** 14, places=12))
def test_numbers_are_exact(number: Decimal) -> None:
    """A limit is the number that was typed, to the last digit."""
    text = format(number, "f")
    assert parsing.number("--x", text) == number
    assert format(parsing.number("--x", text), "f") == text


@pytest.mark.parametrize(
    "text",
    ["", "0", "0.0", "-1", "+1", "1e15", "1e-13", "1.5e-12", "1_000", "1,5", "1 0", "nan", "inf", "٣", ".5", "0x1"],
)
def test_other_numbers_are_refused(text: str) -> None:
    """Decimal would accept most of these; a limit must not mean something else than it looks like."""
    with pytest.raises(ConfigError, match=r"--x: found .*, expected a positive decimal number"):
        parsing.number("--x", text)


@pytest.mark.parametrize(
    ("text", "number"), [("1e-3", "0.001"), (" 0.01 ", "0.01"), ("1E+3", "1000"), ("2.50", "2.50"), ("5.", "5")]
)
def test_numbers_as_alerts_write_them(text: str, number: str) -> None:
    """What is a size in a message is one for a command, and is shown without an exponent."""
    assert str(parsing.number("--x", text)) == number


@pytest.mark.parametrize(
    ("text", "ratio"),
    [("5%", "0.05"), ("100%", "1"), ("0.5 %", "0.005"), ("0.01%", "0.0001"), ("0.5%", "0.005"), (" 5% ", "0.05")],
)
def test_ratios_are_percentages(text: str, ratio: str) -> None:
    """Exact: half a percent is 0.005."""
    assert parsing.ratio("--x", text) == Decimal(ratio)


@pytest.mark.parametrize(
    ("text", "readings"),
    [("0.5", "0.5% or 50%"), ("0.2", "0.2% or 20%"), ("1", "1% or 100%"), ("5", "5%"), ("1.50", "1.5%")],
)
def test_ratios_without_percent_are_refused(text: str, readings: str) -> None:
    """`0.5` where 0.5 % was meant would be a limit of 50 %: refused, with both readings."""
    with pytest.raises(ConfigError) as refused:
        parsing.ratio("--x", text)
    assert refused.value.message == f"--x: found {text!r}, a number without %; write {readings}"


def test_amounts_name_their_unit() -> None:
    """A share of the account is no amount."""
    assert parsing.usdc("--x", "500") == 500
    with pytest.raises(ConfigError, match="expected a positive amount in USDC such as 500"):
        parsing.usdc("--x", "5%")


@pytest.mark.parametrize("text", ["101%", "101", "0%", "0", "%", "-5%", "5%%", "five"])
def test_other_ratios_are_refused(text: str) -> None:
    """Nothing above 100 % and nothing that is no number."""
    with pytest.raises(ConfigError, match="expected a percentage"):
        parsing.ratio("--x", text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("5m", 300), ("5 min", 300), ("2h", 7200), ("7d", 604_800), ("1w", 604_800)],
)
def test_durations(text: str, seconds: int) -> None:
    """Seconds, or a number with its unit."""
    assert parsing.seconds("--x", text) == seconds


def test_durations_are_written_as_typed() -> None:
    """The largest unit that leaves a whole number; what is written is parsed back."""
    for text in ("45s", "90s", "5m", "25h", "7d", "1h"):
        assert parsing.seconds_text(parsing.seconds("x", text)) == text
    assert parsing.seconds_text(0) == "0s"


@pytest.mark.parametrize("text", ["", "0", "-5", "5y", "5M", "m", "1h30m"])
def test_invalid_durations_are_refused(text: str) -> None:
    """Unknown units are refused, not read as seconds."""
    with pytest.raises(ConfigError, match="expected a duration"):
        parsing.seconds("--x", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2h", NOW - timedelta(hours=2)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-11-20", datetime(2026, 11, 20, tzinfo=UTC)),
        ("2026-11-20T10:30", datetime(2026, 11, 20, 10, 30, tzinfo=UTC)),
        ("2026-11-20T10:30Z", datetime(2026, 11, 20, 10, 30, tzinfo=UTC)),
        ("2026-11-20T10:30+02:00", datetime(2026, 11, 20, 8, 30, tzinfo=UTC)),
    ],
)
def test_instants(text: str, expected: datetime) -> None:
    """A duration ago, or a time; without a zone it is UTC, unless another one is meant."""
    assert parsing.instant("--since", text, NOW) == expected


def test_a_time_without_a_zone_is_in_the_zone_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command shows times in the machine's zone and reads them so; a zone that is written wins."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        for text, expected in (("2026-07-20T10:30", 8), ("2026-01-20T10:30", 9), ("2026-07-20T10:30Z", 10)):
            assert parsing.instant("--since", text, NOW, None).hour == expected
        east = timezone(timedelta(hours=9))
        assert parsing.instant("--since", "2026-07-20T10:30", NOW, east).hour == 1
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["yesterday", "", "2026-13-01", "10:30", "12"])
def test_invalid_instants_are_refused(text: str) -> None:
    """A bare number has neither unit nor zone."""
    with pytest.raises(ConfigError, match="--since: found"):
        parsing.instant("--since", text, NOW)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("60d", NOW + timedelta(days=60)), ("2030-01-31", datetime(2030, 1, 31, tzinfo=UTC))],
)
def test_future_instants(text: str, expected: datetime) -> None:
    """A duration from now, or a date; past times are refused."""
    assert parsing.future_instant("--until", text, NOW) == expected
    for invalid in ("2020-01-01", "0d", "soon", "12"):
        with pytest.raises(ConfigError, match="--until: found"):
            parsing.future_instant("--until", invalid, NOW)


def test_lists_and_assignments() -> None:
    """Comma-separated words, and repeated name=value; a name given twice is refused."""
    assert parsing.text_list("--x", "BTC, ETH,,") == ("BTC", "ETH")
    assert parsing.assignments("--x", ["a=1", "b = c=d "]) == {"a": "1", "b": "c=d"}
    for invalid in (["a"], ["=1"], ["a="], ["a=1", "a=2"]):
        with pytest.raises(ConfigError, match="--x"):
            parsing.assignments("--x", invalid)
    with pytest.raises(ConfigError, match="comma-separated"):
        parsing.text_list("--x", " , ")
