"""Notification texts: severity and template of each event, and the check of a trader's own templates.

Pure: a table and the filling in of `{names}`. A template is text with names in braces, nothing else: no attribute, index or format is
ever looked up, so that neither a setting nor an alert can make it do anything. Delivery is in ops/notifier.py.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal

from kekbridge.formatting import did_you_mean, sanitize

Severity = Literal["info", "warning", "failure"]
SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "failure")

_PLACEHOLDER: Final = re.compile(r"\{\{|\}\}|\{([a-z_]+)\}|[{}]")
_LONGEST_VALUE: Final = 200
_LONGEST_LINE: Final = 1000
# Names that every order event can use besides its own figures: the notifier looks the order up.
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
    """The notification of one event kind."""

    severity: Severity
    #: Text with names in braces.
    template: str
    #: Names that a trader's own template for the event may use.
    names: tuple[str, ...]


def _order(severity: Severity, template: str, *more: str) -> Notification:
    return Notification(severity, template, (*_OF_ORDER, *more, *_ALWAYS))


def _other(severity: Severity, template: str, *more: str) -> Notification:
    """Its names are those in the template and those in `more`."""
    found = tuple(dict.fromkeys(match[1] for match in _PLACEHOLDER.finditer(template) if match[1]))
    return Notification(severity, template, (*found, *more, *_ALWAYS))


MESSAGES: Final[Mapping[str, Notification]] = {
    # ------------------------------------------------------------------------------------------------ orders and alerts
    "order_filled": _order("info", "filled: {side} {executed_quantity} {symbol} at {average_price}", "fee", "realized_pnl"),
    "order_rejected": _order("warning", "rejected by the exchange: {side} {quantity} {symbol}: {code} {error}"),
    "exit_refused": _order(
        "failure", "exit rejected twice, the position is still open: {side} {quantity} {symbol}: {code} {error}"
    ),
    "exit_waiting": _order(
        "failure", "exit not sent yet, the position is still open: {side} {quantity} {symbol}: {waiting_for}", "waiting_for"
    ),
    "order_denied": _order("warning", "denied: {side} {quantity} {symbol}: {code} {error}"),
    "order_expired": _order("warning", "too old, not sent: {side} {quantity} {symbol}: {error}"),
    "order_unknown": _order("failure", "no answer, outcome unknown: {side} {quantity} {symbol}"),
    "ghost_order": _order(
        "failure", "accepted by the exchange, but not to be found there: {side} {quantity} {symbol}: {detail}", "detail"
    ),
    "ghost_suspected": _other(
        "warning", "accepted by the exchange, but not visible for a minute: {side} {quantity} {symbol}: {detail}", "client_order_id"
    ),
    "ghost_cleared": _other("info", "the exchange shows order {client_order_id} again"),
    "alert_denied": _other("warning", "alert denied: {action} {symbol}: {code}"),
    "cancel_waiting": _order(
        "warning", "not cancelled yet, still tried: {side} {quantity} {symbol}: {waiting_for}", "waiting_for"
    ),
    "cancel_failed": _other("warning", "cancel failed: {symbol} {error}"),
    # ------------------------------------------------------------------------------------------------------- protection
    "stop_fired": _order("warning", "stop fired: {side} {quantity} {symbol} at {average_price}", "trigger_price"),
    "take_profit_fired": _order("info", "take-profit fired: {side} {quantity} {symbol} at {average_price}", "trigger_price"),
    "trailing_fired": _order("warning", "trailing stop fired: {side} {quantity} {symbol} at {average_price}", "trigger_price"),
    "protection_live": _order("info", "protective stop is live: {symbol}", "detail"),
    "protection_wanted": _order("warning", "unprotected since {at}: {symbol}: {detail}", "detail"),
    "protection_replaced": _order("warning", "protective stop was missing and has been replaced: {symbol}", "detail"),
    "protection_flattened": _order(
        "failure", "position closed, its stop could not be placed: {symbol}: {detail}", "detail"
    ),
    "protection_failed": _order(
        "failure", "no stop could be placed and the close failed, still open: {open} {symbol}: {code} {error}", "open"
    ),
    "position_unprotected": _other(
        "failure", "position without a stop: {position} {symbol}: place one at the exchange or close the position"
    ),
    "position_protected": _other("info", "position has a stop again or is closed: {symbol}"),
    # ----------------------------------------------------------------------------------------------------------- account
    "liquidation": _other(
        "failure", "liquidated: {side} {quantity} {symbol} at {price}, P&L {realized_pnl} USDC, fee {fee} USDC"
    ),
    "adl": _other(
        "failure", "closed by auto-deleveraging: {side} {quantity} {symbol} at {price}, P&L {realized_pnl} USDC", "fee"
    ),
    "records_incomplete": _other("warning", "P&L and daily loss are not complete: {detail}"),
    "records_complete": _other("info", "fills and records of the account are complete again"),
    "transfer": _other("info", "{what}: {amount} USDC", "booked_at"),
    "leverage_changed": _other("warning", "{symbol}: leverage changed elsewhere from {before} to {after} ({margin_mode})"),
    "margin_mode_changed": _other("warning", "{symbol}: margin mode changed elsewhere from {before} to {after}"),
    "market_changed": _other("warning", "{symbol}: the exchange changed the market from {before} to {after}"),
    "market_rules_changed": _other("info", "{symbol}: the exchange changed the rules of the market: {changes}"),
    "market_delisted": _other("warning", "{symbol} is being delisted ({after}): close what you hold in it", "before"),
    "topic_refused": _other(
        "warning", "the exchange refuses the stream topic {topic}: {reason}; what it reports is read by queries instead"
    ),
    "trading_state": _other("warning", "trading is {state} ({scope}), by {by}: {reason}", "until"),
    "reconciliation_difference": _other("warning", "the exchange's records differ from kekbridge's: {detail}", "symbol"),
    "history_incomplete": _other(
        "failure",
        "{count} orders at the exchange are missing in the database (an older backup, or lost files), the newest is {newest}: entries are"
        " refused; run `kekbridge doctor`, then `kekbridge resume`",
    ),
    "account_adopted": _other(
        "warning", "first start on this directory; the account holds already: positions {positions}; open orders {orders}"
    ),
    "position_drift": _other("warning", "webhook {webhook}: {symbol}: {detail}"),
    "position_in_step": _other("info", "webhook {webhook}: {symbol}: account and strategy agree again"),
    "daily_summary": _other(
        "info",
        "{day}: {alerts} alerts ({refused} refused), {orders} orders ({filled} filled), P&L {net_pnl} USDC after {fees} fees"
        " and {funding} funding, equity {equity} ({change})",
        "realized_pnl",
    ),
    # ------------------------------------------------------------------------------------------------------- connections
    "exchange_down": _other("failure", "the exchange has been unreachable for {lasting}: {detail}"),
    "exchange_back": _other("info", "the exchange is reachable again"),
    "stream_down": _other("warning", "the exchange's stream has been down for {lasting}; orders are polled instead"),
    "stream_back": _other("info", "the exchange's stream is back"),
    "clock_skew": _other("warning", "this machine's clock is {seconds} s {direction} the exchange's; enable NTP"),
    "clock_right": _other("info", "this machine's clock agrees with the exchange's again"),
    "heartbeat_missed": _other(
        "warning", "no alert for {lasting}, webhook {webhook} expects one every {every}: is it still active at TradingView?"
    ),
    "heartbeat_back": _other("info", "alerts are arriving again: webhook {webhook}"),
    "alert_expiring": _other("warning", "the alert of webhook {webhook} expires at TradingView in {left}, on {day}: renew it there"),
    "alert_ended": _other("failure", "the alert of webhook {webhook} expired at TradingView on {day}: renew it there"),
    # --------------------------------------------------------------------------------------------------------- operation
    "authentication_attack": _other(
        "warning", "{count} failed authentications: locked out {addresses}, first {address}, until {until}"
    ),
    "key_expiring": _other("warning", "the exchange key expires in {left}, on {day}: create a new one with `kekbridge keys generate`"),
    "key_expired": _other("failure", "the exchange key expired on {day}: no order can be sent"),
    "key_renewed": _other("info", "the exchange key is valid until {day}"),
    "certificate_expiring": _other("warning", "the certificate of {name} expires in {left}, on {day}: check why it was not renewed"),
    "certificate_expired": _other("failure", "the certificate of {name} expired on {day}: TradingView rejects it"),
    "certificate_valid": _other("info", "the certificate of {name} is valid until {day}"),
    "certificate_renewed": _other("info", "the certificate of {domain} was renewed, valid until {valid_until}"),
    "certificate_not_renewed": _other("warning", "the certificate of {domain} could not be renewed, {days_left} days left: {reason}"),
    "disk_low": _other("failure", "{free} left on the disk of {place}: once it is full, every alert is answered 503"),
    "database_lost": _other(
        "failure",
        "{detail} while the bridge runs: nothing is traded and alerts are answered 503; stop the bridge, then put the files back or restore"
        " a backup",
    ),
    "database_found": _other("info", "the database's files are back"),
    "disk_enough": _other("info", "the disk of {place} has {free} free again"),
    "admin_port_taken": _other("failure", "the web pages are off: port {port} is in use by {owner}; free it or set admin.port"),
    "admin_port_free": _other("info", "the web pages are on again: {url}"),
    "job_failed": _other("failure", "job {job} failed: {error}"),
    "job_recovered": _other("info", "job {job} works again"),
    "restored": _other("warning", "a backup of {made_at} was restored"),
    "orderly_key_removed": _other("warning", "the exchange key of {account_id} was removed"),
}  # fmt: skip


def render_notification(
    kind: str, facts: Mapping[str, Any], own: Mapping[str, str] | None = None
) -> tuple[Severity, str] | None:
    """Severity and one line for an event; None for an event without notification. `own`: the trader's templates by event kind."""
    message = MESSAGES.get(kind)
    if message is None:
        return None
    severity = message.severity
    if kind == "trading_state" and facts.get("state") == "running":
        severity = "info"
    return severity, fill_template((own or {}).get(kind, message.template), {"event": kind, **facts})


