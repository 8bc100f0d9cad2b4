"""Periodic checks that publish conditions: exchange connection and clock, disk space, database files, missing fills and alerts, stops.

Each class is one job (jobs.py). Conditions keep what was already published, so that each change is sent once.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final

from kekbridge.connections.port_owner import port_owner
from kekbridge.exchange.base import Health
from kekbridge.formatting import duration
from kekbridge.log import get_logger
from kekbridge.model import ZERO, AccountSnapshot, Side, Webhook
from kekbridge.model.orders import OrderStatusReport
from kekbridge.ops.conditions import Conditions
from kekbridge.store import codec, incomplete_orders, read_positions, webhooks
from kekbridge.store.database import Database
from kekbridge.store.read_positions import RecordKind

log = get_logger("kekbridge.ops.watches")

#: How long before its end an alert at TradingView counts as expiring.
ENDS_SOON: Final = timedelta(days=7)
# Below one second, a clock offset cannot be told from network delay.
_MIN_SKEW_S: Final = 1.0
_MIB: Final = 1 << 20
# A disk is no longer low only above 1.1 times the limit, since files come and go.
_DISK_HYSTERESIS: Final = 1.1
# How far behind one kind of the account's records may be: each is read once a minute.
_LATE_RECORDS: Final = timedelta(minutes=10)
# A fill may be listed some seconds after its order, and a start reads what came meanwhile: nothing is published before.
_INCOMPLETE_FOR_S: Final = 60.0
# Alerts sent while no daemon ran are lost, so a new daemon waits before it reports a missing one.
_GRACE: Final = timedelta(minutes=5)

#: Returns the live stops of a symbol that close with the given side.
FetchStops = Callable[[str, Side], Awaitable[Sequence[OrderStatusReport]]]
#: Sends a notification past the journal: its event kind and figures.
NotifyNow = Callable[[str, Mapping[str, object]], Awaitable[None]]


class ConnectionWatch:
    """Job, every few seconds: is the exchange reachable, is its stream live, do the clocks agree. Sends no request itself."""

    def __init__(
        self,
        conditions: Conditions,
        health: Callable[[], Health],
        *,
        after_s: float,
        clock_tolerance_s: float,
        seconds: Callable[[], float],
    ) -> None:
        """`after_s`: shortest outage that is published, since streams reconnect now and then; `seconds`: a monotonic clock."""
        self._conditions = conditions
        self._health = health
        self._after_s = after_s
        self._skew_s = max(clock_tolerance_s, _MIN_SKEW_S)
        self._seconds = seconds
        self._down_since: dict[str, float] = {}

    async def run(self) -> None:
        """Raises StoreUnavailable."""
        health = self._health()
        await self._check("exchange", health.is_reachable, health.detail or "no answer")
        if health.is_reachable:  # else the stream is down too, and one message is enough
            await self._check("stream", health.stream_is_live, "")
        else:
            self._down_since.pop("stream", None)
        if health.clock_offset_ms is not None:
            await self._check_clock(health.clock_offset_ms / 1000)

    async def _check(self, name: str, is_up: bool, detail: str) -> None:
        if is_up:
            self._down_since.pop(name, None)
            await self._conditions.update(name, None, over=f"{name}_back")
            return
        down_s = self._seconds() - self._down_since.setdefault(name, self._seconds())
        if down_s >= self._after_s:
            data = {"lasting": duration(down_s), "detail": detail}
            await self._conditions.update(name, f"{name}_down", over=None, data=data)

    async def _check_clock(self, offset_s: float) -> None:
        """`offset_s` is positive if the exchange's clock is ahead. The condition begins above the tolerance and ends below half of it."""
        is_active = "clock" in await self._conditions.active()
        if abs(offset_s) > (self._skew_s / 2 if is_active else self._skew_s):
            direction = "behind" if offset_s > 0 else "ahead of"
            data = {"seconds": f"{abs(offset_s):.1f}", "direction": direction}
            await self._conditions.update("clock", "clock_skew", over=None, data=data)
        else:
            await self._conditions.update("clock", None, over="clock_right")


