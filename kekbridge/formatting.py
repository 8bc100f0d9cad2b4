"""Values as people and scripts read them: amounts, times, ages, names; JSON in camelCase. Pure, for the command line and the admin pages.

Whatever came from outside becomes plain printable text here; nothing is interpreted.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from enum import Enum
from typing import Any, Final

SHORT_ID: Final = 13
EXACT: Final = Context(prec=400)
_UNSAFE_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def clean(value: object) -> str:
    """Plain printable text of anything: line ends become spaces; control, direction and invisible characters go.

    Escape sequences in an alert could otherwise clear the screen or rename the window of whoever reads the log.
    """
    text = value if isinstance(value, str) and value else plain(value)
    if text.isascii() and text.isprintable():
        return text
    spaced = text.replace("\r\n", " ").translate({9: " ", 10: " ", 13: " "})
    return "".join(character for character in spaced if unicodedata.category(character) not in _UNSAFE_CATEGORIES)


def plain(value: object) -> str:
    """The usual text of a value: decimals without exponent, times in UTC to the second, nothing as a dash."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Decimal):
        return amount(value)
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={plain(inner)}" for key, inner in value.items()) or "-"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(plain(inner) for inner in value) or "-"
    return str(value)


def format_decimal(value: Decimal) -> str:
    """Plain notation: no exponent, no trailing zeros (`1E+3` -> `1000`, `0.0100` -> `0.01`). Raises ValueError for NaN and infinities."""
    if not value.is_finite():
        raise ValueError(f"{value} is not a finite number")
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def amount(value: Decimal | None) -> str:
    """As `format_decimal`, for tables: None is a dash."""
    return "-" if value is None else format_decimal(value)


def money(value: Decimal | None, *, places: int = 8) -> str:
    """An amount for reading: thousands apart, at most `places` decimals (half up), no idle zeros. The exact one is in `--json`."""
    if value is None:
        return "-"
    text = f"{value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP, EXACT):,f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("", "-0") else text


def used_share(used: str, limit: str) -> Decimal | None:
    """How much of a limit is used, as far as its words begin with numbers: `1,500.00 USDC`, `20,000.00 USDC` -> 0.075."""
    numbers = []
    for words in (used, limit):
        first = words.split(maxsplit=1)[0] if words.split() else ""
        text = "".join(one for one in first if one.isdigit() or one in ".-")
        try:
            numbers.append(Decimal(text))
        except ArithmeticError:
            return None
    return numbers[0] / numbers[1] if numbers[1] else None


def moment(at: datetime | None) -> str:
    """`2026-11-22 16:08:06`, always UTC: day boundaries of the limits are UTC, too."""
    return "-" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def clock(at: datetime, today: datetime) -> str:
    """The time of day if it is today's (UTC), else day and minute: short enough for a log line."""
    utc = at.astimezone(UTC)
    return utc.strftime("%H:%M:%S" if utc.date() == today.astimezone(UTC).date() else "%m-%d %H:%M")


def short_id(identifier: str) -> str:
    """The beginning of an id, enough for `kekbridge explain`: ten characters of time, the rest chance."""
    return identifier[:SHORT_ID]


def market(symbol: str | None) -> str:
    """`PERP_BTC_USDC` -> `BTC`; what is no such name stays as it is."""
    if symbol and symbol.startswith("PERP_") and symbol.endswith("_USDC"):
        return symbol[5:-5]
    return symbol or "-"


def age(at: datetime, now: datetime) -> str:
    """`3 s ago`; a time ahead of ours reads `in 3 s`."""
    elapsed = (now - at).total_seconds()
    return f"in {duration(-elapsed)}" if elapsed < 0 else f"{duration(elapsed)} ago"


def duration(seconds: float | timedelta) -> str:
    """Two units at most: `12 ms`, `4.2 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    total = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    if total < 1:
        return f"{total * 1000:.0f} ms"
    if total < 10:
        return f"{total:.1f} s"
    whole = round(total)
    for size, name, below in ((86_400, "d", "h"), (3600, "h", "min"), (60, "min", "s")):
        if whole >= size:
            rest = whole % size // {"h": 3600, "min": 60, "s": 1}[below]
            return f"{whole // size} {name}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"


def jsonable(value: object) -> Any:
    """Plain JSON of our values: fields in camelCase as in alerts, decimals and times as text; keys of mappings stay as they are."""
    if is_dataclass(value) and not isinstance(value, type):
        return {camel(field.name): jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(inner) for key, inner in value.items()}
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(inner) for inner in value]
    return value


def camel(name: str) -> str:
    """`max_order_size` -> `maxOrderSize`."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
