"""What is told of each event of the history: how serious it is, in which words, and which words of their own traders may write.

Pure: a table and the filling in of `{names}`. A template is text with names in braces, nothing else: no attribute, index or format is
ever looked up, so that neither a setting nor an alert can make it do anything. Who is told, and when, is notify.py's business.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal

from kekbridge.formatting import sanitize

Severity = Literal["info", "warning", "failure"]
SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "failure")

_PLACEHOLDER: Final = re.compile(r"\{\{|\}\}|\{([a-z_]+)\}|[{}]")
_LONGEST_VALUE: Final = 200
_LONGEST_LINE: Final = 1000
# What an order's event can say besides its own figures: the notifier looks the order up.
_OF_ORDER: Final = (
    "symbol",
    "side",
    "quantity",
    "executed_quantity",
    "average_price",
    "code",
    "error",
    "client_order_id",
)
_ALWAYS: Final = ("event", "at")


@dataclass(frozen=True, slots=True)
class Notification:
    """How an event is told. `names` may stand in braces in a trader's own words for it."""

    severity: Severity
    words: str
    names: tuple[str, ...]


def _order(severity: Severity, words: str, *more: str) -> Notification:
    return Notification(severity, words, (*_OF_ORDER, *more, *_ALWAYS))


def _other(severity: Severity, words: str, *more: str) -> Notification:
    """Every name of the usual words, and those in `more`, may be used."""
    found = tuple(dict.fromkeys(match[1] for match in _PLACEHOLDER.finditer(words) if match[1]))
    return Notification(severity, words, (*found, *more, *_ALWAYS))


MESSAGES: Final[Mapping[str, Notification]] = {
    # ------------------------------------------------------------------------------------------------ orders and alerts
    "order_filled": _order("info", "filled: {side} {executed_quantity} {symbol} at {average_price}", "fee", "realized_pnl"),
    "order_rejected": _order("warning", "rejected by the exchange: {side} {quantity} {symbol}: {code} {error}"),
    "exit_refused": _order(
        "failure", "exit refused twice, the position is still open: {side} {quantity} {symbol}: {code} {error}"
    ),
    "order_denied": _order("warning", "denied: {side} {quantity} {symbol}: {code} {error}"),
    "order_expired": _order("warning", "too old, not sent: {side} {quantity} {symbol}: {error}"),
    "order_unknown": _order("failure", "no answer, outcome unknown: {side} {quantity} {symbol}"),
    "alert_denied": _other("warning", "alert denied: {action} {symbol}: {code}"),
    "cancel_failed": _other("warning", "cancel failed: {symbol} {error}"),
    # ------------------------------------------------------------------------------------------------------- protection
    "protection_live": _order("info", "protective stop is in place: {symbol}", "detail"),
    "protection_wanted": _order("warning", "protective stop is missing: {symbol}: {detail}", "detail"),
    "protection_replaced": _order("warning", "protective stop was missing and is placed again: {symbol}", "detail"),
    "protection_flattened": _order(
        "failure", "position closed, its stop could not be placed: {symbol}: {detail}", "detail"
    ),
    "position_unprotected": _other(
        "failure", "position without a stop: {position} {symbol}: place one at the exchange, or close it"
    ),
    "position_protected": _other("info", "the position has a stop again, or is closed: {symbol}"),
    # ----------------------------------------------------------------------------------------------------------- account
    "trading_state": _other("warning", "trading is {state} ({scope}), by {by}: {reason}", "until"),
    "reconciliation_difference": _other("warning", "the exchange differs from our records: {detail}", "symbol"),
    "position_drift": _other("warning", "webhook {webhook}: {symbol}: {detail}"),
    "position_in_step": _other("info", "webhook {webhook}: {symbol}: account and strategy agree again"),
    "daily_summary": _other(
        "info",
        "{day}: {alerts} alerts ({refused} refused), {orders} orders ({filled} filled), P&L {net_pnl} USDC after {fees} fees"
        " and {funding} funding, equity {equity} ({change})",
        "realized_pnl",
    ),
    # ------------------------------------------------------------------------------------------------------- connections
    "exchange_down": _other("failure", "the exchange has not been reached for {lasting}: {detail}"),
    "exchange_back": _other("info", "the exchange is reached again"),
    "stream_down": _other("warning", "the exchange's stream has been down for {lasting}; orders are asked for instead"),
    "stream_back": _other("info", "the exchange's stream is back"),
    "clock_skew": _other("warning", "this machine's clock is {seconds} s {direction} the exchange's; switch NTP on"),
    "clock_right": _other("info", "this machine's clock agrees with the exchange's again"),
    "heartbeat_missed": _other(
        "warning", "no alert came for {lasting}, webhook {webhook} expects one every {every}: does it still run at TradingView?"
    ),
    "heartbeat_back": _other("info", "alerts come in again: webhook {webhook}"),
    "alert_expiring": _other("warning", "the alert of webhook {webhook} ends at TradingView in {left}, on {day}: renew it there"),
    "alert_ended": _other("failure", "the alert of webhook {webhook} has ended at TradingView on {day}: renew it there"),
    # ------------------------------------------------------------------------------------------------------------ upkeep
    "authentication_attack": _other(
        "warning", "{count} failed authentications: locked out {addresses}, the first {address}, until {until}"
    ),
    "key_expiring": _other("warning", "the exchange key expires in {left}, on {day}: make a new one, `kekbridge keys generate`"),
    "key_expired": _other("failure", "the exchange key expired on {day}: no order can be sent"),
    "key_renewed": _other("info", "the exchange key is valid until {day}"),
    "certificate_expiring": _other("warning", "the certificate of {name} expires in {left}, on {day}: see why it is not renewed"),
    "certificate_expired": _other("failure", "the certificate of {name} expired on {day}: TradingView refuses it"),
    "certificate_valid": _other("info", "the certificate of {name} is valid until {day}"),
    "certificate_renewed": _other("info", "the certificate of {domain} was renewed, valid until {valid_until}"),
    "certificate_not_renewed": _other("warning", "the certificate of {domain} could not be renewed, {days_left} days left: {reason}"),
    "disk_low": _other("failure", "{free} left on the disk of {place}: with none every alert is answered 503"),
    "disk_enough": _other("info", "{free} free again on the disk of {place}"),
    "job_failed": _other("failure", "job {job} failed: {error}"),
    "job_recovered": _other("info", "job {job} works again"),
    "restored": _other("warning", "a backup of {made_at} was restored"),
    "orderly_key_removed": _other("warning", "the exchange key of {account_id} was removed"),
}  # fmt: skip