def describe_event(kind: str, facts: Mapping[str, Any]) -> tuple[Severity | None, str]:
    """One line for any event: its notification, else (with severity None) its kind and figures."""
    notification = render_notification(kind, facts)
    if notification is not None:
        return notification
    figures = ", ".join(
        f"{name} {as_text(value)}"
        for name, value in facts.items()
        if name != "fingerprint" and value not in (None, "") and not isinstance(value, Mapping | list | tuple)
    )
    return None, f"{kind.replace('_', ' ')}: {figures}"[:_LONGEST_LINE].rstrip(" :")


def fill_template(template: str, facts: Mapping[str, Any]) -> str:
    """Fill a template into one printable line; unknown names become empty, and braces in a value are not filled again."""

    def substitute(match: re.Match[str]) -> str:
        return match[0][0] if match[1] is None else as_text(facts.get(match[1]))

    line = " ".join(sanitize(_PLACEHOLDER.sub(substitute, template)).split())
    return line.replace(" ()", "").rstrip(" :.(,")[:_LONGEST_LINE]


def as_text(value: object) -> str:
    """A value as printable text on one line, of bounded length; None is empty."""
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
    """Return the kind if it has a notification. Raises ValueError, which names the nearest one."""
    if kind not in MESSAGES:
        hint = did_you_mean(kind, MESSAGES, otherwise="`kekbridge notify events` lists them")
        raise ValueError(f"{sanitize(kind)[:60]!r} is not an event; {hint}")
    return kind


def check_template(kind: str, template: str) -> str:
    """Return the template if it is valid. Raises ValueError for an unknown event, an unknown name in braces, or a lone brace."""
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
        raise ValueError(f"{kind}: the text is empty; to get no notification, list the event in notify.mute")
    return template
