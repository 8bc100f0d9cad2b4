"""Strict JSON parser for messages: exact, bounded, and naming the position of an error.

Numbers stay text (NumberText). Duplicate keys, NaN and Infinity are refused; nothing is repaired, because an order must not be guessed.
message.py interprets the result.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from kekbridge.alerts.field_names import SPELLINGS
from kekbridge.alerts.numbers import NumberText
from kekbridge.alerts.redaction import clip
from kekbridge.errors import Unreadable
from kekbridge.formatting import escape_unprintable

_MAX_DEPTH = 12  # a message with steps and take-profit lists needs four levels
_MAX_BRACKETS = 5000
# A message with many steps has a few hundred; parsing 64 KiB of `"",` would block the event loop for a tenth of a second.
_MAX_COMMAS = 4000
_MAX_FIELDS = 256  # real messages have twenty; each field is processed several times
_MAX_NAME_LENGTH = 256  # of a field; each is compared with all known names
_WHITESPACE = b" \t\r\n\x0b\x0c"
_BOM = b"\xef\xbb\xbf"
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"PK\x03\x04")
_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"?|-?(?:Infinity|NaN)')
_KEY_VALUE = re.compile(r"\s*[A-Za-z_]\w*\s*=")
_NAME_AT_START = re.compile(r'"[^"\\]{1,64}"\s*:')
# WunderTrading's alerts may be nothing but the signal code: ENTER-LONG_Bybit_ETHUSDT_my bot_15M_8e34…
_SIGNAL_CODE = re.compile(r"(?:ENTER|EXIT)-(?:LONG|SHORT|ALL)_[\w ./:-]{3,200}", re.IGNORECASE | re.ASCII)
_WORD = re.compile(r"[A-Za-z_][\w.]*")
_TYPOGRAPHIC = "“”„‟‘’‚‛«»＂"


def strip_body(body: bytes) -> bytes:
    """Remove a byte order mark and outer ASCII whitespace; TradingView keeps a trailing newline of the template."""
    return body.removeprefix(_BOM).strip(_WHITESPACE)


def read_document(stripped: bytes) -> dict[str, Any] | list[Any]:
    """Parse the JSON object or array in a stripped body, numbers as NumberText; a bare signal code of WunderTrading is {"code": …}.

    Raises Unreadable with empty_body, invalid_encoding, not_an_order, invalid_json or duplicate_key.
    """
    if not stripped:
        raise Unreadable(
            "empty_body",
            "the body is empty; set alert_message on every order of the strategy, or write a message in the alert",
        )
    text = _decode(stripped)
    if _SIGNAL_CODE.fullmatch(text):
        return {"code": text}
    brackets = text.count("[") + text.count("{")
    if brackets > _MAX_BRACKETS:
        # Before parsing: if another library has raised the recursion limit, recursion in C would crash the process.
        _refuse_depth()
    if text.count(",") > _MAX_COMMAS:
        raise Unreadable(
            "invalid_json",
            f"the message has {text.count(','):,} commas, expected at most {_MAX_COMMAS:,}; an order needs about twenty values",
        )
    try:
        document = _DECODER.decode(text)
    except _NotANumber as constant:
        _refuse_constant(text, str(constant))
    except json.JSONDecodeError as error:
        _refuse_syntax(text, error)
    except RecursionError:
        _refuse_depth()
    if not isinstance(document, (dict, list)):
        found = "a text" if isinstance(document, str) and not isinstance(document, NumberText) else "a single value"
        raise Unreadable("invalid_json", f"the body is {found}, expected one JSON object such as {{…}}")
    # UTF-8 without escapes holds no lone surrogate, and each level takes a bracket: most messages need no check.
    if brackets >= _MAX_DEPTH or "\\u" in text:
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


class _NotANumber(Exception):
    """NaN or an infinity; the argument is its name."""


def _raise_constant(name: str) -> NoReturn:
    raise _NotANumber(name)


def _refuse_constant(text: str, name: str) -> NoReturn:
    at = next((m.start() for m in _LITERAL.finditer(text) if m.group() == name), 0)
    raise Unreadable(
        "invalid_json",
        f"invalid JSON at {_position(text, at)}: {name} is not a number; the script's value is na, "
        "send the field only if it has a value",
    ) from None


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > _MAX_FIELDS:
        raise Unreadable(
            "invalid_json",
            f"the message has {len(pairs)} fields in one object, expected at most {_MAX_FIELDS}; remove unused fields",
        )
    result: dict[str, Any] = {}
    seen: dict[str, str] = {}
    for name, value in pairs:
        if len(name) > _MAX_NAME_LENGTH:
            raise Unreadable(
                "invalid_json",
                f"a field name has {len(name):,} characters, expected at most {_MAX_NAME_LENGTH}: "
                f"{clip(escape_unprintable(name[:40]), 32)}",
            )
        # order_type beside orderType is as ambiguous as one of them twice.
        canonical = SPELLINGS.get(name, name)
        if canonical in seen:
            shown = clip(escape_unprintable(name), 40)
            other = clip(escape_unprintable(seen[canonical]), 40)
            found = f"'{shown}' occurs twice" if shown == other else f"'{other}' and '{shown}' are the same field"
            raise Unreadable("duplicate_key", f"{found}; remove one of the two", field=shown)
        seen[canonical] = name
        result[name] = value
    return result


# Shared: json.loads with options creates a new decoder on each call.
_DECODER: Final = json.JSONDecoder(
    parse_float=NumberText,
    parse_int=NumberText,
    parse_constant=_raise_constant,
    object_pairs_hook=_object_without_duplicates,
)


def _refuse_syntax(text: str, error: json.JSONDecodeError) -> NoReturn:
    """Name the usual cause of such an error in an alert (docs/internals/tradingview.md section 4, frequent damage).

    A hint must not lead to another number: where a comma stands between digits nobody knows what it was meant as.
    """
    whole = _damage_of_whole(text)
    if whole is not None:
        raise Unreadable(*whole) from None
    reason = error.msg[0].lower() + error.msg[1:].removesuffix(" at")
    raise Unreadable(
        "invalid_json", f"invalid JSON at {_position(text, error.pos)}: {reason}; {_hint(text, error)}"
    ) from None


def _damage_of_whole(text: str) -> tuple[str, str] | None:
    """Code and message if the body as a whole is something else than a JSON object."""
    if _NAME_AT_START.match(text):
        return (
            "invalid_json",
            "the opening brace { is missing: the message begins with a field; write {…} around all fields",
        )
    if "&quot;" in text or "&#34;" in text:
        return (
            "invalid_json",
            "the quotes were turned into &quot;, as web pages show them; paste the message as plain text",
        )
    if re.match(r"'\s*[{\[]", text):
        return (
            "invalid_json",
            "the single quotes around the message are part of the body: the Windows shell does not remove them; "
            "send it from a file, such as curl --data-binary @alert.json",
        )
    if re.match(r"\\['\"{]|['\"]\{['\"]", text):
        return (
            "invalid_json",
            "the braces or quotes are escaped: str.format needs '{' for a brace; build the message with + and str.tostring",
        )
    if re.match(r"\{\s*[A-Za-z_]\w*\s*:", text) and '"' not in text and "'" not in text:
        return (
            "invalid_json",
            "the message has no quotes: a shell removed them; send it from a file, such as curl --data-binary @alert.json",
        )
    if text[0] in "{[\"'" + _TYPOGRAPHIC:
        return None
    if re.match(r"\s*\w+=%7B", text, re.IGNORECASE):
        return "invalid_json", "the body is form-encoded, expected one JSON object; send it as it is, without encoding"
    if _KEY_VALUE.match(text):
        return (
            "invalid_json",
            "the body is key=value text, expected one JSON object; paste the message printed by `kekbridge template`",
        )
    return (
        "not_an_order",
        "the body is plain text, expected one JSON object; replace the alert's message by the one printed by "
        "`kekbridge template`",
    )


def _hint(text: str, error: json.JSONDecodeError) -> str:
    """The usual cause of an error at a place inside a JSON object."""
    position = _start_of_value(text, error.pos)
    rest, before = text[position:], text[:position].rstrip()
    here, last = rest[:1], before[-1:]
    if here and (not here.isascii() or not here.isprintable()) and here not in "\r\n\t":
        return _odd_character_hint(here)
    if here.isdigit() and (last.isdigit() or (last == "," and before[-2:-1].isdigit())):
        if last == "0" and position == len(before):
            return "a number cannot begin with 0; put it in quotes if it is an id"
        return (
            f"a {'comma' if last == ',' else 'space'} inside a number: JSON numbers have a decimal point and no thousands "
            "separators, such as 1250.5; in Pine use str.tostring instead of str.format"
        )
    if error.msg.startswith("Illegal trailing comma"):  # Python 3.13
        return "the last field ends in a comma: remove it"
    if error.msg == "Extra data":
        if here in "{[":
            return "two messages in one body: send one, or an array [{…},{…}]"
        return "there is text after the end of the message"
    if here == last == "{":
        if before.strip() == "{":
            return "the braces around the message are doubled: write { and } once"
        return (
            'a placeholder without quotes, which TradingView did not replace: write it in quotes, such as "{{close}}"'
        )
    if here == "'":
        return 'single quotes are not JSON: use " quotes'
    if rest.startswith(("//", "/*", "#")):
        return "JSON has no comments"
    if here and here in "}]" and last == ",":
        return "the last field ends in a comma: remove it"
    if here and here in ",}]" and last == ":":
        return 'the value is missing: TradingView replaced a placeholder by nothing; put placeholders in quotes, such as "{{close}}"'
    word = _WORD.match(rest)
    if word and last == ":":
        return _word_hint(word.group())
    if error.msg.startswith("Invalid control character"):
        return "a line break or tab inside a text: remove it from the order's comment or id"
    if error.msg.startswith("Invalid \\escape"):
        return "a backslash inside a text: write it twice"
    if error.msg.startswith("Unterminated string"):
        return "the quote at the end of a text is missing"
    if error.msg.startswith("Expecting ',' delimiter"):
        return _missing_comma_hint(here, last)
    if error.msg.startswith("Expecting property name") and (word or here.isdigit()):
        return "a name without quotes: names and texts need quotes"
    if here == "." or (here == "+" and rest[1:2].isdigit()):
        return "a number begins with a digit, such as 0.5"
    if position >= len(text):
        return "the message is incomplete"
    return "paste the message printed by `kekbridge template`"


def _missing_comma_hint(here: str, last: str) -> str:
    if not here:
        return "the closing brace } is missing"
    if here == '"':
        return "a comma is missing between two fields"
    if last == '"':
        return 'a quote inside a text? remove " from order ids and comments'
    if last.isdigit():
        return 'a number with something behind it: write numbers plain, and percents in quotes, such as "2%"'
    return "fields are separated by commas"


def _start_of_value(text: str, position: int) -> int:
    """Where the text that cannot be read begins: behind the white space that the parser stopped at."""
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _odd_character_hint(character: str) -> str:
    if character in _TYPOGRAPHIC:
        return 'typographic quotes: use plain " quotes'
    name = unicodedata.name(character, "a control character").lower()
    return f"an invisible or unusual character, U+{ord(character):04X} ({name}): type it again as a plain one"


def _word_hint(word: str) -> str:
    lower = word.lower()
    if lower in ("true", "false", "none", "null"):
        written = {"none": "null"}.get(lower, lower)
        return f"write {written} in lower case, as JSON does"
    if lower in ("nan", "na", "inf", "infinity", "undefined"):
        return f"{word} is no value: send the field only if it has one"
    return 'a text without quotes: write it in quotes, and placeholders too, such as "{{ticker}}"'


def _position(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    column = position - (text.rfind("\n", 0, position) + 1) + 1
    return f"line {line}, column {column}"


def _refuse_depth() -> NoReturn:
    raise Unreadable(
        "invalid_json",
        f"the JSON is nested too deeply, expected at most {_MAX_DEPTH} levels; an order needs two or three",
    ) from None


def _check_values(document: object) -> None:
    """Check the depth, and refuse lone surrogates, which can be neither stored nor hashed nor sent."""
    level: list[object] = [document]
    for _ in range(_MAX_DEPTH):
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
        raise Unreadable("invalid_encoding", "a text contains half a character (a lone \\ud… escape); send valid UTF-8")
