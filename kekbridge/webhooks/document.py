"""A webhook as a JSON document, as the API of the web pages takes and returns it.

`name`, `allowedSymbols`, `maxOrderSize` and `dailyLimit` at the top, all other limits in `riskParameters`, rates in `rateLimits`, and
how messages are read in `settings`. The names are those of `webhook show --json`. Values become the options of the command line
(options.py), so that both parse and refuse the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kekbridge.alerts.numbers import NumberText, parse_decimal
from kekbridge.errors import ConfigError
from kekbridge.formatting import camel, did_you_mean, format_decimal
from kekbridge.parsing import NONE
from kekbridge.webhooks.options import REQUIRED_FIELDS, ROWS, Row

_TOP: Final = frozenset({"allowed_symbols", "max_order_size", "daily_limit"})
_GROUPS: Final = {"limits": "riskParameters", "rates": "rateLimits", "": "settings"}
# Fields of the answer that a change cannot name.
_READ_ONLY: Final = ("id", "webhookUrl", "webhookUrlWithKey", "apiKey", "apiSecret", "createdAt", "keys", "trading")


def _place(row: Row) -> str:
    """Where a setting is in the document: `maxOrderSize`, `riskParameters.maxLeverage`."""
    name = camel(row.field)
    return name if row.part == "limits" and row.field in _TOP else f"{_GROUPS[row.part]}.{name}"


#: Every setting by its place in the document.
PLACES: Final[Mapping[str, Row]] = {_place(row): row for row in ROWS}
_PLACE_OF_OPTION: Final = {row.option: place for place, row in PLACES.items()}
_PLACE_OF_PARAMETER: Final = {row.parameter: place for place, row in PLACES.items()}
_GROUP_NAMES: Final = tuple(_GROUPS.values())
_TOP_NAMES: Final = tuple(place for place in PLACES if "." not in place)


@dataclass(frozen=True, slots=True)
class WebhookDocument:
    """What a document asks for; what it does not name stays as it is."""

    #: New name.
    name: str | None = None
    #: False: its alerts are refused.
    enabled: bool | None = None
    #: Settings as typed, by parameter of options.py.
    options: dict[str, str | bool | list[str]] = field(default_factory=dict)


def read_document(document: Mapping[str, Any], *, is_new: bool) -> WebhookDocument:
    """Read a document whose numbers are NumberText. `is_new`: of a webhook to create, which needs a name.

    Raises ConfigError with the place of the first wrong field: what was found, what is expected.
    """
    _check_names(document, ("name", *(() if is_new else ("enabled",)), *_TOP_NAMES, *_GROUP_NAMES), "")
    name, enabled = document.get("name"), document.get("enabled")
    if is_new and "name" not in document:
        raise _wrong("name", "nothing", "a name of 1 to 64 letters, digits, dots, dashes and underscores")
    if "name" in document and (not isinstance(name, str) or isinstance(name, NumberText)):
        raise _wrong("name", _found(name), "a text such as btc-trend")
    if "enabled" in document and not isinstance(enabled, bool):
        raise _wrong("enabled", _found(enabled), "true or false")
    options = {}
    for place, value in _flat(document).items():
        row = PLACES[place]
        options[row.parameter] = _as_option(place, row, value)
    return WebhookDocument(name, enabled, options)


def _flat(document: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a document by place. Raises ConfigError for an unknown one."""
    found = {name: document[name] for name in _TOP_NAMES if name in document}
    for group in _GROUP_NAMES:
        if group not in document:
            continue
        inner = document[group]
        if not isinstance(inner, Mapping):
            raise _wrong(group, _found(inner), "an object")
        _check_names(inner, tuple(place.partition(".")[2] for place in PLACES if place.startswith(f"{group}.")), group)
        found |= {f"{group}.{name}": value for name, value in inner.items()}
    return found


def _check_names(given: Mapping[str, Any], known: tuple[str, ...], group: str) -> None:
    for name in given:
        if name in known:
            continue
        where = f"{group}.{name}" if group else name
        if not group and name in _READ_ONLY:
            text = f"{name} is set by the bridge and cannot be given; leave it out"
            raise ConfigError(text, code="field_invalid", field=name)
        elsewhere = next((place for place in PLACES if place.rpartition(".")[2] == name), None)
        if elsewhere is not None:
            hint = f"write it as {elsewhere}"
        elif name == "enabled":
            hint = "a new webhook is enabled; PATCH it to disable it"
        else:
            hint = did_you_mean(name, _candidates(known, group), otherwise=f"expected {', '.join(known)}")
        raise ConfigError(f"{where[:80]!r} is not a field of a webhook; {hint}", code="field_unknown", field=where[:80])


def _candidates(known: tuple[str, ...], group: str) -> dict[str, None]:
    """Names to suggest: those that may stand here first, then all others at their place."""
    return dict.fromkeys((*known, *(place for place in PLACES if group == "" or place.startswith(group))))


