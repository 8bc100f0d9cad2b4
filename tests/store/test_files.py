"""Database files that are deleted, replaced or emptied while the daemon runs are noticed, and nothing is acknowledged (engine rule 10)."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kekbridge.errors import ConfigError, StoreUnavailable
from kekbridge.store import settings
from kekbridge.store.connections import FILE_NAME
from kekbridge.store.database import Database
from kekbridge.store.files import MARKER
from tests.fresh_database import open_database

NOW = datetime(2026, 1, 15, tzinfo=UTC)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = open_database(tmp_path)
    await opened.write(settings.set_value, "before", 1, now=NOW)
    yield opened
    await opened.close()


def delete(path: Path) -> None:
    path.unlink()


def delete_log(path: Path) -> None:
    path.with_name(FILE_NAME + "-wal").unlink()


def delete_all(path: Path) -> None:
    for file in path.parent.glob(FILE_NAME + "*"):
        file.unlink()


def replace(path: Path) -> None:
    shutil.copy2(path, path.with_name("older"))
    path.with_name("older").replace(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("lose", [delete, delete_log, delete_all, replace, empty])
async def test_nothing_is_acknowledged_once_the_files_are_lost(
    database: Database, lose: Callable[[Path], None]
) -> None:
    """Every write fails from then on: what SQLite writes to such files is gone at the next start."""
    assert database.file_problem() is None
    lose(database.path)
    assert database.file_problem() is not None
    for _ in range(2):  # it is not opened again: what lies there now is another database
        with pytest.raises(StoreUnavailable, match=FILE_NAME):
            await database.write(settings.set_value, "after", 1, now=NOW)


async def test_files_that_come_back_are_used_again(database: Database) -> None:
    """Moved away and back: the same files, so writing goes on and nothing is missing."""
    aside = database.path.with_name("aside")
    database.path.rename(aside)
    with pytest.raises(StoreUnavailable):
        await database.write(settings.set_value, "meanwhile", 1, now=NOW)
    aside.rename(database.path)
    assert database.file_problem() is None
    await database.write(settings.set_value, "after", 2, now=NOW)
    with database.snapshot() as connection:
        found = [settings.get_value(connection, key) for key in ("before", "meanwhile", "after")]
    assert found == [1, None, 2]


async def test_a_deleted_log_loses_nothing_after_a_clean_stop(tmp_path: Path) -> None:
    """The open connection still has the log: the stop copies it into the database."""
    database = Database.open(tmp_path)
    await database.write(settings.set_value, "before", 1, now=NOW)
    delete_log(database.path)
    await database.close()
    again = Database.open(tmp_path)
    with again.snapshot() as connection:
        assert settings.get_value(connection, "before") == 1
    again.close_now()


@pytest.mark.parametrize("is_empty", [False, True])
def test_a_missing_or_empty_database_is_no_new_directory(tmp_path: Path, is_empty: bool) -> None:
    """A bridge has run here: beginning with an empty database would forget its orders. The error says what to do."""
    (tmp_path / MARKER).write_text("{}")
    if is_empty:
        (tmp_path / FILE_NAME).touch()
    with pytest.raises(ConfigError, match=r"is empty|is missing") as refused:
        Database.open(tmp_path)
    assert "kekbridge restore" in refused.value.message
    assert MARKER in refused.value.message
