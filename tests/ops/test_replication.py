"""The daemon's Litestream: what is written reaches the replica, whatever happens to Litestream or the target; trading waits for neither."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kekbridge.cli.control import status_at
from kekbridge.config import Settings, load_settings
from kekbridge.daemon.control_socket import NAME
from kekbridge.ops import backup
from kekbridge.ops.conditions import Conditions
from kekbridge.ops.replica import restore_replica
from kekbridge.ops.replication import SOCKET_NAME, Replication, ReplicaWatch
from kekbridge.store import journal
from kekbridge.store.connections import FILE_NAME
from kekbridge.store.database import Database
from kekbridge.vault import BackupKey
from tests.replication import needs_litestream
from tests.system.forked import forked_bridge
from tests.system.harness import wait_until
from tests.waiting import until

pytestmark = needs_litestream


def now() -> datetime:
    return datetime.now(UTC)


def settings_for(target: Path, sync_s: float = 0.1) -> Settings:
    return load_settings(environment={}, overrides={"replica.url": f"file://{target}", "replica.sync_s": sync_s})


@dataclass
class Replicated:
    """A database and its replication."""

    database: Database
    replication: Replication
    run: asyncio.Task[None]

    async def write(self, kind: str) -> datetime:
        """Append an event; return a time at which it was on disk."""
        await self.database.write(journal.append, kind, now=now())
        return now()

    async def copied(self, written_at: datetime) -> None:
        """Wait until the replica is known to be complete up to that time."""
        await until(lambda: (self.replication.status().up_to or written_at - timedelta(days=1)) >= written_at)

    @property
    def process(self) -> int:
        """The process of Litestream."""
        assert self.replication._process is not None
        return self.replication._process.pid


@asynccontextmanager
async def replicated(data_dir: Path, target: Path) -> AsyncIterator[Replicated]:
    """Open and close them in the daemon's order."""
    replication = Replication(settings_for(target).replica, data_dir, secrets={}, clock=now)
    database = Database.open(data_dir, is_replicated=True)
    run = asyncio.ensure_future(replication.run())
    try:
        yield Replicated(database, replication, run)
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        await database.close()
        await replication.stop()