def _as_option(place: str, row: Row, value: Any) -> str | bool | list[str]:
    """A value of the document as typed on the command line; null removes a limit."""
    if value is None:
        if row.field in REQUIRED_FIELDS or (row.parser is None and not row.is_many):
            raise _wrong(place, "null", _expected(row))
        return [NONE] if row.is_many else NONE
    return _READERS[_kind(row)](place, row, value)


def _kind(row: Row) -> str:
    if row.is_many:
        return "list" if row.field == "allowed_addresses" else "object"
    if row.field == "allowed_symbols":
        return "symbols"
    return "switch" if row.parser is None else "text"


def _read_switch(place: str, row: Row, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(place, _found(value), _expected(row))
    return value


def _read_text(place: str, row: Row, value: Any) -> str:
    if not isinstance(value, str):  # a number is a NumberText
        raise _wrong(place, _found(value), _expected(row))
    number = parse_decimal(value) if isinstance(value, NumberText) else None
    if row.is_share and (share := parse_decimal(value)) is not None and share <= 1:
        return f"{format_decimal(share * 100)}%"  # a fraction, as documents show it
    # Without an exponent: serializers write 1e-05 for 0.00001.
    return value.strip() if number is None else format_decimal(number)


def _read_list(place: str, row: Row, value: Any) -> list[str]:
    return _texts(place, row, value) or [NONE]


def _read_symbols(place: str, row: Row, value: Any) -> str:
    found = _texts(place, row, value)
    if not found:
        raise _wrong(place, "an empty list", "at least one market such as BTC, or null for every market")
    if any("," in text for text in found):
        raise _wrong(place, repr(next(text for text in found if "," in text)[:40]), "one market per text, such as BTC")
    return ",".join(found)


def _texts(place: str, row: Row, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise _wrong(place, _found(value), _expected(row))
    return [str(one).strip() for one in value]


def _read_object(place: str, row: Row, value: Any) -> list[str]:
    if not isinstance(value, Mapping) or not all(isinstance(one, str) and one.strip() for one in value.values()):
        raise _wrong(place, _found(value), _expected(row))
    if any("=" in name or not name.strip() for name in value):
        raise _wrong(place, "a name that is empty or has =", _expected(row))
    return [f"{name}={text}" for name, text in value.items()] or [NONE]


_READERS: Final[Mapping[str, Callable[[str, Row, Any], str | bool | list[str]]]] = {
    "switch": _read_switch,
    "text": _read_text,
    "list": _read_list,
    "symbols": _read_symbols,
    "object": _read_object,
}


def _expected(row: Row) -> str:
    match _kind(row):
        case "switch":
            return "true or false"
        case "symbols":
            return 'a list of markets such as ["BTC","ETH"]'
        case "list":
            return 'a list of networks such as ["203.0.113.0/24"]'
        case "object":
            return f"an object of texts such as {{{row.metavar.replace('=', ': ')}}}"
    if row.choices:
        return f"{', '.join(row.choices[:-1])} or {row.choices[-1]}"
    return "a number or a text"


def _found(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, NumberText):
        return str(value)[:40]
    if isinstance(value, str):
        return repr(value[:40])
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, Mapping) else "another value"


def _wrong(place: str, found: str, expected: str) -> ConfigError:
    return ConfigError(f"{place}: found {found}, expected {expected}", code="field_invalid", field=place)


def in_places(error: ConfigError) -> ConfigError:
    """An error of the options in the document's words: `--max-leverage` becomes `riskParameters.maxLeverage`, and is its `field`."""
    words = error.message.split(" ")
    places = [_PLACE_OF_OPTION.get(word.strip(":,;"), "") for word in words]
    message = " ".join(
        word.replace(word.strip(":,;"), place) if place else word for word, place in zip(words, places, strict=True)
    )
    named = next((place for place in places if place), None) or _PLACE_OF_PARAMETER.get(error.field or "", error.field)
    code = "field_invalid" if error.code == "config_invalid" and named else error.code
    return ConfigError(message, code=code, field=named)


def document_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a webhook, from its JSON as the operations return it (`ops.webhook_operations.webhook_data`)."""
    rest = {name: value for name, value in data.items() if name != "settings"}
    parts = {"": data["settings"], "limits": data["settings"]["limits"], "rates": data["settings"]["rates"]}
    found: dict[str, Any] = {group: {} for group in _GROUP_NAMES}
    for place, row in PLACES.items():
        value = parts[row.part][camel(row.field)]
        group, _, name = place.rpartition(".")
        if group:
            found[group][name] = value
        else:
            found[name] = value
    return rest | {name: found[name] for name in (*_TOP_NAMES, *_GROUP_NAMES)}
