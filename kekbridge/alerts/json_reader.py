"""JSON as an order may be written in it: strict, exact, bounded, with the place of a mistake named. Bytes in, plain values out.

Numbers stay text (NumberText), duplicate keys, NaN and Infinity are refused, nothing is repaired: a message that has to be guessed at
is no order. payload.py gives the result its meaning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from kekbridge.alerts.field_names import canonical_name
from kekbridge.alerts.numbers import NumberText
from kekbridge.alerts.redaction import clip
from kekbridge.errors import Unreadable
from kekbridge.formatting import escape_unprintable

_DEEPEST = 12  # a message with steps and take-profit lists needs four levels
_MOST_BRACKETS = 5000
_MOST_COMMAS = (
    4000  # a message of many steps has a few hundred; 64 KiB of `"",` would take a tenth of a second from everybody
)
_MOST_FIELDS = 256  # real messages have twenty; each field is looked at several times on the way
_LONGEST_NAME = 256  # the name of a field; each is compared with all that is known
_WHITESPACE = b" \t\r\n\x0b\x0c"
_BOM = b"\xef\xbb\xbf"
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"PK\x03\x04")
_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"?|-?(?:Infinity|NaN)')
_KEY_VALUE = re.compile(r"\s*[A-Za-z_]\w*\s*=")
_TYPOGRAPHIC = "“”„‟‘’‚‛«»＂"


def strip_body(body: bytes) -> bytes:
    """The body without a byte order mark and outer ASCII whitespace: TradingView passes a trailing newline of the template on."""
    return body.removeprefix(_BOM).strip(_WHITESPACE)


def read_document(stripped: bytes) -> dict[str, Any] | list[Any]:
    """The JSON object or array in a stripped body, numbers as NumberText.

    Raises Unreadable with empty_body, invalid_encoding, not_an_order, invalid_json or duplicate_key.
    """
    if not stripped:
        raise Unreadable(
            "empty_body",
            "the body is empty; set alert_message on every order of the strategy, or write a message in the alert",
        )
    text = _decode(stripped)
    brackets = text.count("[") + text.count("{")
    if brackets > _MOST_BRACKETS:
        # Before the parser sees it: where another library has raised the recursion limit, C recursion would end the process.
        _refuse_depth()
    if text.count(",") > _MOST_COMMAS:
        raise Unreadable(
            "invalid_json",
            f"the message has {text.count(','):,} commas, expected at most {_MOST_COMMAS:,}; an order needs twenty values",
        )
    try:
        document = _DECODER.decode(text)
    except _NoNumber as constant:
        _refuse_constant(text, str(constant))
    except json.JSONDecodeError as error:
        _refuse_syntax(text, error)
    except RecursionError:
        _refuse_depth()
    if not isinstance(document, (dict, list)):
        found = "a text" if isinstance(document, str) and not isinstance(document, NumberText) else "a single value"
        raise Unreadable("invalid_json", f"the body is {found}, expected one JSON object such as {{…}}")
    # Without escapes there is no half character in UTF-8, and each level takes a bracket: most messages have nothing to be found.
    if brackets >= _DEEPEST or "\\u" in text:
        _check_values(document)
    return document


def _decode(stripped: bytes) -> str:
    if stripped.startswith(_COMPRESSED):
        raise Unreadable("invalid_encoding", "the body is compressed; send plain UTF-8 without Content-Encoding")
    try:
        return stripped.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(
            "invalid_encoding", f"the body is not UTF-8 (byte {error.start + 1}); send plain UTF-8"
        ) from None


class _NoNumber(Exception):
    """NaN or an infinity, by its name."""


def _raise_constant(name: str) -> NoReturn:
    raise _NoNumber(name)


def _refuse_constant(text: str, name: str) -> NoReturn:
    at = next((m.start() for m in _LITERAL.finditer(text) if m.group() == name), 0)
    raise Unreadable(
        "invalid_json",
        f"invalid JSON at {_place(text, at)}: {name} is not a number; the script computed nothing there (na), "
        "send the field only when it has a value",
    ) from None


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > _MOST_FIELDS:
        raise Unreadable(
            "invalid_json",
            f"the message has {len(pairs)} fields in one object, expected at most {_MOST_FIELDS}; remove what is not needed",
        )
    result: dict[str, Any] = {}
    seen: dict[str, str] = {}
    for name, value in pairs:
        if len(name) > _LONGEST_NAME:
            raise Unreadable(
                "invalid_json",
                f"the name of a field has {len(name):,} characters, expected at most {_LONGEST_NAME}: "
                f"{clip(escape_unprintable(name[:40]), 32)}",
            )
        # order_type beside orderType is the same mistake as writing one of them twice: which one is meant?
        canonical = canonical_name(name)
        if canonical in seen:
            shown = clip(escape_unprintable(name), 40)
            other = clip(escape_unprintable(seen[canonical]), 40)
            twice = f"'{shown}' occurs twice" if shown == other else f"'{other}' and '{shown}' are the same field"
            raise Unreadable("duplicate_key", f"{twice}; remove one of the two", field=shown)
        seen[canonical] = name
        result[name] = value
    return result


# One for all: json.loads with options makes a new one each time.
_DECODER: Final = json.JSONDecoder(
    parse_float=NumberText,
    parse_int=NumberText,
    parse_constant=_raise_constant,
    object_pairs_hook=_object_without_duplicates,
)


def _refuse_syntax(text: str, error: json.JSONDecodeError) -> NoReturn:
    if text[0] not in "{[\"'" + _TYPOGRAPHIC:
        if _KEY_VALUE.match(text):
            raise Unreadable(
                "invalid_json",
                "the body is key=value text, expected one JSON object; paste the line that `kekbridge template` prints",
            ) from None
        raise Unreadable(
            "not_an_order",
            "the body is plain text without an order in it; replace the alert's message by the line that "
            "`kekbridge template` prints",
        ) from None
    reason = error.msg[0].lower() + error.msg[1:].removesuffix(" at")
    raise Unreadable(
        "invalid_json", f"invalid JSON at {_place(text, error.pos)}: {reason}{_hint(text, error)}"
    ) from None


def _hint(text: str, error: json.JSONDecodeError) -> str:
    """What such a mistake usually is in an alert (docs/internals/tradingview.md section 4, frequent damage)."""
    here, before = text[error.pos : error.pos + 2], text[: error.pos].rstrip()[-1:]
    if error.msg == "Extra data":
        if here[:1] in "{[":
            return "; two messages in one body: send one, or an array [{…},{…}]"
        return "; something follows the closing brace"
    if here[:1] and here[0] in _TYPOGRAPHIC:
        return '; typographic quotes from a document: use plain " quotes'
    if here[:1] == "'":
        return '; single quotes are not JSON: use " quotes'
    if here == "//" or here == "/*" or here[:1] == "#":
        return "; JSON has no comments"
    if here[:1] in ("}", "]") and before == ",":
        return "; remove the comma before it"
    if before == "," and error.msg.startswith("Expecting property name"):
        return "; remove the comma before it"
    if error.msg.startswith("Invalid control character"):
        return "; a line break or tab inside a text: take it out of the order's comment or id"
    if error.msg.startswith("Expecting ',' delimiter") and before == '"':
        return '; a quote inside a text? take " out of order ids and comments'
    if error.pos >= len(text):
        return "; the message ends too early"
    return "; paste the line that `kekbridge template` prints"


def _place(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    column = position - (text.rfind("\n", 0, position) + 1) + 1
    return f"line {line}, column {column}"


def _refuse_depth() -> NoReturn:
    raise Unreadable(
        "invalid_json",
        f"the JSON is nested too deeply, expected at most {_DEEPEST} levels; an order needs two or three",
    ) from None


def _check_values(document: object) -> None:
    """Bound the depth, and refuse lone surrogates: they are no text that could be stored, hashed or answered."""
    level: list[object] = [document]
    for _ in range(_DEEPEST):
        inner: list[object] = []
        for value in level:
            if isinstance(value, Mapping):
                for name in value:
                    _check_text(name)
                inner.extend(value.values())
            elif isinstance(value, str):
                _check_text(value)
            elif isinstance(value, Sequence):
                inner.extend(value)
        if not inner:
            return
        level = inner
    _refuse_depth()


def _check_text(text: str) -> None:
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise Unreadable("invalid_encoding", "a text holds half of a character (a lone \\ud… escape); send valid UTF-8")
