"""The schema of every version of kekbridge is accepted, and nothing else; nothing that a foreign file holds is run."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from kekbridge.errors import ConfigError
from kekbridge.store import connections, schema
from kekbridge.store.connections import connect, initialise, prepare_file
from kekbridge.store.migrations import MIGRATIONS


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kekbridge.db"
    prepare_file(path, create=True)
    initialise(path)
    return path


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def test_the_present_schema_is_accepted(file: Path) -> None:
    """Also with the tables of ANALYZE."""
    with opened(file) as connection:
        schema.check_schema(connection, "kekbridge.db")
        connection.execute("ANALYZE")
        schema.check_schema(connection, "kekbridge.db")


@pytest.mark.parametrize("count", range(len(MIGRATIONS)))
def test_the_schema_of_each_earlier_version_is_accepted(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup of any version can be restored by a later one."""
    path = tmp_path / "kekbridge.db"
    prepare_file(path, create=True)
    monkeypatch.setattr(connections, "MIGRATIONS", MIGRATIONS[:count])
    initialise(path)
    with opened(path) as connection:
        schema.check_schema(connection, "kekbridge.db")


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "CREATE TRIGGER t AFTER INSERT ON alerts BEGIN DELETE FROM orders; END",
            "the trigger 't' .* is not kekbridge's",
        ),
        ("CREATE VIEW v AS SELECT 1", "the view 'v'"),
        ("CREATE TABLE t (a)", "the table 't'"),
        ("CREATE VIRTUAL TABLE t USING fts5(a)", "the table 't"),
        ("CREATE INDEX i ON alerts (status)", "the index 'i'"),
        ("ALTER TABLE alerts ADD COLUMN more TEXT", "the table 'alerts' .* is altered"),
        (
            "INSERT INTO _sqlite_migrations (migration_set, name) VALUES ('kekbridge', '9999_later')",
            "migrations differ",
        ),
        ("DELETE FROM _sqlite_migrations", "not kekbridge's"),
        ("DROP TABLE webhooks", "lacks the|is not|is altered"),
    ],
)
def test_any_other_schema_is_refused(file: Path, statement: str, expected: str) -> None:
    """The message names the object."""
    with closing(connect(file)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute(statement)
    with opened(file) as connection, pytest.raises(ConfigError, match=expected):
        schema.check_schema(connection, "kekbridge.db")


def test_a_list_of_migrations_that_never_ends_is_not_read(file: Path) -> None:
    """A view in the place of the list could count for ever."""
    with opened(file) as connection:
        connection.execute("DROP TABLE _sqlite_migrations")
        connection.execute(
            "CREATE VIEW _sqlite_migrations AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n)"
            " SELECT id, 'kekbridge' AS migration_set, 'x' AS name, '' AS applied_at FROM n"
        )
        with pytest.raises(ConfigError, match="not kekbridge's"):
            schema.check_schema(connection, "kekbridge.db")


def test_what_is_no_database_is_one_line(tmp_path: Path) -> None:
    """It names the file."""
    (tmp_path / "x.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with opened(tmp_path / "x.db") as connection, pytest.raises(ConfigError, match=r"x\.db cannot be read"):
        schema.check_schema(connection, "x.db")
