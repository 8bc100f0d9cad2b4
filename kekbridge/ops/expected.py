"""Watches what should come from TradingView: alerts that were to come and did not, and alerts that are about to end there.

TradingView stops alerts silently: ordinary ones end after two months at most (tradingview.md section 1).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from kekbridge.formatting import duration
from kekbridge.model import Webhook
from kekbridge.ops.conditions import Conditions
from kekbridge.store import times, webhooks
from kekbridge.store.database import Database

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

    async def look(self) -> None:
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
            await self._conditions.note(name, None, over=None)
            return
        every = timedelta(seconds=every_s)
        since = max(one.last_at or one.changed_at, one.changed_at)
        data = {"webhook": webhook.name, "every": duration(every)}
        if now - since <= every:
            over = "heartbeat_back" if since == one.last_at else None  # else its settings were changed: nothing came
            await self._conditions.note(name, None, over=over, data=data)
        elif now - self._started_at > min(every, _GRACE):
            await self._conditions.note(
                name, "heartbeat_missed", over=None, data=data | {"lasting": duration(now - since)}
            )

    async def _watch_end(self, webhook: Webhook, now: datetime) -> None:
        ends_at, kind = webhook.settings.alert_expires_at, None
        data: dict[str, object] = {"webhook": webhook.name}
        if ends_at is not None and ends_at - now <= ENDS_SOON:
            kind = "alert_ended" if ends_at <= now else "alert_expiring"
            data |= {"day": f"{ends_at:%Y-%m-%d}", "left": duration(max(ends_at - now, timedelta(0)))}
        await self._conditions.note(f"alert_end:{webhook.id}", kind, over=None, data=data)


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
        found.append(Expected(webhook=webhook, last_at=times.optional_time(last), changed_at=times.from_text(changed)))
    return tuple(found)
