"""Refused requests, lockouts and key usage are collected, written in bulk, and kept while the store is not available."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kekbridge.errors import StoreUnavailable
from kekbridge.ingress.audit import LOCKOUT_EVENT, KeyUsageLog, LockoutLog, RejectedRequestLog
from kekbridge.ingress.listener import ListenerRejection
from kekbridge.ingress.lockout import LockedOut
from kekbridge.store import journal, webhooks
from kekbridge.store.database import Database
from kekbridge.store.journal import Event
from kekbridge.store.rejected_requests import list_recent
from tests.bridge import Bridge
from tests.fresh_database import open_database
from tests.store.factories import create_webhook
from tests.waiting import until

NOW = datetime(2026, 1, 15, 10, 30, 5, tzinfo=UTC)


class UnavailableDatabase(Database):
    """A database that cannot be written while `is_unavailable`, as on a full disk."""

    is_unavailable = False

    async def write(self, *arguments: Any, **named: Any) -> Any:
        if self.is_unavailable:
            raise StoreUnavailable("store_unavailable", "the disk is full")
        return await super().write(*arguments, **named)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A store with one webhook and its two keys."""
    opened = open_database(tmp_path)
    with opened.transaction() as connection:
        create_webhook(connection, "w", name="w", keys=("one", "two"))
    yield opened
    await opened.close()


# --------------------------------------------------------------------------------------------------- RejectedRequestLog


def rejection(remote: str = "192.0.2.9", code: str = "api_key_unknown") -> ListenerRejection:
    """One refused request."""
    return ListenerRejection(remote=remote, received_at=NOW, status=401, code=code, reason="no such key")


async def test_a_flood_is_one_row(bridge: Bridge) -> None:
    """A thousand refused requests of one address and code are one row with their number."""
    database = bridge.daemon.database
    rejections = RejectedRequestLog(database)
    for _ in range(1000):
        rejections.record(rejection())
    rejections.record(rejection(code="signature_invalid"))
    await rejections.flush()
    rows = await database.read(list_recent, since=NOW - timedelta(minutes=1))
    assert {(row.code, row.count) for row in rows} == {("api_key_unknown", 1000), ("signature_invalid", 1)}


async def test_a_flood_from_many_addresses_is_bounded(bridge: Bridge) -> None:
    """With every request from another address, memory and table stay small."""
    database = bridge.daemon.database
    rejections = RejectedRequestLog(database)
    for number in range(5000):
        rejections.record(rejection(remote=f"2001:db8::{number:x}"))
    await rejections.flush()
    rows = await database.read(list_recent, since=NOW - timedelta(minutes=1), limit=10_000)
    assert 0 < len(rows) <= 1000


async def test_counts_are_kept_while_the_store_is_locked(bridge: Bridge) -> None:
    """Another program has the database locked: the counts stay in memory and are written once, when it is free again."""
    database = bridge.daemon.database
    rejections = RejectedRequestLog(database)
    rejections.record(rejection())
    with database.transaction():
        await rejections.flush()
    await rejections.flush()
    await rejections.flush()
    (row,) = await database.read(list_recent, since=NOW - timedelta(minutes=1))
    assert row.count == 1


async def test_the_running_log_writes_soon(bridge: Bridge) -> None:
    """A refused request is in the table a moment later."""
    status, _ = await bridge.send(apiKey="wh_test_wrong")
    assert status == 401

    async def is_stored() -> bool:
        rows = await bridge.daemon.database.read(list_recent)
        return any(row.code == "api_key_unknown" for row in rows)

    await until(is_stored)


# ----------------------------------------------------------------------------------------------------------- LockoutLog


def locked(number: int) -> LockedOut:
    return LockedOut(
        address=f"203.0.113.{number}", count=20, since=NOW - timedelta(seconds=5), until=NOW + timedelta(seconds=300)
    )


def lockout_events(database: Database) -> list[Event]:
    with database.snapshot() as connection:
        return [event for event in journal.list_events(connection) if event.kind == LOCKOUT_EVENT]


async def test_the_first_lockout_is_written_soon_and_later_ones_together(database: Database) -> None:
    """One address is one event; a thousand more within the pause are one more, with their number and the sum of their failures."""
    lockouts = LockoutLog(database, clock=lambda: NOW, pause_s=1.5)
    running = asyncio.create_task(lockouts.run())
    try:
        lockouts.record(locked(1))
        await until(lambda: len(lockout_events(database)) == 1)
        for number in range(1000):
            lockouts.record(locked(number % 250 + 2))
        await until(lambda: len(lockout_events(database)) == 2)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    first, second = lockout_events(database)
    assert (first.data["address"], first.data["count"], first.data["addresses"]) == ("203.0.113.1", 20, 1)
    assert (second.data["address"], second.data["count"], second.data["addresses"]) == ("203.0.113.2", 20_000, 1000)


async def test_a_flush_writes_lockouts_once(database: Database) -> None:
    """Nothing is lost at shutdown, and nothing is written twice."""
    lockouts = LockoutLog(database, clock=lambda: NOW)
    lockouts.record(locked(1))
    await lockouts.flush()
    await lockouts.flush()
    assert [event.data["addresses"] for event in lockout_events(database)] == [1]


async def test_lockouts_are_kept_while_the_store_is_unavailable(tmp_path: Path) -> None:
    """An unavailable store delays the event and does not end the daemon's task."""
    database = UnavailableDatabase(Database.open(tmp_path).path)
    lockouts = LockoutLog(database, clock=lambda: NOW)
    database.is_unavailable = True
    lockouts.record(locked(1))
    await lockouts.flush()
    lockouts.record(locked(2))
    database.is_unavailable = False
    await lockouts.flush()
    assert [(event.data["address"], event.data["count"]) for event in lockout_events(database)] == [("203.0.113.1", 40)]
    await database.close()


# ---------------------------------------------------------------------------------------------------------- KeyUsageLog


async def used_at(database: Database) -> list[datetime | None]:
    keys = await database.read(webhooks.list_keys, "w")
    return [key.last_used_at for key in keys]


async def test_the_latest_use_of_a_key_is_written(database: Database) -> None:
    """Many uses of a key are one row change with the latest time; other keys stay untouched."""
    usage = KeyUsageLog(database, collect_s=0)
    for seconds in range(100):
        usage.record("one", NOW + timedelta(seconds=seconds))
    running = asyncio.create_task(usage.run())
    try:

        async def is_written() -> bool:
            return await used_at(database) == [NOW + timedelta(seconds=99), None]

        await until(is_written)
    finally:
        running.cancel()


async def test_key_usage_is_kept_while_the_store_is_unavailable(database: Database) -> None:
    """Without a store the usage stays in memory, a later use replaces it, and nothing is raised."""
    usage = KeyUsageLog(database)
    usage.record("one", NOW)
    await database.close()
    await usage.flush()
    usage.record("one", NOW + timedelta(seconds=1))
    usage.record("two", NOW)
    await usage.flush()
    reopened = Database.open(database.path.parent)
    usage._database = reopened
    await usage.flush()
    assert await used_at(reopened) == [NOW + timedelta(seconds=1), NOW]
    await reopened.close()