class AdminPages:
    """Job, every half minute until the web pages listen: their port may be in use when the bridge starts."""

    def __init__(
        self,
        conditions: Conditions,
        listen: Callable[[], str | None],
        *,
        port: int,
        save_address: Callable[[str | None], Awaitable[None]],
    ) -> None:
        """`listen` returns the URL of the pages, or None while `port` is in use; `save_address`: store it for commands."""
        self._conditions = conditions
        self._listen = listen
        self._port = port
        self._save_address = save_address
        self._url: str | None = None
        self._published: str | None = ""  # nothing yet

    async def run(self) -> None:
        """Listen if it is still to be done. Raises ConfigError if the host cannot be used, and StoreUnavailable."""
        if self._url is None:
            self._url = self._listen()
        if self._url == self._published:
            return
        await self._save_address(self._url)
        if self._url is None:
            data = {"port": str(self._port), "owner": await asyncio.to_thread(port_owner, self._port)}
            await self._conditions.update("admin_port", "admin_port_taken", over=None, data=data)
        else:
            await self._conditions.update("admin_port", None, over="admin_port_free", data={"url": self._url})
        self._published = self._url


class DiskWatch:
    """Job, every minute: is there enough free disk space. `least_mb` in MiB; 0 disables the check."""

    def __init__(self, conditions: Conditions, places: Sequence[Path], *, least_mb: int) -> None:
        self._conditions = conditions
        self._places = tuple(dict.fromkeys(places))
        self._least = least_mb * _MIB

    async def run(self) -> None:
        """Raises StoreUnavailable."""
        active = await self._conditions.active()
        for place in self._places:
            if not place.is_dir():
                continue  # the backup directory is created with the first backup
            name = f"disk:{place}"
            free = (await asyncio.to_thread(shutil.disk_usage, place)).free
            is_low = free < (self._least * _DISK_HYSTERESIS if name in active else self._least)
            data = {"free": _size(free), "place": str(place)}
            await self._conditions.update(name, "disk_low" if is_low else None, over="disk_enough", data=data)
        await self._conditions.keep_only("disk:", {f"disk:{place}" for place in self._places})


def orders_lacking_fills(connection: sqlite3.Connection) -> str | None:
    """How many orders lack a fill, as text; None if none does."""
    missing = incomplete_orders.count(connection)
    if not missing:
        return None
    return "1 order lacks a fill" if missing == 1 else f"{missing} orders lack a fill"


def late_records(connection: sqlite3.Connection, now: datetime, *, reconcile_every_s: float) -> list[str]:
    """What of the account's records was not read completely for long before `now`, by the exchange's clock, as texts."""
    found = read_positions.read_all(connection)
    allowed = max(_LATE_RECORDS, timedelta(seconds=3 * reconcile_every_s))
    late: dict[str, list[str]] = {}
    for kind in RecordKind:
        if kind not in found or now - found[kind] > allowed:
            read = (
                f"read completely up to {found[kind]:%Y-%m-%d %H:%M} UTC only"
                if kind in found
                else "not read completely yet"
            )
            late.setdefault(read, []).append(kind.value)
    return [f"{', '.join(kinds)} of the account: {read}" for read, kinds in late.items()]


