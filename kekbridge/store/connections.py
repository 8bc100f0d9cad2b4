"""Opening the database file: its permissions, its settings, its migrations, and what its errors mean.

Every connection of kekbridge is made here, so that no two of them disagree on durability. It knows no table and no thread.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import time
from pathlib import Path
from typing import Final

from kekbridge.errors import ConfigError, NotFound, StoreUnavailable
from kekbridge.store.cache import Connection
from kekbridge.store.codec import exact_sum
from kekbridge.store.migrations import MIGRATIONS, Step

FILE_NAME: Final = "kekbridge.db"
# STRICT tables came with 3.37 (RETURNING with 3.35): an older library would fail later, in the middle of something.
_OLDEST_SQLITE: Final = (3, 37, 0)
_MIGRATION_SET: Final = "kekbridge"
# How long a writer waits for the command line (or the other way round). TradingView gives up after 3 s: a 503 must come earlier.
WRITER_WAIT_S: Final = 2.0
COMMAND_WAIT_S: Final = 10.0

# SQLite's primary result codes that speak of the machine, not of the statement: nothing was stored, and it may work again later.
_MACHINE_TROUBLE: Final = frozenset(
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


def is_machine_trouble(error: sqlite3.Error) -> bool:
    """True for a full disk, a lock, a broken file and the like; False for a statement that is wrong or breaks a constraint."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF) in _MACHINE_TROUBLE


def unavailable(error: sqlite3.Error, path: Path) -> StoreUnavailable:
    """The one line for a person: what the database said and where to look."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return StoreUnavailable(
        "store_unavailable",
        f"the database {path} is not usable now: {error} ({name}); check disk space, permissions and who else has it open",
    )


def prepare_file(path: Path, *, create: bool) -> None:
    """Make sure that the file exists and is the owner's alone. Raises ConfigError, or NotFound when it may not be made."""
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise ConfigError(
            f"SQLite {sqlite3.sqlite_version} is too old, 3.37 or newer is needed; use a newer Python or system package"
        )
    if not create and not path.exists():
        raise NotFound(
            "not_found",
            f"there is no kekbridge data in {path.parent}; run `kekbridge serve` once, or name the right --data-dir",
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            # Made before SQLite sees it: SQLite would make it 0644, and gives its -wal and -shm files the mode of this one.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            _tighten(path)
    except OSError as error:
        raise ConfigError(
            f"data directory {path.parent} cannot be used: {error.strerror}; use another --data-dir"
        ) from None


def _tighten(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        try:
            path.chmod(mode & 0o700)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EROFS):
                raise


def connect(path: Path, *, wait_s: float = WRITER_WAIT_S, read_only: bool = False) -> Connection:
    """A connection with kekbridge's settings; transactions are begun and ended by hand. Raises sqlite3.Error.

    Readers are opened for writing as well and then told to refuse: SQLite cannot open a WAL file that nobody else has open
    unless it may create the files beside it.
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
        # An acknowledged alert must survive a power cut, not only a crash of ours.
        connection.execute("PRAGMA synchronous = FULL")
        # Checkpoints are the writer thread's, between batches: inside a commit they would make some alert wait for two more flushes.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA temp_store = MEMORY")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def initialise(path: Path) -> None:
    """Bring the file to WAL mode and to the newest tables; several processes may do it at once.

    Raises ConfigError when it is no database, not ours, or made by a newer kekbridge.
    """
    try:
        connection = connect(path, wait_s=COMMAND_WAIT_S)
        try:
            if _applied(connection) != [name for name, _ in MIGRATIONS]:
                _enter_wal(connection)
                _migrate(connection, path)
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise ConfigError(
            f"the database {path} cannot be opened: {error}; "
            "check permissions and disk space, or restore a backup with `kekbridge restore`"
        ) from None


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL, which is remembered in the file. The busy timeout does not cover this statement: two starters collide."""
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
    """Names of the migrations that the file has had, read without sqlite-utils: at most starts there is nothing to do."""
    has_table = connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone()
    if has_table is None:
        return []
    rows = connection.execute(
        "SELECT name FROM _sqlite_migrations WHERE migration_set = ? ORDER BY id", (_MIGRATION_SET,)
    )
    return [row[0] for row in rows]


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

    # What is pending is decided inside the transaction: of two processes that start together one migrates, the other finds it done.
    connection.execute("BEGIN IMMEDIATE")
    try:
        applied = _applied(connection)
        _refuse_foreign(connection, applied, path)
        migrations.apply(sqlite_utils.Database(connection, execute_plugins=False))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _refuse_foreign(connection: sqlite3.Connection, applied: list[str], path: Path) -> None:
    unknown = [name for name in applied if name not in {known for known, _ in MIGRATIONS}]
    if unknown:
        raise ConfigError(
            f"the database {path} was made by a newer kekbridge (migration {unknown[0]} is not known here); "
            "upgrade kekbridge, or restore a backup that this version made"
        )
    if not applied and connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None:
        raise ConfigError(f"{path} is a database of another program; use another --data-dir")
