"""Watches the way to the exchange: is it reached, does its stream live, do both clocks agree. Asks nothing itself."""

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

from kekbridge.exchange.base import Health
from kekbridge.formatting import duration
from kekbridge.model import ZERO, AccountSnapshot, Side, Webhook
from kekbridge.model.orders import OrderStatusReport
from kekbridge.ops.conditions import Conditions
from kekbridge.store import codec, webhooks
from kekbridge.store.database import Database

# Below a second an offset is the network's delay as much as the clock.
_LEAST_SKEW_S: Final = 1.0


class ConnectionWatch:
    """`look` every few seconds. What is away for less than `after_s` is not told: a stream is opened anew now and then."""

    def __init__(
        self,
        conditions: Conditions,
        health: Callable[[], Health],
        *,
        after_s: float,
        clock_tolerance_s: float,
        seconds: Callable[[], float],
    ) -> None:
        """`seconds`: a clock that nobody sets, for how long something lasts."""
        self._conditions = conditions
        self._health = health
        self._after_s = after_s
        self._skew_s = max(clock_tolerance_s, _LEAST_SKEW_S)
        self._seconds = seconds
        self._away_since: dict[str, float] = {}

    async def run(self) -> None:
        health = self._health()
        await self._watch("exchange", health.is_reachable, health.detail or "no answer")
        if health.is_reachable:  # else the stream is down, too, and once is enough
            await self._watch("stream", health.stream_is_live, "")
        else:
            self._away_since.pop("stream", None)
        if health.clock_offset_ms is not None:
            await self._compare(health.clock_offset_ms / 1000)

    async def _watch(self, name: str, is_there: bool, detail: str) -> None:
        if is_there:
            self._away_since.pop(name, None)
            await self._conditions.update(name, None, over=f"{name}_back")
            return
        lasting = self._seconds() - self._away_since.setdefault(name, self._seconds())
        if lasting >= self._after_s:
            data = {"lasting": duration(lasting), "detail": detail}
            await self._conditions.update(name, f"{name}_down", over=None, data=data)

    async def _compare(self, offset_s: float) -> None:
        """`offset_s` positive: the exchange's clock is ahead. Told over the tolerance, over again when well under it."""
        known = "clock" in await self._conditions.known()
        if abs(offset_s) > (self._skew_s / 2 if known else self._skew_s):
            direction = "behind" if offset_s > 0 else "ahead of"
            data = {"seconds": f"{abs(offset_s):.1f}", "direction": direction}
            await self._conditions.update("clock", "clock_skew", over=None, data=data)
        else:
            await self._conditions.update("clock", None, over="clock_right")


_MIB: Final = 1 << 20
# Told to be over only with some more room than the limit: files come and go.
_ENOUGH: Final = 1.1


class DiskWatch:
    """`look` every minute; `least_mb` 0 watches nothing."""

    def __init__(self, conditions: Conditions, places: Sequence[Path], *, least_mb: int) -> None:
        self._conditions = conditions
        self._places = tuple(dict.fromkeys(places))
        self._least = least_mb * _MIB

    async def run(self) -> None:
        known = await self._conditions.known()
        for place in self._places:
            if not place.is_dir():
                continue  # no backup was made yet: its directory is made with the first
            name = f"disk:{place}"
            free = (await asyncio.to_thread(shutil.disk_usage, place)).free
            is_low = free < (self._least * _ENOUGH if name in known else self._least)
            data = {"free": size(free), "place": str(place)}
            await self._conditions.update(name, "disk_low" if is_low else None, over="disk_enough", data=data)
        await self._conditions.keep_only("disk:", {f"disk:{place}" for place in self._places})


def size(free: int) -> str:
    """`812 MiB`, `3.4 GiB`."""
    return f"{free / (1 << 30):.1f} GiB" if free >= 1 << 30 else f"{free // _MIB} MiB"