class RecordsWatch:
    """Job, every half minute: are fills and the account's records complete. P&L and limits follow from them."""

    def __init__(
        self,
        database: Database,
        conditions: Conditions,
        now: Callable[[], datetime],
        *,
        reconcile_every_s: float,
        seconds: Callable[[], float],
    ) -> None:
        """`now`: the exchange's time; `seconds`: a monotonic clock."""
        self._database = database
        self._conditions = conditions
        self._now = now
        self._reconcile_every_s = reconcile_every_s
        self._seconds = seconds
        self._incomplete_since: float | None = None

    async def run(self) -> None:
        """Raises StoreUnavailable."""
        missing = await self._database.read(orders_lacking_fills)
        late = await self._database.read(late_records, self._now(), reconcile_every_s=self._reconcile_every_s)
        problems = [*([] if missing is None else [missing]), *late]
        if not problems:
            self._incomplete_since = None
            await self._conditions.update("records", None, over="records_complete")
            return
        self._incomplete_since = self._seconds() if self._incomplete_since is None else self._incomplete_since
        if self._seconds() - self._incomplete_since >= _INCOMPLETE_FOR_S:
            await self._conditions.update(
                "records", "records_incomplete", over="records_complete", data={"detail": "; ".join(problems)}
            )


class DatabaseWatch:
    """Job, every few seconds: are the database's files still those that the bridge has open.

    While they are not, no write succeeds: alerts are answered 503 and nothing is traded. The notification cannot go through the journal.
    """

    def __init__(self, problem: Callable[[], str | None], notify: NotifyNow) -> None:
        self._problem = problem
        self._notify = notify
        self._known: str | None = None

    async def run(self) -> None:
        problem, known = self._problem(), self._known
        self._known = problem
        if problem is not None and known is None:
            log.error("database_lost", detail=problem)
            await self._notify("database_lost", {"detail": problem})
        elif problem is None and known is not None:
            log.warning("database_found", detail=known)
            await self._notify("database_found", {})


def _size(free: int) -> str:
    """`812 MiB`, `3.4 GiB`."""
    return f"{free / (1 << 30):.1f} GiB" if free >= 1 << 30 else f"{free // _MIB} MiB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A webhook whose alerts are expected."""

    #: The webhook with its settings.
    webhook: Webhook
    #: When its last alert was received, of any outcome; None before the first.
    last_at: datetime | None
    #: When its settings were last changed.
    changed_at: datetime


