"""Parse option values that people type: amounts, fractions, durations, times, lists.

Pure. Every function takes the option's name and the text; a ConfigError names both and what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal

from kekbridge.errors import ConfigError
from kekbridge.formatting import EXACT

NONE = "none"
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{0,12})?(e[+-]?[0-9]{1,2})?", re.ASCII | re.IGNORECASE)
_MOST = Decimal(10) ** 15
_LEAST = Decimal("1e-12")
_DURATION = re.compile(r"([0-9]{1,9})\s*(s|min|m|h|d|w)?", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def number(option: str, text: str, expected: str = "a positive decimal number such as 1.5") -> Decimal:
    """Parse a positive decimal as alerts write it: `1.5`, `1e-3`, also with blanks around it; it is returned without an exponent.

    `expected`: what the option takes, in words.
    """
    value = _positive(text)
    if value is None:
        raise invalid(option, text, expected)
    return value


def _positive(text: str) -> Decimal | None:
    """A number above 0 with at most 15 digits before the point and 12 after it; None for another text."""
    digits = text.strip()
    if not _NUMBER.fullmatch(digits):
        return None
    value = Decimal(digits)
    if not _LEAST <= value < _MOST or value != value.quantize(_LEAST, context=EXACT):
        return None
    return Decimal(f"{value:f}")


def usdc(option: str, text: str) -> Decimal:
    """Parse a positive amount in USDC: `500`."""
    return number(option, text, "a positive amount in USDC such as 500")


def count(option: str, text: str) -> int:
    """Parse a positive whole number."""
    if not re.fullmatch(r"[0-9]{1,9}", text.strip(), re.ASCII) or int(text) == 0:
        raise invalid(option, text, "a positive whole number such as 10")
    return int(text)


def ratio(option: str, text: str) -> Decimal:
    """Parse a percentage above 0 and up to 100, `5%`, into a fraction.

    A number without % is refused: 0.5 can mean half a percent or a half, and a wrong guess makes a limit a hundred times as large.
    """
    digits = text.strip()
    value = _positive(digits.removesuffix("%"))
    if value is None or value > 100:
        raise invalid(option, text, "a percentage such as 5%")
    if digits.endswith("%"):
        return value / 100
    readings = f"{value.normalize():f}%" + (f" or {(value * 100).normalize():f}%" if value <= 1 else "")
    raise ConfigError(f"{option}: found {text!r}, a number without %; write {readings}")


def seconds(option: str, text: str) -> int:
    """Parse a duration; return whole seconds: `90`, `90s`, `5m`, `2h`, `7d`."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise invalid(option, text, "a duration such as 90s, 5m, 2h or 7d")
    return int(match[1]) * _SECONDS[match[2] or "s"]


def seconds_text(value: int) -> str:
    """Seconds as `seconds` parses them, in the largest unit that leaves a whole number: `90s`, `5m`, `2h`, `7d`."""
    for unit in ("d", "h", "m"):
        if value and value % _SECONDS[unit] == 0:
            return f"{value // _SECONDS[unit]}{unit}"
    return f"{value}s"


def instant(option: str, text: str, now: datetime, zone: tzinfo | None = UTC) -> datetime:
    """Parse a time: a duration ago (`2h`), a date (`2026-11-22`) or an ISO time (`2026-11-22T16:00Z`).

    `zone`: of a time that names none (None: the machine's).
    """
    match = _DURATION.fullmatch(text)
    if match and match[2]:
        return now - timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise invalid(option, text, "a duration ago (2h, 7d), or a time such as 2026-11-22T16:00") from None
    if at.tzinfo is None and zone is not None:
        at = at.replace(tzinfo=zone)
    return at.astimezone(UTC)


def future_instant(option: str, text: str, now: datetime) -> datetime:
    """Parse a future time: a duration from now (`60d`), a UTC date or an ISO time."""
    match = _DURATION.fullmatch(text)
    if match and match[2] and int(match[1]):
        return now + timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
    expected = "a duration from now (60d), or a future UTC date such as 2030-01-31"
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise invalid(option, text, expected) from None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    if at <= now:
        raise invalid(option, text, expected)
    return at


def text_list(option: str, text: str) -> tuple[str, ...]:
    """Parse a comma-separated list: `BTC,ETH`."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise invalid(option, text, "a comma-separated list such as BTC,ETH")
    return found


def assignments(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Parse repeated `name=value` options; a name given twice is an error."""
    found: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key.strip() or not value.strip():
            raise invalid(option, text, "name=value")
        if key.strip() in found:
            raise ConfigError(f"{option}: {key.strip()} is given twice; keep one of the two")
        found[key.strip()] = value.strip()
    return found


def invalid(option: str, text: str, expected: str) -> ConfigError:
    """The error for a value that cannot be parsed."""
    return ConfigError(f"{option}: found {text!r}, expected {expected}")
