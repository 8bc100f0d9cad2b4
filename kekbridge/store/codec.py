"""How values are written in the database: plain decimal text, canonical JSON, and the frozen values of model/ as JSON.

Exact in both directions: amounts never become floats and never take an exponent. Reading tolerates keys that a newer version wrote.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact
from enum import Enum, StrEnum
from functools import cache, lru_cache
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, Final

from kekbridge.model import OrderIntent, Verdict, WebhookSettings

if TYPE_CHECKING:
    from pydantic import TypeAdapter


# One moment stands in many columns of an alert, its orders and their history; equal moments have the same text, whatever their zone.
@lru_cache(maxsize=256)
def to_text(moment: datetime) -> str:
    """UTC text with milliseconds (the rest is cut off). Raises ValueError for a naive datetime."""
    if moment.tzinfo is UTC:  # nearly always
        return moment.isoformat(timespec="milliseconds")[:23] + "Z"
    if moment.tzinfo is None:
        raise ValueError(f"time {moment.isoformat()} has no zone, expected an aware datetime in UTC")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:23] + "Z"


def from_text(text: str) -> datetime:
    """The aware UTC datetime that `to_text` wrote."""
    return datetime.fromisoformat(text)


def optional_text(moment: datetime | None) -> str | None:
    return None if moment is None else to_text(moment)


def optional_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def day_of(moment: datetime) -> str:
    """The UTC day `YYYY-MM-DD` that daily limits count by."""
    return to_text(moment)[:10]


def as_stored(moment: datetime) -> datetime:
    """What is read again of a moment that was written: its whole milliseconds."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


# Running totals must equal their recomputation to the last digit, so sums and products are never rounded: 28 digits, Python's
# default, are not enough for a size times an average price. A result that would need rounding raises instead.
EXACT: Final = Context(prec=400, traps=[Inexact])

_quoted: Final = encode_basestring  # text as the encoder below writes it
_CANONICAL: Final = json.JSONEncoder(separators=(",", ":"), sort_keys=True, ensure_ascii=False, check_circular=False)


def exact_sum(one: str, other: str) -> str:
    """The sum of two amounts as they are stored, for SQL: SQLite itself would make floats of them."""
    return decimal_text(EXACT.add(Decimal(one), Decimal(other)))


def decimal_text(value: Decimal) -> str:
    """Plain notation (`0.00000001`, never `1E-8`). Raises ValueError for NaN and infinities."""
    if not value.is_finite():
        raise ValueError(f"amount {value} is not a finite number")
    return format(value, "f")


def optional_decimal_text(value: Decimal | None) -> str | None:
    return None if value is None else decimal_text(value)


def optional_decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def plain(value: object) -> Any:
    """`value` as JSON can hold it: amounts and times as text, dataclasses and mappings as objects. Raises TypeError for floats."""
    kind = type(value)
    if value is None or kind is str or kind is int or kind is bool:  # most values: this runs for every stored order
        return value
    if kind is dict:
        return {str(key): plain(item) for key, item in value.items()}  # type: ignore[attr-defined]
    if isinstance(value, Decimal):
        return decimal_text(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return to_text(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if is_dataclass(value):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    raise TypeError(
        f"a {kind.__name__} cannot be stored, expected text, whole numbers, Decimal, times or groups of them"
    )


def to_json(value: object) -> str:
    """Canonical JSON of `plain(value)`: no spaces, sorted keys, so that the same value always gives the same text (and the same hash)."""
    return storable(_text(value))


def _text(value: object) -> str:
    """Written at once: to make it plain first and then let `json` go through it again took twice as long, for every row of every table."""
    kind: type = type(value)
    return _writer_of(kind)(value)


@cache
def _writer_of(kind: type) -> Callable[[Any], str]:
    if issubclass(kind, StrEnum):
        return _quoted
    if is_dataclass(kind):
        keys = [(name, f"{_quoted(name)}:") for name in sorted(kind.__dataclass_fields__)]
        return lambda value: f"{{{','.join([key + _text(getattr(value, name)) for name, key in keys])}}}"
    return _WRITERS.get(kind, lambda value: _CANONICAL.encode(plain(value)))


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
    datetime: lambda value: f'"{to_text(value)}"',
    dict: _text_of_dict,
    list: _text_of_list,
    tuple: _text_of_list,
}


def storable(text: str) -> str:
    """`text` as UTF-8 can hold it: half characters that a message smuggled in as escapes are written as escapes again."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def from_json(text: str) -> Any:
    """What `to_json` wrote; numbers with a fraction become Decimal."""
    return json.loads(text, parse_float=Decimal)


def verdicts_to_json(verdicts: Iterable[Verdict]) -> str:
    """As `to_json` would, only quicker: a verdict holds text alone, and every alert stores some twenty of them."""
    parts = [
        f'{{"found":{_quoted(one.found)},"limit":{_quoted(one.limit)},"message":{_quoted(one.message)},'
        f'"passed":{"true" if one.passed else "false"},"rule":{_quoted(one.rule)},"scope":{_quoted(one.scope)}}}'
        for one in verdicts
    ]
    return storable(f"[{','.join(parts)}]")


def event_to_json(
    sequence: int, at: str, kind: str, alert_id: str | None, client_order_id: str | None, data: str
) -> str:
    """As `to_json` would of the six in a list, only quicker: this is hashed for every event."""
    alert = "null" if alert_id is None else _quoted(alert_id)
    order = "null" if client_order_id is None else _quoted(client_order_id)
    return storable(f"[{sequence},{_quoted(at)},{_quoted(kind)},{alert},{order},{_quoted(data)}]")


def verdicts_from_json(text: str) -> tuple[Verdict, ...]:
    names = {field.name for field in fields(Verdict)}
    return tuple(
        Verdict(**{name: item for name, item in stored.items() if name in names}) for stored in json.loads(text)
    )


# An order is read again at each of its steps, a webhook with every alert: both values are immutable, and the text is their key.
@lru_cache(maxsize=1024)
def intent_from_json(text: str) -> OrderIntent:
    return _intents().validate_json(text)


@lru_cache(maxsize=64)
def settings_from_json(text: str) -> WebhookSettings:
    return _settings().validate_json(text)


@cache
def _intents() -> TypeAdapter[OrderIntent]:
    from pydantic import TypeAdapter  # imported late: most commands and `--help` read no order

    return TypeAdapter(OrderIntent)


@cache
def _settings() -> TypeAdapter[WebhookSettings]:
    from pydantic import TypeAdapter

    return TypeAdapter(WebhookSettings)
