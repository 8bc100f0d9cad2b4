"""Condition checks and expiry: each change is published once when it begins and once when it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kekbridge.errors import ConfigError, ExchangeUnavailable
from kekbridge.exchange.base import Health, KeyInfo
from kekbridge.execution import transitions
from kekbridge.model import Limits, OrderStatus, WebhookSettings
from kekbridge.model.admission import Decision
from kekbridge.model.notifications import describe_event
from kekbridge.ops.conditions import Conditions
from kekbridge.ops.expiry import ExpiryWatch, record_renewal, served_until
from kekbridge.ops.watches import ConnectionWatch, DiskWatch, ExpectedAlerts, RecordsWatch, late_records
from kekbridge.store import journal, read_positions, webhooks
from kekbridge.store.database import Database
from kekbridge.store.journal import Event
from kekbridge.store.read_positions import RecordKind
from tests.bridge import BTC, ETH, Bridge, quick_bridge, running_paper
from tests.ops.conftest import Clock
from tests.paths import DATA
from tests.store.factories import NOW, new_alert, status_report
from tests.stored import accept, book_on, record_fill, store_alert, store_order

TLS = DATA / "tls"
#: Expiry of first.pem.
EXPIRES_AT = datetime(2126, 10, 29, 16, 48, 42, tzinfo=UTC)
HEALTHY = Health(is_reachable=True, is_maintenance=False, stream_is_live=True, clock_offset_ms=3, last_heard_at=None)
HOUR = 3600


# ---------------------------------------------------------------------------------------------------------- connection


class ConnectionBench:
    """A connection check with a health and a clock that tests set."""

    def __init__(self, conditions: Conditions) -> None:
        self.health = HEALTHY
        self.seconds = 0.0
        self.watch = ConnectionWatch(
            conditions, lambda: self.health, after_s=60, clock_tolerance_s=2, seconds=lambda: self.seconds
        )

    async def run_for(self, seconds: float, **health: Any) -> None:
        """Keep this health for some seconds, checking every ten."""
        self.health = replace(HEALTHY, **health)
        for _ in range(int(seconds // 10)):
            self.seconds += 10
            await self.watch.run()


@pytest.fixture
def connection(conditions: Conditions) -> ConnectionBench:
    return ConnectionBench(conditions)


async def test_short_outages_are_not_published(
    connection: ConnectionBench, published: Callable[[], list[Event]]
) -> None:
    """Streams reconnect now and then: only an uninterrupted outage of a minute is published."""
    for _ in range(3):
        await connection.run_for(50, stream_is_live=False)
        await connection.run_for(10)
    assert published() == []


async def test_a_stream_outage_is_published_once_and_when_it_ends(
    connection: ConnectionBench, published: Callable[[], list[Event]]
) -> None:
    """An hour's outage is one message; each new outage is another."""
    for _ in range(2):
        await connection.run_for(3600, stream_is_live=False)
        await connection.run_for(20)
    assert [event.kind for event in published()] == ["stream_down", "stream_back"] * 2
    assert published()[0].data["lasting"] == "1 min"


async def test_an_exchange_outage_includes_its_stream(
    connection: ConnectionBench, published: Callable[[], list[Event]]
) -> None:
    """One cause, one message; the stream's outage counts from when the exchange is back."""
    await connection.run_for(600, is_reachable=False, stream_is_live=False, detail="maintenance until 12:00")
    await connection.run_for(30, stream_is_live=False)
    await connection.run_for(30)
    assert [event.kind for event in published()] == ["exchange_down", "exchange_back"]
    assert published()[0].data["detail"] == "maintenance until 12:00"


