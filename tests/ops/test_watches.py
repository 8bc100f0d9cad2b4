"""Disk and expiry: told at their limits, told once, and told to be over."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kekbridge.errors import ConfigError, ExchangeUnavailable
from kekbridge.exchange.base import KeyInfo
from kekbridge.ops.conditions import Conditions
from kekbridge.ops.expiry import ExpiryWatch, record_renewal, served_until
from kekbridge.ops.watches import DiskWatch
from kekbridge.store.database import Database
from kekbridge.store.events import Event
from tests.ops.conftest import Clock
from tests.paths import DATA

TLS = DATA / "tls"
ENDS = datetime(2126, 10, 29, 16, 48, 42, tzinfo=UTC)  # of first.pem


async def test_a_filling_disk_is_told_by_place(
    conditions: Conditions, tmp_path: Path, told: Callable[[], list[Event]]
) -> None:
    """Once each while it is low, once when there is room again; a directory that does not exist yet is no news."""
    places = (tmp_path, tmp_path / "not made yet")
    no_disk_has_that = DiskWatch(conditions, places, least_mb=1 << 40)
    for _ in range(3):
        await no_disk_has_that.run()
    await DiskWatch(conditions, places, least_mb=1).run()
    await DiskWatch(conditions, places, least_mb=0).run()
    assert [event.kind for event in told()] == ["disk_low", "disk_enough"]
    assert told()[0].data["place"] == str(tmp_path)
    assert told()[0].data["free"].endswith(("GiB", "MiB"))


class Key:
    """What the exchange says of our key."""

    def __init__(self, expires_at: datetime | None) -> None:
        self.expires_at = expires_at
        self.is_away = False

    async def __call__(self) -> KeyInfo | None:
        if self.is_away:
            raise ExchangeUnavailable("exchange_unreachable", "no answer")
        return KeyInfo("ed25519:x", frozenset({"read", "trading"}), self.expires_at, "")


def watch(conditions: Conditions, clock: Clock, key: Key, **options: Any) -> ExpiryWatch:
    wanted: dict[str, Any] = {"certificate_file": "", "public_url": "", "soon": timedelta(days=14)}
    return ExpiryWatch(conditions, key, clock=clock, **wanted | options)


async def test_the_key_is_told_before_and_after_its_end(
    conditions: Conditions, clock: Clock, told: Callable[[], list[Event]]
) -> None:
    """Two weeks before, at the end, and when a new one is there; an exchange that does not answer is no news."""
    key = Key(clock() + timedelta(days=15))
    look = watch(conditions, clock, key).run
    for _ in range(20):
        await look()
        clock.move(days=1)
    key.is_away = True
    await look()
    key.is_away, key.expires_at = False, clock() + timedelta(days=365)
    await look()
    assert [event.kind for event in told()] == ["key_expiring", "key_expired", "key_renewed"]
    assert told()[0].data == {"day": "2026-01-30", "left": "14 d"}


async def test_the_certificate_served_here_is_watched(
    conditions: Conditions, clock: Clock, told: Callable[[], list[Event]]
) -> None:
    """By its file; one that cannot be read fails the job, with the setting to correct."""
    look = watch(conditions, clock, Key(None), certificate_file=str(TLS / "first.pem")).run
    for moment in (ENDS - timedelta(days=15), ENDS - timedelta(days=13), ENDS + timedelta(days=1)):
        clock.now = moment
        await look()
        await look()
    assert [event.kind for event in told()] == ["certificate_expiring", "certificate_expired"]
    assert told()[0].data["name"] == "first.pem"
    with pytest.raises(ConfigError, match=r"tls\.cert"):
        await watch(conditions, clock, Key(None), certificate_file=str(TLS / "first.key")).run()


@pytest.fixture
async def served() -> AsyncIterator[int]:
    """A TLS server with a certificate that no authority vouches for; its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / "first.pem", TLS / "first.key")

    async def end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(end, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


async def test_the_certificate_the_world_sees_is_watched(
    conditions: Conditions, clock: Clock, served: int, told: Callable[[], list[Event]]
) -> None:
    """A proxy's certificate is not in our files: it is read from a connection. Nobody there is no news."""
    assert await asyncio.to_thread(served_until, "127.0.0.1", served) == ENDS
    clock.now = ENDS - timedelta(days=1)
    await watch(conditions, clock, Key(None), public_url=f"https://127.0.0.1:{served}").run()
    await watch(conditions, clock, Key(None), public_url="https://127.0.0.1:1").run()
    assert [(event.kind, event.data["name"]) for event in told()] == [("certificate_expiring", "127.0.0.1")]


async def test_renewals_that_fail_are_told_once(
    database: Database, clock: Clock, told: Callable[[], list[Event]]
) -> None:
    """The keeper tries again and again; the trader hears of the first failure and of every success."""
    for kind in (
        "certificate_not_renewed",
        "certificate_not_renewed",
        "certificate_renewed",
        "certificate_not_renewed",
    ):
        await database.write(record_renewal, kind, {"domain": "bridge.example.com"}, now=clock())
    kinds = [event.kind for event in told()]
    assert kinds == ["certificate_not_renewed", "certificate_renewed", "certificate_not_renewed"]