def kinds(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [kind for (kind,) in connection.execute("SELECT kind FROM journal ORDER BY sequence")]


def restored_kinds(target: Path) -> list[str]:
    """The history in the replica as it is now."""
    file = target.parent / "restored.db"
    file.unlink(missing_ok=True)
    restore_replica(settings_for(target), file)
    return kinds(file)


async def test_what_is_written_reaches_the_replica(tmp_path: Path) -> None:
    """While it runs, after Litestream was killed, and what is written last when the bridge stops."""
    data_dir, target = tmp_path / "data", tmp_path / "replica"
    async with replicated(data_dir, target) as bridge:
        await bridge.copied(await bridge.write("one"))
        assert await asyncio.to_thread(restored_kinds, target) == ["one"]
        first = bridge.process
        os.kill(first, signal.SIGKILL)
        await bridge.copied(await bridge.write("two"))
        assert bridge.process != first
        assert bridge.replication.status().problem == ""
        bridge.run.cancel()  # what comes now is copied by the last copy of the stop
        await bridge.write("three")
    assert await asyncio.to_thread(restored_kinds, target) == ["one", "two", "three"] == kinds(data_dir / FILE_NAME)
    assert not (data_dir / SOCKET_NAME).exists()


async def test_the_rest_is_copied_although_litestream_was_stopped_first(tmp_path: Path) -> None:
    """As systemd does, which stops all processes of a service at once."""
    data_dir, target = tmp_path / "data", tmp_path / "replica"
    async with replicated(data_dir, target) as bridge:
        await bridge.copied(await bridge.write("one"))
        bridge.run.cancel()
        os.kill(bridge.process, signal.SIGTERM)
        await until(lambda: not bridge.replication.status().is_running)
        await bridge.write("two")
    assert await asyncio.to_thread(restored_kinds, target) == ["one", "two"]


async def test_a_target_that_cannot_be_written_costs_lag_only(tmp_path: Path) -> None:
    """Writes go on, the condition begins with the reason and ends by itself, and nothing is missing afterwards."""
    data_dir, target = tmp_path / "data", tmp_path / "place" / "replica"
    target.parent.write_text("a file where a directory should be")
    async with replicated(data_dir, target) as bridge:
        conditions = Conditions(bridge.database, now)
        watch = ReplicaWatch(conditions, bridge.replication.status, warn_after_s=0.5)

        async def until_published() -> None:
            while "replica" not in await conditions.active():
                await bridge.write("more")
                await watch.run()
                await asyncio.sleep(0.05)

        await asyncio.wait_for(until_published(), 60)
        await until(lambda: "not a directory" in bridge.replication.status().problem)
        target.parent.unlink()
        written_at = await bridge.write("last")
        await bridge.copied(written_at)
        calm = ReplicaWatch(conditions, bridge.replication.status, warn_after_s=30)
        await calm.run()
        assert "replica" not in await conditions.active()
    found = kinds(data_dir / FILE_NAME)
    assert [kind for kind in found if kind.startswith("replica")] == ["replica_behind", "replica_current"]
    assert await asyncio.to_thread(restored_kinds, target) == found


async def test_the_litestream_of_a_killed_daemon_is_ended(tmp_path: Path) -> None:
    """Two of them would write to one target."""
    data_dir, target = tmp_path / "data", tmp_path / "replica"
    async with replicated(data_dir, target) as left:
        await left.copied(await left.write("one"))
        left.run.cancel()
        async with replicated(data_dir, target) as bridge:
            await bridge.copied(await bridge.write("two"))
            assert bridge.process != left.process
            await until(lambda: not left.replication.status().is_running)


async def test_without_litestream_the_bridge_runs_and_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a version whose configuration is another."""
    data_dir, target = tmp_path / "data", tmp_path / "replica"
    old = tmp_path / "bin" / "litestream"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho v0.3.13\n")
    old.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(old.with_name("python")))
    async with replicated(data_dir, target) as bridge:
        await bridge.write("one")
        await until(lambda: "found Litestream 0.3.13, expected 0.5.x" in bridge.replication.status().problem)
        old.unlink()
        monkeypatch.setattr("sysconfig.get_path", lambda _: str(old.parent))
        monkeypatch.setenv("PATH", str(old.parent))
        await until(lambda: "Litestream is not installed; install it with" in bridge.replication.status().problem)
        await bridge.write("two")
    assert kinds(data_dir / FILE_NAME) == ["one", "two"]


def test_a_bridge_that_is_killed_in_a_burst_is_restored_up_to_the_lag(tmp_path: Path) -> None:
    """Every alert answered before the last known instant is in the replica; its history is a beginning of the bridge's own."""
    target = tmp_path / "replica"
    environment = {
        "KEKBRIDGE_REPLICA_URL": f"file://{target}",
        "KEKBRIDGE_REPLICA_SYNC_S": "0.2",
        "KEKBRIDGE_SERVER_RESPOND_WITHIN_S": "0",
    }
    answered: dict[str, datetime] = {}

    with forked_bridge(tmp_path, environment=environment) as bridge:

        def send(number: int) -> None:
            assert bridge.send(alertId=f"a{number}", price=None)[0] in (200, 202)
            answered[f"a{number}"] = now()

        def up_to() -> datetime | None:
            found = (status_at(bridge.data_dir / NAME) or {}).get("replica", {}).get("upTo")
            return None if found is None else datetime.fromisoformat(found)

        wait_until(up_to, what="a first copy")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(send, range(40)))
            wait_until(lambda: (up_to() or answered["a0"]) > answered["a0"], what="a copy with some of them")
            list(pool.map(send, range(40, 60)))
        known = up_to()
        (process,) = re.findall(r'"replication_started","process":(\d+)', bridge.log_path.read_text())
        bridge.daemon.kill()
        wait_until(lambda: not Path(f"/proc/{process}").exists(), what="the end of Litestream")

    (tmp_path / "standby").mkdir()
    restored = restore_replica(settings_for(target), tmp_path / "standby" / FILE_NAME)
    with closing(sqlite3.connect(bridge.data_dir / FILE_NAME)) as own:
        found = own.execute("SELECT hash FROM journal WHERE sequence = ?", (restored.history,)).fetchone()
    assert found == (restored.history_hash,)
    with Database.open(tmp_path / "standby", create=False).snapshot() as copy:
        copied = {row[0] for row in copy.execute("SELECT alert_id FROM alerts")}
    assert known is not None
    assert {one for one, at in answered.items() if at < known} <= copied


async def test_a_restored_backup_replaces_what_the_replica_has(tmp_path: Path) -> None:
    """The replica follows to the older state, and on from there; its tables are in no backup, which any version can restore."""
    data_dir, target = tmp_path / "data", tmp_path / "replica"
    key, file = BackupKey.from_master(bytes(32)), tmp_path / "backup.zip"
    async with replicated(data_dir, target) as bridge:
        await bridge.copied(await bridge.write("one"))
        await asyncio.to_thread(backup.make, data_dir, file, now=now(), key=key)
        await bridge.copied(await bridge.write("two"))
    _, old = await asyncio.to_thread(backup.restore, file, data_dir, now=now(), key=key)
    assert old is not None
    async with replicated(data_dir, target) as bridge:
        await bridge.copied(await bridge.write("three"))
    found = kinds(data_dir / FILE_NAME)
    assert found == ["one", "restored", "three"]
    assert await asyncio.to_thread(restored_kinds, target) == found