async def test_clock_skew_is_published_with_its_direction(
    connection: ConnectionBench, published: Callable[[], list[Event]]
) -> None:
    """Published above the tolerance, not again around it, and ended below half of it."""
    for offset in (2500, 1900, 2100, 1500, 900):
        await connection.run_for(10, clock_offset_ms=offset)
    await connection.run_for(10, clock_offset_ms=-5000)
    await connection.run_for(10, clock_offset_ms=None)
    assert [event.kind for event in published()] == ["clock_skew", "clock_right", "clock_skew"]
    assert [dict(event.data) for event in published() if event.kind == "clock_skew"] == [
        {"seconds": "2.5", "direction": "behind"},
        {"seconds": "5.0", "direction": "ahead of"},
    ]


async def test_a_restart_publishes_nothing_again(
    connection: ConnectionBench, database: Database, clock: Clock, published: Callable[[], list[Event]]
) -> None:
    """Conditions are stored: a new daemon does not publish an ongoing one, but publishes its end."""
    await connection.run_for(120, stream_is_live=False)
    restarted = ConnectionBench(Conditions(database, clock))
    await restarted.run_for(120, stream_is_live=False)
    await restarted.run_for(10)
    assert [event.kind for event in published()] == ["stream_down", "stream_back"]


# ------------------------------------------------------------------------------------------------------------- records


async def test_incomplete_records_are_published(
    database: Database, conditions: Conditions, published: Callable[[], list[Event]]
) -> None:
    """A missing fill, or a kind that is ten minutes behind, for a minute: one event, and one when all is complete again."""
    now, seconds = NOW, 0.0
    watch = RecordsWatch(database, conditions, lambda: now, reconcile_every_s=60, seconds=lambda: seconds)

    def news() -> list[Event]:
        return [event for event in published() if event.kind.startswith("records_")]

    def read_until(*kinds: RecordKind) -> None:
        with database.transaction() as connection:
            for kind in kinds:
                read_positions.move(connection, kind, now)

    read_until(*RecordKind)
    with database.transaction() as connection:
        book = book_on(connection)
        order = accept(book, store_order(book, status=OrderStatus.SUBMITTING), order_id="9001")
        report = status_report(order.client_order_id, OrderStatus.FILLED, Decimal("0.01"))
        order = book.change(order, transitions.reported(order, report, now=NOW), now=NOW)
    await watch.run()
    seconds = 59.0
    await watch.run()
    assert news() == []
    seconds = 61.0
    for _ in range(2):
        await watch.run()
    assert [(each.kind, each.data["detail"]) for each in news()] == [("records_incomplete", "1 order lacks a fill")]
    with database.transaction() as connection:
        record_fill(book_on(connection), order)
    await watch.run()
    assert [each.kind for each in news()] == ["records_incomplete", "records_complete"]
    now = NOW + timedelta(minutes=11)
    read_until(*set(RecordKind) - {RecordKind.FUNDING})
    await watch.run()
    assert len(news()) == 2
    seconds += 60
    await watch.run()
    late = "funding of the account: read completely up to 2026-01-15 10:30 UTC only"
    assert (news()[-1].kind, news()[-1].data["detail"]) == ("records_incomplete", late)


def test_records_that_are_late_together_are_one_text(database: Database) -> None:
    """An exchange that does not answer stops all kinds at once: the time is said once, and a notification shows all of it."""

    def late() -> list[str]:
        return database.read_now(late_records, NOW + timedelta(hours=1), reconcile_every_s=60)

    with database.transaction() as connection:
        for kind in set(RecordKind) - {RecordKind.TRANSFERS}:
            read_positions.move(connection, kind, NOW)
    assert late() == [
        "trades, liquidations, positions, funding of the account: read completely up to 2026-01-15 10:30 UTC only",
        "transfers of the account: not read completely yet",
    ]
    shown = describe_event("records_incomplete", {"detail": "; ".join(["1 order lacks a fill", *late()])})[1]
    assert shown.endswith("not read completely yet")


# ---------------------------------------------------------------------------------------------------------------- disk


