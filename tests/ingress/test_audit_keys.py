"""When keys were last used: collected, written in bulk, and never lost to a busy store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kekbridge.ingress.audit import KeyUsageLog
from kekbridge.model import WebhookSettings
from kekbridge.store import webhooks
from kekbridge.store.database import Database
from tests.waiting import until

NOW = datetime(2026, 1, 15, 10, 30, 5, tzinfo=UTC)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A store with one webhook and its two keys."""
    opened = Database.open(tmp_path)
    with opened.transaction() as connection:
        webhooks.create(connection, webhook_id="w", name="w", settings=WebhookSettings(), now=NOW)
        for key in ("one", "two"):
            webhooks.add_key(
                connection,
                key_id=key,
                webhook_id="w",
                lookup=key.encode(),
                prefix=key,
                sealed_key=b"",
                sealed_secret=b"",
                now=NOW,
            )
    yield opened
    await opened.close()


async def used_at(database: Database) -> list[datetime | None]:
    keys = await database.read(webhooks.list_keys, "w")
    return [key.last_used_at for key in keys]


async def test_the_latest_use_is_written(database: Database) -> None:
    """Many uses of a key are one row change with the latest time; other keys stay untouched."""
    use = KeyUsageLog(database, collect_s=0)
    for seconds in range(100):
        use.record("one", NOW + timedelta(seconds=seconds))
    running = asyncio.create_task(use.run())
    try:

        async def is_written() -> bool:
            return await used_at(database) == [NOW + timedelta(seconds=99), None]

        await until(is_written)
    finally:
        running.cancel()


async def test_what_could_not_be_written_is_kept(database: Database) -> None:
    """A store that is gone costs nothing: the use stays in memory, newer news win, and nothing is raised."""
    use = KeyUsageLog(database)
    use.record("one", NOW)
    await database.close()
    await use.flush()
    use.record("one", NOW + timedelta(seconds=1))
    use.record("two", NOW)
    await use.flush()
    again = Database.open(database.path.parent)
    use._database = again
    await use.flush()
    assert await used_at(again) == [NOW + timedelta(seconds=1), NOW]
    await again.close()
