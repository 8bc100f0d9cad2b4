"""The database as a whole: durability of acknowledged writes, and behaviour on file errors."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from kekbridge.errors import ConfigError, NotFound, StoreUnavailable
from kekbridge.execution.book import Book
from kekbridge.failpoints import VARIABLE
from kekbridge.model import OrderStatus, TradingState
from kekbridge.store import journal, orders, projector, settings
from kekbridge.store.connections import FILE_NAME, connect
from kekbridge.store.database import Database
from kekbridge.store.journal import Entry
from kekbridge.store.lock import DaemonLock
from kekbridge.store.migrations import MIGRATIONS
from tests.programs import python
from tests.store.factories import NOW
from tests.stored import store_order


def put_key(connection: sqlite3.Connection, key: str, value: object = 1) -> str:
    settings.set_value(connection, key, value, now=NOW)
    return key


def keys(connection: sqlite3.Connection) -> set[str]:
    return {key for (key,) in connection.execute("SELECT key FROM settings WHERE key <> 'migrated_by'")}


# ----------------------------------------------------------------------------------------------------------------- opening


def test_new_files_are_readable_by_their_owner_only(data_dir: Path) -> None:
    """No other user of the machine may read the database, its log or its index, with any umask."""
    before = os.umask(0o000)
    try:
        database = Database.open(data_dir)
        with database.transaction() as connection:
            put_key(connection, "a")
            files = list(data_dir.iterdir())
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
            assert len(files) == 3
    finally:
        os.umask(before)
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700


def test_loose_permissions_are_restricted(data_dir: Path) -> None:
    """A database copied with loose permissions is restricted at the next start."""
    Database.open(data_dir)
    (data_dir / FILE_NAME).chmod(0o644)
    Database.open(data_dir)
    assert stat.S_IMODE((data_dir / FILE_NAME).stat().st_mode) == 0o600


def test_the_database_is_durable_by_its_settings(database: Database) -> None:
    """Every connection flushes at commit, keeps foreign keys, and leaves checkpoints to the writer."""
    for read_only in (True, False):
        connection = connect(database.path, read_only=read_only)
        found = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "wal_autocheckpoint")
        }
        connection.close()
        assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "wal_autocheckpoint": 0}


def test_every_table_is_strict(database: Database) -> None:
    """The file itself rejects a number in a text column or a float in an amount."""
    with database.snapshot() as connection:
        tables = connection.execute("PRAGMA table_list").fetchall()
    ours = [table for table in tables if not table["name"].startswith(("sqlite_", "_sqlite"))]
    assert len(ours) > 10
    assert all(table["strict"] for table in ours)


def test_amounts_cannot_be_stored_as_floats(connection: sqlite3.Connection) -> None:
    """The mistake that loses digits is an error, not a rounding."""
    with pytest.raises(TypeError):
        settings.set_value(connection, "equity_peak", 0.1, now=NOW)


def test_reading_creates_no_database(data_dir: Path) -> None:
    """`kekbridge logs` with a mistyped --data-dir fails instead of creating an empty database there."""
    with pytest.raises(NotFound, match="kekbridge serve"):
        Database.open(data_dir, create=False)
    assert not data_dir.exists()


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to look like one " * 40, b"\x00" * 4096])
def test_file_that_is_not_a_database_is_refused(data_dir: Path, content: bytes) -> None:
    """One line for the operator, no traceback, and the file stays as it was."""
    data_dir.mkdir()
    (data_dir / FILE_NAME).write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        Database.open(data_dir)
    assert "\n" not in refused.value.message
    assert (data_dir / FILE_NAME).read_bytes() == content


def test_another_programs_database_is_refused(data_dir: Path) -> None:
    """Foreign tables are never mixed with kekbridge's."""
    data_dir.mkdir()
    raw = sqlite3.connect(data_dir / FILE_NAME)
    raw.execute("CREATE TABLE trades (id INTEGER)")
    raw.close()
    with pytest.raises(ConfigError, match="another program"):
        Database.open(data_dir)


def test_simultaneous_starts_all_find_the_newest_tables(data_dir: Path) -> None:
    """A daemon and a command started at once on an empty directory: one migrates, the others find it done."""
    code = """
import sys
from pathlib import Path
from kekbridge.store.database import Database
print("ready", flush=True)
sys.stdin.readline()
database = Database.open(Path(sys.argv[1]))
with database.transaction() as connection:
    connection.execute("INSERT INTO settings VALUES (?, '1', '')", (sys.argv[2],))
"""
    processes = [python(code, data_dir, number) for number in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(30) for process in processes] == [0, 0, 0, 0]
    for process in processes:
        process.communicate()
    with Database.open(data_dir).snapshot() as connection:
        assert keys(connection) == {"0", "1", "2", "3"}
        applied = connection.execute("SELECT name FROM _sqlite_migrations").fetchall()
    assert [name for (name,) in applied] == [name for name, _ in MIGRATIONS]


