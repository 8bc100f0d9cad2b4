"""Requests and errors of the JSON API: strict bodies and query parameters in, one shape of error out, never a 5xx.

`{"success": false, "code": …, "error": …, "field": …}`, as webhooks answer: a stable code, one line with what was found, what was
expected and how to fix it, and the field that is wrong or null.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NoReturn

from aiohttp import web

from kekbridge import parsing
from kekbridge.alerts.numbers import NumberText, parse_decimal
from kekbridge.errors import ConfigError, KekbridgeError, NotFound, Unreadable
from kekbridge.formatting import did_you_mean, escape_unprintable
from kekbridge.log import get_logger

log = get_logger("kekbridge.admin")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_FIRST_ERROR: Final = 400
_MOST_BRACKETS: Final = 200  # the largest document needs three levels and six objects
_LONGEST_NAME: Final = 80
_LONGEST_VALUE: Final = 40
_JSON: Final = "application/json"
_STATUS_OF: Final[Mapping[str, int]] = {"name_taken": 409, "not_possible": 409, "unsupported_media_type": 415}
# An error that begins with the field's name, as those of the command line begin with the option's.
_NAMED: Final = re.compile(r"([a-z][A-Za-z.]*): ", re.ASCII)
_OF_HTTP: Final[Mapping[int, tuple[str, str]]] = {
    404: ("not_found", "there is no such path; GET /api/openapi lists them"),
    405: ("method_not_allowed", "this path does not take that method; GET /api/openapi lists them"),
    413: ("body_too_large", "the body is too large, expected at most 64 KiB"),
}


def error_response(
    status: int, code: str, message: str, field: str | None = None, headers: Mapping[str, str] | None = None
) -> web.Response:
    """An error in the API's shape."""
    body = {"success": False, "code": code, "error": message, "field": field}
    return web.json_response(body, status=status, headers=headers)


def refusal(error: KekbridgeError) -> web.Response:
    """The response to an expected error: 4xx, also if the store cannot be used: a 5xx asks TradingView to send an alert again."""
    code, field = error.code, error.field
    if isinstance(error, ConfigError) and code == "config_invalid":
        named = _NAMED.match(error.message)
        field = field or (named[1] if named else None)
        code = "field_invalid" if field else "not_possible"
    if code in _STATUS_OF:
        status = _STATUS_OF[code]
    elif isinstance(error, NotFound):
        status = 404
    elif isinstance(error, Unreadable):
        status = 400
    elif isinstance(error, ConfigError):
        status = 422
    else:
        status = 409
    return error_response(status, code, error.message, field)


def http_refusal(error: web.HTTPException) -> web.Response:
    """What aiohttp refuses itself (no such path or method, too large), in the API's shape."""
    code, message = _OF_HTTP.get(error.status, ("invalid_http", error.reason))
    allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return error_response(error.status, code, message, headers=allowed)


def is_api(request: web.Request) -> bool:
    """True for the paths whose errors are JSON."""
    return request.path.startswith("/api/") or request.path == "/metrics"


async def answer_errors(
    request: web.Request,
    authorize: Callable[[web.Request, Handler], Awaitable[web.StreamResponse]],
    handler: Handler,
) -> web.StreamResponse:
    """Handle a request; answer every error in the API's shape, a bug of ours as 422."""
    try:
        return await authorize(request, handler)
    except web.HTTPException as error:
        if error.status < _FIRST_ERROR:
            raise
        return http_refusal(error)
    except KekbridgeError as error:
        return refusal(error)
    except Exception:
        log.exception("api_failed", path=request.path)
        text = "the bridge failed on this request, which may have taken effect; its log has the details"
        return error_response(422, "internal_error", text)


# ---------------------------------------------------------------------------------------------------------------- bodies


async def read_json(request: web.Request) -> dict[str, Any]:
    """The body as one JSON object, its numbers as NumberText. Raises Unreadable (400), ConfigError for another media type (415)."""
    if request.content_type != _JSON:
        found = escape_unprintable(request.content_type)[:_LONGEST_VALUE]
        raise ConfigError(
            f"Content-Type: found {found}, expected {_JSON}; add that header", code="unsupported_media_type"
        )
    return parse_json(await request.read())


def parse_json(body: bytes) -> dict[str, Any]:
    """Parse one JSON object; nothing is repaired. Raises Unreadable with the position, or the name that occurs twice."""
    if not body.strip():
        raise Unreadable("empty_body", "the body is empty, expected one JSON object; send {} for no fields")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(
            "invalid_encoding", f"the body is not UTF-8 (byte {error.start + 1}); send plain UTF-8"
        ) from None
    if text.count("{") + text.count("[") > _MOST_BRACKETS:
        raise Unreadable("invalid_json", "the body has too many objects and lists; no request needs so many")
    try:
        document = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        what = error.msg[0].lower() + error.msg[1:]
        raise Unreadable(
            "invalid_json", f"invalid JSON at line {error.lineno}, column {error.colno}: {what}; send one JSON object"
        ) from None
    except RecursionError:
        raise Unreadable("invalid_json", "the body is nested too deeply; send one JSON object") from None
    if not isinstance(document, dict):
        raise Unreadable("invalid_json", "the body is not a JSON object; send {…}")
    if "\\u" in text and any("\ud800" <= character <= "\udfff" for character in _all_text(document)):
        raise Unreadable("invalid_encoding", "a text contains half a character (a lone \\ud… escape); send valid UTF-8")
    return document


