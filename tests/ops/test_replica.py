"""The replica that a real Litestream writes is restored, checked and dated; without one, errors say what to do."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kekbridge.config import Settings, load_settings
from kekbridge.errors import ConfigError, NotFound
from kekbridge.ops import litestream
from kekbridge.ops.replica import restore_replica
from kekbridge.store import journal
from kekbridge.store.connections import FILE_NAME
from tests.fresh_database import open_database
from tests.replication import needs_litestream
from tests.stored import book_on, store_alert

pytestmark = needs_litestream


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory with one alert."""
    directory = tmp_path / "data"
    database = open_database(directory)
    with database.transaction() as connection:
        store_alert(book_on(connection))
    database.close_now()
    return directory


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a replica in a directory of this machine."""
    return load_settings(environment={}, overrides={"replica.url": f"file://{tmp_path}/replica"})


def copy_once(data_dir: Path, settings: Settings) -> None:
    """Copy the database to its replica, as the daemon's Litestream does at its end."""
    config = data_dir / "litestream.yml"
    config.write_text(litestream.configuration(settings.replica, data_dir / FILE_NAME, socket=None))
    program = litestream.find_program()
    subprocess.run(
        [program, "replicate", "-config", config, "-no-expand-env", "-once"],
        check=True,
        capture_output=True,
        env=litestream.environment(os.environ),
        timeout=60,
    )


def test_the_restored_database_is_the_one_that_was_copied(data_dir: Path, settings: Settings, tmp_path: Path) -> None:
    """The same history to the last hash, dated, readable by its owner only, and without Litestream's tables."""
    copy_once(data_dir, settings)
    restored = restore_replica(settings, tmp_path / "restored.db")
    with closing(sqlite3.connect(data_dir / FILE_NAME)) as connection:
        assert (restored.history, restored.history_hash) == journal.head(connection)
    assert restored.alerts == 1
    assert restored.last_event_at is not None
    assert timedelta() <= datetime.now(UTC) - restored.up_to < timedelta(minutes=5)
    assert restored.file.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(restored.file)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    assert "journal" in names
    assert not {name for name in names if "litestream" in name}
    assert {path.name for path in tmp_path.iterdir()} == {"data", "replica", "restored.db"}


def test_an_altered_history_is_not_restored(data_dir: Path, settings: Settings, tmp_path: Path) -> None:
    """A replica whose history does not verify is refused, and nothing of it is left."""
    with closing(sqlite3.connect(data_dir / FILE_NAME)) as connection:
        connection.execute("UPDATE journal SET kind = 'other' WHERE sequence = 1")
        connection.commit()
    copy_once(data_dir, settings)
    with pytest.raises(ConfigError, match="history is broken at event 1"):
        restore_replica(settings, tmp_path / "restored.db")
    assert not list(tmp_path.glob("restored*"))


def test_without_a_replica_the_error_names_the_place(settings: Settings, tmp_path: Path) -> None:
    """No URL, nothing at the URL, and a file in the way are one line each."""
    with pytest.raises(NotFound, match=r"there is no replica at file://.*/replica"):
        restore_replica(settings, tmp_path / "restored.db")
    with pytest.raises(ConfigError, match=r"set replica\.url"):
        restore_replica(load_settings(environment={}), tmp_path / "restored.db")
    with pytest.raises(ConfigError, match='expected "s3://'):
        restore_replica(settings, tmp_path / "restored.db", url="ftp://host/path")
    (tmp_path / "restored.db").touch()
    with pytest.raises(ConfigError, match="exists already"):
        restore_replica(settings, tmp_path / "restored.db")