class ExpectedAlerts:
    """Job, every half minute: did each webhook get the alerts it expects, and does its TradingView alert end soon."""

    def __init__(self, database: Database, conditions: Conditions, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._conditions = conditions
        self._clock = clock
        self._started_at = clock()

    async def run(self) -> None:
        """Raises StoreUnavailable."""
        now = self._clock()
        found = await self._database.read(read_expected)
        for one in found:
            await self._check_heartbeat(one, now)
            await self._check_end(one.webhook, now)
        await self._conditions.keep_only("heartbeat:", {f"heartbeat:{one.webhook.id}" for one in found})
        await self._conditions.keep_only("alert_end:", {f"alert_end:{one.webhook.id}" for one in found})

    async def _check_heartbeat(self, one: Expected, now: datetime) -> None:
        name, webhook = f"heartbeat:{one.webhook.id}", one.webhook
        every_s = webhook.settings.expect_alert_every_s
        if every_s is None:
            await self._conditions.update(name, None, over=None)
            return
        every = timedelta(seconds=every_s)
        since = max(one.last_at or one.changed_at, one.changed_at)
        data = {"webhook": webhook.name, "every": duration(every)}
        if now - since <= every:
            over = (
                "heartbeat_back" if since == one.last_at else None
            )  # else the settings were changed and no alert was received
            await self._conditions.update(name, None, over=over, data=data)
        elif now - self._started_at > min(every, _GRACE):
            await self._conditions.update(
                name, "heartbeat_missed", over=None, data=data | {"lasting": duration(now - since)}
            )

    async def _check_end(self, webhook: Webhook, now: datetime) -> None:
        ends_at, kind = webhook.settings.alert_expires_at, None
        data: dict[str, object] = {"webhook": webhook.name}
        if ends_at is not None and ends_at - now <= ENDS_SOON:
            kind = "alert_ended" if ends_at <= now else "alert_expiring"
            data |= {"day": f"{ends_at:%Y-%m-%d}", "left": duration(max(ends_at - now, timedelta(0)))}
        await self._conditions.update(f"alert_end:{webhook.id}", kind, over=None, data=data)


def read_expected(connection: sqlite3.Connection) -> tuple[Expected, ...]:
    """Every enabled webhook with an expected interval or an end date, and its last alert of any outcome."""
    found: list[Expected] = []
    for webhook in webhooks.list_all(connection):
        expected = webhook.settings
        if not webhook.enabled or (expected.expect_alert_every_s is None and expected.alert_expires_at is None):
            continue
        last, changed = connection.execute(
            "SELECT (SELECT max(received_at) FROM alerts WHERE webhook_id = ?1), updated_at FROM webhooks WHERE id = ?1",
            (webhook.id,),
        ).fetchone()
        found.append(Expected(webhook=webhook, last_at=codec.optional_time(last), changed_at=codec.parse_time(changed)))
    return tuple(found)


class UnprotectedPositions:
    """Job, every half minute: has every position a stop that must have one. Published if two checks in a row find none."""

    def __init__(
        self,
        database: Database,
        conditions: Conditions,
        snapshot: Callable[[], AccountSnapshot | None],
        stops: FetchStops,
        *,
        always: bool,
    ) -> None:
        """`always`: every position must have a stop ([risk] require_stop_loss)."""
        self._database = database
        self._conditions = conditions
        self._snapshot = snapshot
        self._stops = stops
        self._always = always
        self._suspects: Mapping[str, Decimal] = {}

    async def run(self) -> None:
        """Raises ExchangeUnavailable, StoreUnavailable."""
        snapshot = self._snapshot()
        if snapshot is None:
            return
        held = _positions(snapshot)
        required = set(held) if self._always else set(held) & await self._database.read(must_have_stop)
        unprotected = {
            symbol: held[symbol] for symbol in sorted(required) if await self._is_unprotected(symbol, held[symbol])
        }
        for symbol, quantity in unprotected.items():
            if symbol in self._suspects:
                data = {"symbol": symbol, "position": quantity}
                await self._conditions.update(f"naked:{symbol}", "position_unprotected", over=None, data=data)
        self._suspects = unprotected
        for name in await self._conditions.active():
            symbol = name.removeprefix("naked:")
            if name.startswith("naked:") and symbol not in unprotected:
                await self._conditions.update(name, None, over="position_protected", data={"symbol": symbol})

    async def _is_unprotected(self, symbol: str, quantity: Decimal) -> bool:
        """True if stops cover less than the position. A stop of quantity zero closes all of it (docs/internals/orderly.md section 7)."""
        stops = await self._stops(symbol, Side.SELL if quantity > 0 else Side.BUY)
        if any(stop.quantity == ZERO for stop in stops):
            return False
        return sum((stop.quantity - stop.executed_quantity for stop in stops), ZERO) < abs(quantity)


def _positions(snapshot: AccountSnapshot) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for position in (*snapshot.positions.values(), *snapshot.other_positions):
        if position.quantity:
            found[position.symbol] = found.get(position.symbol, ZERO) + position.quantity
    return found


def must_have_stop(connection: sqlite3.Connection) -> set[str]:
    """Symbols with an unfinished stop of one of our entries, or whose last entry came from a webhook that requires a stop."""
    found = {
        symbol
        for (symbol,) in connection.execute(
            "SELECT DISTINCT o.symbol FROM protections p JOIN orders o USING (client_order_id) WHERE p.state <> 'over'"
        )
    }
    demanding = {one.id for one in webhooks.list_all(connection) if one.settings.limits.require_stop_loss}
    if demanding:
        rows = connection.execute(
            "SELECT symbol, (SELECT webhook_id FROM orders WHERE purpose = 'entry' AND symbol = p.symbol"
            " AND executed_quantity <> '0' ORDER BY sequence DESC LIMIT 1) FROM positions p"
        )
        found |= {symbol for symbol, webhook_id in rows if webhook_id in demanding}
    return found
