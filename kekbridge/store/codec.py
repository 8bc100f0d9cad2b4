"""Conversion of values to and from the database: UTC times, decimal text, canonical JSON, and the frozen values of model/ as JSON.

Exact in both directions: amounts never become floats and never have an exponent. Reading tolerates keys written by a newer version.
The exact bytes matter: the hash chain of the history covers them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact
from enum import Enum, StrEnum
from functools import cache, lru_cache
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import msgspec

from kekbridge.model import OrderIntent, Verdict, WebhookSettings
from kekbridge.model.orders import ExitStatus

if TYPE_CHECKING:
    from pydantic import TypeAdapter

# Running totals must equal their recomputation to the last digit, so sums and products are never rounded: Python's default of 28
# digits is not enough for a size times an average price. A result that would need rounding raises.
EXACT: Final = Context(prec=400, traps=[Inexact])
# Texts of recent values by identity, each with its value, which keeps the identity taken.
_texts: Final[dict[int, tuple[Any, str]]] = {}
_REMEMBERED: Final = 256
_FAST: Final = msgspec.json.Encoder(order="sorted")
_EXPONENT: Final = re.compile(r'"-?[0-9.]+E[+-]?[0-9]+"')
_quoted: Final = encode_basestring  # the JSON string that the encoder below writes
_CANONICAL: Final = json.JSONEncoder(separators=(",", ":"), sort_keys=True, ensure_ascii=False, check_circular=False)


# --------------------------------------------------------------------------------------------------------------- times


# Cached: the same time is written to many columns of an alert, its orders and their events. Equal times have equal text in any zone.
@lru_cache(maxsize=256)
def time_text(moment: datetime) -> str:
    """UTC text with milliseconds (truncated). Raises ValueError for a naive datetime."""
    if moment.tzinfo is UTC:  # the usual case, made fast
        return moment.isoformat(timespec="milliseconds")[:23] + "Z"
    if moment.tzinfo is None:
        raise ValueError(f"time {moment.isoformat()} has no zone, expected an aware datetime in UTC")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:23] + "Z"


def parse_time(text: str) -> datetime:
    """The aware UTC datetime that `time_text` wrote."""
    return datetime.fromisoformat(text)


def optional_time_text(moment: datetime | None) -> str | None:
    return None if moment is None else time_text(moment)


def optional_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def day_of(moment: datetime) -> str:
    """The UTC day `YYYY-MM-DD`, by which daily limits count."""
    return time_text(moment)[:10]


class Span(NamedTuple):
    """A period as stored times, for comparisons in SQL: from `start` on, before `end`."""

    #: `0`: from the beginning.
    start: str
    #: `~`: without an end.
    end: str

    @classmethod
    def of(cls, since: datetime | None, until: datetime | None = None) -> Self:
        """None: without a bound. A period that would end before it begins is empty."""
        start = optional_time_text(since) or "0"
        return cls(start, max(start, optional_time_text(until) or "~"))

    @property
    def first_hour(self) -> str:
        """The hour that `start` divides, as the tables of counts and sums write it."""
        return self.start[:13]

    @property
    def hours_beside_days(self) -> tuple[tuple[str, str], ...]:
        """The hours from `first_hour` to `end` that are not of a whole UTC day between `start` and `end`, as bounds."""
        if len(self.start) > 10 and self.start[:10] == self.end[:10]:
            return ((self.first_hour, self.end),)
        early = ((self.first_hour, f"{self.start[:10]}~"),) if len(self.start) > 10 else ()
        late = ((self.end[:10], self.end),) if len(self.end) > 10 else ()
        return early + late

    @property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """What the hours from `first_hour` to `end` contain beyond the period: before `start`, and from `end` to the end of its hour."""
        early = ((self.start[:13], self.start),) if len(self.start) > 13 else ()
        late = ((self.end, f"{self.end[:13]}~"),) if len(self.end) > 13 else ()
        return early + late


def truncate_to_ms(moment: datetime) -> datetime:
    """The time as it is read back after writing: in whole milliseconds."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


# ------------------------------------------------------------------------------------------------------------- amounts


def decimal_text(value: Decimal) -> str:
    """Plain notation (`0.00000001`, never `1E-8`). Raises ValueError for NaN and infinities."""
    if not value.is_finite():
        raise ValueError(f"amount {value} is not a finite number")
    return format(value, "f")


def exact_total(amounts: Iterable[Decimal]) -> Decimal:
    """The sum, to the last digit."""
    total = Decimal(0)
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total


def optional_decimal_text(value: Decimal | None) -> str | None:
    return None if value is None else decimal_text(value)


def optional_decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def exact_sum(one: str, other: str) -> str:
    """The sum of two stored amounts, for use in SQL: SQLite itself would compute with floats."""
    return decimal_text(EXACT.add(Decimal(one), Decimal(other)))


# ---------------------------------------------------------------------------------------------------------------- JSON


def to_json(value: object) -> str:
    """Canonical JSON of `to_jsonable(value)`: no spaces, sorted keys, so that equal values have equal text (and equal hashes)."""
    return storable(_text(value))


def from_json(text: str) -> Any:
    """Parse what `to_json` wrote; numbers with a fraction become Decimal."""
    return json.loads(text, parse_float=Decimal)


