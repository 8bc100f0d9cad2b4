"""Attacks in the history: one event per burst, with the sum of what happened, whatever the number of addresses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kekbridge.errors import StoreUnavailable
from kekbridge.ingress.audit import EVENT, LockoutLog
from kekbridge.ingress.lockout import LockedOut
from kekbridge.store import events
from kekbridge.store.database import Database
from kekbridge.store.events import Event
from tests.waiting import until

NOW = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)


def locked(number: int) -> LockedOut:
    return LockedOut(
        address=f"203.0.113.{number}", count=20, since=NOW - timedelta(seconds=5), until=NOW + timedelta(seconds=300)
    )


class Away(Database):
    """A database that cannot be written for a while, as on a full disk."""

    is_away = False

    async def write(self, *arguments: Any, **named: Any) -> Any:
        if self.is_away:
            raise StoreUnavailable("store_unavailable", "the disk is full")
        return await super().write(*arguments, **named)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database.open(tmp_path)
    yield opened
    await opened.close()


def told(database: Database) -> list[Event]:
    with database.snapshot() as connection:
        return [event for event in events.list_events(connection) if event.kind == EVENT]


async def test_the_first_is_told_soon_and_the_rest_together(database: Database) -> None:
    """One address makes an event; a thousand more within the quiet time make one more, with their number and all failures."""
    attacks = LockoutLog(database, clock=lambda: NOW, quiet_s=1.5)
    running = asyncio.create_task(attacks.run())
    try:
        attacks.record(locked(1))
        await until(lambda: len(told(database)) == 1)
        for number in range(1000):
            attacks.record(locked(number % 250 + 2))
        await until(lambda: len(told(database)) == 2)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    first, second = told(database)
    assert (first.data["address"], first.data["count"], first.data["addresses"]) == ("203.0.113.1", 20, 1)
    assert (second.data["address"], second.data["count"], second.data["addresses"]) == ("203.0.113.2", 20_000, 1000)


async def test_a_stop_writes_what_was_collected(database: Database) -> None:
    """Nothing is lost at a stop, and nothing is written twice."""
    attacks = LockoutLog(database, clock=lambda: NOW)
    attacks.record(locked(1))
    await attacks.flush()
    await attacks.flush()
    assert [event.data["addresses"] for event in told(database)] == [1]


async def test_without_a_store_it_is_kept(tmp_path: Path) -> None:
    """A store that is not available delays the event and does not end the daemon's task."""
    database = Away(Database.open(tmp_path).path)
    attacks = LockoutLog(database, clock=lambda: NOW)
    database.is_away = True
    attacks.record(locked(1))
    await attacks.flush()
    attacks.record(locked(2))
    database.is_away = False
    await attacks.flush()
    assert [(event.data["address"], event.data["count"]) for event in told(database)] == [("203.0.113.1", 40)]
    await database.close()