def _all_text(value: object) -> str:
    """Every name and text of a document, joined."""
    if isinstance(value, Mapping):
        return "".join(f"{name}{_all_text(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return "".join(_all_text(inner) for inner in value)
    return value if isinstance(value, str) else ""


def _refuse_constant(name: str) -> NoReturn:
    raise Unreadable("invalid_json", f"{name} is not a JSON number; send a number, or null")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            shown = escape_unprintable(name[:_LONGEST_NAME])
            raise Unreadable("duplicate_key", f"{shown!r} occurs twice; remove one of the two", field=shown)
        found[name] = value
    return found


_DECODER: Final = json.JSONDecoder(
    parse_float=NumberText,
    parse_int=NumberText,
    parse_constant=_refuse_constant,
    object_pairs_hook=_without_duplicates,
)


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a body or a query, each read once by its type. Raises ConfigError (422) naming the field."""

    #: By name: from a body any JSON value, from a query texts.
    given: Mapping[str, Any]

    @classmethod
    def of(cls, given: Mapping[str, Any], known: Iterable[str]) -> Fields:
        """Refuse names that are not known, with the nearest one that is."""
        names = tuple(known)
        for name in given:
            if name not in names:
                shown = escape_unprintable(name[:_LONGEST_NAME])
                hint = did_you_mean(name, names, otherwise=f"expected {', '.join(names) or 'none'}")
                raise ConfigError(f"{shown!r} is not known here; {hint}", code="field_unknown", field=shown)
        return cls(given)

    @classmethod
    def of_query(cls, request: web.Request, known: Iterable[str], *, repeatable: str = "") -> Fields:
        """The query parameters; only `repeatable` may be given more than once."""
        found: dict[str, Any] = {}
        for name, value in request.query.items():
            if name == repeatable:
                found.setdefault(name, []).append(value)
            elif name in found:
                shown = escape_unprintable(name[:_LONGEST_NAME])
                raise ConfigError(f"{shown!r} is given twice; keep one of the two", code="field_invalid", field=shown)
            else:
                found[name] = value
        return cls.of(found, known)

    def text(self, name: str, *, longest: int = 200) -> str | None:
        """A text; None if it is not given or null."""
        value = self.given.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or isinstance(value, NumberText) or not value.strip():
            raise wrong(name, value, "a text")
        if len(value) > longest:
            text = f"{name}: found {len(value)} characters, expected at most {longest}"
            raise ConfigError(text, code="field_invalid", field=name)
        return value

    def required_text(self, name: str) -> str:
        """A text that must be given."""
        value = self.text(name)
        if value is None:
            raise ConfigError(f"{name} is missing; add it", code="field_missing", field=name)
        return value

    def texts(self, name: str) -> list[str]:
        """A parameter that may be repeated."""
        return list(self.given.get(name) or ())

    def word(self, name: str, words: tuple[str, ...]) -> str | None:
        """One of some words; None if it is not given or null."""
        value = self.given.get(name)
        if value is None:
            return None
        if value not in words:
            raise wrong(name, value, f"{', '.join(words[:-1])} or {words[-1]}")
        return str(value)

    def flag(self, name: str) -> bool:
        """True or false, in a query as words; false if it is not given."""
        value = self.given.get(name)
        if value is None or isinstance(value, bool):
            return bool(value)
        if value in ("true", "false"):
            return bool(value == "true")
        raise wrong(name, value, "true or false")

    def number(self, name: str) -> Decimal | None:
        """A decimal number, as a JSON number or a text; None if it is not given or null."""
        value = self.given.get(name)
        if value is None:
            return None
        found = parse_decimal(value)
        if found is None or found <= 0:
            raise wrong(name, value, "a positive number such as 0.5")
        return found

    def count(self, name: str, *, default: int, most: int, least: int = 1) -> int:
        """A whole number."""
        value = self.given.get(name)
        if value is None:
            return default
        digits = value if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16 else ""
        if not digits or not least <= int(digits) <= most:
            raise wrong(name, value, f"a whole number from {least} to {most}")
        return int(digits)

    def instant(self, name: str, now: datetime) -> datetime | None:
        """A time: a duration ago (`24h`, `7d`) or an ISO time; None if it is not given."""
        text = self.text(name)
        try:
            return None if text is None else parsing.instant(name, text, now)
        except (ConfigError, OverflowError):
            raise wrong(name, text, "a duration ago such as 24h or 7d, or a time such as 2026-11-22T16:00Z") from None


def wrong(name: str, value: object, expected: str) -> ConfigError:
    """The error for a field's value."""
    if isinstance(value, bool | None):
        found = {True: "true", False: "false", None: "null"}[value]
    elif isinstance(value, str):
        found = escape_unprintable(value[:_LONGEST_VALUE])
        found = found if isinstance(value, NumberText) else repr(found)
    else:
        found = "a list" if isinstance(value, list) else "an object"
    return ConfigError(f"{name}: found {found}, expected {expected}", code="field_invalid", field=name)
