"""What a message about an event of the journal needs besides the event's own figures: names, sizes, results and reasons.

Read by the notifier, `kekbridge history` and `serve` on a terminal; the texts are in model/notifications.py. Says what was known when the
event happened, also in a message that is sent late.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from decimal import Decimal
from typing import Any, Final

from kekbridge.codes import CODES
from kekbridge.errors import KekbridgeError
from kekbridge.formatting import market, money, pnl, soon
from kekbridge.model import ZERO
from kekbridge.model.notifications import as_decimal, as_text
from kekbridge.risk.drawdown import next_midnight
from kekbridge.store import alerts, fills, journal, webhooks
from kekbridge.store import orders as order_rows
from kekbridge.store.codec import exact_total
from kekbridge.store.journal import Event
from kekbridge.store.settings import ACCOUNT

# Figures of an order that change in its life.
_FIGURES: Final = ("executed_quantity", "average_price", "fee", "realized_pnl", "code", "error")
_EXECUTIONS: Final = frozenset(
    {"order_filled", "order_partially_filled", "stop_fired", "take_profit_fired", "trailing_fired"}
)
# By rule that closes a scope: what its limit is called when it is used up. The limit's number goes in front.
_USED_UP: Final = {
    "daily_limit": "daily limit {limit} used up until {midnight}",
    "daily_orders": "limit of {limit} orders a day used up until {midnight}",
    "daily_loss": "daily loss of {found}, limit {limit}, until {midnight}",
    "drawdown": "drawdown {found}, limit {limit}, until `kekbridge resume --reset-peak`",
}


def event_facts(connection: sqlite3.Connection, event: Event, zone: tzinfo | None = None) -> dict[str, Any]:
    """Everything that a text about the event may name. `zone`: of times in reasons (None: the machine's)."""
    facts: dict[str, Any] = {**order_facts(connection, event), **event.data, "at": event.at}
    facts["webhook"] = _webhook_name(connection, event)
    if "market" not in facts and facts.get("symbol"):
        facts["market"] = market(str(facts["symbol"]))
    if event.kind == "alert_denied":
        facts |= _denied_size(event.data)
    if event.kind in _EXECUTIONS:
        facts["result"] = _result(connection, event, facts)
    if "reason" not in facts:
        facts["reason"] = _reason(facts, event.at, zone)
    return facts


def lacks_fills(connection: sqlite3.Connection, event: Event) -> bool:
    """True for a filled order whose fills are not all recorded yet, as they are a moment later: its result is not known."""
    if event.kind != "order_filled" or event.client_order_id is None:
        return False
    executed = as_decimal(order_facts(connection, event).get("executed_quantity")) or ZERO
    return exact_total(fill.quantity for fill in fills.of_order(connection, event.client_order_id)) < executed


def order_facts(connection: sqlite3.Connection, event: Event) -> dict[str, Any]:
    """Fields of the order that an event is about, as they were then; empty without one."""
    if event.client_order_id is None:
        return {}
    try:
        order = order_rows.get(connection, event.client_order_id)
    except KekbridgeError:
        return {}
    facts = {
        "client_order_id": order.client_order_id,
        "symbol": order.intent.symbol,
        "side": order.intent.side.value.lower(),
    }
    figures = journal.order_figures(connection, event)
    if figures is None:  # from before the journal: only what became of the order is known
        return facts | {"quantity": order.intent.quantity} | {name: getattr(order, name) for name in _FIGURES}
    return facts | {name: figures.get(name) for name in ("quantity", *_FIGURES)}


def _webhook_name(connection: sqlite3.Connection, event: Event) -> str:
    """The webhook's name as it was with the alert, or `by hand`; empty for what is no webhook's."""
    if event.data.get("webhook"):
        return str(event.data["webhook"])
    if event.alert_id is not None:
        sender = alerts.sender_of(connection, event.alert_id)
        return "" if sender is None else sender[0]
    scope = event.data.get("scope")
    if event.kind != "trading_state" or scope in (None, ACCOUNT):
        return ""
    try:
        return webhooks.find(connection, str(scope)).name
    except KekbridgeError:  # deleted since
        return str(scope)


def _denied_size(data: Mapping[str, Any]) -> dict[str, Any]:
    """Size of an order that was denied at once, as the rule about the smallest or largest order has found it."""
    found = next(
        (
            as_decimal(verdict.get("found"))
            for verdict in reversed(_verdicts(data))
            if verdict.get("rule") in ("order_too_small", "order_too_large")
            and as_decimal(verdict.get("found")) is not None
        ),
        None,
    )
    return {} if found is None else {"quantity": found}


def _verdicts(data: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    verdicts = data.get("verdicts")
    return [each for each in verdicts if isinstance(each, Mapping)] if isinstance(verdicts, list | tuple) else []


def _result(connection: sqlite3.Connection, event: Event, facts: Mapping[str, Any]) -> str:
    """`P&L +12.30 USDC, fee 0.03 USDC, position 0.1 BTC long`; what is not known is left out."""
    realized, fee = as_decimal(facts.get("realized_pnl")), as_decimal(facts.get("fee"))
    name = event.client_order_id or ""
    is_leg = "side" in event.data  # an exit that travelled with its entry, whose order it is not
    found = fills.exits_of(connection, name) if is_leg else fills.of_order(connection, name)
    if found:  # the report of an execution need not say what it realized, its fills do
        realized = exact_total(fill.realized_pnl or ZERO for fill in found)
        fee = exact_total(fill.fee for fill in found)
    elif is_leg:
        realized = fee = None
    parts = []
    if realized:
        parts.append(f"P&L {pnl(realized)} USDC")
    if fee:
        parts.append(f"fee {money(fee, places=2)} USDC")
    if (position := as_decimal(facts.get("position"))) is not None:
        parts.append(_position_text(position, str(facts["market"])))
    return ", ".join(parts)


def _position_text(position: Decimal, base: str) -> str:
    if not position:
        return "no position left"
    return f"position {money(abs(position))} {base} {'long' if position > 0 else 'short'}"


def _reason(facts: Mapping[str, Any], at: datetime, zone: tzinfo | None) -> str:
    """Why an order or alert was denied, rejected or not sent; a limit that is used up in few words."""
    code, error = as_text(facts.get("code")), as_text(facts.get("error"))
    denial = next((each for each in _verdicts(facts) if each.get("rule") == code and not each.get("passed")), None)
    if code in _USED_UP and denial is not None:
        midnight = soon(next_midnight(at), at, zone)
        return _USED_UP[code].format(
            limit=_number(denial.get("limit")), found=_number(denial.get("found")), midnight=midnight
        )
    if code in ("exits_only", "trading_halted"):
        return error.partition("; ")[0]  # how to resume depends on what has closed it
    if code.startswith("orderly:"):
        return f"{error.rstrip('.')} ({code})" if error else code
    if error or not code:
        return error
    if code not in CODES:
        return code
    meaning = CODES[code].meaning.rstrip(".")
    return meaning[0].lower() + meaning[1:]


def _number(text: object) -> str:
    """`at most 20,000.00 USDC` -> `20,000`; a percentage keeps its sign."""
    words = as_text(text).removeprefix("at most ").removeprefix("under ").removesuffix(" USDC")
    return words.removesuffix(".00")
