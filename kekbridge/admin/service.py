"""What the admin listener can show and do: live state from the exchange client and the store, and the operator's operations.

Changes are the operations that commands run, too (ops/operations.py); nothing is decided here.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec

from kekbridge.config import Settings
from kekbridge.exchange.base import Exchange
from kekbridge.execution.latency import LatencyTracker
from kekbridge.formatting import to_jsonable
from kekbridge.ingress.http import Readiness
from kekbridge.ingress.lockout import Lockout
from kekbridge.model import AccountSnapshot, Order
from kekbridge.model.notifications import describe_event
from kekbridge.model.statistics import Report, build_report
from kekbridge.ops import queries
from kekbridge.ops.operations import Operations
from kekbridge.ops.trading_operations import RecordBackup, position_data
from kekbridge.reports import limits
from kekbridge.store import alerts, conditions, incomplete_orders, job_runs, protection, read_positions, statistics
from kekbridge.store import orders as order_rows
from kekbridge.store import settings as control
from kekbridge.store.alerts import StoredAlert
from kekbridge.store.conditions import Condition
from kekbridge.store.database import ReadsForPeople
from kekbridge.store.protection import Protection
from kekbridge.vault import Sealer

if TYPE_CHECKING:
    from kekbridge.ops.backup import Backup
    from kekbridge.ops.replication import Replication

_SHOWN: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminService:
    """The service behind the pages, the admin API and the terminal dashboard."""

    #: The daemon's data directory.
    data_dir: Path
    #: The daemon's store.
    database: ReadsForPeople
    #: The exchange that the daemon trades on.
    exchange: Exchange
    #: Makes every change, the same way as for commands.
    operations: Operations
    #: Opens webhook credentials.
    sealer: Sealer
    #: The settings in force.
    settings: Settings
    #: Whether alerts can become orders now.
    readiness: Callable[[], Readiness]
    #: Addresses locked out after failed authentications.
    lockout: Lockout
    #: Current time, UTC.
    clock: Callable[[], datetime]
    #: Collects the latency of each alert.
    stages: LatencyTracker
    #: Set if the database is replicated.
    replication: Replication | None

    async def state(self) -> dict[str, Any]:
        """The live state that `kekbridge dashboard` shows, as JSON: camelCase names, amounts and times as text."""
        stored = await self.database.read(_stored_state, self.settings, now=self.clock())
        state: dict[str, Any] = self.live() | to_jsonable(stored)
        return state

    def live(self) -> dict[str, Any]:
        """The part of `state` that is in memory: mode, readiness, how the exchange is reached, the account, lockouts."""
        snapshot = self.exchange.snapshot
        readiness = self.readiness()
        health = self.exchange.health
        live: dict[str, Any] = to_jsonable(
            {
                "at": self.clock(),
                "mode": self.settings.mode,
                "ready": dict(readiness.detail),
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
                **({} if self.replication is None else {"replica": self.replication.status()}),
            }
        )
        return live

    def live_state(self) -> object:
        """What the pages show of memory, to compare: positions with their marks, readiness, and how the exchange is reached."""
        snapshot, health = self.exchange.snapshot, self.exchange.health
        positions = () if snapshot is None else (*snapshot.positions.values(), *snapshot.other_positions)
        held = tuple(
            (one.symbol, one.margin_mode, one.quantity, snapshot.mark_price(one.symbol))
            for one in positions
            if one.quantity and snapshot is not None
        )
        return held, self.readiness().is_ready, health.is_reachable, health.is_maintenance, health.stream_is_live

    async def positions(self) -> list[dict[str, Any]]:
        """The open positions as the bridge sees them now; before it has reached the exchange, as it last saw them."""
        snapshot = self.exchange.snapshot
        if snapshot is None:
            return await self.database.read(queries.list_positions)
        seen_at = to_jsonable(snapshot.taken_at)
        return [
            position_data(msgspec.structs.replace(one, mark_price=snapshot.mark_price(one.symbol) or one.mark_price))
            | {"seenAt": seen_at}
            for one in (*snapshot.positions.values(), *snapshot.other_positions)
            if one.quantity
        ]

    async def open_backup(self) -> tuple[Backup, IO[bytes]]:
        """Make a backup, and record it; an open file without a name. Raises ConfigError if it cannot be written."""
        from kekbridge.ops import backup  # late: most bridges' pages make none

        directory = backup.directory_of(self.settings.backup, self.data_dir)
        made, file = await asyncio.to_thread(
            backup.make_unnamed, self.data_dir, directory, now=self.clock(), key=self.sealer.backup_key
        )
        try:
            await self.operations.run(RecordBackup(made_at=made.made_at))
        except BaseException:
            file.close()
            raise
        return made, file

    async def report(self, *, since: datetime | None, webhook: str | None = None) -> Report:
        """The statistics of a period. Raises NotFound for an unknown webhook."""
        return build_report(
            await self.database.read(statistics.gather_facts, since=since, now=self.clock(), webhook=webhook)
        )


def _stored_state(connection: sqlite3.Connection, configured: Settings, *, now: datetime) -> dict[str, Any]:
    day = build_report(statistics.gather_facts(connection, since=now - timedelta(days=1), now=now))
    return {
        "trading": control.trading_control(connection, now=now),
        "openOrders": [_order(order) for order in order_rows.list_orders(connection, open_only=True, limit=_SHOWN)],
        "lastAlerts": [alert_data(alert) for alert in alerts.search(connection, limit=_SHOWN).alerts],
        "limits": limits.read(connection, configured, at=now)["scopes"],
        "lastDay": day,
        "conditions": conditions_in_force(connection),
        "jobs": job_runs.list_runs(connection),
        "records": {
            "incompleteOrders": incomplete_orders.count(connection),
            "completeUntil": {kind.value: until for kind, until in read_positions.read_all(connection).items()},
        },
    }


def conditions_in_force(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """What lasts and needs attention, missing stops included: event, severity, words of the notification, since when."""
    return [
        *(_condition(one) for one in conditions.list_active(connection).values()),
        *(_unprotected(one) for one in protection.open_protections(connection) if one.naked_since and one.detail),
    ]


def _condition(one: Condition) -> dict[str, Any]:
    """A condition in force, in the words of its notification."""
    severity, words = describe_event(one.kind, one.data)
    return {"event": one.kind, "severity": severity, "words": words, "since": one.since}


def _unprotected(one: Protection) -> dict[str, Any]:
    """A missing stop as a condition in force."""
    facts = {"symbol": one.order.intent.symbol, "detail": one.detail, "at": one.naked_since}
    severity, words = describe_event("protection_wanted", facts)
    return {"event": "protection_wanted", "severity": severity, "words": words, "since": one.naked_since}


def _account(snapshot: AccountSnapshot) -> dict[str, Any]:
    held: list[dict[str, Any]] = []
    for one in (*snapshot.positions.values(), *snapshot.other_positions):
        if one.quantity:
            mark = snapshot.mark_price(one.symbol) or one.mark_price
            held.append(
                {
                    "symbol": one.symbol,
                    "marginMode": one.margin_mode,
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


def alert_data(alert: StoredAlert) -> dict[str, Any]:
    """The fields of an alert that lists show."""
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