ENDS_SOON: Final = timedelta(days=7)
# What was sent while no daemon ran is lost: a fresh one waits a little before it misses anything.
_GRACE: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A webhook, when its last alert came, and since when its settings are as they are."""

    webhook: Webhook
    last_at: datetime | None
    changed_at: datetime


class ExpectedAlerts:
    """`look` every few seconds."""

    def __init__(self, database: Database, conditions: Conditions, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._conditions = conditions
        self._clock = clock
        self._started_at = clock()

    async def run(self) -> None:
        now = self._clock()
        found = await self._database.read(read_expected)
        for one in found:
            await self._watch_beat(one, now)
            await self._watch_end(one.webhook, now)
        await self._conditions.keep_only("heartbeat:", {f"heartbeat:{one.webhook.id}" for one in found})
        await self._conditions.keep_only("alert_end:", {f"alert_end:{one.webhook.id}" for one in found})

    async def _watch_beat(self, one: Expected, now: datetime) -> None:
        name, webhook = f"heartbeat:{one.webhook.id}", one.webhook
        every_s = webhook.settings.expect_alert_every_s
        if every_s is None:
            await self._conditions.update(name, None, over=None)
            return
        every = timedelta(seconds=every_s)
        since = max(one.last_at or one.changed_at, one.changed_at)
        data = {"webhook": webhook.name, "every": duration(every)}
        if now - since <= every:
            over = "heartbeat_back" if since == one.last_at else None  # else its settings were changed: nothing came
            await self._conditions.update(name, None, over=over, data=data)
        elif now - self._started_at > min(every, _GRACE):
            await self._conditions.update(
                name, "heartbeat_missed", over=None, data=data | {"lasting": duration(now - since)}
            )

    async def _watch_end(self, webhook: Webhook, now: datetime) -> None:
        ends_at, kind = webhook.settings.alert_expires_at, None
        data: dict[str, object] = {"webhook": webhook.name}
        if ends_at is not None and ends_at - now <= ENDS_SOON:
            kind = "alert_ended" if ends_at <= now else "alert_expiring"
            data |= {"day": f"{ends_at:%Y-%m-%d}", "left": duration(max(ends_at - now, timedelta(0)))}
        await self._conditions.update(f"alert_end:{webhook.id}", kind, over=None, data=data)


def read_expected(connection: sqlite3.Connection) -> tuple[Expected, ...]:
    """Every enabled webhook that somebody waits for, with its last alert of any outcome: it did come."""
    found: list[Expected] = []
    for webhook in webhooks.list_all(connection):
        wanted = webhook.settings
        if not webhook.enabled or (wanted.expect_alert_every_s is None and wanted.alert_expires_at is None):
            continue
        last, changed = connection.execute(
            "SELECT (SELECT max(received_at) FROM alerts WHERE webhook_id = ?1), updated_at FROM webhooks WHERE id = ?1",
            (webhook.id,),
        ).fetchone()
        found.append(Expected(webhook=webhook, last_at=codec.optional_time(last), changed_at=codec.parse_time(changed)))
    return tuple(found)


Stops = Callable[[str, Side], Awaitable[Sequence[OrderStatusReport]]]
"""The live stops of a symbol for one closing side."""


class UnprotectedPositions:
    """`look` every half minute. Told when two looks in a row found it: a stop may be on its way in one."""

    def __init__(
        self,
        database: Database,
        conditions: Conditions,
        snapshot: Callable[[], AccountSnapshot | None],
        stops: Stops,
        *,
        always: bool,
    ) -> None:
        """`always`: the account demands a stop for every position ([risk] require_stop_loss)."""
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
        wanted = set(held) if self._always else set(held) & await self._database.read(must_have_stop)
        naked = {symbol: held[symbol] for symbol in sorted(wanted) if await self._is_unprotected(symbol, held[symbol])}
        for symbol, quantity in naked.items():
            if symbol in self._suspects:
                data = {"symbol": symbol, "position": quantity}
                await self._conditions.update(f"naked:{symbol}", "position_unprotected", over=None, data=data)
        self._suspects = naked
        for name in await self._conditions.known():
            symbol = name.removeprefix("naked:")
            if name.startswith("naked:") and symbol not in naked:
                await self._conditions.update(name, None, over="position_protected", data={"symbol": symbol})

    async def _is_unprotected(self, symbol: str, quantity: Decimal) -> bool:
        """Not wholly covered. A stop of quantity zero closes whatever the position is then (docs/internals/orderly.md section 7)."""
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
    """Markets where an entry of ours was given a stop that has not ended, or whose last entry came from a webhook that demands one."""
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
