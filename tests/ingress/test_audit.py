"""Requests nobody vouched for are counted, not stored one by one, and none is forgotten while the disk is full."""

from __future__ import annotations

from datetime import timedelta

from kekbridge.ingress.audit import RejectedRequestLog
from kekbridge.ingress.listener import ListenerRejection
from kekbridge.store.rejected_requests import list_recent
from tests.bridge import Bridge
from tests.store.factories import NOW
from tests.waiting import until


def refusal(remote: str = "192.0.2.9", code: str = "api_key_unknown") -> ListenerRejection:
    """One turned-away request."""
    return ListenerRejection(remote=remote, received_at=NOW, status=401, code=code, reason="no such key")


async def test_a_flood_is_one_row(bridge: Bridge) -> None:
    """A thousand refusals of one sender and reason are one row with their number."""
    database = bridge.daemon.database
    collected = RejectedRequestLog(database)
    for _ in range(1000):
        collected.record(refusal())
    collected.record(refusal(code="signature_invalid"))
    await collected.flush()
    rows = await database.read(list_recent, since=NOW - timedelta(minutes=1))
    assert {(row.code, row.count) for row in rows} == {("api_key_unknown", 1000), ("signature_invalid", 1)}


async def test_a_flood_from_everywhere_is_bounded(bridge: Bridge) -> None:
    """Every request from another address: memory and table stay small, whatever comes."""
    database = bridge.daemon.database
    collected = RejectedRequestLog(database)
    for number in range(5000):
        collected.record(refusal(remote=f"2001:db8::{number:x}"))
    await collected.flush()
    rows = await database.read(list_recent, since=NOW - timedelta(minutes=1), limit=10_000)
    assert 0 < len(rows) <= 1000


async def test_nothing_is_lost_while_the_store_is_away(bridge: Bridge) -> None:
    """Another program holds the database: the counts stay in memory and are written, once, when it is free again."""
    database = bridge.daemon.database
    collected = RejectedRequestLog(database)
    collected.record(refusal())
    with database.transaction():
        await collected.flush()
    await collected.flush()
    await collected.flush()
    (row,) = await database.read(list_recent, since=NOW - timedelta(minutes=1))
    assert row.count == 1


async def test_the_running_log_writes_soon(bridge: Bridge) -> None:
    """What is refused at the door stands in the table a moment later."""
    status, _ = await bridge.send(apiKey="wh_test_wrong")
    assert status == 401

    async def is_there() -> bool:
        rows = await bridge.daemon.database.read(list_recent)
        return any(row.code == "api_key_unknown" for row in rows)

    await until(is_there)
