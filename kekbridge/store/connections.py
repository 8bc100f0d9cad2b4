"""Open the database file: permissions, connection settings, migrations, and classification of SQLite errors.

Every connection of kekbridge is opened here, so that all have the same durability. Knows no table and no thread.
"""

from __future__ import annotations

import errno
import os
import shlex
import sqlite3
import stat
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from kekbridge import __version__
from kekbridge.errors import ConfigError, NotFound, StoreUnavailable
from kekbridge.store.codec import exact_sum, from_json, time_text, to_json
from kekbridge.store.files import MARKER
from kekbridge.store.migrations import MIGRATIONS, Step
from kekbridge.store.schema import drop_replication_tables
from kekbridge.store.transaction import Connection

FILE_NAME: Final = "kekbridge.db"
# STRICT tables came with 3.37 (RETURNING with 3.35): an older library would fail later, in the middle of an operation.
_OLDEST_SQLITE: Final = (3, 37, 0)
_MIGRATION_SET: Final = "kekbridge"
# How long the daemon's writer and a command wait for each other's transaction. TradingView gives up after 3 s: a 503 must come earlier.
WRITER_WAIT_S: Final = 2.0
COMMAND_WAIT_S: Final = 10.0
# File name of a copy from before a migration; the name of the first migration follows. Older copies than an interrupted migration's go.
_BEFORE_MIGRATION: Final = "before-migration-"
_INTERRUPTED_FOR_S: Final = 3600.0
# Row of `settings`: the version that migrated the database last. Versions before 0.2.0 did not write it.
_MIGRATED_BY: Final = "migrated_by"

# SQLite's primary result codes for a problem of the machine, not of the statement: nothing was stored, and it may work again later.
_UNAVAILABLE_CODES: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)


def is_unavailable(error: sqlite3.Error) -> bool:
    """True for a full disk, a lock, a damaged file and the like; False for a wrong statement or a violated constraint."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF) in _UNAVAILABLE_CODES


def store_unavailable(error: sqlite3.Error, path: Path) -> StoreUnavailable:
    """The error to raise for `is_unavailable`: SQLite's message and what to check."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return StoreUnavailable(
        "store_unavailable",
        f"the database {path} is not usable now: {error} ({name}); check disk space, permissions and other programs that have it open",
    )


def prepare_file(path: Path, *, create: bool) -> None:
    """Ensure that the file exists and only its owner can read it. Raises ConfigError, or NotFound if it may not be created."""
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise ConfigError(
            f"SQLite {sqlite3.sqlite_version} is too old, 3.37 or newer is needed; use a newer Python or system package"
        )
    try:
        if not create and not path.exists():
            raise NotFound(
                "not_found",
                f"there is no kekbridge data in {path.parent}; run `kekbridge serve` once, or name the right --data-dir",
            )
        _refuse_lost_database(path)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            # Created before SQLite opens it: SQLite would create it 0644, and gives its -wal and -shm files the mode of this one.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            _restrict_mode(path)
    except OSError as error:
        fix = "use sudo, or another --data-dir" if isinstance(error, PermissionError) else "use another --data-dir"
        raise ConfigError(f"data directory {path.parent} cannot be used: {error.strerror}; {fix}") from None


def _refuse_lost_database(path: Path) -> None:
    """Raises ConfigError if a daemon has had a database here that is missing or empty now: an empty one would forget trades."""
    marker = path.parent / MARKER
    if not marker.exists() or (path.exists() and path.stat().st_size):
        return
    state = "is empty" if path.exists() else "is missing"
    raise ConfigError(
        f"the database {path} {state}, although a bridge has run on {path.parent}; restore a backup with `kekbridge restore`,"
        f" or delete {marker} to begin with an empty one"
    )


def _restrict_mode(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        try:
            path.chmod(mode & 0o700)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EROFS):
                raise


def connect(path: Path, *, wait_s: float = WRITER_WAIT_S, read_only: bool = False) -> Connection:
    """Open a connection with kekbridge's settings, without implicit transactions. Raises sqlite3.Error.

    Read-only connections are opened for writing as well and restricted by `query_only`: SQLite cannot be the first to open a WAL
    database unless it may create the files beside it.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=wait_s,
        isolation_level=None,
        check_same_thread=False,  # each connection has one owner at a time; closing happens from the thread that shuts down
        cached_statements=512,
        factory=Connection,
    )
    try:
        connection.row_factory = sqlite3.Row
        connection.create_function("exact_sum", 2, exact_sum, deterministic=True)
        connection.execute("PRAGMA foreign_keys = ON")
        # An acknowledged alert must survive a power failure, not only a crash of the daemon.
        connection.execute("PRAGMA synchronous = FULL")
        # The writer thread checkpoints between batches: inside a commit a checkpoint would make some alert wait for two more flushes.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA temp_store = MEMORY")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def initialise(path: Path, *, migrate: bool = True) -> None:
    """Switch the file to WAL mode and apply pending migrations; safe in several processes at once.

    Raises ConfigError if it is not a database, belongs to another program, or was written by a newer kekbridge; with `migrate` False also
    if migrations are pending.
    """
    try:
        connection = connect(path, wait_s=COMMAND_WAIT_S)
        try:
            if _applied(connection) != [name for name, _ in MIGRATIONS]:
                if not migrate:
                    raise ConfigError(
                        f"the bridge that runs on {path.parent} is of another version than this command; restart the bridge"
                    )
                _enable_wal(connection)
                _copy_before_migration(connection, path)
                _migrate(connection, path)
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise ConfigError(
            f"the database {path} cannot be opened: {error}; "
            "check permissions and disk space, or restore a backup with `kekbridge restore`"
        ) from None


def _enable_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to WAL. Retried, because the busy timeout does not cover this statement and two processes may start together."""
    deadline = time.monotonic() + COMMAND_WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(0.02)


