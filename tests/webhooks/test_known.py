"""Webhooks in memory: what an alert sees is what is stored, one commit after any change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kekbridge.model import WebhookSettings
from kekbridge.store import webhooks
from kekbridge.store.database import Database
from kekbridge.webhooks.known import KnownWebhooks
from tests.fresh_database import open_database
from tests.store.factories import create_webhook

NOW = datetime(2026, 1, 15, 10, 30, 5, tzinfo=UTC)


class Clock:
    """A clock that tests move."""

    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A store with the webhook `hook`, whose first key does not expire and whose second does in a minute."""
    opened = open_database(tmp_path)
    with opened.transaction() as connection:
        create_webhook(connection, "hook", name="main", keys=("one", "two"))
        connection.execute("UPDATE webhook_keys SET expires_at = '2026-01-15T10:31:05.000Z' WHERE id = 'two'")
    yield opened
    await opened.close()


@pytest.fixture
def known(database: Database, clock: Clock) -> KnownWebhooks:
    found = KnownWebhooks(database, clock)

    def on_changed(changed: frozenset[str]) -> None:
        found.forget()

    database.listen_changes(on_changed)
    return found


def statements(database: Database) -> list[str]:
    """The statements of reads on the loop from now on."""
    seen: list[str] = []
    database.read_now(lambda connection: connection.set_trace_callback(seen.append))
    return seen


async def test_known_key_costs_no_query(database: Database, known: KnownWebhooks) -> None:
    """The first request of a key reads it, the next ones do not."""
    first = known.find_by_lookup(b"one")
    assert first is not None
    assert (first[0].name, first[1].id) == ("main", "one")
    assert known.find("hook") == first[0]
    seen = statements(database)
    for _ in range(5):
        assert known.find_by_lookup(b"one") == first
        assert known.find("hook") == first[0]
    assert seen == []


async def test_unknown_key_is_asked_for_each_time_and_takes_no_memory(database: Database, known: KnownWebhooks) -> None:
    """One who guesses keys must neither fill the memory nor keep a key out that is created later."""
    for number in range(50):
        assert known.find_by_lookup(str(number).encode()) is None
    assert known._by_lookup == {}
    with database.transaction() as connection:
        webhooks.add_key(
            connection,
            key_id="new",
            webhook_id="hook",
            lookup=b"7",
            prefix="7",
            sealed_key=b"",
            sealed_secret=b"",
            now=NOW,
        )
    assert known.find_by_lookup(b"7") is not None


async def test_expired_key_is_unknown_at_its_second(known: KnownWebhooks, clock: Clock) -> None:
    """Also one that was known before, without a change of the store."""
    assert known.find_by_lookup(b"two") is not None
    clock.now = NOW + timedelta(seconds=59.999)
    assert known.find_by_lookup(b"two") is not None
    clock.now = NOW + timedelta(seconds=60)
    assert known.find_by_lookup(b"two") is None
    assert known.find_by_lookup(b"one") is not None


async def test_change_applies_to_the_next_request(database: Database, known: KnownWebhooks) -> None:
    """A disabled webhook, changed settings and a revoked key are in force once the command has returned."""
    assert known.find_by_lookup(b"one") is not None
    assert known.find("hook") is not None
    await database.write(webhooks.disable, "hook", now=NOW)
    found = known.find_by_lookup(b"one")
    assert found is not None
    assert not found[0].enabled
    wanted = replace(WebhookSettings(), require_signature=False)
    await database.write(webhooks.change_settings, "hook", wanted, now=NOW)
    changed = known.find("hook")
    assert changed is not None
    assert changed.settings == wanted
    await database.write(webhooks.revoke_key, "one", now=NOW)
    assert known.find_by_lookup(b"one") is None


async def test_deleted_webhook_is_none(database: Database, known: KnownWebhooks) -> None:
    """Its queued orders are rechecked without it; that it is gone is remembered, too."""
    assert known.find("hook") is not None
    await database.write(webhooks.delete, "hook", now=NOW)
    assert known.find("hook") is None
    assert known.find_by_lookup(b"one") is None
    seen = statements(database)
    assert known.find("hook") is None
    assert seen == []


async def test_forget_returns_what_is_stored(database: Database, known: KnownWebhooks) -> None:
    """The book loads again what their limits look back at."""
    await database.write(webhooks.create, webhook_id="second", name="b", settings=WebhookSettings(), now=NOW)
    assert {webhook.name for webhook in known.forget()} == {"b", "main"}
