"""Classify replies: accepted, rejected, retryable or unknown; one table. Pure.

Only a reply documented as a rejection counts as one. Everything else that is not a clear success is unknown: the order is queried
instead of sent again. Sources: docs/internals/orderly.md section 11, docs/internals/reliability.md section 5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from kekbridge.exchange.base import Accepted, Rejected, Retryable, SubmitResult, Unknown
from kekbridge.exchange.orderly.replies import HttpReply, NoReply, NotSent, TransportResult


class _Meaning(Enum):
    REJECTED = "rejected"
    KEY_REJECTED = "key rejected"
    RULES_BROKEN = "rules broken"
    RETRYABLE = "retryable"
    UNKNOWN = "unknown"


# Codes that are not listed are unknown: -1011 and -1012 show that status 400 alone does not prove that no order exists.
_CODES: Final[Mapping[int, _Meaning]] = {
    -1000: _Meaning.UNKNOWN,
    -1001: _Meaning.KEY_REJECTED,
    -1002: _Meaning.KEY_REJECTED,
    -1003: _Meaning.RETRYABLE,
    -1004: _Meaning.REJECTED,
    -1005: _Meaning.REJECTED,
    -1006: _Meaning.REJECTED,
    -1007: _Meaning.UNKNOWN,  # an order with our id is open already: query it
    -1008: _Meaning.REJECTED,
    -1009: _Meaning.REJECTED,
    -1011: _Meaning.UNKNOWN,
    -1012: _Meaning.UNKNOWN,
    -1101: _Meaning.REJECTED,
    -1102: _Meaning.REJECTED,
    -1103: _Meaning.RULES_BROKEN,
    -1104: _Meaning.RULES_BROKEN,
    -1105: _Meaning.RULES_BROKEN,
    -1201: _Meaning.REJECTED,
    -1202: _Meaning.REJECTED,
}
#: Codes of the exchange with a documented meaning.
KNOWN_CODES: Final = frozenset(_CODES)
# -1004 is used for key errors, too ("orderly key error", section 11).
_KEY_WORDS: Final = re.compile(r"orderly[ _-]?key", re.IGNORECASE)
_MAINTENANCE: Final = re.compile(r"maintenance", re.IGNORECASE)
# "data does not exist", but not "service not found".
_MISSING: Final = re.compile(r"(\bnot|n['\u2019]t)\s+exist", re.IGNORECASE)
_MIN_RETRY_S: Final = 1.0
_MAINTENANCE_RETRY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Found:
    """The exchange answered the query."""

    #: The reply's `data`.
    data: Mapping[str, Any]
    #: When the exchange wrote the reply, Unix ms of its clock; None if it did not say.
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """The exchange states that the resource does not exist."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """No usable reply; it proves nothing about the resource."""

    #: `orderly:-1001` and the like, or `exchange_unreachable`.
    code: str
    #: What came instead, on one line.
    reason: str


QueryResult = Found | Missing | Unavailable


def code_text(reply: HttpReply) -> str:
    """The stable code of a reply: `orderly:-1102`, or `orderly:http-502` if it has none."""
    return f"orderly:{reply.code}" if reply.code is not None else f"orderly:http-{reply.status}"


def create(result: TransportResult) -> SubmitResult:
    """Classify the reply to a create: the order exists (Accepted), certainly does not (Rejected, Retryable), or may (Unknown)."""
    if not isinstance(result, HttpReply):
        return _without_reply(result)
    if not _is_success(result):
        return _failure(result)
    order_id = _order_id(result.data)
    if order_id is None:
        return Unknown(f"the exchange reported success without an order id ({result.description})")
    return Accepted(order_id)


def command(result: TransportResult, *, order_id: str = "") -> SubmitResult:
    """Classify the reply to a cancel or a setting: Accepted means that the request was passed on, not that it is done."""
    if not isinstance(result, HttpReply):
        return _without_reply(result)
    if not _is_success(result):
        return _failure(result)
    return Accepted(order_id)


def query(result: TransportResult) -> QueryResult:
    """Classify the reply to a query. "Does not exist" differs from "server broken" by its code, for -1000 by its message."""
    match result:
        case NotSent(reason) | NoReply(reason):
            return Unavailable("exchange_unreachable", reason)
    if _is_success(result):
        return Found(result.data, result.timestamp_ms)
    if result.is_json and result.code == -1006 and result.status < 500:
        return Missing()
    if result.is_json and result.code == -1000 and _MISSING.search(result.message):
        return Missing()
    return Unavailable(code_text(result), result.description)


def is_maintenance(reply: HttpReply) -> bool:
    """True for -1011 with a text about maintenance, as was seen; its HTTP status is not documented (section 14)."""
    return reply.is_json and reply.code == -1011 and bool(_MAINTENANCE.search(reply.message))


def _is_success(reply: HttpReply) -> bool:
    return reply.is_json and reply.success and 200 <= reply.status < 300


def _without_reply(result: NotSent | NoReply) -> SubmitResult:
    if isinstance(result, NotSent):
        return Retryable("exchange_unreachable", result.reason)
    return Unknown(result.reason)


def _failure(reply: HttpReply) -> SubmitResult:
    code, message = code_text(reply), reply.message or f"HTTP {reply.status}"
    if reply.status == 429:
        # The status itself is proof, also if a proxy wrote the body.
        return Retryable("orderly:-1003", message, max(reply.retry_after_s or 0.0, _MIN_RETRY_S))
    if not reply.is_json or reply.success or reply.code is None:
        return Unknown(reply.description)
    if is_maintenance(reply):
        return Retryable(code, message, reply.retry_after_s or _MAINTENANCE_RETRY_S)
    meaning = _CODES.get(reply.code, _Meaning.UNKNOWN)
    if reply.status >= 500 and meaning is not _Meaning.RETRYABLE:
        return Unknown(reply.description)  # a server that failed while rejecting proves nothing
    if meaning is _Meaning.KEY_REJECTED or (meaning is _Meaning.REJECTED and _KEY_WORDS.search(message)):
        return Rejected(code, message, is_key_rejected=True)
    if meaning in (_Meaning.REJECTED, _Meaning.RULES_BROKEN):
        return Rejected(code, message, breaks_rules=meaning is _Meaning.RULES_BROKEN)
    if meaning is _Meaning.RETRYABLE:
        return Retryable(code, message, max(reply.retry_after_s or 0.0, _MIN_RETRY_S))
    return Unknown(reply.description)


def _order_id(data: Mapping[str, Any]) -> str | None:
    """The created order's id; some algo replies wrap it in `rows`. A failed row may have 0 (section 6)."""
    rows = data.get("rows")
    if "order_id" not in data and isinstance(rows, list) and rows and isinstance(rows[0], Mapping):
        data = rows[0]
    order_id = data.get("order_id") or data.get("algo_order_id")
    if isinstance(order_id, bool) or not isinstance(order_id, int | str):
        return None
    text = str(order_id)
    return text if text.strip("0") else None
