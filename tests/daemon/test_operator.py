"""The operator services of a running bridge: what an operation changes takes effect in them without a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kekbridge.ops.trading_operations import Halt, Resume
from kekbridge.ops.vault_operations import SetChannels
from tests.bridge import Bridge, running_bridge
from tests.receiver import Receiver
from tests.waiting import until


@pytest.fixture
def receivers() -> Iterator[list[Receiver]]:
    servers = [Receiver(), Receiver()]
    yield servers
    for server in servers:
        server.close()


def channels_begun(bridge: Bridge) -> int:
    with bridge.daemon.database.snapshot() as connection:
        found: int = connection.execute("SELECT count(*) FROM settings WHERE key LIKE 'notified:%'").fetchone()[0]
        return found


async def test_new_channels_are_used_at_once(tmp_path: Path, receivers: list[Receiver]) -> None:
    """Notifications go to the channels that are set now, and no longer to those that were replaced."""
    first, second = receivers
    async with running_bridge(tmp_path, admin__enabled=False) as bridge:
        run = bridge.daemon.operations.run
        await run(SetChannels(urls=first.url))
        await until(lambda: channels_begun(bridge) == 1)
        await run(Halt(reason="storm one"))
        await until(lambda: any("storm one" in line for line in first.lines()))
        await run(SetChannels(urls=second.url))
        await until(lambda: channels_begun(bridge) == 2)
        await run(Resume(reason="over"))
        await run(Halt(reason="storm two"))
        await until(lambda: any("storm two" in line for line in second.lines()))
        assert not any("storm two" in line for line in first.lines())
        await run(SetChannels(urls=""))
        await run(Halt(reason="storm three"))
    assert not any("storm three" in line for line in [*first.lines(), *second.lines()])


async def test_operations_need_no_admin_listener(tmp_path: Path) -> None:
    """Jobs and the live state are there for commands when the pages are switched off."""
    async with running_bridge(tmp_path, admin__enabled=False) as bridge:
        await bridge.daemon.run_job("disk")
        assert (await bridge.daemon.state())["mode"] == "paper"
