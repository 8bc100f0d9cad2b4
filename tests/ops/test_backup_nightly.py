"""The nightly backup: whole, owner-only, the newest kept, and no file touched that it has not made."""

from __future__ import annotations

import os
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from kekbridge.config import BackupSettings
from kekbridge.errors import ConfigError
from kekbridge.ops import backup
from kekbridge.ops.backup import NightlyBackup, directory_of
from kekbridge.store.database import Database
from tests.ops.conftest import Clock


async def test_the_newest_are_kept_and_each_is_whole(database: Database, tmp_path: Path, clock: Clock) -> None:
    """Beside an open store; 0600 in a 0700 directory; each opens with every checksum right."""
    settings = BackupSettings(keep=2, dir=str(tmp_path / "elsewhere"))
    nightly = NightlyBackup(settings, tmp_path / "data", clock)
    for _ in range(4):
        await nightly.run()
        clock.move(days=1)
    directory = directory_of(settings, tmp_path / "data")
    found = sorted(directory.iterdir())
    assert [path.name for path in found] == ["kekbridge-20260117T100000Z.zip", "kekbridge-20260118T100000Z.zip"]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for path in found:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert backup.inspect(path).file == path


async def test_files_of_others_stay(database: Database, tmp_path: Path, clock: Clock) -> None:
    """A backup made by hand, under whatever name, is not this job's to remove; its own half-made leftovers are, after a day."""
    settings = BackupSettings(keep=1)
    nightly = NightlyBackup(settings, tmp_path / "data", clock)
    directory = directory_of(settings, tmp_path / "data")
    directory.mkdir()
    left = directory / ".kekbridge-20260101T033000Z.zip.00aa.db"
    mine = [
        directory / name for name in ("kekbridge-before-update.zip", "notes.txt", "kekbridge-20260101T033000Z.zip.old")
    ]
    for path in (left, *mine):
        path.touch()
        old = (clock() - timedelta(days=9)).timestamp()
        os.utime(path, (old, old))
    await nightly.run()
    clock.move(days=1)
    await nightly.run()
    assert all(path.exists() for path in mine)
    assert not left.exists()
    assert len(list(directory.iterdir())) == len(mine) + 1


async def test_a_place_that_cannot_be_written_is_one_clear_line(
    database: Database, tmp_path: Path, clock: Clock
) -> None:
    """The earlier backups stay, and the job runner gets a sentence to tell."""
    (tmp_path / "file").touch()
    nightly = NightlyBackup(BackupSettings(dir=str(tmp_path / "file" / "backups")), tmp_path / "data", clock)
    with pytest.raises(ConfigError, match=r"the backup .* cannot be written"):
        await nightly.run()
