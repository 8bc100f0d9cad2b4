"""A read position moves to where a complete read began, and by nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kekbridge.errors import ExchangeUnavailable
from kekbridge.execution.complete_reads import OVERLAP, CompleteReads
from kekbridge.store import read_positions
from kekbridge.store.read_positions import RecordKind
from tests.bridge import Bridge, quick_bridge, running_paper

KIND = RecordKind.LIQUIDATIONS
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        quick_bridge(tmp_path, paper_url) as opened,
    ):
        opened.daemon.operator_services.jobs.stop()  # which read this kind, too
        yield opened


async def position(bridge: Bridge) -> datetime | None:
    return await bridge.daemon.database.read(read_positions.read, KIND)


async def test_only_a_complete_read_moves_the_position(bridge: Bridge) -> None:
    """Not one that fails, nor one that leaves something open; the next read begins where the last complete one did, and a little before."""
    reads, exchange = CompleteReads(bridge.daemon.database, bridge.daemon.exchange), bridge.daemon.exchange
    wanted: list[datetime] = []

    async def whole(since: datetime) -> bool:
        wanted.append(since)
        return True

    async def part(since: datetime) -> bool:
        wanted.append(since)
        return False

    async def failing(since: datetime) -> bool:
        wanted.append(since)
        raise ExchangeUnavailable("exchange_unreachable", "no answer")

    await bridge.daemon.database.write(lambda connection: connection.execute("DELETE FROM read_positions"))
    await reads.read(KIND, part, first=LONG_AGO)
    with pytest.raises(ExchangeUnavailable):
        await reads.read(KIND, failing, first=LONG_AGO)
    assert await position(bridge) is None
    began = exchange.now()
    await reads.read(KIND, whole, first=LONG_AGO)
    reached = await position(bridge)
    assert reached is not None
    assert abs(reached - began) < timedelta(seconds=1)
    await reads.read(KIND, part, first=LONG_AGO)
    assert wanted == [LONG_AGO, LONG_AGO, LONG_AGO, reached - OVERLAP[KIND]]
    assert await position(bridge) == reached


async def test_a_position_in_the_future_hides_nothing(bridge: Bridge) -> None:
    """It was stored while this machine's clock was an hour ahead: the next read begins at the present, and sets it right."""
    reads, database = CompleteReads(bridge.daemon.database, bridge.daemon.exchange), bridge.daemon.database
    future = bridge.clock() + timedelta(hours=1)
    await database.write(read_positions.move, KIND, future)
    wanted: list[datetime] = []

    async def whole(since: datetime) -> bool:
        wanted.append(since)
        return True

    await reads.read(KIND, whole, first=LONG_AGO)
    assert wanted[0] <= bridge.clock() - OVERLAP[KIND] + timedelta(seconds=1)
    reached = await position(bridge)
    assert reached is not None
    assert reached < future
