"""Text for people, logs and scripts: amounts, times, names, JSON; hostile characters removed or escaped, credentials hidden.

Pure, and light: log.py imports it at the very start.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import ROUND_HALF_UP, Context, Decimal
from enum import Enum
from typing import Any, Final

SHORT_ID: Final = 13
EXACT: Final = Context(prec=400)

# ------------------------------------------------------------------------------------------------- secrets and hostile text
REDACTED: Final = "[redacted]"

# Patterns of credentials with their replacements. First those with a prefix that names their kind: apiKey and apiSecret of a webhook,
# and exchange keys. Public ed25519 keys look like secret ones, so they are shortened too.
_CREDENTIAL_SHAPES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"(wh_(?:test|live)_[A-Za-z0-9]{4})[A-Za-z0-9+/=_-]{4,}"), r"\1…"),
    (re.compile(r"(whs_|whsec_|ed25519:)[A-Za-z0-9+/=_-]{8,}"), r"\1…"),
)
_SECRET_SHAPES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    *_CREDENTIAL_SHAPES,
    (re.compile(r"\b(sha256=)[0-9A-Fa-f]{16,}"), r"\1…"),
    (re.compile(r"\b(v1:[A-Za-z0-9_,?.-]*:)[0-9A-Fa-f]{16,}"), r"\1…"),
    (re.compile(r"\b(v1,)[A-Za-z0-9+/=]{24,}"), r"\1…"),
    # A bare base58 key: 32 bytes are 43 or 44 characters, 64 bytes 86 to 88. Both cases and a digit, so that no word matches.
    (
        re.compile(
            r"(?<![A-Za-z0-9])(?=[A-Za-z]*[0-9])(?=[0-9a-z]*[A-Z])(?=[0-9A-Z]*[a-z])"
            r"(?:[1-9A-HJ-NP-Za-km-z]{43,44}|[1-9A-HJ-NP-Za-km-z]{86,88})(?![A-Za-z0-9])"
        ),
        REDACTED,
    ),
)
_SHORTEST_SECRET: Final = 12
#: Length of the shortest secret without a prefix.
SHORTEST_BARE_KEY: Final = 43
_LIKE_A_KEY: Final = re.compile(r"[1-9A-HJ-NP-Za-km-z]{43}")


def redact_secrets(text: str) -> str:
    """Shorten everything that looks like a credential, a signature or a bare base58 key to its kind."""
    if len(text) < _SHORTEST_SECRET:
        return text
    if not has_secret_prefix(text) and (len(text) < SHORTEST_BARE_KEY or _LIKE_A_KEY.search(text) is None):
        return text  # nearly every text of nearly every log line
    for shape, replacement in _SECRET_SHAPES:
        text = shape.sub(replacement, text)
    return text


def redact_credentials(text: str) -> str:
    """Shorten only what is named as a credential by its prefix: an alert's own ids and hashes stay readable."""
    if has_credential_prefix(text):
        for shape, replacement in _CREDENTIAL_SHAPES:
            text = shape.sub(replacement, text)
    return text


def holds_credential(text: str) -> bool:
    """True if `redact_credentials` would change the text."""
    return has_credential_prefix(text) and any(shape.search(text) for shape, _ in _CREDENTIAL_SHAPES)


def has_credential_prefix(text: str) -> bool:
    """False if no webhook credential and no named exchange key can be in the text. Cheap."""
    return "wh" in text or "ed25519:" in text


def has_secret_prefix(text: str) -> bool:
    """False if no secret but a bare key can be in the text. Cheap."""
    return "wh" in text or "v1" in text or "ed25519:" in text or "sha256=" in text


def sanitize(text: str) -> str:
    """One printable line: whitespace becomes spaces; control, direction and other invisible characters are removed.

    Escape sequences in an alert could otherwise clear the screen or rename the window of the terminal that shows it.
    """
    if text.isprintable():
        return text
    spaced = text.replace("\r\n", " ")
    return "".join(
        character if character.isprintable() else " "
        for character in spaced
        if character.isprintable() or character.isspace()
    )


def clip_words(text: str, longest: int) -> str:
    """A sentence of at most `longest` characters: if it is longer, its first words and "…", so that no date or amount is cut inside.

    A word that alone fills more than half of them is cut, as an address or a list without spaces would be lost.
    """
    if len(text) <= longest:
        return text
    head = text[: longest - 1]
    words = head if text[longest - 1].isspace() else head.rpartition(" ")[0]
    if len(words) < longest // 2:
        words = head
    return f"{words.rstrip(' ,;:(')}…"


