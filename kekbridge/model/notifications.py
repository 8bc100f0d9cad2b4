"""Notification texts: severity and template of each event, and the check of a trader's own templates.

Pure: a table and the filling in of `{names}`. A template is text with names in braces, nothing else: no attribute, index or format is
ever looked up, so that neither a setting nor an alert can make it do anything. Delivery is in ops/notifier.py.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import Any, Final, Literal

from kekbridge import formatting
from kekbridge.formatting import clip_words, did_you_mean, sanitize

Severity = Literal["info", "warning", "failure"]
SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "failure")
#: What a trader may make of an event: a severity, or that it is not sent.
Level = Literal["off", "info", "warning", "failure"]
LEVELS: Final[tuple[Level, ...]] = ("off", *SEVERITIES)

_PLACEHOLDER: Final = re.compile(r"\{\{|\}\}|\{([a-z_]+)\}|[{}]")
_LONGEST_VALUE: Final = 200
_LONGEST_LINE: Final = 1000
# Names that every order event can use besides its own figures: reports/event_facts.py looks the order up.
_OF_ORDER: Final = (
    "webhook",
    "market",
    "symbol",
    "side",
    "quantity",
    "executed_quantity",
    "average_price",
    "amount",
    "filled",
    "price",
    "position",
    "result",
    "reason",
    "code",
    "error",
    "client_order_id",
)
_ALWAYS: Final = ("event", "at")
# The reason of a trading state that was set without one.
_BY_HAND: Final = "by hand"


@dataclass(frozen=True, slots=True)
class Notification:
    """The notification of one event kind."""

    severity: Severity
    #: What happened, with names in braces.
    title: str
    #: The rest, with names in braces; may be empty.
    detail: str
    #: Names that a trader's own template for the event may use.
    names: tuple[str, ...]

    @property
    def template(self) -> str:
        """Title and rest as one line."""
        return f"{self.title}: {self.detail}" if self.detail else self.title


@dataclass(frozen=True, slots=True)
class NotificationText:
    """The notification of one event, filled in. All texts are one printable line."""

    severity: Severity
    #: What happened, such as `btc-trend: denied buy 0.05 BTC`.
    title: str
    #: The rest, such as `daily limit 20,000 used up until 00:00`; may be empty.
    detail: str
    #: Both as one line; the trader's own text instead, if there is one.
    line: str


def _order(severity: Severity, title: str, detail: str = "", *more: str) -> Notification:
    found = (*_placeholders(title), *_placeholders(detail))
    return Notification(severity, title, detail, tuple(dict.fromkeys((*_OF_ORDER, *found, *more, *_ALWAYS))))


def _other(severity: Severity, title: str, detail: str = "", *more: str) -> Notification:
    """Its names are those in the texts and those in `more`."""
    found = (*_placeholders(title), *_placeholders(detail))
    also = ("symbol",) if "market" in found else ()
    return Notification(severity, title, detail, tuple(dict.fromkeys((*found, *also, *more, *_ALWAYS))))


def _placeholders(template: str) -> tuple[str, ...]:
    return tuple(match[1] for match in _PLACEHOLDER.finditer(template) if match[1])


MESSAGES: Final[Mapping[str, Notification]] = {
    # ------------------------------------------------------------------------------------------------ orders and alerts
    "order_filled": _order("info", "{webhook}: filled {side} {filled} at {price}", "{result}", "fee", "realized_pnl"),
    "order_rejected": _order("warning", "{webhook}: rejected by the exchange: {side} {amount}", "{reason}"),
    "exit_refused": _order("failure", "{webhook}: exit rejected twice, position still open: {side} {amount}", "{reason}"),
    "exit_waiting": _order("failure", "{webhook}: exit not sent yet, position still open: {side} {amount}", "{waiting_for}"),
    "exit_canceled": _order(
        "failure", "{webhook}: exit canceled by the exchange, position still open: {side} {amount}", "{reason}"
    ),
    "order_denied": _order("warning", "{webhook}: denied {side} {amount}", "{reason}"),
    "order_expired": _order("warning", "{webhook}: not sent, too old: {side} {amount}", "{reason}"),
    "order_unknown": _order(
        "failure", "{webhook}: no answer, outcome unknown: {side} {amount}", "it is looked up, and never sent again blindly"
    ),
    "ghost_order": _order(
        "failure", "{webhook}: accepted by the exchange, but not to be found there: {side} {amount}", "{detail}"
    ),
    "ghost_suspected": _other(
        "warning",
        "{webhook}: accepted by the exchange, but not visible for a minute: {side} {amount}",
        "{detail}",
        *("symbol", "quantity", "client_order_id"),
    ),
    "ghost_cleared": _other("info", "{webhook}: the exchange shows an order again", "{client_order_id}"),
    "alert_denied": _other("warning", "{webhook}: denied {action} {amount}", "{reason}", "symbol", "code", "error"),
    "cancel_waiting": _order("warning", "{webhook}: not cancelled yet, still tried: {side} {amount}", "{waiting_for}"),
    "cancel_failed": _other("warning", "{webhook}: cancel failed in {market}", "{error}"),
    # ------------------------------------------------------------------------------------------------------- protection
    "stop_fired": _order("warning", "{webhook}: stop fired: {side} {amount} at {price}", "{result}", "trigger_price"),
    "take_profit_fired": _order("info", "{webhook}: take-profit fired: {side} {amount} at {price}", "{result}", "trigger_price"),
    "trailing_fired": _order("warning", "{webhook}: trailing stop fired: {side} {amount} at {price}", "{result}", "trigger_price"),
    "protection_live": _order("info", "{webhook}: stop of {market} is live", "{detail}"),
    "protection_wanted": _order("warning", "{webhook}: {market} unprotected since {at}", "{detail}"),
    "protection_replaced": _order("warning", "{webhook}: stop of {market} was missing and has been replaced", "{detail}"),
    "protection_flattened": _order(
        "failure", "{webhook}: {market} position closed, its stop could not be placed", "{detail}"
    ),
    "protection_failed": _order(
        "failure", "{webhook}: {open} {market} still open: no stop could be placed and the close failed", "{reason}", "open"
    ),
    "position_unprotected": _other(
        "failure", "{position} {market} without a stop", "place one at the exchange or close the position"
    ),
    "position_protected": _other("info", "{market} position has a stop again or is closed"),
    # ----------------------------------------------------------------------------------------------------------- account
    "liquidation": _other(
        "failure", "liquidated: {side} {amount} at {price}", "P&L {realized_pnl} USDC, fee {fee} USDC", "symbol", "quantity"
    ),
    "adl": _other(
        "failure",
        "closed by auto-deleveraging: {side} {amount} at {price}",
        "P&L {realized_pnl} USDC",
        *("symbol", "quantity", "fee"),
    ),
    "records_incomplete": _other("warning", "P&L and daily loss are not complete", "{detail}"),
    "records_complete": _other("info", "fills and records of the account are complete again"),
    "transfer": _other("info", "{what}: {amount} USDC", "", "booked_at"),
    "leverage_changed": _other("warning", "{market}: leverage changed elsewhere from {before} to {after}", "{margin_mode}"),
    "margin_mode_changed": _other("warning", "{market}: margin mode changed elsewhere from {before} to {after}"),
    "market_changed": _other("warning", "{market}: the exchange changed the market from {before} to {after}"),
    "market_rules_changed": _other("info", "{market}: the exchange changed the rules of the market", "{changes}"),
    "market_delisted": _other("warning", "{market} is being delisted ({after})", "close what you hold in it", "before"),
    "topic_refused": _other(
        "warning", "the exchange refuses the stream topic {topic}", "{reason}; what it reports is read by queries instead"
    ),
    "trading_state": _other("warning", "{webhook}: {trading}", "{why}", "state", "scope", "by", "reason", "until"),
    "reconciliation_difference": _other("warning", "the exchange's records differ from kekbridge's", "{detail}", "symbol"),
    "history_incomplete": _other(
        "failure",
        "entries are refused: {count} orders at the exchange are missing in the database",
        "an older backup, or lost files; the newest is {newest}; run `kekbridge doctor`, then `kekbridge resume`",
    ),
    "account_adopted": _other(
        "warning", "first start on this directory, the account holds something already",
        "positions {positions}; open orders {orders}",
    ),
    "position_drift": _other("warning", "{webhook}: {market} position differs from the strategy's", "{detail}"),
    "position_in_step": _other("info", "{webhook}: {market} account and strategy agree again"),
    "daily_summary": _other(
        "info",
        "{day}: P&L {net_pnl} USDC",
        "{by_webhook}; after {fees} fees and {funding} funding; {alerts} alerts ({refused} refused), {orders} orders ({filled} filled),"
        " equity {equity} ({change})",
        "realized_pnl",
    ),
    # ------------------------------------------------------------------------------------------------------- connections
    "exchange_down": _other("failure", "the exchange has been unreachable for {lasting}", "{detail}"),
    "exchange_back": _other("info", "the exchange is reachable again"),
    "stream_down": _other("warning", "the exchange's stream has been down for {lasting}", "orders are polled instead"),
    "stream_back": _other("info", "the exchange's stream is back"),
    "clock_skew": _other("warning", "this machine's clock is {seconds} s {direction} the exchange's", "enable NTP"),
    "clock_right": _other("info", "this machine's clock agrees with the exchange's again"),
    "heartbeat_missed": _other(
        "warning", "{webhook}: no alert for {lasting}", "one is expected every {every}; is it still active at TradingView?"
    ),
    "heartbeat_back": _other("info", "{webhook}: alerts are arriving again"),
    "alert_expiring": _other("warning", "{webhook}: its alert expires at TradingView in {left}", "on {day}; renew it there"),
    "alert_ended": _other("failure", "{webhook}: its alert expired at TradingView on {day}", "renew it there"),
    # --------------------------------------------------------------------------------------------------------- operation
    "authentication_attack": _other(
        "warning", "{count} failed authentications", "locked out {addresses}, first {address}, until {until}"
    ),
    "key_expiring": _other("warning", "the exchange key expires in {left}", "on {day}; create a new one with `kekbridge keys generate`"),
    "key_expired": _other("failure", "the exchange key expired on {day}", "no order can be sent"),
    "key_renewed": _other("info", "the exchange key is valid until {day}"),
    "certificate_expiring": _other("warning", "the certificate of {name} expires in {left}", "on {day}; check why it was not renewed"),
    "certificate_expired": _other("failure", "the certificate of {name} expired on {day}", "TradingView rejects it"),
    "certificate_valid": _other("info", "the certificate of {name} is valid until {day}"),
    "certificate_renewed": _other("info", "the certificate of {domain} was renewed", "valid until {valid_until}"),
    "certificate_not_renewed": _other(
        "warning", "the certificate of {domain} could not be renewed", "{days_left} days left; {reason}"
    ),
    "disk_low": _other("failure", "{free} left on the disk of {place}", "once it is full, every alert is answered 503"),
    "database_lost": _other(
        "failure",
        "nothing is traded and alerts are answered 503",
        "{detail} while the bridge runs; stop it, then put the files back or restore a backup",
    ),
    "database_found": _other("info", "the database's files are back"),
    "replica_behind": _other("warning", "the replica at {place} is {lasting} behind", "{detail}"),
    "replica_current": _other("info", "the replica at {place} is up to date again"),
    "disk_enough": _other("info", "the disk of {place} has {free} free again"),
    "admin_port_taken": _other("failure", "the web pages are off", "port {port} is in use by {owner}; free it or set admin.port"),
    "admin_port_free": _other("info", "the web pages are on again", "{url}"),
    "job_failed": _other("failure", "job {job} failed", "{error}"),
    "job_recovered": _other("info", "job {job} works again"),
    "taken_over": _other(
        "warning", "this machine has taken over from {host}", "the state of {up_to}; key removed at the exchange: {removed}"
    ),
    "restored": _other("warning", "a backup of {made_at} was restored"),
    "orderly_key_removed": _other("warning", "the exchange key of {account_id} was removed"),
}  # fmt: skip


def render_message(
    kind: str,
    facts: Mapping[str, Any],
    own: Mapping[str, str] | None = None,
    levels: Mapping[str, Level] | None = None,
    zone: tzinfo | None = UTC,
) -> NotificationText | None:
    """The message of an event; None for one without notification, or whose level is `off`.

    `own`: the trader's texts by event kind; `levels`: the trader's severities by event kind; `zone`: of times (None: the machine's).
    """
    message = MESSAGES.get(kind)
    level = (levels or {}).get(kind)
    if message is None or level == "off":
        return None
    severity = level or message.severity
    if level is None and kind == "trading_state" and facts.get("state") == "running":
        severity = "info"
    known = {"event": kind, **_display(facts, zone)}
    if own and kind in own:
        text = fill_template(own[kind], known, zone)
        return NotificationText(severity, kind.replace("_", " "), text, text)
    title, detail = fill_template(message.title, known, zone), fill_template(message.detail, known, zone)
    return NotificationText(severity, title, detail, f"{title}: {detail}" if detail else title)


def render_notification(
    kind: str, facts: Mapping[str, Any], own: Mapping[str, str] | None = None, zone: tzinfo | None = UTC
) -> tuple[Severity, str] | None:
    """Severity and one line for an event; None for an event without notification. `own`: the trader's texts by event kind."""
    message = render_message(kind, facts, own, zone=zone)
    return None if message is None else (message.severity, message.line)


def describe_event(
    kind: str, facts: Mapping[str, Any], figures: Mapping[str, Any] | None = None, zone: tzinfo | None = UTC
) -> tuple[Severity | None, str]:
    """One line for any event: its notification, else (with severity None) its kind and figures, which are all facts by default.

    `zone`: of times (None: the machine's).
    """
    notification = render_notification(kind, facts, zone=zone)
    if notification is not None:
        return notification
    listed = ", ".join(
        f"{name} {formatting.to_text(value) if isinstance(value, bool) else as_text(value)}"
        for name, value in (facts if figures is None else figures).items()
        if name != "fingerprint" and value not in (None, "") and not isinstance(value, Mapping | list | tuple)
    )
    return None, clip_words(f"{kind.replace('_', ' ')}: {listed}".rstrip(" :"), _LONGEST_LINE)


def _display(facts: Mapping[str, Any], zone: tzinfo | None) -> dict[str, Any]:
    """The facts, and what is shown of them: the market's short name, sizes with it, the price, the trading state in words."""
    shown = dict(facts)
    market = formatting.market(str(facts["symbol"])) if facts.get("symbol") else ""
    quantity = as_decimal(facts.get("quantity"))
    executed = as_decimal(facts.get("executed_quantity")) or quantity
    shown.setdefault("market", market)
    shown.setdefault("amount", _size(quantity, market))
    shown.setdefault("filled", _size(executed, market))
    price = as_decimal(facts.get("price", facts.get("average_price")))
    if price is not None:
        shown["price"] = formatting.money(price)
    for name in ("position", "open"):
        if (size := as_decimal(facts.get(name))) is not None:
            shown[name] = formatting.money(size)
    if isinstance(facts.get("side"), str):
        shown["side"] = facts["side"].lower()
    shown["trading"], shown["why"] = _trading(facts, zone), _why(facts)
    return shown


def _size(quantity: Decimal | None, market: str) -> str:
    return market if quantity is None else f"{formatting.money(quantity)} {market}"


def _trading(facts: Mapping[str, Any], zone: tzinfo | None) -> str:
    """`trading halted`, `exits only until 00:00`, `trading resumed`."""
    state, until, at = facts.get("state"), as_time(facts.get("until")), as_time(facts.get("at"))
    if state == "running":
        return "trading resumed"
    if state == "halted":
        return "trading halted"
    end = f" until {formatting.soon(until, at or until, zone)}" if until is not None else ""
    return f"exits only{end}"


def _why(facts: Mapping[str, Any]) -> str:
    """Why trading is in this state and by whom; a limit by its reason alone, whose end the title says."""
    reason, by = as_text(facts.get("reason")), as_text(facts.get("by"))
    if by.startswith("limit ") or not by:
        return reason.partition(", until ")[0]
    if not reason:
        return f"by {by}"
    return f"{reason}, {by}" if reason == _BY_HAND else f"{reason}, by {by}"


def as_decimal(value: object) -> Decimal | None:
    """A figure of an event as a number; None if it is none."""
    if value is None or isinstance(value, bool):
        return None
    try:
        found = Decimal(str(value))
    except ArithmeticError:
        return None
    return found if found.is_finite() else None


def as_time(value: object) -> datetime | None:
    """A time of an event, which the journal holds as text; None if it is none."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    return value if isinstance(value, datetime) and value.tzinfo is not None else None


def fill_template(template: str, facts: Mapping[str, Any], zone: tzinfo | None = UTC) -> str:
    """Fill a template into one printable line; unknown names become empty, and braces in a value are not filled again.

    `zone`: of times (None: the machine's).
    """

    def substitute(match: re.Match[str]) -> str:
        return match[0][0] if match[1] is None else as_text(facts.get(match[1]), zone)

    line = " ".join(sanitize(_PLACEHOLDER.sub(substitute, template)).split())
    return clip_words(line.replace(" ()", "").strip(" :;,").rstrip(" .("), _LONGEST_LINE)


def as_text(value: object, zone: tzinfo | None = UTC) -> str:
    """A value as printable text on one line, of bounded length; None is empty. `zone`: of times (None: the machine's)."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        text = format(value, "f")
    elif isinstance(value, datetime):
        text = f"{value.astimezone(zone):%Y-%m-%d %H:%M} {formatting.zone_name(value, zone)}"
    else:
        text = str(getattr(value, "value", value))
    return clip_words(sanitize(text), _LONGEST_VALUE)


def check_level(kind: str, level: str) -> Level:
    """Return a trader's level of an event. Raises ValueError for an unknown event or level."""
    check_event(kind)
    for known in LEVELS:
        if level == known:
            return known
    raise ValueError(f"{kind}: found {sanitize(level)[:40]!r}, expected one of {', '.join(LEVELS)}")


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