def test_simultaneous_starts_create_the_tables_once(tmp_path: Path) -> None:
    """Pending migrations are determined inside the write lock: no start fails with "locked" or "table already exists"."""
    Database.open(tmp_path / "warm up")  # so that imports do not spread the starts
    for attempt in range(10):
        directory = tmp_path / str(attempt)
        together = threading.Barrier(6)

        def start(directory: Path = directory, together: threading.Barrier = together) -> Path:
            together.wait(10)
            return Database.open(directory).path

        with ThreadPoolExecutor(6) as pool:
            assert len({future.result() for future in [pool.submit(start) for _ in range(6)]}) == 1


# ------------------------------------------------------------------------------------------------------ writes and reads


async def test_write_returns_after_the_commit(database: Database) -> None:
    """Promise 1: when `write` returns, another connection sees the row."""
    for index in range(20):
        await database.write(put_key, f"k{index}")
        with database.snapshot() as connection:
            assert f"k{index}" in keys(connection)


async def test_cancelled_caller_does_not_cancel_the_write(database: Database) -> None:
    """After a timeout the outcome is unknown, not "no": the write commits all the same."""
    gate = threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        gate.wait(10)
        put_key(connection, "late")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await database.write(slow)
    gate.set()
    await database.write(put_key, "next")
    assert await database.read(keys) == {"late", "next"}


async def test_close_finishes_pending_writes_and_refuses_later_ones(database: Database) -> None:
    """A shutdown loses no write that was already submitted."""
    waiting = [asyncio.ensure_future(database.write(put_key, f"k{index}")) for index in range(100)]
    await asyncio.sleep(0)
    await database.close()
    await asyncio.gather(*waiting)
    with pytest.raises(StoreUnavailable, match="stopping"):
        await database.write(put_key, "too late")
    with pytest.raises(StoreUnavailable, match="stopping"):
        await database.read(keys)
    with database.snapshot() as connection:
        assert len(keys(connection)) == 100


async def test_readers_cannot_write(database: Database) -> None:
    """Only the writer thread and command-line transactions change data."""
    with pytest.raises((sqlite3.OperationalError, StoreUnavailable)):
        await database.read(put_key, "sneaky")
    with pytest.raises((sqlite3.OperationalError, StoreUnavailable)):
        database.read_now(put_key, "sneaky")
    with database.snapshot() as connection, pytest.raises(sqlite3.OperationalError):
        put_key(connection, "sneaky")
    assert await database.read(keys) == set()


async def test_read_is_one_consistent_snapshot(database: Database) -> None:
    """Two statements of one read never see the database before and after a write."""
    started, go_on = threading.Event(), threading.Event()

    def look_twice(connection: sqlite3.Connection) -> tuple[set[str], set[str]]:
        first = keys(connection)
        started.set()
        go_on.wait(10)
        return first, keys(connection)

    reading = asyncio.ensure_future(database.read(look_twice))
    await asyncio.to_thread(started.wait, 10)
    await database.write(put_key, "new")
    go_on.set()
    first, second = await reading
    assert first == second == set()
    assert database.read_now(keys) == {"new"}


async def test_reads_of_pages_hold_up_no_other_reads(database: Database) -> None:
    """However many searches people have begun, what is read before a stop is sent is read at once."""
    end = threading.Event()
    searches = [asyncio.ensure_future(database.read_for_people(lambda _: end.wait(30))) for _ in range(5)]
    try:
        assert await asyncio.wait_for(
            database.read(lambda connection: connection.execute("SELECT 1").fetchone()[0]), 30
        )
        assert not any(search.done() for search in searches)
    finally:
        end.set()
    assert await asyncio.gather(*searches) == [True] * 5


async def test_log_is_checkpointed_and_reused(database: Database) -> None:
    """SQLite's own checkpoints are off: without the writer's the log would grow for ever."""
    wal = Path(f"{database.path}-wal")
    for start in range(0, 6000, 500):
        await asyncio.gather(*(database.write(put_key, f"k{start + index}", "x" * 200) for index in range(500)))
    assert wal.stat().st_size < database.path.stat().st_size * 4
    assert database.path.stat().st_size > 500_000


# -------------------------------------------------------------------------------------------------- trouble with the file


async def test_full_disk_fails_writes_and_recovers(database: Database) -> None:
    """A full disk means 503 for every alert of the batch, nothing half stored, and normal operation once there is room again."""

    def fill_up(connection: sqlite3.Connection) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")

    await database.write(put_key, "before")
    await database.write(fill_up)
    big = "x" * 20_000
    outcomes = await asyncio.gather(
        *(database.write(put_key, f"big{index}", big) for index in range(5)), return_exceptions=True
    )
    assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
    assert await database.read(keys) == {"before"}
    # The connection was reopened, which is the end of the artificial limit, without a restart.
    await database.write(put_key, "after", big)
    assert await database.read(keys) == {"before", "after"}


