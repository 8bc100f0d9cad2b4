"""What the admin listener can show and do: live state from the exchange client and the store, and the few levers of an operator.

The same functions as the command line's (store, webhooks, flatten, stats): nothing is decided here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from kekbridge.config import Settings
from kekbridge.exchange.base import Exchange
from kekbridge.execution.flatten import FlattenResult, flatten
from kekbridge.execution.latency import LatencyTracker
from kekbridge.formatting import jsonable
from kekbridge.ingress.http import Readiness
from kekbridge.ingress.lockout import Lockout
from kekbridge.model import AccountSnapshot, Order, TradingState
from kekbridge.model.notifications import describe_event
from kekbridge.model.statistics import Report, build_report
from kekbridge.reports import limits
from kekbridge.store import alerts, conditions, equity, job_runs, statistics, webhooks
from kekbridge.store import orders as order_rows
from kekbridge.store import settings as control
from kekbridge.store.alerts import StoredAlert
from kekbridge.store.conditions import Condition
from kekbridge.store.database import Database
from kekbridge.vault import Sealer

_SHOWN: Final = 20
_FLATTEN_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminService:
    """Everything the pages and the API work with."""

    database: Database
    exchange: Exchange
    sealer: Sealer
    settings: Settings
    readiness: Callable[[], Readiness]
    lockout: Lockout
    clock: Callable[[], datetime]
    stages: LatencyTracker

    async def state(self) -> dict[str, Any]:
        """The live state: what `kekbridge dashboard` shows. Plain JSON, camelCase, amounts and times as text."""
        stored = await self.database.read(_stored_state, self.settings, now=self.clock())
        snapshot = self.exchange.snapshot
        seen = self.readiness()
        health = self.exchange.health
        live = {
            "at": self.clock(),
            "mode": self.settings.mode,
            "ready": dict(seen.detail),
            "exchange": {
                "name": self.exchange.name,
                "reachable": health.is_reachable,
                "maintenance": health.is_maintenance,
                "streamLive": health.stream_is_live,
                "lastHeardAt": health.last_heard_at,
                "clockOffsetMs": health.clock_offset_ms,
            },
            "account": None if snapshot is None else _account(snapshot),
            "lockouts": self.lockout.locked(self.clock()),
        }
        found: dict[str, Any] = jsonable(live | stored)
        return found

    async def report(self, *, since: datetime | None, webhook: str | None = None) -> Report:
        """The statistics of a period. Raises NotFound for an unknown webhook."""
        return build_report(
            await self.database.read(statistics.gather_facts, since=since, now=self.clock(), webhook=webhook)
        )

    async def set_trading(self, state: TradingState, *, reason: str, by: str) -> None:
        """Halt, exits only, or resume everything, as the commands of these names do."""

        def write(connection: sqlite3.Connection) -> None:
            now = self.clock()
            if state is TradingState.RUNNING:
                control.resume_all(connection, reason=reason, by=by, now=now)
            else:
                control.set_trading_state(connection, state, reason=reason, by=by, now=now)

        await self.database.write(write)

    async def resume_webhook(self, name: str, *, by: str) -> None:
        """Open one webhook again that a limit closed. Raises NotFound."""

        def write(connection: sqlite3.Connection) -> None:
            scope = webhooks.find(connection, name).id
            control.set_trading_state(
                connection, TradingState.RUNNING, reason="by hand", by=by, now=self.clock(), scope=scope
            )

        await self.database.write(write)

    async def reset_peak(self, *, by: str) -> None:
        """Let the equity peak be today's equity, and trade again: the drawdown starts anew."""

        def write(connection: sqlite3.Connection) -> None:
            equity.reset_peak(connection, by=by, now=self.clock())
            control.resume_all(connection, reason="by hand", by=by, now=self.clock())

        await self.database.write(write)

    async def flatten(self, *, by: str) -> FlattenResult:
        """Halt, cancel every order, close every position. Raises ExchangeUnavailable when the exchange stays silent."""
        await self.set_trading(TradingState.HALTED, reason="flatten", by=by)
        return await flatten(self.exchange, clock=self.clock, deadline_s=_FLATTEN_S, on_progress=lambda _: None)


def _stored_state(connection: sqlite3.Connection, configured: Settings, *, now: datetime) -> dict[str, Any]:
    day = build_report(statistics.gather_facts(connection, since=now - timedelta(days=1), now=now))
    return {
        "trading": control.trading_control(connection, now=now),
        "openOrders": [_order(order) for order in order_rows.list_orders(connection, open_only=True, limit=_SHOWN)],
        "lastAlerts": [_alert(alert) for alert in alerts.search(connection, limit=_SHOWN).alerts],
        "limits": limits.read(connection, configured, at=now)["scopes"],
        "lastDay": day,
        "conditions": [_condition(one) for one in conditions.list_active(connection).values()],
        "jobs": job_runs.list_runs(connection),
    }


def _condition(one: Condition) -> dict[str, Any]:
    """What holds now, in the words in which it was told."""
    severity, words = describe_event(one.kind, one.data)
    return {"event": one.kind, "severity": severity, "words": words, "since": one.since}


def _account(snapshot: AccountSnapshot) -> dict[str, Any]:
    held: list[dict[str, Any]] = []
    for one in (*snapshot.positions.values(), *snapshot.other_positions):
        if one.quantity:
            mark = snapshot.mark_price(one.symbol) or one.mark_price
            held.append(
                {
                    "symbol": one.symbol,
                    "quantity": one.quantity,
                    "entry": one.average_open_price,
                    "mark": mark,
                    "unrealizedPnl": None if mark is None else (mark - one.average_open_price) * one.quantity,
                    "liquidation": one.liquidation_price,
                }
            )
    return {
        "takenAt": snapshot.taken_at,
        "value": snapshot.account_value,
        "free": snapshot.free_collateral,
        "unrealizedPnl": sum((one["unrealizedPnl"] or Decimal(0) for one in held), Decimal(0)),
        "positions": held,
    }


def _order(order: Order) -> dict[str, Any]:
    intent = order.intent
    return {
        "createdAt": order.created_at,
        "alertId": order.alert_id,
        "clientOrderId": order.client_order_id,
        "symbol": intent.symbol,
        "side": intent.side,
        "orderType": intent.order_type,
        "quantity": intent.quantity,
        "limitPrice": intent.limit_price,
        "executedQuantity": order.executed_quantity,
        "status": order.status,
    }


def _alert(alert: StoredAlert) -> dict[str, Any]:
    return {
        "id": alert.id,
        "receivedAt": alert.received_at,
        "webhook": alert.webhook_name,
        "action": alert.action,
        "symbol": alert.symbol,
        "status": alert.status,
        "code": alert.code,
        "error": alert.error,
    }
