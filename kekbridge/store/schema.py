"""Check that a database file has kekbridge's schema and nothing else, before any of its triggers could run.

A database from a backup that nobody vouches for may hold triggers, views or tables of a stranger, which would run at the first write.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import Final

from kekbridge.errors import ConfigError
from kekbridge.store.codec import exact_sum
from kekbridge.store.migrations import MIGRATIONS

# Written by SQLite itself (ANALYZE, AUTOINCREMENT, UNIQUE), and the list of migrations that sqlite-utils keeps.
_INTERNAL: Final = re.compile(r"sqlite_(stat[1-4]|sequence|autoindex_.*)")
_APPLIED_TABLE: Final = "_sqlite_migrations"
_APPLIED_COLUMNS: Final = {"id", "migration_set", "name", "applied_at"}

# Litestream writes them into a database that it copies, and makes them again at its next start.
_REPLICATION_TABLES: Final = ("_litestream_seq", "_litestream_lock")

_Objects = dict[tuple[str, str], str]


def check_schema(connection: sqlite3.Connection, name: str) -> None:
    """Raise ConfigError if the schema is not that of one of kekbridge's own versions. `name`: of the file, for the message.

    Reads the schema only. `connection` should have been opened for that alone.
    """
    connection.execute("PRAGMA trusted_schema = OFF")
    try:
        applied = _applied(connection)
        found = _objects(connection)
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"the database {name} cannot be read: {error}; use another backup") from None
    known = [migration for migration, _ in MIGRATIONS]
    if applied != known[: len(applied)]:
        raise ConfigError(
            f"the database {name} was not written by this version of kekbridge or an older one"
            f" (its {len(applied)} migrations differ); use the version that wrote it"
        )
    expected = _reference(len(applied))
    for (kind, object_name), text in sorted(found.items()):
        if expected.get((kind, object_name)) != text:
            what = "is altered" if (kind, object_name) in expected else "is not kekbridge's"
            raise ConfigError(f"the {kind} {object_name[:60]!r} in the database {name} {what}; use another backup")
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise ConfigError(f"the database {name} lacks the {missing[0][0]} {missing[0][1]}; use another backup")


def drop_replication_tables(connection: sqlite3.Connection) -> None:
    """Remove what the replication (ops/litestream.py) has written into a copy of the database. Raises sqlite3.Error."""
    for name in _REPLICATION_TABLES:
        connection.execute(f"DROP TABLE IF EXISTS {name}")


def _applied(connection: sqlite3.Connection) -> list[str]:
    kinds = [row[0] for row in connection.execute("SELECT type FROM sqlite_schema WHERE name = ?", (_APPLIED_TABLE,))]
    columns = {row[1] for row in connection.execute(f"PRAGMA table_xinfo({_APPLIED_TABLE})")}
    if kinds != ["table"] or columns != _APPLIED_COLUMNS:
        return []
    return [str(row[0]) for row in connection.execute(f"SELECT name FROM {_APPLIED_TABLE} ORDER BY id")]


def _objects(connection: sqlite3.Connection) -> _Objects:
    """What the schema consists of, by kind and name: the columns of a table, the statement of anything else.

    A table's own statement is rewritten by ALTER TABLE, differently by each version of SQLite.
    """
    found: _Objects = {}
    for kind, name, table, statement in connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema"):
        if _INTERNAL.fullmatch(name) or (kind in ("table", "index") and table == _APPLIED_TABLE):
            continue
        if kind == "table" and not str(statement).upper().lstrip().startswith("CREATE VIRTUAL"):
            quoted = str(name).replace('"', '""')
            columns = connection.execute(f'PRAGMA table_xinfo("{quoted}")')
            found[kind, name] = "; ".join(",".join(map(str, tuple(row)[1:])) for row in columns)
        else:
            found[kind, name] = " ".join(str(statement).split())
    return found


def _reference(migrations: int) -> _Objects:
    """The schema after the first so many migrations."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        connection.create_function("exact_sum", 2, exact_sum, deterministic=True)
        for _, steps in MIGRATIONS[:migrations]:
            for step in steps:
                if callable(step):
                    step(connection)
                else:
                    connection.execute(step)
        return _objects(connection)
