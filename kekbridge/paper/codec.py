"""Bytes in, bytes out: exact JSON, numbers as clients really send them, and the two shapes of an answer.

Decimals are written as plain JSON numbers (never 1E-5, never through a float). Nothing here knows what an
order is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from json.encoder import encode_basestring_ascii
from typing import Any, Final, NoReturn

HTTP_STATUS: Final = {-1000: 500, -1001: 401, -1002: 401, -1003: 429, -1007: 409}
"""HTTP status of an error code; every other code is a 400 (orderly-api.md section 11)."""

_MAX_NUMBER_TEXT: Final = 64
_MAX_EXPONENT: Final = 30
_MAX_BRACKETS: Final = 500


class ApiError(Exception):
    """The exchange says no: a documented code and one sentence (orderly-api.md section 11)."""

    def __init__(self, code: int, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status if status is not None else HTTP_STATUS.get(code, 400)


def format_decimal(value: Decimal) -> str:
    """Decimal text without exponent and without trailing zeros."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def encode(value: object) -> str:
    """JSON text of plain Python values; Decimals become plain numbers."""
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
    """Read JSON exactly; ValueError for anything else, also for what is nested beyond reason.

    Brackets are counted first: the C parser recurses, and where the recursion limit was raised it would crash.
    """
    left, curly = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
    if text.count(left) + text.count(curly) > _MAX_BRACKETS:  # type: ignore[arg-type]
        raise ValueError("too many brackets")
    return json.loads(text, parse_float=Decimal, parse_constant=_no_constant)


def decode_object(body: bytes) -> dict[str, Any]:
    """Read a JSON object exactly; Refusal -1005 when it is none."""
    try:
        value = parse_json(body or b"{}")
    except ValueError as error:
        raise ApiError(-1005, "The request body is not valid JSON.") from error
    if not isinstance(value, dict):
        raise ApiError(-1005, "The request body must be a JSON object.")
    return value


def parse_number(raw: object, name: str) -> Decimal | None:
    """A number as clients send it: JSON number, numeric text, exponent form; None and "" mean not given."""
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
    """A whole number (ids and times come as numbers or as text); None and "" mean not given."""
    value = parse_number(raw, name)
    if value is None:
        return None
    if value != value.to_integral_value():
        raise ApiError(-1005, f"{name} must be a whole number.")
    return int(value)


def parse_flag(raw: object, name: str) -> bool:
    """A boolean as clients send it: true, "true", "True", "1"; absent means false."""
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
    """A text value, upper-cased and checked when a set of words is given."""
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
    """The body of an accepted request."""
    return encode({"success": True, "timestamp": now, "data": data})


def failure(error: ApiError, now: int) -> str:
    """The body of a refused request; the timestamp is an extra that clients ignore."""
    return encode({"success": False, "code": error.code, "message": error.message, "timestamp": now})
