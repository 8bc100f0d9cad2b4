"""JSON and field values: exact encoding and decoding, lenient parsing of client input, success and error responses.

Decimals are written as plain JSON numbers, never with an exponent and never through a float.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from json.encoder import encode_basestring_ascii
from typing import Any, Final, NoReturn

#: HTTP status by error code; every other code is a 400 (docs/internals/orderly.md, section 11).
HTTP_STATUS: Final = {-1000: 500, -1001: 401, -1002: 401, -1003: 429, -1007: 409}

_MAX_NUMBER_TEXT: Final = 64
_MAX_EXPONENT: Final = 30
_MAX_BRACKETS: Final = 500


class ApiError(Exception):
    """An error response: Orderly's code, one sentence, and the HTTP status (docs/internals/orderly.md, section 11)."""

    def __init__(self, code: int, message: str, *, status: int | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status if status is not None else HTTP_STATUS.get(code, 400)
        #: Header Retry-After in seconds; None: not sent, as by Orderly.
        self.retry_after_s = retry_after_s


def format_decimal(value: Decimal) -> str:
    """Return a Decimal as text without exponent and trailing zeros."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def encode(value: object) -> str:
    """Return plain Python values as JSON text; TypeError for other types."""
    parts: list[str] = []
    _write(value, parts.append)
    return "".join(parts)


def _write(value: object, put: Callable[[str], None]) -> None:
    if isinstance(value, str):
        put(encode_basestring_ascii(value))
    elif value is None:
        put("null")
    elif value is True:
        put("true")
    elif value is False:
        put("false")
    elif isinstance(value, int):
        put(str(value))
    elif isinstance(value, Decimal):
        put(format_decimal(value))
    elif isinstance(value, Mapping):
        put("{")
        for index, (key, item) in enumerate(value.items()):
            put("," if index else "")
            put(encode_basestring_ascii(str(key)))
            put(":")
            _write(item, put)
        put("}")
    elif isinstance(value, list | tuple):
        put("[")
        for index, item in enumerate(value):
            put("," if index else "")
            _write(item, put)
        put("]")
    else:
        raise TypeError(f"cannot write {type(value).__name__} as JSON")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON with numbers as int and Decimal; ValueError for invalid JSON and for more than 500 brackets.

    The C parser recurses, so deeply nested input could crash a process with a raised recursion limit.
    """
    left, curly = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
    if text.count(left) + text.count(curly) > _MAX_BRACKETS:  # type: ignore[arg-type]
        raise ValueError("too many brackets")
    return json.loads(text, parse_float=Decimal, parse_constant=_no_constant)


def decode_object(body: bytes) -> dict[str, Any]:
    """Parse a request body, which must be a JSON object or empty; ApiError -1005 otherwise."""
    try:
        value = parse_json(body or b"{}")
    except ValueError as error:
        raise ApiError(-1005, "The request body is not valid JSON.") from error
    if not isinstance(value, dict):
        raise ApiError(-1005, "The request body must be a JSON object.")
    return value


def parse_number(raw: object, name: str) -> Decimal | None:
    """Return a number sent as JSON number or text; None if not given (None or ""); ApiError -1005 for anything else."""
    if raw is None or raw == "":
        return None
    if isinstance(raw, bool) or not isinstance(raw, int | Decimal | str):
        raise ApiError(-1005, f"{name} must be a number.")
    text = str(raw).strip()
    if len(text) > _MAX_NUMBER_TEXT or not text.isascii() or "_" in text:
        raise ApiError(-1005, f"{name} must be a number.")
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise ApiError(-1005, f"{name} must be a number.") from error
    if not value.is_finite() or abs(value.adjusted()) > _MAX_EXPONENT:
        raise ApiError(-1005, f"{name} must be a number of ordinary size.")
    return value


def parse_integer(raw: object, name: str) -> int | None:
    """Return a whole number sent as JSON number or text; None if not given; ApiError -1005 for anything else."""
    value = parse_number(raw, name)
    if value is None:
        return None
    if value != value.to_integral_value():
        raise ApiError(-1005, f"{name} must be a whole number.")
    return int(value)


def parse_flag(raw: object, name: str) -> bool:
    """Return a boolean sent as true/false, text or 0/1; False if not given; ApiError -1005 for anything else."""
    if isinstance(raw, bool):
        return raw
    if raw is None or raw == "":
        return False
    text = str(raw).lower()
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    raise ApiError(-1005, f"{name} must be true or false.")


def parse_text(raw: object, name: str, allowed: frozenset[str] | None = None) -> str | None:
    """Return text, None if not given. With `allowed`, upper-case it and raise ApiError -1005 for any other value."""
    if raw is None or raw == "":
        return None
    if not isinstance(raw, str):
        raise ApiError(-1005, f"{name} must be text.")
    if allowed is None:
        return raw
    if raw.upper() not in allowed:
        raise ApiError(-1005, f"{name} is {raw[:40]!r}; expected one of {', '.join(sorted(allowed))}.")
    return raw.upper()


def success(data: object, now: int) -> str:
    """Return the body of a successful response; `now` in ms."""
    return encode({"success": True, "timestamp": now, "data": data})


def failure(error: ApiError, now: int) -> str:
    """Return the body of an error response. Orderly sends no timestamp here; clients ignore it."""
    return encode({"success": False, "code": error.code, "message": error.message, "timestamp": now})
