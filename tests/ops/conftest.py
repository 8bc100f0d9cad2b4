"""A database, a clock set by tests, and the history's events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kekbridge.ops.conditions import Conditions
from kekbridge.store import journal
from kekbridge.store.database import Database
from kekbridge.store.journal import Event
from tests.fresh_database import open_database
from tests.ops.operating import Desk


@dataclass
class Clock:
    """A clock that tests move."""

    now: datetime = datetime(2026, 1, 15, 10, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = open_database(tmp_path / "data")
    yield opened
    await opened.close()


@pytest.fixture
def conditions(database: Database, clock: Clock) -> Conditions:
    return Conditions(database, clock)


@pytest.fixture
def published(database: Database) -> Callable[[], list[Event]]:
    """Returns the history's events, oldest first, without those of the set-up."""

    def read() -> list[Event]:
        with database.snapshot() as connection:
            return [event for event in journal.list_events(connection) if not event.kind.startswith("webhook_")]

    return read


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """What operations work on in a command."""
    opened = Desk(tmp_path / "data")
    yield opened
    await opened.database.close()