def test_file_size_limit_loses_no_acknowledged_write(data_dir: Path) -> None:
    """With a file-size limit of the kernel: acknowledged writes stay, failed ones are absent, the file stays intact."""
    code = """
import asyncio, resource, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from kekbridge.errors import StoreUnavailable
from kekbridge.execution.book import Book
from kekbridge.failpoints import VARIABLE
from kekbridge.model import OrderStatus, TradingState
from kekbridge.store import journal, orders, projector, settings
from kekbridge.store.database import Database

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

async def main():
    database = Database.open(Path(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    stored, refused = [], []
    for number in range(400):
        try:
            await database.write(settings.set_value, f"k{number}", "x" * 5000, now=datetime.now(UTC))
            stored.append(number)
        except StoreUnavailable:
            refused.append(number)
            if len(refused) == 5:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await database.close()
    print(len(stored), len(refused), stored[-1])

asyncio.run(main())
"""
    process = python(code, data_dir)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    stored, refused, last = map(int, output.split())
    assert (refused, last) == (5, 399)
    with Database.open(data_dir).snapshot() as connection:
        assert len(keys(connection)) == stored == 395
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


async def test_database_locked_by_another_process_fails_writes_and_recovers(database: Database) -> None:
    """A stuck command on the same file costs a 503, never a hang longer than TradingView waits, and no restart."""
    await database.write(put_key, "before")
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        async with asyncio.timeout(30):
            await database.write(put_key, "during")
    other.execute("ROLLBACK")
    other.close()
    await database.write(put_key, "after")
    assert await database.read(keys) == {"before", "after"}


async def test_write_waits_for_a_short_transaction(database: Database) -> None:
    """`webhook create` beside the running daemon is a short wait, not an error, on either side."""
    await database.write(put_key, "before")
    with database.transaction() as connection:
        put_key(connection, "command")
        daemon = asyncio.ensure_future(database.write(put_key, "daemon"))
        await asyncio.sleep(0)
    await daemon
    assert await database.read(keys) == {"before", "command", "daemon"}


def test_command_line_transaction_is_all_or_nothing(database: Database) -> None:
    """A command that fails half-way has changed nothing."""

    def fail() -> None:
        with database.transaction() as connection:
            put_key(connection, "half")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    with database.snapshot() as connection:
        assert keys(connection) == set()


def test_read_only_file_fails_writes_and_recovers() -> None:
    """Writes fail with one line while the file is read-only and work again afterwards, in the same process."""
    code = """
import asyncio, os, sys
from datetime import UTC, datetime
from pathlib import Path
from kekbridge.errors import StoreUnavailable
from kekbridge.execution.book import Book
from kekbridge.failpoints import VARIABLE
from kekbridge.model import OrderStatus, TradingState
from kekbridge.store import journal, orders, projector, settings
from kekbridge.store.database import Database

data_dir = Path(sys.argv[1])
path = Database.open(data_dir).path
if os.geteuid() == 0:  # root writes read-only files: use another user
    for file in (data_dir, *data_dir.iterdir()):
        os.chown(file, 65534, 65534)
    os.setgid(65534)
    os.setuid(65534)

async def main():
    database = Database.open(data_dir)
    write = lambda key: database.write(settings.set_value, key, 1, now=datetime.now(UTC))
    os.chmod(path, 0o400)
    try:
        await write("refused")
        print("stored")
    except StoreUnavailable as error:
        print("refused", "\\n" in error.message)
    for file in data_dir.iterdir():  # the log has the mode of the file
        file.chmod(0o600)
    await write("kept")
    print(database.read_now(settings.get_value, "kept"), database.read_now(settings.get_value, "refused"))
    await database.close()

asyncio.run(main())
"""
    with tempfile.TemporaryDirectory() as directory:  # pytest's directory is closed to another user
        process = python(code, directory)
        output, _ = process.communicate(timeout=60)
    assert output.splitlines() == ["refused False", "1 None"]


# -------------------------------------------------------------------------------------------------------------- kill -9


@pytest.mark.parametrize("patience", [1, 40, 150])
def test_every_acknowledged_write_survives_kill_9(data_dir: Path, patience: int) -> None:
    """The process is killed in the middle of a burst: every write it had acknowledged is in the file."""
    code = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from kekbridge.execution.book import Book
from kekbridge.failpoints import VARIABLE
from kekbridge.model import OrderStatus, TradingState
from kekbridge.store import journal, orders, projector, settings
from kekbridge.store.database import Database