def words_of(kind: str, facts: Mapping[str, Any], own: Mapping[str, str] | None = None) -> tuple[Severity, str] | None:
    """Severity and one line for an event; None when there is nothing to tell. `own`: the trader's words by event, where they differ."""
    message = MESSAGES.get(kind)
    if message is None:
        return None
    severity = message.severity
    if kind == "trading_state" and facts.get("state") == "running":
        severity = "info"
    return severity, fill((own or {}).get(kind, message.words), {"event": kind, **facts})


def describe(kind: str, facts: Mapping[str, Any]) -> tuple[Severity | None, str]:
    """Any event in one line: as it is told, or its kind and its figures; severity None for what nobody needs to be told."""
    said = words_of(kind, facts)
    if said is not None:
        return said
    figures = ", ".join(
        f"{name} {as_text(value)}"
        for name, value in facts.items()
        if name != "fingerprint" and value not in (None, "") and not isinstance(value, Mapping | list | tuple)
    )
    return None, f"{kind.replace('_', ' ')}: {figures}"[:_LONGEST_LINE].rstrip(" :")


def fill(template: str, facts: Mapping[str, Any]) -> str:
    """The line a template makes; what is not known is left out, and nothing in a value is looked at again."""

    def one(match: re.Match[str]) -> str:
        return match[0][0] if match[1] is None else as_text(facts.get(match[1]))

    line = " ".join(sanitize(_PLACEHOLDER.sub(one, template)).split())
    return line.replace(" ()", "").rstrip(" :.(,")[:_LONGEST_LINE]


def as_text(value: object) -> str:
    """A value as it stands in a message: printable, on one line, not endless."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        text = format(value, "f")
    elif isinstance(value, datetime):
        text = f"{value:%Y-%m-%d %H:%M} UTC"
    else:
        text = str(getattr(value, "value", value))
    return sanitize(text)[:_LONGEST_VALUE]


def check_event(kind: str) -> str:
    """The kind. Raises ValueError, which names the nearest one, for what is never told."""
    if kind not in MESSAGES:
        near = difflib.get_close_matches(kind, MESSAGES, n=1)
        hint = f"did you mean {near[0]}?" if near else "`kekbridge notify events` lists them"
        raise ValueError(f"{sanitize(kind)[:60]!r} is no event; {hint}")
    return kind


def check_template(kind: str, template: str) -> str:
    """The template. Raises ValueError for an event or a name in braces that does not exist, or a brace that stands alone."""
    names = MESSAGES[check_event(kind)].names
    for match in _PLACEHOLDER.finditer(template):
        if match[0] in ("{", "}"):
            raise ValueError(
                f"{kind}: found a lone {match[0]!r}, expected a name in braces such as {{{names[0]}}}; double it to show one"
            )
        if match[1] is not None and match[1] not in names:
            near = difflib.get_close_matches(match[1], names, n=1)
            hint = f"did you mean {{{near[0]}}}?" if near else "use " + ", ".join(f"{{{name}}}" for name in names)
            raise ValueError(f"{kind}: {{{match[1]}}} is not known for this event; {hint}")
    if not template.strip():
        raise ValueError(f"{kind}: the text is empty; to be told nothing, name the event in notify.mute")
    return template