async def test_low_disk_space_is_published_by_directory(
    conditions: Conditions, tmp_path: Path, published: Callable[[], list[Event]]
) -> None:
    """Once while it is low, once when there is room again; directories that do not exist yet are ignored."""
    places = (tmp_path, tmp_path / "not made yet")
    always_low = DiskWatch(conditions, places, least_mb=1 << 40)
    for _ in range(3):
        await always_low.run()
    await DiskWatch(conditions, places, least_mb=1).run()
    await DiskWatch(conditions, places, least_mb=0).run()
    assert [event.kind for event in published()] == ["disk_low", "disk_enough"]
    assert published()[0].data["place"] == str(tmp_path)
    assert published()[0].data["free"].endswith(("GiB", "MiB"))


# ----------------------------------------------------------------------------------------------------- expected alerts


class WebhookBench:
    """One webhook, checked every minute."""

    def __init__(self, database: Database, conditions: Conditions, clock: Clock) -> None:
        self.database, self.clock = database, clock
        self.watch = ExpectedAlerts(database, conditions, clock)
        with database.transaction() as connection:
            webhooks.create(connection, webhook_id="hook", name="trend", settings=WebhookSettings(), now=clock())

    def change(self, **settings: Any) -> None:
        with self.database.transaction() as connection:
            wanted = dataclasses.replace(WebhookSettings(), **settings)
            webhooks.change_settings(connection, "hook", wanted, now=self.clock())

    def alert(self, *, status: Any = "ignored") -> None:
        made = new_alert(received_at=self.clock())
        with self.database.transaction() as connection:
            store_alert(book_on(connection), made, lambda usage: Decision(status=status, code="ping"))

    async def run_for(self, minutes: int) -> None:
        for _ in range(minutes):
            self.clock.move(minutes=1)
            await self.watch.run()


@pytest.fixture
def webhook(database: Database, conditions: Conditions, clock: Clock) -> WebhookBench:
    return WebhookBench(database, conditions, clock)


async def test_a_missed_alert_is_published_once_and_its_end_too(
    webhook: WebhookBench, published: Callable[[], list[Event]]
) -> None:
    """The interval counts from the last alert of any outcome; a day without alerts is one message."""
    webhook.change(expect_alert_every_s=HOUR)
    await webhook.run_for(59)
    webhook.alert(status="refused")
    await webhook.run_for(60)
    assert published()[1:] == []
    await webhook.run_for(24 * 60)
    webhook.alert()
    await webhook.run_for(10)
    missed, back = (event for event in published() if event.kind.startswith("heartbeat"))
    assert missed.data == {"webhook": "trend", "every": "1 h", "lasting": "1 h 1 min"}
    assert (missed.kind, back.kind) == ("heartbeat_missed", "heartbeat_back")


async def test_webhooks_without_the_setting_are_not_checked(
    webhook: WebhookBench, published: Callable[[], list[Event]]
) -> None:
    """Nothing is published without the setting or for a disabled webhook; disabling it ends the condition silently."""
    await webhook.run_for(120)
    webhook.change(expect_alert_every_s=HOUR)
    await webhook.run_for(90)
    with webhook.database.transaction() as connection:
        webhooks.disable(connection, "hook", now=webhook.clock())
    await webhook.run_for(120)
    with webhook.database.transaction() as connection:
        webhooks.enable(connection, "hook", now=webhook.clock())
    await webhook.run_for(59)
    assert [event.kind for event in published()] == ["heartbeat_missed"]
    await webhook.run_for(2)
    assert [event.kind for event in published()] == ["heartbeat_missed"] * 2


async def test_a_new_daemon_waits_before_it_reports_missing_alerts(
    webhook: WebhookBench, conditions: Conditions, published: Callable[[], list[Event]]
) -> None:
    """Alerts sent while it was down are lost: it waits five minutes first."""
    webhook.change(expect_alert_every_s=HOUR)
    webhook.clock.move(hours=5)
    webhook.watch = ExpectedAlerts(webhook.database, conditions, webhook.clock)
    await webhook.run_for(5)
    assert published() == []
    await webhook.run_for(1)
    assert [event.kind for event in published()] == ["heartbeat_missed"]