def _applied(connection: sqlite3.Connection) -> list[str]:
    """Names of the applied migrations, read without importing sqlite-utils: at most starts nothing is pending."""
    has_table = connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone()
    if has_table is None:
        return []
    rows = connection.execute(
        "SELECT name FROM _sqlite_migrations WHERE migration_set = ? ORDER BY id", (_MIGRATION_SET,)
    )
    return [row[0] for row in rows]


def copies_before_migration(data_dir: Path) -> list[Path]:
    """Copies of the database from before it was migrated, oldest first: for an earlier version, which cannot read the present one."""
    return sorted(data_dir.glob(f"{_BEFORE_MIGRATION}*.db"), key=lambda path: path.stat().st_mtime)


def _copy_before_migration(connection: sqlite3.Connection, path: Path) -> None:
    """Keep a copy of a database that an earlier version has used; of an interrupted migration the copy stays the first.

    Raises ConfigError if there is no room for it.
    """
    applied = _applied(connection)
    known = [name for name, _ in MIGRATIONS]
    if not applied or known[: len(applied)] != applied:
        return  # new, or refused by `_migrate`
    copy = path.with_name(f"{_BEFORE_MIGRATION}{known[len(applied)]}.db")
    new = copy.with_suffix(".new")
    try:
        new.unlink(missing_ok=True)
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with closing(sqlite3.connect(new)) as target:
            connection.backup(target)
            drop_replication_tables(target)
            target.execute("PRAGMA journal_mode = DELETE")  # one file
        for old in copies_before_migration(path.parent):
            if time.time() - old.stat().st_mtime > _INTERRUPTED_FOR_S:
                old.unlink(missing_ok=True)
        os.replace(new, copy)
    except (OSError, sqlite3.Error) as error:
        new.unlink(missing_ok=True)
        raise ConfigError(
            f"the database {path} was not migrated: a copy of it cannot be written ({error}); make room on its disk"
        ) from None


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    import sqlite_utils
    from sqlite_utils.migrations import Migrations

    migrations = Migrations(_MIGRATION_SET)
    for name, statements in MIGRATIONS:

        def run(db: sqlite_utils.Database, /, statements: tuple[Step, ...] = statements) -> None:
            for statement in statements:
                if callable(statement):
                    statement(connection)
                else:
                    db.conn.execute(statement)

        migrations(name=name)(run)

    # Pending migrations are determined inside the transaction: of two processes that start together only one migrates.
    connection.execute("BEGIN IMMEDIATE")
    try:
        applied = _applied(connection)
        _refuse_foreign(connection, applied, path)
        migrations.apply(sqlite_utils.Database(connection, execute_plugins=False))
        connection.execute(
            "INSERT OR REPLACE INTO settings (key, value, updated_at) VALUES (?, ?, ?)",
            (_MIGRATED_BY, to_json(__version__), time_text(datetime.now(UTC))),
        )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _refuse_foreign(connection: sqlite3.Connection, applied: list[str], path: Path) -> None:
    unknown = [name for name in applied if name not in {known for known, _ in MIGRATIONS}]
    if unknown:
        raise ConfigError(
            f"the database {path} belongs to {_migrated_by(connection)} (migration {unknown[0]} is unknown to {__version__}):"
            f" use that version, or {_way_back(path, unknown[0])}"
        )
    if not applied and connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None:
        raise ConfigError(f"{path} is a database of another program; use another --data-dir")


def _migrated_by(connection: sqlite3.Connection) -> str:
    """The newer version that migrated the database, as a refusal names it."""
    row = connection.execute("SELECT value FROM settings WHERE key = ?", (_MIGRATED_BY,)).fetchone()
    found = None if row is None else from_json(row[0])
    return f"kekbridge {found}" if isinstance(found, str) and found != __version__ else "a newer kekbridge"


def _way_back(path: Path, migration: str) -> str:
    """What brings this version's data back: the copy of before that migration, else a backup that this version wrote."""
    if (copy := path.with_name(f"{_BEFORE_MIGRATION}{migration}.db")).is_file():
        what, file = "go back to the data of before its upgrade", shlex.quote(str(copy))
    else:
        written = path.parent.glob(f"backups/before-upgrade-from-{__version__}-*.zip")
        newest = max(written, key=lambda backup: backup.stat().st_mtime, default=None)
        what, file = f"restore a backup of {__version__}", "FILE" if newest is None else shlex.quote(str(newest))
    return f"{what} with `kekbridge restore {file} --data-dir {shlex.quote(str(path.parent))}`"
