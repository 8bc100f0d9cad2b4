"""Axes of charts: round ticks for amounts and times, their labels, and where a value lies between two others. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from itertools import pairwise
from typing import Final

from kekbridge.formatting import EXACT

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MONDAY: Final = datetime(1970, 1, 5, tzinfo=UTC)
_DAY: Final = timedelta(days=1)
# Steps of a time axis up to two weeks; longer ones are calendar months.
_STEPS: Final = (
    *(timedelta(seconds=number) for number in (1, 2, 5, 10, 15, 30)),
    *(timedelta(minutes=number) for number in (1, 2, 5, 10, 15, 30)),
    *(timedelta(hours=number) for number in (1, 2, 3, 6, 12)),
    *(timedelta(days=number) for number in (1, 2, 7, 14)),
)
_MONTHS: Final = (1, 2, 3, 6, *(12 * years for years in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)))
_UNITS: Final = ((Decimal(10) ** 12, "T"), (Decimal(10) ** 9, "B"), (Decimal(10) ** 6, "M"), (Decimal(1000), "k"))
# A label longer than this is written in a larger unit, or with an exponent.
_LONGEST: Final = 9


def round_ticks(low: Decimal, high: Decimal, *, most: int = 6) -> tuple[Decimal, ...]:
    """Multiples of 1, 2 or 5 times a power of ten from at or below `low` to at or above `high`: 2 to `most` ticks, increasing.

    Equal bounds are widened. `most` is at least 3.
    """
    low, high = min(low, high), max(low, high)
    if low == high:
        margin = EXACT.multiply(abs(low), Decimal("0.1")) or Decimal(1)
        low, high = EXACT.subtract(low, margin), EXACT.add(high, margin)
    for step in _round_steps(EXACT.divide(EXACT.subtract(high, low), Decimal(most))):
        first = int(EXACT.divide(low, step).to_integral_value(ROUND_FLOOR, EXACT))
        last = int(EXACT.divide(high, step).to_integral_value(ROUND_CEILING, EXACT))
        if last - first < most:
            return tuple(EXACT.multiply(Decimal(number), step) for number in range(first, last + 1))
    raise AssertionError("a step as large as both bounds leaves three ticks")


def _round_steps(smallest: Decimal) -> Iterator[Decimal]:
    """1, 2, 5, 10, 20, ... times a power of ten, from about `smallest` on."""
    exponent = smallest.adjusted()
    while True:
        for digit in (1, 2, 5):
            yield Decimal(digit).scaleb(exponent, EXACT)
        exponent += 1


def amount_labels(ticks: Sequence[Decimal]) -> tuple[str, ...]:
    """Labels of `round_ticks`, all different: `-0.5`, `1,500`, `12.5M`."""
    labels = _labels_in(ticks, Decimal(1), "")
    if all(len(label) <= _LONGEST for label in labels):
        return labels
    for unit, suffix in _UNITS:
        if max(map(abs, ticks)) >= unit:
            larger = _labels_in(ticks, unit, suffix)
            if all(len(label) <= _LONGEST for label in larger):
                return larger
    short = tuple(f"{tick:.2E}".replace("E+", "e").replace("E", "e") if tick else "0" for tick in ticks)
    return short if len(set(short)) == len(short) else labels


def _labels_in(ticks: Sequence[Decimal], unit: Decimal, suffix: str) -> tuple[str, ...]:
    shown = [EXACT.divide(tick, unit).normalize(EXACT) for tick in ticks]
    places = max(0, *(-int(one.as_tuple().exponent) for one in shown))
    return tuple(f"{one:,.{places}f}{suffix}" if one else "0" for one in shown)


def time_ticks(start: datetime, end: datetime, *, most: int = 8) -> tuple[datetime, ...]:
    """Round UTC times between two times, increasing: full minutes, hours, days, Mondays, months or years; at most `most` ticks."""
    for step in _STEPS:
        if (end - start) / step < most:
            origin = _MONDAY if step > 2 * _DAY else _EPOCH
            first = -((origin - start) // step)
            return tuple(
                at for at in (origin + (first + number) * step for number in range(most)) if start <= at <= end
            )
    for months in _MONTHS:
        if (end - start) / (months * 28 * _DAY) < most:
            break
    start = start.astimezone(UTC)
    first_month = (start.year * 12 + start.month - 1) // months * months
    numbers = (first_month + number * months for number in range(most + 1))
    found = (datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC) for number in numbers if 12 <= number < 119_988)
    return tuple(at for at in found if start <= at <= end)[:most]


def time_labels(ticks: Sequence[datetime]) -> tuple[str, ...]:
    """Labels of `time_ticks`: `14:30`, with the day at midnight; `11-22`; `2026-11` if they are months apart."""
    gap = min((later - earlier for earlier, later in pairwise(ticks)), default=_DAY)
    if gap >= 28 * _DAY:
        return tuple(f"{at:%Y-%m}" for at in ticks)
    is_midnight = [at == at.replace(hour=0, minute=0, second=0, microsecond=0) for at in ticks]
    clock = "%H:%M:%S" if gap < timedelta(minutes=1) else "%H:%M"
    return tuple(at.strftime("%m-%d" if midnight else clock) for at, midnight in zip(ticks, is_midnight, strict=True))


def share_between(value: Decimal, low: Decimal, high: Decimal) -> float:
    """Where a value lies: 0 at (or below) `low`, 1 at (or above) `high`; 0.5 if they are equal."""
    if low >= high:
        return 0.5
    share = float(EXACT.divide(EXACT.subtract(value, low), EXACT.subtract(high, low)))
    return min(max(share, 0.0), 1.0)


def time_share(at: datetime, start: datetime, end: datetime) -> float:
    """Where a time lies: 0 at (or before) `start`, 1 at (or after) `end`; 0.5 if they are equal."""
    if start >= end:
        return 0.5
    return min(max((at - start) / (end - start), 0.0), 1.0)


def gather_days(days: Mapping[date, Decimal], *, most: int) -> tuple[str, list[tuple[date, Decimal]]]:
    """Exact sums by day, week (of its Monday), month or year: the finest that gives at most `most`, or years. Empty ones are zero."""
    if not days:
        return "day", []
    first, last = min(days), max(days)
    for unit, start_of in _CALENDAR:
        if _periods(start_of(first), last, unit) <= most or unit == "year":
            break
    sums: dict[date, Decimal] = dict.fromkeys(_starts(start_of(first), last, unit), Decimal(0))
    for day, value in days.items():
        sums[start_of(day)] = EXACT.add(sums[start_of(day)], value)
    return unit, list(sums.items())


_CALENDAR: Final[tuple[tuple[str, Callable[[date], date]], ...]] = (
    ("day", lambda day: day),
    ("week", lambda day: day - timedelta(days=day.weekday())),
    ("month", lambda day: day.replace(day=1)),
    ("year", lambda day: day.replace(month=1, day=1)),
)


def _periods(first: date, last: date, unit: str) -> int:
    """Number of days, weeks, months or years from the one that begins at `first` to that of `last`."""
    if unit in ("day", "week"):
        return (last - first).days // (1 if unit == "day" else 7) + 1
    months = (last.year - first.year) * 12 + last.month - first.month
    return months // (1 if unit == "month" else 12) + 1


def _starts(first: date, last: date, unit: str) -> list[date]:
    count = _periods(first, last, unit)
    if unit in ("day", "week"):
        return [first + timedelta(days=number * (1 if unit == "day" else 7)) for number in range(count)]
    month = first.year * 12 + first.month - 1
    numbers = (month + number * (1 if unit == "month" else 12) for number in range(count))
    return [date(number // 12, number % 12 + 1, 1) for number in numbers]
