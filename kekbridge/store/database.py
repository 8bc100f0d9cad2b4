"""The door to the database: one writer thread, a few readers, and synchronous transactions for the command line.

It runs functions over connections and knows no table; what may be done to a table is said by the module of that noun.
Answering a sender before `write` returned would break the first promise of the bridge: it returns after the flush.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, Self, TypeVar

from kekbridge.errors import StoreUnavailable
from kekbridge.store.connections import (
    COMMAND_WAIT_S,
    FILE_NAME,
    connect,
    initialise,
    is_machine_trouble,
    prepare_file,
    unavailable,
)
from kekbridge.store.writer import Writer

P = ParamSpec("P")
T = TypeVar("T")

_READERS: Final = 2
# Long enough for the answers, fills and notes of a burst to share a flush, too short for anybody to notice who does not wait for it.
SOON_S: Final = 0.05


class Database:
    """One SQLite file. Made by `open`; `write` and `read` are for the daemon, `transaction` and `snapshot` for the command line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: Writer | None = None
        self._is_closed = False
        self._pool: ThreadPoolExecutor | None = None
        self._idle_readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._loop_reader: sqlite3.Connection | None = None

    @classmethod
    def open(cls, data_dir: Path, *, create: bool = True) -> Self:
        """Open (or create, owner-only) the database of a data directory and migrate it; blocks, so before the loop is busy.

        Raises ConfigError when the file cannot be used, NotFound when there is none and `create` is False.
        """
        path = data_dir / FILE_NAME
        prepare_file(path, create=create)
        initialise(path)
        return cls(path)

    # ------------------------------------------------------------------------------------------------------- daemon

    async def write(
        self, function: Callable[Concatenate[sqlite3.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `function(connection, …)` on the writer thread and return its result after the commit was flushed.

        What the function raises undoes what it did and is raised here. StoreUnavailable means that nothing was stored. Cancelling
        the caller does not take the write back: an outcome after a time-out is unknown, not "no".
        """
        return await self._submit(lambda connection: function(connection, *args, **kwargs), within_s=0.0)

    def write_soon(
        self, function: Callable[Concatenate[sqlite3.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """`write` for what nobody is promised yet: it shares the flush of the next write, or has its own after a few milliseconds.

        For facts that the exchange could be asked for again, and for our diary. The order of writes is kept between both kinds,
        and its place in it is taken by this call, before the future is awaited.
        """
        return self._submit(lambda connection: function(connection, *args, **kwargs), within_s=SOON_S)

    def flush_now(self) -> None:
        """Somebody waits for what was written with `write_soon`: it has its flush now."""
        if self._writer is not None:
            self._writer.flush_now()

    def _submit(self, run: Callable[[sqlite3.Connection], T], *, within_s: float) -> asyncio.Future[T]:
        self._refuse_when_closed()
        if self._writer is None:
            self._writer = Writer(self.path)
        return self._writer.submit(run, within_s=within_s)

    async def read(
        self, function: Callable[Concatenate[sqlite3.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `function(connection, …)` on a reader thread over one consistent picture; it cannot write."""
        self._refuse_when_closed()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="kekbridge-reader")
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, lambda: self._read_pooled(lambda connection: function(connection, *args, **kwargs))
        )

    def read_now(
        self, function: Callable[Concatenate[sqlite3.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `function(connection, …)` here and now, on the loop's thread: for lookups by index of a few rows, nothing else."""
        self._refuse_when_closed()
        try:
            if self._loop_reader is None:
                self._loop_reader = connect(self.path, read_only=True)
            return function(self._loop_reader, *args, **kwargs)
        except sqlite3.Error as error:
            if not is_machine_trouble(error):
                raise
            if self._loop_reader is not None:
                self._loop_reader.close()
                self._loop_reader = None
            raise unavailable(error, self.path) from error

    async def close(self) -> None:
        """Finish every write that waits, then close all connections."""
        await asyncio.get_running_loop().run_in_executor(None, self.close_now)

    def close_now(self) -> None:
        """`close` for callers without an event loop. Blocks; calling it twice is harmless."""
        self._is_closed = True
        if self._pool is not None:
            self._pool.shutdown()
        while not self._idle_readers.empty():
            self._idle_readers.get().close()
        if self._loop_reader is not None:
            self._loop_reader.close()
            self._loop_reader = None
        if self._writer is not None:
            self._writer.close()  # last: with no reader left it can fold the whole log into the file

    def _refuse_when_closed(self) -> None:
        if self._is_closed:
            raise StoreUnavailable("store_unavailable", "the store is closed: kekbridge is stopping")

    def _read_pooled(self, function: Callable[[sqlite3.Connection], T]) -> T:
        try:
            try:
                connection = self._idle_readers.get_nowait()
            except queue.Empty:
                connection = connect(self.path, read_only=True)
            try:
                with _picture(connection):
                    result = function(connection)
            except sqlite3.Error as error:
                if is_machine_trouble(error):
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
            if is_machine_trouble(error):
                raise unavailable(error, self.path) from error
            raise

    # ------------------------------------------------------------------------------------------------- command line

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction on a connection of its own, also while the daemon runs: committed at the end, undone by an exception."""
        with self._own_connection(read_only=False) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """One consistent picture to read from, on a connection of its own."""
        with self._own_connection(read_only=True) as connection, _picture(connection):
            yield connection

    @contextmanager
    def _own_connection(self, *, read_only: bool) -> Iterator[sqlite3.Connection]:
        connection: sqlite3.Connection | None = None
        try:
            connection = connect(self.path, wait_s=COMMAND_WAIT_S, read_only=read_only)
            yield connection
        except sqlite3.Error as error:
            if is_machine_trouble(error):
                raise unavailable(error, self.path) from error
            raise
        finally:
            if connection is not None:
                connection.close()  # rolls an unfinished transaction back


@contextmanager
def _picture(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