async def main():
    database = Database.open(Path(sys.argv[1]))
    async def one(number):
        await database.write(settings.set_value, f"k{number}", 1, now=datetime.now(UTC))
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()
    number = 0
    while True:
        await asyncio.gather(*(one(number + index) for index in range(7)))
        number += 7

asyncio.run(main())
"""
    process = python(code, data_dir)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(patience)]
    process.send_signal(signal.SIGKILL)
    acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
    process.communicate()
    with Database.open(data_dir).snapshot() as connection:
        assert {f"k{number}" for number in acknowledged} <= keys(connection)
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


# ---------------------------------------------------------------------------------------------- what a crash left unprojected

_CRASH = """
import asyncio, sys
from pathlib import Path
from kekbridge.execution.book import Book
from kekbridge.model import OrderStatus
from kekbridge.store.database import Database
from kekbridge.store.lock import DaemonLock
from tests.stored import store_order

async def main():
    lock = DaemonLock(Path(sys.argv[1]))
    lock.acquire()
    database = Database.open(Path(sys.argv[1]))
    book = Book(append=database.append_soon)
    for status in OrderStatus:
        store_order(book, status=status)
    await asyncio.sleep(60)  # a flush of its own would project, too

asyncio.run(main())
"""


def test_tables_catch_up_after_a_crash_before_the_projection(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between commit and projection: the next open projects what the journal holds, once, in every state of an order."""
    monkeypatch.setenv(VARIABLE, "W10")
    process = python(_CRASH, data_dir)
    output, _ = process.communicate(timeout=60)
    assert (output, process.returncode) == ("", -signal.SIGKILL)
    with closing(sqlite3.connect(data_dir / FILE_NAME)) as raw:
        assert raw.execute("SELECT count(*) FROM alerts").fetchone()[0] == 0
        assert raw.execute("SELECT count(*) FROM journal WHERE identity IS NOT NULL").fetchone()[0] == len(OrderStatus)
    for _ in range(2):
        database = Database.open(data_dir)
        with database.snapshot() as connection:
            assert [order.status for order in orders.list_orders(connection)] == list(OrderStatus)
            assert journal.verify(connection) is None
            assert not projector.is_behind(connection)
        database.close_now()


def test_command_beside_a_daemon_leaves_the_projection_to_it(data_dir: Path) -> None:
    """While a daemon runs its writer is the only one that projects: a command that opens the file reads what is there."""
    Database.open(data_dir).close_now()
    with DaemonLock(data_dir):
        process = python(_OPEN_BESIDE, data_dir)
        with closing(sqlite3.connect(data_dir / FILE_NAME)) as raw, raw:
            journal.append(raw, "stream_down", now=NOW)
        assert process.communicate("go\n", timeout=60)[0].split() == ["True"]
    with Database.open(data_dir).snapshot() as connection:
        assert not projector.is_behind(connection)


_OPEN_BESIDE = """
import sys
from pathlib import Path
from kekbridge.store import projector
from kekbridge.store.database import Database
sys.stdin.readline()
with Database.open(Path(sys.argv[1])).snapshot() as connection:
    print(projector.is_behind(connection))
"""


def _insert(connection: sqlite3.Connection, entry: Entry) -> None:
    journal.insert(connection, entry)


def test_command_projects_before_it_changes_anything(database: Database) -> None:
    """A command's transaction sees the whole journal in the tables, and leaves nothing behind for the next."""
    with closing(connect(database.path)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        book = Book(append=lambda entry: _insert(raw, entry))
        order = store_order(book, status=OrderStatus.ACCEPTED)
        raw.execute("COMMIT")
        assert projector.is_behind(raw)
    with database.transaction() as connection:
        assert orders.unfinished(connection) == (order,)
        settings.set_trading_state(connection, TradingState.HALTED, reason="r", by="b", now=NOW)
    with database.snapshot() as connection:
        assert not projector.is_behind(connection)
        assert projector.position(connection) == journal.head(connection)[0]


async def test_write_behind_a_locked_batch_waits_only_once(database: Database) -> None:
    """While another process holds the lock, every write fails within about one wait: a 503 after 4 s reaches no sender."""
    await database.write(lambda connection: None)
    with closing(sqlite3.connect(database.path, isolation_level=None, timeout=10)) as other:
        other.execute("BEGIN IMMEDIATE")
        loop = asyncio.get_running_loop()
        started = loop.time()
        first = asyncio.ensure_future(database.write(lambda connection: None))
        await asyncio.sleep(0.2)  # the first one waits for the lock by now; this one is queued behind it
        second = asyncio.ensure_future(database.write(lambda connection: None))
        with pytest.raises(StoreUnavailable):
            await first
        one_wait = loop.time() - started
        with pytest.raises(StoreUnavailable):
            await second
        assert loop.time() - started < 1.7 * one_wait
        other.execute("ROLLBACK")
    await database.write(lambda connection: None)