def to_jsonable(value: object) -> Any:
    """Convert to what JSON can hold: amounts and times as text, Structs, dataclasses and mappings as objects. TypeError for floats."""
    kind = type(value)
    if value is None or kind is str or kind is int or kind is bool:  # most values, made fast
        return value
    if kind is dict:
        return {str(key): to_jsonable(item) for key, item in value.items()}  # type: ignore[attr-defined]
    if isinstance(value, Decimal):
        return decimal_text(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item) for item in value]
    names = _field_names(kind)
    if names:
        return {name: to_jsonable(getattr(value, name)) for name in names}
    raise TypeError(
        f"a {kind.__name__} cannot be stored, expected text, whole numbers, Decimal, times or groups of them"
    )


def storable(text: str) -> str:
    """`text` as valid UTF-8: lone surrogates, which a message can contain as escapes, become escapes again."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def verdicts_to_json(verdicts: tuple[Verdict, ...]) -> str:
    """`to_json` of verdicts, remembered for a moment: they are written to the journal and to a table."""
    return _remembered(verdicts, amounts_to_json)


def amounts_to_json(value: object) -> str:
    """The same text as `to_json`, several times as fast, for values without times and floats."""
    try:
        text = _FAST.encode(value).decode()
    except (TypeError, ValueError):  # a type that msgspec does not know, or a lone surrogate
        return to_json(value)
    # msgspec writes 0.00000001 as 1E-8.
    return to_json(value) if _EXPONENT.search(text) else text


def _remembered(value: Any, write: Callable[[Any], str]) -> str:
    """The text of a value that will be written again soon; the same object has the same text."""
    known = _texts.get(id(value))
    if known is not None and known[0] is value:
        return known[1]
    if len(_texts) >= _REMEMBERED:
        _texts.clear()
    text = write(value)
    _texts[id(value)] = (value, text)
    return text


def verdicts_from_json(text: str) -> tuple[Verdict, ...]:
    # Parsed by `json`: msgspec's own parser refuses the escapes of lone surrogates that `storable` writes.
    return msgspec.convert(json.loads(text), tuple[Verdict, ...])


def row_to_json(
    sequence: int, at: str, kind: str, alert_id: str | None, client_order_id: str | None, data: str, *claim: str | None
) -> str:
    """The same text as `to_json` of a list of them, faster: it is hashed for every row of the journal."""
    alert = "null" if alert_id is None else _quoted(alert_id)
    order = "null" if client_order_id is None else _quoted(client_order_id)
    rest = "".join([f",{_text(text)}" for text in claim])
    return storable(f"[{sequence},{_quoted(at)},{_quoted(kind)},{alert},{order},{_quoted(data)}{rest}]")


def intent_to_json(intent: OrderIntent) -> str:
    """`to_json` of an intent, remembered for a moment: it is written with the alert and with the order."""
    return _remembered(intent, amounts_to_json)


# Cached: several orders of an alert, and orders read again, have the same intent; the text is the key.
@lru_cache(maxsize=1024)
def intent_from_json(text: str) -> OrderIntent:
    return _INTENT.decode(text)


def exit_from_json(stored: Mapping[str, Any]) -> ExitStatus:
    """The exit of an entry that `to_json` wrote, parsed."""
    return msgspec.convert(stored, ExitStatus)


@lru_cache(maxsize=64)
def settings_from_json(text: str) -> WebhookSettings:
    return _settings().validate_json(text)


def _text(value: object) -> str:
    """Write JSON in one pass: converting with `to_jsonable` and encoding with `json` took twice as long, for every row of every table."""
    kind: type = type(value)
    return _writer_of(kind)(value)


@cache
def _writer_of(kind: type) -> Callable[[Any], str]:
    if issubclass(kind, StrEnum):
        return _quoted
    names = _field_names(kind)
    if names:
        keys = [(name, f"{_quoted(name)}:") for name in sorted(names)]
        return lambda value: f"{{{','.join([key + _text(getattr(value, name)) for name, key in keys])}}}"
    return _WRITERS.get(kind, lambda value: _CANONICAL.encode(to_jsonable(value)))


def _field_names(kind: type) -> tuple[str, ...]:
    """The fields of a Struct or of a dataclass, in order; empty for every other type."""
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    return tuple(kind.__dataclass_fields__) if is_dataclass(kind) else ()


def _text_of_dict(value: dict[object, object]) -> str:
    items = sorted({str(key): item for key, item in value.items()}.items())
    return f"{{{','.join([f'{_quoted(key)}:{_text(item)}' for key, item in items])}}}"


def _text_of_list(value: Iterable[object]) -> str:
    return f"[{','.join([_text(item) for item in value])}]"


_WRITERS: Final[Mapping[type, Callable[[Any], str]]] = {
    str: _quoted,
    type(None): lambda _: "null",
    bool: lambda value: "true" if value else "false",
    int: str,
    Decimal: lambda value: f'"{decimal_text(value)}"',
    datetime: lambda value: f'"{time_text(value)}"',
    dict: _text_of_dict,
    list: _text_of_list,
    tuple: _text_of_list,
}


# It reads a Decimal from its text and skips unknown keys. msgspec's encoder would write 0.00000001 as 1E-8, so the one above is used.
_INTENT: Final = msgspec.json.Decoder(OrderIntent)


@cache
def _settings() -> TypeAdapter[WebhookSettings]:
    from pydantic import TypeAdapter  # imported late: most commands and `--help` do not need it

    return TypeAdapter(WebhookSettings)
