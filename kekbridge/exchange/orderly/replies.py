"""What can come back when a request is sent: a reply, proof that nothing left this machine, or nothing at all.

Pure values between the transport (wire.py) and the table that judges them (classify.py); reading a body never raises.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, NoReturn

from kekbridge.formatting import sanitize

_SHOWN = 160
_MAX_BRACKETS = 8_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpReply:
    """An HTTP answer, read to its end. `is_json` is False for HTML, empty and broken bodies: then only `status` means anything.

    `success` is the answer's own claim; `code` its integer error code (also when it came as text); `retry_after_s` the header.
    """

    status: int
    is_json: bool
    success: bool
    code: int | None = None
    message: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    timestamp_ms: int | None = None
    retry_after_s: float | None = None

    @property
    def described(self) -> str:
        """One line for logs and errors: status, code, message."""
        code = "" if self.code is None else f", code {self.code}"
        return f"HTTP {self.status}{code}: {self.message or 'no message'}"


@dataclass(frozen=True, slots=True)
class NotSent:
    """Proof: the connection failed before the first byte of the request was written."""

    reason: str


@dataclass(frozen=True, slots=True)
class NoReply:
    """The request was (perhaps partly) written and no complete answer came: the exchange may have acted on it."""

    reason: str


TransportResult = HttpReply | NotSent | NoReply


def read_reply(status: int, body: bytes, *, retry_after: str | None = None) -> HttpReply:
    """Read an answer defensively: failures without the exchange's own JSON exist (docs/internals/orderly.md section 11)."""
    wait = _seconds(retry_after)
    payload = read_object(body)
    if payload is None:
        return HttpReply(status=status, is_json=False, success=False, message=_excerpt(body), retry_after_s=wait)
    data = payload.get("data")
    if not isinstance(data, dict):
        # Some answers carry their fields beside `success` (section 7, cancel), and one carries a bare list.
        data = {"rows": data} if isinstance(data, list) else payload
    return HttpReply(
        status=status,
        is_json=True,
        success=payload.get("success") is True,
        code=_integer(payload.get("code")),
        message=one_line(payload.get("message")),
        data=data,
        timestamp_ms=_integer(payload.get("timestamp")),
        retry_after_s=wait,
    )


def read_object(text: bytes | str) -> dict[str, Any] | None:
    """A JSON object with exact numbers, None for anything else."""
    # Some libraries raise the recursion limit of the whole process, and json then overflows the C stack before it raises. No answer
    # of this API comes near so many brackets (500 algo orders with their legs have 2,500), and so many levels still fit the stack.
    opened = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if opened > _MAX_BRACKETS:
        return None
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text), "surrogatepass")  # as json.loads does
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        return None
    return value if isinstance(value, dict) else None


def one_line(value: object) -> str:
    """Foreign text made fit for a log line: printable characters only, bounded."""
    if not isinstance(value, str):
        return ""
    return " ".join(sanitize(value[: 4 * _SHOWN]).split())[:_SHOWN]


def _excerpt(body: bytes) -> str:
    return one_line(body[: 2 * _SHOWN].decode("utf-8", "replace")) or "empty body"


def _integer(value: object) -> int | None:
    """Codes and times are integers, but arrive as text in some dumps; a float or a bool is neither."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.lstrip("-").isascii() and value.lstrip("-").isdigit() and len(value) < 20:
        return int(value)
    return None


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds; the date form is not used by this API and is ignored."""
    if header is None or not header.isascii() or not header.isdigit() or len(header) > 5:
        return None
    return float(header)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


# One decoder for all answers: json.loads with options makes a new one each time.
_DECODER: Final = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_constant)
