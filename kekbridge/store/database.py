"""Access to the database: one writer thread, a few readers, and synchronous snapshots for commands that read.

Runs functions of a connection and knows no table. `write` returns after the flush: a response sent earlier would break promise 1
(docs/internals/architecture.md section 1).
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, Self, TypeVar

from kekbridge.errors import StoreUnavailable
from kekbridge.store import projector
from kekbridge.store.connections import (
    COMMAND_WAIT_S,
    FILE_NAME,
    connect,
    initialise,
    is_unavailable,
    prepare_file,
    store_unavailable,
)
from kekbridge.store.files import DatabaseFiles
from kekbridge.store.journal import Entry
from kekbridge.store.lock import DaemonLock
from kekbridge.store.writer import Writer

P = ParamSpec("P")
T = TypeVar("T")

_READERS: Final = 2


class Database:
    """One SQLite file, from `open`. `write` and `read` are for the daemon and for operations, `snapshot` for commands that read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: Writer | None = None
        self._is_closed = False
        # By the name of their threads.
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._idle_readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._loop_reader: sqlite3.Connection | None = None
        self._change_listeners: list[Callable[[frozenset[str]], None]] = []
        self._files: DatabaseFiles | None = None
        self._is_replicated = False

    @classmethod
    def open(cls, data_dir: Path, *, create: bool = True, migrate: bool = True, is_replicated: bool = False) -> Self:
        """Open (or create, readable by its owner only) and migrate the database of a data directory. Blocks.

        `migrate` False: for a command beside a daemon, which may be of another version. `is_replicated`: another program copies
        the database's log of changes and checkpoints it (ops/litestream.py). Raises ConfigError if the file cannot be used, NotFound if
        there is none and `create` is False.
        """
        path = data_dir / FILE_NAME
        prepare_file(path, create=create)
        initialise(path, migrate=migrate)
        database = cls(path)
        database._files = DatabaseFiles(path)
        database._is_replicated = is_replicated
        if migrate and DaemonLock.holder(data_dir) in (None, os.getpid()):  # else a daemon is about to project them
            database._project_rest()
        return database

    def _project_rest(self) -> None:
        """Project the rows of the journal that a process which is gone did not."""
        with self.snapshot() as connection:
            is_behind = projector.is_behind(connection)
        if is_behind:
            with self.transaction():
                pass

    # ------------------------------------------------------------------------------------------------------- daemon

    async def write(
        self, function: Callable[Concatenate[sqlite3.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `function(connection, …)` on the writer thread and return its result once the commit is flushed.

        An exception of the function rolls back what it did and is raised here. StoreUnavailable: nothing was stored. Cancelling
        the caller does not undo the write: after a timeout the outcome is unknown, not "no".
        """
        return await self._opened_writer().submit(lambda connection: function(connection, *args, **kwargs))

    def write_soon(
        self, function: Callable[Concatenate[sqlite3.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """`write` without the promise of an immediate flush: it shares the flush of the next write, or has its own after a moment.

        For records. Writes of all kinds keep their common order, which is the order of the calls, not of awaiting the futures.
        """
        return self._opened_writer().submit(lambda connection: function(connection, *args, **kwargs), soon=True)

    def append(self, entry: Entry, done: Callable[[bool | StoreUnavailable], None]) -> None:
        """Append a row to the journal and flush it at once; `done` is called on the loop after the flush.

        With True: the row is on disk. With False: another alert of its webhook has claimed its identity, and nothing was stored. With an
        error: nothing was stored. Raises StoreUnavailable if that is known already.
        """
        self._opened_writer().append(entry, done)

    async def flush(self) -> None:
        """Return once everything appended before is on disk. Raises StoreUnavailable."""
        await self._opened_writer().submit(_nothing)

    def append_soon(self, entry: Entry) -> None:
        """Append a row to the journal within 50 ms, or as soon as the disk allows. For facts that the exchange can be asked for again."""
        self._opened_writer().append_soon(entry)

    def file_problem(self) -> str | None:
        """What happened to the files since they were opened (deleted, replaced, emptied), as a clause; None if they are as they were.

        Any thread; blocks for a few stats. Until it is None again every write raises StoreUnavailable.
        """
        return self._files.problem() if self._files is not None else None

    def listen_changes(self, callback: Callable[[frozenset[str]], None]) -> None:
        """Call `callback` on the loop with what a job changed of what the daemon holds in memory, before the job's caller goes on."""
        self._change_listeners.append(callback)

    def _on_changed(self, changed: frozenset[str]) -> None:
        for callback in self._change_listeners:
            callback(changed)

    def _opened_writer(self) -> Writer:
        if self._writer is None or self._is_closed:
            self._require_open()
            self._writer = Writer(self.path, self._on_changed, self._files, is_replicated=self._is_replicated)
        return self._writer

    async def read(
        self, function: Callable[Concatenate[sqlite3.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `function(connection, …)` on a reader thread over one consistent snapshot; it cannot write.

        It sees everything that this process has appended before.
        """
        return await self._read_in("kekbridge-reader", lambda connection: function(connection, *args, **kwargs))

    async def read_for_people(
        self, function: Callable[Concatenate[sqlite3.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """`read` in threads of its own: a search through years must not hold up the reads of trading, such as those before a stop."""
        return await self._read_in("kekbridge-pages", lambda connection: function(connection, *args, **kwargs))

    async def catch_up(self) -> None:
        """Return once the tables hold everything that this process has appended before. Raises StoreUnavailable."""
        if self._writer is not None and self._writer.is_behind:
            await self._writer.submit(_nothing)  # a job runs once everything before it is in the tables

    async def _read_in(self, threads: str, function: Callable[[sqlite3.Connection], T]) -> T:
        self._require_open()
        await self.catch_up()
        if threads not in self._pools:
            self._pools[threads] = ThreadPoolExecutor(_READERS, thread_name_prefix=threads)
        return await asyncio.get_running_loop().run_in_executor(
            self._pools[threads], lambda: self._read_pooled(function)
        )

    def read_now(
        self, function: Callable[Concatenate[sqlite3.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `function(connection, …)` on the loop's thread: only for indexed lookups of a few rows."""
        self._require_open()
        try:
            if self._loop_reader is None:
                self._loop_reader = connect(self.path, read_only=True)
            return function(self._loop_reader, *args, **kwargs)
        except sqlite3.Error as error:
            if not is_unavailable(error):
                raise
            if self._loop_reader is not None:
                self._loop_reader.close()
                self._loop_reader = None
            raise store_unavailable(error, self.path) from error

    async def close(self) -> None:
        """Finish every pending write, then close all connections."""
        await asyncio.get_running_loop().run_in_executor(None, self.close_now)

    def close_now(self) -> None:
        """`close` for callers without an event loop. Blocks; calling it twice is harmless."""
        self._is_closed = True
        for pool in self._pools.values():
            pool.shutdown()
        while not self._idle_readers.empty():
            self._idle_readers.get().close()
        if self._loop_reader is not None:
            self._loop_reader.close()
            self._loop_reader = None
        if self._writer is not None:
            self._writer.close()  # last: without readers its checkpoint can cover the whole log

    def _require_open(self) -> None:
        if self._is_closed:
            raise StoreUnavailable("store_unavailable", "the store is closed: kekbridge is stopping")

    def _read_pooled(self, function: Callable[[sqlite3.Connection], T]) -> T:
        try:
            try:
                connection = self._idle_readers.get_nowait()
            except queue.Empty:
                connection = connect(self.path, read_only=True)
            try:
                with _read_transaction(connection):
                    result = function(connection)
            except sqlite3.Error as error:
                if is_unavailable(error):
                    connection.close()
                else:
                    self._idle_readers.put(connection)
                raise
            except BaseException:
                self._idle_readers.put(connection)
                raise
            self._idle_readers.put(connection)
            return result
        except sqlite3.Error as error:
            if is_unavailable(error):
                raise store_unavailable(error, self.path) from error
            raise

    # ------------------------------------------------------------------------------------------------- command line

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction on its own connection: committed at the end, rolled back by an exception.

        For commands while no daemon runs: the journal has one writer at a time.
        """
        with self._own_connection(read_only=False) as connection:
            connection.execute("BEGIN IMMEDIATE")
            projector.catch_up(connection)
            yield connection
            projector.skip(connection)
            connection.execute("COMMIT")

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """One consistent snapshot to read from, on its own connection."""
        with self._own_connection(read_only=True) as connection, _read_transaction(connection):
            yield connection

    @contextmanager
    def _own_connection(self, *, read_only: bool) -> Iterator[sqlite3.Connection]:
        connection: sqlite3.Connection | None = None
        try:
            connection = connect(self.path, wait_s=COMMAND_WAIT_S, read_only=read_only)
            yield connection
        except sqlite3.Error as error:
            if is_unavailable(error):
                raise store_unavailable(error, self.path) from error
            raise
        finally:
            if connection is not None:
                connection.close()  # rolls an unfinished transaction back


class ReadsForPeople:
    """The reads of a database for pages and scripts (`Database.read_for_people`)."""

    def __init__(self, database: Database) -> None:
        self.read = database.read_for_people
        self.read_now = database.read_now


def _nothing(_connection: sqlite3.Connection) -> None:
    pass


@contextmanager
def _read_transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
