"""What scripts ask for, as JSON: orders, positions, alerts, one alert's story, statistics, limits, history. Reads only.

The commands with --json print these values, the API of the web pages answers with them. Names are camelCase, amounts and times text.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from typing import Any

from kekbridge.config import Settings
from kekbridge.formatting import to_jsonable
from kekbridge.model import Order
from kekbridge.model.notifications import MESSAGES, describe_event
from kekbridge.ops import known_names
from kekbridge.ops.trading_operations import position_data
from kekbridge.reports import alert_report, statistics
from kekbridge.reports import limits as limit_report
from kekbridge.reports.alert_report import AlertReport
from kekbridge.reports.event_facts import event_facts, order_facts
from kekbridge.store import alerts, positions, protection
from kekbridge.store import orders as order_rows
from kekbridge.store.journal import Event


def order_data(order: Order) -> dict[str, Any]:
    """An order: its own fields and those of its intent, flat."""
    data: dict[str, Any] = to_jsonable(order)
    intent = data.pop("intent")
    return data | {key: value for key, value in intent.items() if key not in data}


def list_orders(
    connection: sqlite3.Connection,
    *,
    webhook: str | None = None,
    symbol: str | None = None,
    status: str | None = None,
    since: datetime | None = None,
    open_only: bool = False,
    before: int | None = None,
    limit: int,
) -> list[dict[str, Any]]:
    """The last `limit` orders that match every filter given, newest last; `before`: only those with a smaller sequence.

    Raises ConfigError or NotFound for an unknown name.
    """
    found = order_rows.list_orders(
        connection,
        webhook=known_names.webhook(connection, webhook),
        symbol=known_names.symbol(connection, symbol, "symbol"),
        status=known_names.order_status(status, "status"),
        since=since,
        open_only=open_only,
        before=before,
        limit=limit,
    )
    return [order_with_exits(connection, order) for order in found]


def order_with_exits(connection: sqlite3.Connection, order: Order) -> dict[str, Any]:
    """An order with what became of the exits that it carried."""
    return order_data(order) | {"exits": to_jsonable(protection.exits_of(connection, order.client_order_id))}


def list_positions(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """The open positions as the bridge last saw them, each with when that was."""
    seen_at = to_jsonable(positions.seen_at(connection))
    return [position_data(each) | {"seenAt": seen_at} for each in positions.list_all(connection) if each.quantity]


def list_alerts(
    connection: sqlite3.Connection,
    *,
    webhook: str | None = None,
    symbol: str | None = None,
    status: str | None = None,
    code: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: str | None = None,
    text: str | None = None,
    limit: int,
) -> list[dict[str, Any]]:
    """The last `limit` alerts that match every filter given, newest last; `before`: only those older than this alert.

    Raises ConfigError or NotFound for an unknown name.
    """
    found = alerts.search(
        connection,
        webhook=known_names.webhook(connection, webhook),
        symbol=known_names.symbol(connection, symbol, "symbol"),
        status=known_names.alert_status(status, "status"),
        code=known_names.code(code, "code"),
        since=since,
        until=until,
        before=None if before is None else alerts.find(connection, before),
        text=text,
        limit=limit,
    )
    return [to_jsonable(alert) for alert in found.alerts]


def alert_story(connection: sqlite3.Connection, reference: str) -> dict[str, Any]:
    """Everything about one alert. `reference`: as `kekbridge explain` takes it. Raises NotFound."""
    return story_data(alert_report.read(connection, reference))


def story_data(report: AlertReport) -> dict[str, Any]:
    """One object: the alert, and its orders with requests, verdicts of the recheck and fills inside."""
    legs = [
        order_data(one.order)
        | to_jsonable(
            {
                "request": one.details.request,
                "signedAt": one.details.signed_at,
                "verdictsBeforeSending": one.details.verdicts,
                "answers": one.answers,
                "fills": one.fills,
                "exits": one.exits,
                "exitFills": one.exit_fills,
                "slippage": one.slippage,
            }
        )
        for one in report.orders
    ]
    stages = {name: round(value, 3) for name, value in report.stages.items()}
    alert: dict[str, Any] = to_jsonable(report.alert)
    return alert | {"stages": stages, "orders": legs, "events": to_jsonable(report.events)}


def statistics_of(
    connection: sqlite3.Connection,
    configured: Settings,
    *,
    since: datetime | None,
    webhook: str | None = None,
    now: datetime,
) -> dict[str, Any]:
    """The statistics of a period with the limits in use. Raises NotFound for an unknown webhook."""
    found = statistics.read(connection, since=since, now=now, webhook=webhook)
    limits = limit_report.read(connection, configured, webhook, at=now)["scopes"]
    data: dict[str, Any] = to_jsonable(found.report)
    return data | found.as_json() | {"limits": to_jsonable(limits)}


def event_data(connection: sqlite3.Connection, event: Event, zone: tzinfo | None = UTC) -> dict[str, Any]:
    """An event of the history, in the words of its notification. `zone`: of times in reasons (None: the machine's)."""
    figures = {**order_facts(connection, event), **event.data}
    severity, text = describe_event(event.kind, event_facts(connection, event, zone), figures, zone)
    data: dict[str, Any] = to_jsonable(event)
    return data | {"severity": severity, "words": text}


def wanted_kinds(
    connection: sqlite3.Connection, kinds: Iterable[str], option: str = "--kind", *, trouble: bool = False
) -> tuple[str, ...]:
    """Kinds of events to list, none for all; `trouble`: only warnings and failures. Raises ConfigError for an unknown kind."""
    wanted = known_names.kinds(connection, kinds, option)
    if not trouble:
        return wanted
    severe = (name for name, one in MESSAGES.items() if one.severity != "info")
    return tuple(name for name in severe if not wanted or name in wanted) or ("none",)
