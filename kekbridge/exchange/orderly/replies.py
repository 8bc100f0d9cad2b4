"""Transport results: an HTTP reply, proof that nothing was sent, or no reply; and how reply bodies are read.

Pure values between `transport.py` and `classify.py`. Reading a body never raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import msgspec

from kekbridge.formatting import clip_words, sanitize

_MAX_CHARACTERS = 160
_MAX_BRACKETS = 8_000
_LATEST_MS = 10**14


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpReply:
    """A complete HTTP response."""

    #: HTTP status.
    status: int
    #: The body is a JSON object. False for HTML, empty and broken bodies: then only `status` means anything.
    is_json: bool
    #: The body's `success` is exactly true.
    success: bool
    #: The exchange's error code, an integer also where it came as text.
    code: int | None = None
    #: The exchange's message, or the beginning of a body that is not JSON; printable, on one line.
    message: str = ""
    #: The body's `data`; a bare list as `rows`; the whole body where it has no `data`.
    data: Mapping[str, Any] = field(default_factory=dict)
    #: When the exchange wrote the reply, Unix ms of its clock.
    timestamp_ms: int | None = None
    #: Header Retry-After, in seconds.
    retry_after_s: float | None = None

    @property
    def description(self) -> str:
        """One line for logs and errors: status, code, message."""
        code = "" if self.code is None else f", code {self.code}"
        return f"HTTP {self.status}{code}: {self.message or 'no message'}"


@dataclass(frozen=True, slots=True)
class NotSent:
    """Proof that nothing was sent: it failed before the first byte of the request was written."""

    #: What failed, in one line.
    reason: str


@dataclass(frozen=True, slots=True)
class NoReply:
    """The request was written, perhaps in part, and no complete reply came: the exchange may have acted on it."""

    #: What happened to the connection, in one line.
    reason: str


TransportResult = HttpReply | NotSent | NoReply


def read_reply(status: int, body: bytes, *, retry_after: str | None = None) -> HttpReply:
    """Read any response body; some failures are not the exchange's JSON (docs/internals/orderly.md section 11)."""
    retry_after_s = _seconds(retry_after)
    payload = read_object(body)
    if payload is None:
        return HttpReply(
            status=status, is_json=False, success=False, message=_excerpt(body), retry_after_s=retry_after_s
        )
    data = payload.get("data")
    if not isinstance(data, dict):
        # Some replies have their fields beside `success` (section 7, cancel), and one has a bare list.
        data = {"rows": data} if isinstance(data, list) else payload
    return HttpReply(
        status=status,
        is_json=True,
        success=payload.get("success") is True,
        code=_integer(payload.get("code")),
        message=sanitize_line(payload.get("message")),
        data=data,
        timestamp_ms=_milliseconds(payload.get("timestamp")),
        retry_after_s=retry_after_s,
    )


def read_object(text: bytes | str) -> dict[str, Any] | None:
    """Parse a JSON object with exact numbers; None for anything else."""
    try:
        value = read_json(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def read_json(text: bytes | str | msgspec.Raw) -> Any:
    """Parse any JSON value with exact numbers: int, or Decimal if it has a fraction or an exponent. Raises ValueError."""
    if is_nested_too_deep(text):
        raise ValueError("too many levels")
    try:
        return _DECODER.decode(text)
    except (ArithmeticError, RecursionError) as error:  # an exponent that no Decimal has; the levels of a small stack
        raise ValueError(str(error)) from None


def is_nested_too_deep(text: bytes | str | msgspec.Raw) -> bool:
    """True if parsing the text might need more levels than the stack has.

    Some libraries raise the recursion limit of the whole process, which alone then no longer protects the stack. No reply of this API
    comes near this number of brackets (500 algo orders with their legs have 2,500), and as many levels fit the stack.
    """
    if len(memoryview(text) if isinstance(text, msgspec.Raw) else text) <= _MAX_BRACKETS:
        return False
    if isinstance(text, str):
        return text.count("[") + text.count("{") > _MAX_BRACKETS
    whole = bytes(text)
    return whole.count(b"[") + whole.count(b"{") > _MAX_BRACKETS


def sanitize_line(value: object) -> str:
    """Text from outside as one log line: printable characters only, at most 160; empty for anything but text."""
    if not isinstance(value, str):
        return ""
    return clip_words(" ".join(sanitize(value[: 4 * _MAX_CHARACTERS]).split()), _MAX_CHARACTERS)


def _excerpt(body: bytes) -> str:
    return sanitize_line(body[: 2 * _MAX_CHARACTERS].decode("utf-8", "replace")) or "empty body"


def _integer(value: object) -> int | None:
    """Codes and times are integers, in some replies as text; never a float or a bool."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.lstrip("-").isascii() and value.lstrip("-").isdigit() and len(value) < 20:
        return int(value)
    return None


def _milliseconds(value: object) -> int | None:
    """A Unix time in ms; None for what no clock shows: it must not get into arithmetic with floats and dates."""
    found = _integer(value)
    return found if found is not None and 0 < found < _LATEST_MS else None


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds; the date form is not used by this API and is ignored."""
    if header is None or not header.isascii() or not header.isdigit() or len(header) > 5:
        return None
    return float(header)


_DECODER: Final = msgspec.json.Decoder(float_hook=Decimal)