async def test_the_end_of_an_alert_is_published_a_week_before_and_on_its_day(
    webhook: WebhookBench, published: Callable[[], list[Event]]
) -> None:
    """Two messages; a new date ends the condition and is checked in turn."""
    webhook.change(alert_expires_at=webhook.clock() + timedelta(days=8))
    for _ in range(10):
        webhook.clock.move(days=1)
        await webhook.watch.run()
    ends = webhook.clock() + timedelta(days=30)
    webhook.change(alert_expires_at=ends)
    await webhook.watch.run()
    assert [event.kind for event in published()] == ["alert_expiring", "alert_ended"]
    assert published()[0].data == {"webhook": "trend", "day": "2026-01-23", "left": "7 d"}
    webhook.clock.move(days=29)
    await webhook.watch.run()
    assert published()[-1].data["left"] == "1 d"


# ----------------------------------------------------------------------------------------------- unprotected positions


async def check_protection(bridge: Bridge, times: int = 2) -> list[tuple[str, str]]:
    """Run the check; return everything published so far."""
    await bridge.daemon.exchange.refresh()
    for _ in range(times):
        await bridge.daemon.operator_services.jobs.run_now("protection")
    with bridge.daemon.database.snapshot() as connection:
        found = journal.latest(connection, kinds=["position_unprotected", "position_protected"])
    return [(event.kind, str(event.data.get("position", ""))) for event in found]


@pytest.fixture
async def paper(tmp_path: Path) -> AsyncIterator[str]:
    async with running_paper(tmp_path / "paper") as url:
        yield url


async def test_positions_without_stops_are_allowed_by_default(tmp_path: Path, paper: str) -> None:
    """A trader may trade without stops: nothing is published, also about positions opened elsewhere."""
    async with quick_bridge(tmp_path, paper) as bridge:
        await bridge.send()
        await bridge.control("positions", {ETH: "-0.3"})
        assert await check_protection(bridge) == []


async def test_require_stop_loss_covers_every_position(tmp_path: Path, paper: str) -> None:
    """Published with its size at the second check only; ended when the position is closed."""
    async with quick_bridge(tmp_path, paper, risk__require_stop_loss=True) as bridge:
        _, answer = await bridge.send(stopLoss="2%")
        await bridge.until_stored(answer, "filled")
        await bridge.control("positions", {ETH: "-0.3"})
        assert await check_protection(bridge, 1) == []
        assert await check_protection(bridge, 3) == [("position_unprotected", "-0.3")]
        await bridge.control("positions", {ETH: "0"})
        assert await check_protection(bridge) == [("position_unprotected", "-0.3"), ("position_protected", "")]


async def test_a_stop_for_a_part_of_the_position_is_not_enough(tmp_path: Path, paper: str) -> None:
    """A position opened with a stop must stay covered when it grows by a trade made elsewhere."""
    async with quick_bridge(tmp_path, paper) as bridge:
        _, answer = await bridge.send(stopLoss="2%")
        await bridge.until_stored(answer, "filled")
        assert await check_protection(bridge) == []
        await bridge.control("positions", {BTC: "0.05"})
        assert await check_protection(bridge) == [("position_unprotected", "0.05")]


async def test_a_webhook_that_requires_stops_covers_its_positions(tmp_path: Path, paper: str) -> None:
    """The webhook of the last entry decides whether the position must have a stop."""
    async with quick_bridge(tmp_path, paper) as bridge:
        await bridge.send()
        assert await check_protection(bridge) == []
        with bridge.daemon.database.transaction() as connection:
            (hook,) = webhooks.list_all(connection)
            wanted = dataclasses.replace(hook.settings, limits=Limits(require_stop_loss=True))
            webhooks.change_settings(connection, hook.id, wanted, now=bridge.clock())
        await bridge.daemon.operator_services.jobs.run_now("positions")
        assert await check_protection(bridge) == [("position_unprotected", "0.01")]


