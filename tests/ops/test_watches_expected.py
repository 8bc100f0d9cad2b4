"""Alerts that should come: told when none came for too long, and before TradingView ends them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from kekbridge.model import WebhookSettings
from kekbridge.model.admission import Decision
from kekbridge.ops.conditions import Conditions
from kekbridge.ops.watches import ExpectedAlerts
from kekbridge.store import webhooks
from kekbridge.store.admissions import admit
from kekbridge.store.database import Database
from kekbridge.store.events import Event
from tests.ops.conftest import Clock
from tests.store.factories import NO_RATES, new_alert

HOUR = 3600


class Bench:
    """One webhook, looked at every minute."""

    def __init__(self, database: Database, conditions: Conditions, clock: Clock) -> None:
        self.database, self.clock = database, clock
        self.watch = ExpectedAlerts(database, conditions, clock)
        with database.transaction() as connection:
            webhooks.create(connection, webhook_id="hook", name="trend", settings=WebhookSettings(), now=clock())

    def change(self, **settings: Any) -> None:
        with self.database.transaction() as connection:
            wanted = replace(WebhookSettings(), **settings)
            webhooks.change_settings(connection, "hook", wanted, now=self.clock())

    def alert(self, *, status: Any = "ignored") -> None:
        made = new_alert(received_at=self.clock())
        with self.database.transaction() as connection:
            admit(
                connection,
                made,
                lambda usage: Decision(status=status, code="ping"),
                rates=NO_RATES,
                now=self.clock(),
                expires_at=self.clock(),
            )

    async def go_on(self, minutes: int) -> None:
        for _ in range(minutes):
            self.clock.move(minutes=1)
            await self.watch.run()


@pytest.fixture
def bench(database: Database, conditions: Conditions, clock: Clock) -> Bench:
    return Bench(database, conditions, clock)


async def test_a_missed_alert_is_told_once_and_the_next_one_too(bench: Bench, told: Callable[[], list[Event]]) -> None:
    """Counted from the last alert of any outcome; a day of silence is one message."""
    bench.change(expect_alert_every_s=HOUR)
    await bench.go_on(59)
    bench.alert(status="refused")
    await bench.go_on(60)
    assert told()[1:] == []
    await bench.go_on(24 * 60)
    bench.alert()
    await bench.go_on(10)
    missed, back = (event for event in told() if event.kind.startswith("heartbeat"))
    assert missed.data == {"webhook": "trend", "every": "1 h", "lasting": "1 h 1 min"}
    assert (missed.kind, back.kind) == ("heartbeat_missed", "heartbeat_back")


async def test_nobody_waits_for_a_webhook_that_does_not_say_so(bench: Bench, told: Callable[[], list[Event]]) -> None:
    """Without the setting, or with the webhook off, silence is silence; switching it off while it is missed tells no return."""
    await bench.go_on(120)
    bench.change(expect_alert_every_s=HOUR)
    await bench.go_on(90)
    with bench.database.transaction() as connection:
        webhooks.disable(connection, "hook", now=bench.clock())
    await bench.go_on(120)
    with bench.database.transaction() as connection:
        webhooks.enable(connection, "hook", now=bench.clock())
    await bench.go_on(59)
    assert [event.kind for event in told()] == ["heartbeat_missed"]
    await bench.go_on(2)
    assert [event.kind for event in told()] == ["heartbeat_missed"] * 2


async def test_a_fresh_daemon_waits_before_it_misses_anything(
    bench: Bench, conditions: Conditions, told: Callable[[], list[Event]]
) -> None:
    """What came while it was down is lost: five minutes are given before the old silence counts."""
    bench.change(expect_alert_every_s=HOUR)
    bench.clock.move(hours=5)
    bench.watch = ExpectedAlerts(bench.database, conditions, bench.clock)
    await bench.go_on(5)
    assert told() == []
    await bench.go_on(1)
    assert [event.kind for event in told()] == ["heartbeat_missed"]


async def test_the_end_of_an_alert_is_told_a_week_before_and_on_its_day(
    bench: Bench, told: Callable[[], list[Event]]
) -> None:
    """Two messages; a new date silences both and is watched in its turn."""
    bench.change(alert_expires_at=bench.clock() + timedelta(days=8))
    for _ in range(10):
        bench.clock.move(days=1)
        await bench.watch.run()
    ends = bench.clock() + timedelta(days=30)
    bench.change(alert_expires_at=ends)
    await bench.watch.run()
    assert [event.kind for event in told()] == ["alert_expiring", "alert_ended"]
    assert told()[0].data == {"webhook": "trend", "day": "2026-01-23", "left": "7 d"}
    bench.clock.move(days=29)
    await bench.watch.run()
    assert told()[-1].data["left"] == "1 d"