def escape_unprintable(text: str, *, keep: str = "") -> str:
    r"""Make characters visible that a terminal or log would act on: `\x1b`, `\u202e`. Those in `keep` stay."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else _escape(ord(character)) for character in text
    )


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


# -------------------------------------------------------------------------------------------------------- values for people
def to_text(value: object) -> str:
    """Printable text of any value: decimals without exponent, times in UTC to the second, a dash for None and empty values."""
    if isinstance(value, str) and value:
        return sanitize(value)
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
        return ", ".join(f"{sanitize(str(key))}={to_text(inner)}" for key, inner in value.items()) or "-"
    if isinstance(value, Sequence):
        return ", ".join(to_text(inner) for inner in value) or "-"
    return sanitize(str(value))


def format_decimal(value: Decimal) -> str:
    """Plain notation: no exponent, no trailing zeros (`1E+3` -> `1000`, `0.0100` -> `0.01`). Raises ValueError for NaN and infinities."""
    if not value.is_finite():
        raise ValueError(f"{value} is not a finite number")
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def amount(value: Decimal | None) -> str:
    """`format_decimal` for tables; None is a dash."""
    return "-" if value is None else format_decimal(value)


def rounded(value: Decimal | None) -> Decimal | None:
    """A computed amount, such as an average price or a P&L, without the digits that only its computation made: at most 8 decimals."""
    return None if value is None else value.quantize(Decimal("1e-8"), ROUND_HALF_UP, EXACT)


def money(value: Decimal | None, *, places: int = 8) -> str:
    """An amount for reading: thousands separators, at most `places` decimals (rounded half up), no trailing zeros."""
    if value is None:
        return "-"
    text = f"{value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP, EXACT):,f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("", "-0") else text


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 order`, `2 orders`; `plural`: where it is not the noun with an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or f'{noun}s'}"


def did_you_mean(found: str, known: Iterable[str], *, otherwise: str) -> str:
    """`did you mean btc-trend?`, the nearest of the known names without regard to case; `otherwise` if none is near."""
    near = nearest(found, known)
    return f"did you mean {near[0]}?" if near else otherwise


def nearest(found: str, known: Iterable[str], *, most: int = 1) -> list[str]:
    """The known names that are near a mistyped one, best first, without regard to case.

    Two letters in the wrong order are the commonest mistake, and difflib sees half of such a short name as different: they come first.
    """
    from difflib import get_close_matches  # late: only for errors

    names = {name.lower(): name for name in known}
    typed = found.strip().lower()
    swapped = (typed[:at] + typed[at : at + 2][::-1] + typed[at + 2 :] for at in range(len(typed) - 1))
    near = (*(word for word in swapped if word in names), *get_close_matches(typed, names, n=most))
    return [names[word] for word in dict.fromkeys(near)][:most]


def used_share(used: str, limit: str) -> Decimal | None:
    """The used fraction of a limit: `1,500.00 USDC`, `20,000.00 USDC` -> 0.075. None if either text does not begin with a number."""
    numbers = []
    for value in (used, limit):
        first = value.split(maxsplit=1)[0] if value.split() else ""
        text = "".join(one for one in first if one.isdigit() or one in ".-")
        try:
            numbers.append(Decimal(text))
        except ArithmeticError:
            return None
    return numbers[0] / numbers[1] if numbers[1] else None


def moment(at: datetime | None, zone: tzinfo | None = UTC) -> str:
    """`2026-11-22 16:08:06` in a zone (None: the machine's), by default UTC, as the days of the limits; None is a dash."""
    return "-" if at is None else at.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")


def clock(at: datetime, today: datetime, zone: tzinfo | None = UTC) -> str:
    """The time of day if `at` is today in the zone (None: the machine's), else day and minute: short for log lines."""
    shown = at.astimezone(zone)
    return shown.strftime("%H:%M:%S" if shown.date() == today.astimezone(zone).date() else "%m-%d %H:%M")


def soon(at: datetime, now: datetime, zone: tzinfo | None = UTC) -> str:
    """A coming time without its day if it is less than a day away: `00:00`, else `2026-11-24 00:00`."""
    is_near = (at - now).total_seconds() <= 86_400
    return at.astimezone(zone).strftime("%H:%M" if is_near else "%Y-%m-%d %H:%M")


def zone_name(at: datetime, zone: tzinfo | None = UTC) -> str:
    """`UTC`, `CET`, `+0530`: the short name of a zone (None: the machine's) at a time."""
    return at.astimezone(zone).tzname() or "UTC"


def price(value: Decimal | None, tick: Decimal | None) -> str:
    """A price with the decimals of its market's tick, as the exchange shows it; without a known tick, all its digits."""
    if value is None or tick is None or not tick.is_finite() or tick <= 0:
        return amount(value)
    return f"{value.quantize(Decimal(1).scaleb(tick.normalize().as_tuple().exponent), ROUND_HALF_UP, EXACT):f}"  # type: ignore[arg-type]


def pnl(value: Decimal | None) -> str:
    """Profit or loss in USDC with its sign and two decimals: `+12.30`, `0.00`; None is a dash."""
    if value is None:
        return "-"
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def cents(value: Decimal | None) -> str:
    """An amount in USDC with thousands separators and two decimals: `12,345.60`; None is a dash."""
    return "-" if value is None else f"{value.quantize(Decimal('0.01'), ROUND_HALF_UP, EXACT):,f}"


def short_id(identifier: str) -> str:
    """The beginning of an id, enough for `kekbridge explain`: ten characters of time, three random ones."""
    return identifier[:SHORT_ID]


def market(symbol: str | None) -> str:
    """`PERP_BTC_USDC` -> `BTC`; other names are unchanged."""
    if symbol and symbol.startswith("PERP_") and symbol.endswith("_USDC"):
        return symbol[5:-5]
    return symbol or "-"


def position_side(quantity: Decimal, margin_mode: str) -> str:
    """`long`, `short`, `long isolated`; `quantity` is signed."""
    side = "long" if quantity > 0 else "short"
    return f"{side} isolated" if margin_mode == "ISOLATED" else side


def age(at: datetime, now: datetime) -> str:
    """`3 s ago`; a future time is `in 3 s`."""
    elapsed = (now - at).total_seconds()
    return f"in {duration(-elapsed)}" if elapsed < 0 else f"{duration(elapsed)} ago"


def duration(seconds: float | timedelta) -> str:
    """At most two units: `12 ms`, `4.2 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
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


def to_jsonable(value: object) -> Any:
    """A value as JSON types: fields of Structs and dataclasses in camelCase, decimals and times as text; keys of mappings are unchanged."""
    names = getattr(type(value), "__struct_fields__", None) or getattr(type(value), "__dataclass_fields__", None)
    if names is not None:
        return {camel(name): to_jsonable(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(inner) for key, inner in value.items()}
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_jsonable(inner) for inner in value]
    return value


def camel(name: str) -> str:
    """`max_order_size` -> `maxOrderSize`."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