# -------------------------------------------------------------------------------------------------------------- expiry


class Key:
    """Our key as the exchange reports it."""

    def __init__(self, expires_at: datetime | None) -> None:
        self.expires_at = expires_at
        self.is_unreachable = False

    async def __call__(self) -> KeyInfo | None:
        if self.is_unreachable:
            raise ExchangeUnavailable("exchange_unreachable", "no answer")
        return KeyInfo("ed25519:x", frozenset({"read", "trading"}), self.expires_at, "")


def watch(conditions: Conditions, clock: Clock, key: Key, **options: Any) -> ExpiryWatch:
    wanted: dict[str, Any] = {"certificate_file": "", "public_url": "", "soon": timedelta(days=14)}
    return ExpiryWatch(conditions, key, clock=clock, **wanted | options)


async def test_key_expiry_is_published_before_and_after(
    conditions: Conditions, clock: Clock, published: Callable[[], list[Event]]
) -> None:
    """Two weeks before, at expiry, and when it is renewed; nothing while the exchange does not answer."""
    key = Key(clock() + timedelta(days=15))
    check = watch(conditions, clock, key).run
    for _ in range(20):
        await check()
        clock.move(days=1)
    key.is_unreachable = True
    await check()
    key.is_unreachable, key.expires_at = False, clock() + timedelta(days=365)
    await check()
    assert [event.kind for event in published()] == ["key_expiring", "key_expired", "key_renewed"]
    assert published()[0].data == {"day": "2026-01-30", "left": "14 d"}


async def test_expiry_of_the_certificate_file_is_published(
    conditions: Conditions, clock: Clock, published: Callable[[], list[Event]]
) -> None:
    """A file that cannot be read fails the job with the setting to correct."""
    check = watch(conditions, clock, Key(None), certificate_file=str(TLS / "first.pem")).run
    for moment in (EXPIRES_AT - timedelta(days=15), EXPIRES_AT - timedelta(days=13), EXPIRES_AT + timedelta(days=1)):
        clock.now = moment
        await check()
        await check()
    assert [event.kind for event in published()] == ["certificate_expiring", "certificate_expired"]
    assert published()[0].data["name"] == "first.pem"
    with pytest.raises(ConfigError, match=r"tls\.cert"):
        await watch(conditions, clock, Key(None), certificate_file=str(TLS / "first.key")).run()


@pytest.fixture
async def served() -> AsyncIterator[int]:
    """Port of a TLS server with a self-signed certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / "first.pem", TLS / "first.key")

    async def end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(end, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


async def test_expiry_of_the_public_certificate_is_published(
    conditions: Conditions, clock: Clock, served: int, published: Callable[[], list[Event]]
) -> None:
    """A proxy's certificate is read from a connection; without one nothing is published."""
    assert await asyncio.to_thread(served_until, "127.0.0.1", served) == EXPIRES_AT
    clock.now = EXPIRES_AT - timedelta(days=1)
    await watch(conditions, clock, Key(None), public_url=f"https://127.0.0.1:{served}").run()
    await watch(conditions, clock, Key(None), public_url="https://127.0.0.1:1").run()
    assert [(event.kind, event.data["name"]) for event in published()] == [("certificate_expiring", "127.0.0.1")]


async def test_failed_renewals_are_published_once(
    database: Database, clock: Clock, published: Callable[[], list[Event]]
) -> None:
    """The first of consecutive failures and every success are published."""
    for kind in (
        "certificate_not_renewed",
        "certificate_not_renewed",
        "certificate_renewed",
        "certificate_not_renewed",
    ):
        await database.write(record_renewal, kind, {"domain": "bridge.example.com"}, now=clock())
    kinds = [event.kind for event in published()]
    assert kinds == ["certificate_not_renewed", "certificate_renewed", "certificate_not_renewed"]
