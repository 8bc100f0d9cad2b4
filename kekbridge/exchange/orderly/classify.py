"""What an answer proves: accepted, refused for good, not accepted but may wait, or unknown. Pure, one table.

The rule behind the table: only an answer that is documented to mean "no" counts as a no. Everything else that is not a clear yes is
unknown, and is asked about instead of sent again. Sources: docs/internals/orderly.md section 11, docs/internals/reliability.md section 5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from kekbridge.exchange.base import Accepted, Rejected, Retryable, SubmitResult, Unknown
from kekbridge.exchange.orderly.replies import HttpReply, NoReply, NotSent, TransportResult


class _Verdict(Enum):
    REFUSED = "refused"
    KEY = "key"
    DEFERRED = "deferred"
    UNKNOWN = "unknown"


# A code that is not listed is unknown: -1011 and -1012 show that a 400 alone does not prove that nothing was placed.
_CODES: Final[Mapping[int, _Verdict]] = {
    -1000: _Verdict.UNKNOWN,
    -1001: _Verdict.KEY,
    -1002: _Verdict.KEY,
    -1003: _Verdict.DEFERRED,
    -1004: _Verdict.REFUSED,
    -1005: _Verdict.REFUSED,
    -1006: _Verdict.REFUSED,
    -1007: _Verdict.UNKNOWN,  # the id is open already: it is ours, ask for it
    -1008: _Verdict.REFUSED,
    -1009: _Verdict.REFUSED,
    -1011: _Verdict.UNKNOWN,
    -1012: _Verdict.UNKNOWN,
    -1101: _Verdict.REFUSED,
    -1102: _Verdict.REFUSED,
    -1103: _Verdict.REFUSED,
    -1104: _Verdict.REFUSED,
    -1105: _Verdict.REFUSED,
    -1201: _Verdict.REFUSED,
    -1202: _Verdict.REFUSED,
}
# -1004 is also used for key trouble ("orderly key error", section 11).
_KEY_WORDS: Final = re.compile(r"orderly[ _-]?key", re.IGNORECASE)
_MAINTENANCE: Final = re.compile(r"maintenance", re.IGNORECASE)
_MISSING: Final = re.compile(
    r"(\bnot|n['\u2019]t)\s+exist", re.IGNORECASE
)  # "data does not exist"; not "service not found"
_MIN_RETRY_S: Final = 1.0
_MAINTENANCE_RETRY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Found:
    """A query's answer."""

    data: Mapping[str, Any]
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """The exchange says that the thing does not exist."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """No usable answer; it says nothing about the thing asked for. `code` like `orderly:-1001`, or `exchange_unreachable`."""

    code: str
    reason: str


QueryResult = Found | Missing | Unavailable


def code_text(reply: HttpReply) -> str:
    """The stable name of an exchange's answer: `orderly:-1102`, or `orderly:http-502` where it gave no code."""
    return f"orderly:{reply.code}" if reply.code is not None else f"orderly:http-{reply.status}"


def create(outcome: TransportResult) -> SubmitResult:
    """Judge the answer to a create: the order exists (Accepted), certainly does not (Refused, Deferred), or may (Unknown)."""
    if not isinstance(outcome, HttpReply):
        return _without_reply(outcome)
    if not _is_yes(outcome):
        return _no(outcome)
    order_id = _order_id(outcome.data)
    if order_id is None:
        return Unknown(f"the exchange said yes without naming an order ({outcome.described})")
    return Accepted(order_id)


def command(outcome: TransportResult, *, order_id: str = "") -> SubmitResult:
    """Judge the answer to a cancel, an edit or a setting: Accepted means that the request was passed on, not that it is done."""
    if not isinstance(outcome, HttpReply):
        return _without_reply(outcome)
    if not _is_yes(outcome):
        return _no(outcome)
    return Accepted(order_id)


def query(outcome: TransportResult) -> QueryResult:
    """Judge the answer to a question; "does not exist" is told from "server broken" by code, and for -1000 by its message."""
    match outcome:
        case NotSent(reason) | NoReply(reason):
            return Unavailable("exchange_unreachable", reason)
    if _is_yes(outcome):
        return Found(outcome.data, outcome.timestamp_ms)
    if outcome.is_json and outcome.code == -1006 and outcome.status < 500:
        return Missing()
    if outcome.is_json and outcome.code == -1000 and _MISSING.search(outcome.message):
        return Missing()
    return Unavailable(code_text(outcome), outcome.described)


def is_maintenance(reply: HttpReply) -> bool:
    """True for an answer that names maintenance: -1011 with such a text was seen, the status is not documented (section 14)."""
    return reply.is_json and reply.code == -1011 and bool(_MAINTENANCE.search(reply.message))


def _is_yes(reply: HttpReply) -> bool:
    return reply.is_json and reply.success and 200 <= reply.status < 300


def _without_reply(outcome: NotSent | NoReply) -> SubmitResult:
    if isinstance(outcome, NotSent):
        return Retryable("exchange_unreachable", outcome.reason)
    return Unknown(outcome.reason)


def _no(reply: HttpReply) -> SubmitResult:
    code, message = code_text(reply), reply.message or f"HTTP {reply.status}"
    if reply.status == 429:
        # The status itself says that the request was turned away, whoever in front of the exchange wrote the body.
        return Retryable("orderly:-1003", message, max(reply.retry_after_s or 0.0, _MIN_RETRY_S))
    if not reply.is_json or reply.success or reply.code is None:
        return Unknown(reply.described)
    if is_maintenance(reply):
        return Retryable(code, message, reply.retry_after_s or _MAINTENANCE_RETRY_S)
    verdict = _CODES.get(reply.code, _Verdict.UNKNOWN)
    if reply.status >= 500 and verdict is not _Verdict.DEFERRED:
        return Unknown(reply.described)  # a server that broke while saying no proves nothing
    if verdict is _Verdict.KEY or (verdict is _Verdict.REFUSED and _KEY_WORDS.search(message)):
        return Rejected(code, message, is_key_rejected=True)
    if verdict is _Verdict.REFUSED:
        return Rejected(code, message)
    if verdict is _Verdict.DEFERRED:
        return Retryable(code, message, max(reply.retry_after_s or 0.0, _MIN_RETRY_S))
    return Unknown(reply.described)


def _order_id(data: Mapping[str, Any]) -> str | None:
    """The created order's id; some algo answers wrap it in `rows`. 0 is what a failed row may carry (section 6)."""
    rows = data.get("rows")
    if "order_id" not in data and isinstance(rows, list) and rows and isinstance(rows[0], Mapping):
        data = rows[0]
    found = data.get("order_id") or data.get("algo_order_id")
    if isinstance(found, bool) or not isinstance(found, int | str):
        return None
    text = str(found)
    return text if text.strip("0") else None
