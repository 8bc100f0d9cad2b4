"""The writer thread: commits rows of the journal and jobs together, with one flush, and projects the rows once nothing waits for it.

Group commit keeps fifty alerts of one bar close from waiting for fifty flushes. Knows no table: jobs are functions of the connection, and
what a row changes is the projector's matter. A job runs after every row that was handed over before it is projected.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from kekbridge.errors import StoreUnavailable
from kekbridge.failpoints import hit
from kekbridge.log import get_logger
from kekbridge.store import journal, projector
from kekbridge.store.connections import WRITER_WAIT_S, connect, is_unavailable, store_unavailable
from kekbridge.store.files import DatabaseFiles
from kekbridge.store.journal import Entry
from kekbridge.store.transaction import Connection

T = TypeVar("T")

log = get_logger("kekbridge.store.writer")

QUEUE_BOUND: Final = 10_000
# Enough for any burst that one account can send, few enough that the first of them does not wait for the last.
BATCH_BOUND: Final = 256
# How long rows and jobs that nobody waits for may wait for others to share their flush.
SOON_S: Final = 0.05
# Rows are projected when nothing was written for this long, or in pieces once so many wait: a piece is what a new alert may wait for.
_PROJECT_IDLE_S: Final = 0.03
_PROJECT_FROM: Final = 512
_PROJECT_PIECE: Final = 128
_RETRY_S: Final = 0.5
# Checkpoints flush twice and make the next commit flush once more: done while idle, or when the log has grown long.
_CHECKPOINT_IDLE_ITEMS: Final = 512
_CHECKPOINT_ITEMS: Final = 4096
# A replicated database's log is checkpointed by the program that copies it, about every 1,000 items. After so many it does not run.
_REPLICATED_ITEMS: Final = 16_384
# Where the log's header has the two numbers that change whenever the log restarts from its beginning.
_LOG_SALT: Final = slice(16, 24)
_IDLE_S: Final = 0.25
_SHORTEST_WAIT_S: Final = 0.05


@dataclass(slots=True)
class _Job:
    """A function to run in the next transaction, and the future of its caller."""

    run: Callable[[sqlite3.Connection], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    #: When it was handed over (time.monotonic()).
    since: float
    #: One of them is set before the future is completed.
    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Row:
    """A row of the journal that somebody waits for, or that is to be written soon (no callback)."""

    entry: Entry
    loop: asyncio.AbstractEventLoop
    #: Called on the loop after the flush: True if the row is on disk, False if its identity was taken, an error if nothing was stored.
    done: Callable[[bool | StoreUnavailable], None] | None
    since: float
    result: bool | StoreUnavailable = True


class FilesLost(sqlite3.OperationalError):
    """The database's files are not those that were opened."""


_Item = _Job | _Row
_SHUTDOWN: Final = object()


class Writer:
    """Commits rows and jobs in order on its own thread and connection; a failing job rolls back only its own changes."""

    def __init__(
        self,
        path: Path,
        on_changed: Callable[[frozenset[str]], None],
        files: DatabaseFiles | None = None,
        *,
        is_replicated: bool = False,
    ) -> None:
        """`files`: nothing is acknowledged once they are not those on the disk. `on_changed` is called on the loop of a job with what it
        changed (transaction.py), before the job's future is completed. `is_replicated`: another program checkpoints the log."""
        self._path = path
        self._is_replicated = is_replicated
        self._log_salt = b""
        self._items_in_log = 0  # since the log was seen to restart; of a replicated database
        self._files = files
        self._on_changed = on_changed
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._connection: Connection | None = None
        self._data_version: int | None = None
        self._items_since_checkpoint = 0
        self._is_closed = False
        self._closing = threading.Lock()  # nothing may be queued behind the shutdown
        # Handed over in this iteration of the event loop, or soon. Queued together, so that the requests of a burst share a flush instead
        # of waking the thread one by one.
        self._pending: list[_Item] = []
        self._flush_scheduled_on: asyncio.AbstractEventLoop | None = None
        self._soon_scheduled = False
        self._unwritten: list[_Row] = []  # rows that nobody waits for, of batches that failed: written with the next
        self._backlog: list[tuple[int, Entry]] = []  # committed and not projected yet
        # Numbers of rows, for `is_behind`; those settled in the open transaction count as projected once it is committed.
        self._handed_over = self._projected = self._settled = 0
        # A daemon thread: what is not committed when the process ends was never acknowledged.
        self._thread = threading.Thread(target=self._run, name="kekbridge-writer", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------------------------------------- the loop's side

    @property
    def is_behind(self) -> bool:
        """True while a row that was handed over is not in the tables."""
        return self._projected < self._handed_over

    def submit(self, run: Callable[[sqlite3.Connection], T], *, soon: bool = False) -> asyncio.Future[T]:
        """Queue a job; its future completes after the commit. Cancelling it does not stop the job. Raises StoreUnavailable.

        `soon`: it may wait for others, at most SOON_S, and shares the flush of the first that may not. Order is kept.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._hand_over(_Job(run, loop, future, time.monotonic()), soon=soon)
        return future

    def append(self, entry: Entry, done: Callable[[bool | StoreUnavailable], None]) -> None:
        """Append a row and flush it at once; `done` is called on the loop afterwards. Raises StoreUnavailable."""
        self._hand_over(_Row(entry, asyncio.get_running_loop(), done, time.monotonic()), soon=False)
        self._handed_over += 1

    def append_soon(self, entry: Entry) -> None:
        """Append a row within SOON_S. It is kept until it can be written: a fact of the exchange is never given up."""
        self._hand_over(_Row(entry, asyncio.get_running_loop(), None, time.monotonic()), soon=True)
        self._handed_over += 1

    def close(self) -> None:
        """Finish what is pending, then close the connection. Blocks; calling it twice is harmless."""
        with self._closing:
            if not self._is_closed:
                self._is_closed = True
                self._move_pending_to_queue()
                self._queue.put(_SHUTDOWN)
        self._thread.join()

    def _hand_over(self, item: _Item, *, soon: bool) -> None:
        loop = item.loop
        with self._closing:
            if self._is_closed:
                raise StoreUnavailable("store_unavailable", "the store is closed: kekbridge is stopping")
            is_needed = isinstance(item, _Row) and item.done is None
            if self._queue.qsize() + len(self._pending) >= QUEUE_BOUND and not is_needed:
                raise StoreUnavailable("store_unavailable", f"{QUEUE_BOUND} writes are already waiting for the disk")
            self._pending.append(item)
            if soon:
                if not self._soon_scheduled:
                    self._soon_scheduled = True
                    loop.call_later(SOON_S, self._enqueue_pending)
            elif self._flush_scheduled_on is not loop:
                self._flush_scheduled_on = loop
                loop.call_soon(self._enqueue_pending)

    def _enqueue_pending(self) -> None:
        with self._closing:
            self._move_pending_to_queue()

    def _move_pending_to_queue(self) -> None:
        if self._pending:
            self._queue.put(self._pending)
            self._pending = []
        self._flush_scheduled_on = None
        self._soon_scheduled = False

    # ------------------------------------------------------------------------------------------------ writer thread

    def _run(self) -> None:
        is_closing = False
        while not is_closing:
            batch, is_closing = self._next_batch()
            if batch or (self._unwritten and is_closing):
                self._write(batch)
            elif not is_closing:
                self._idle()
                continue
            if len(self._backlog) >= _PROJECT_FROM:
                self._project(_PROJECT_PIECE)
            if self._items_since_checkpoint >= _CHECKPOINT_ITEMS:
                self._checkpoint()
        self._project(len(self._backlog))
        if self._connection is not None:
            self._checkpoint()
            self._drop_connection()

    def _idle(self) -> None:
        """Nobody waits: write what failed before, project, checkpoint."""
        if self._unwritten:
            self._write([])
        elif self._backlog:
            self._project(_PROJECT_PIECE)
        else:
            self._checkpoint()

    def _next_batch(self) -> tuple[list[_Item], bool]:
        """The next items, in order, and whether to shut down; none after a time that is good for projection or a checkpoint."""
        batch: list[_Item] = []
        try:
            while len(batch) < BATCH_BOUND:
                items = self._queue.get_nowait() if batch else self._queue.get(timeout=self._longest_wait_s())
                if items is _SHUTDOWN:
                    return batch, True
                batch += items
        except queue.Empty:
            pass  # nothing more to share the flush with
        return batch, False

    def _longest_wait_s(self) -> float | None:
        if self._unwritten:
            return _RETRY_S
        if self._backlog:
            return _PROJECT_IDLE_S
        return _IDLE_S if self._items_since_checkpoint >= _CHECKPOINT_IDLE_ITEMS else None

    def _write(self, batch: Sequence[_Item]) -> None:
        """Commit a batch with one flush and report it. A file error fails what somebody waits for; the next batch reopens the file."""
        items = [*self._unwritten, *batch]
        self._unwritten = []
        self._items_since_checkpoint += len(items)
        backlog = list(self._backlog)
        try:
            connection = self._begin(items)
            for item in items:
                if isinstance(item, _Row):
                    self._insert(connection, item)
                else:
                    self._run_job(connection, item)
            hit("W3")  # written, not committed
            self._commit(connection)
        except FilesLost as error:
            # The connection stays open: it is the only way to what these files held, and another would open what lies there now.
            self._backlog = backlog
            self._fail(items, error)
            changed = frozenset[str]()
        except (sqlite3.Error, MemoryError) as error:
            self._backlog = backlog  # what was projected is rolled back, too
            self._drop_connection()
            reason = error if isinstance(error, sqlite3.Error) else sqlite3.OperationalError("out of memory")
            self._fail(items, reason)
            changed = frozenset[str]()
        else:
            changed, connection.changed = connection.changed, frozenset()
            self._fail_if_lost(batch)
        if self._backlog:
            hit("W10")  # committed, not projected and not reported
        self._report(batch, changed)

    def _insert(self, connection: Connection, row: _Row) -> None:
        sequence = journal.insert(connection, row.entry)
        row.result = sequence is not None
        if sequence is not None and row.entry.fact is not None:
            self._backlog.append((sequence, row.entry))
        else:
            self._settled += 1

    def _run_job(self, connection: Connection, job: _Job) -> None:
        """Run a job by itself: its error rolls back only what it did. What was appended before it is projected first."""
        self._project_in(connection, len(self._backlog))
        head, changed = connection.head, connection.changed
        connection.execute("SAVEPOINT job")
        try:
            job.result = job.run(connection)
            projector.skip(connection)
        except sqlite3.Error as error:
            if is_unavailable(error):
                raise
            job.error = error
        except BaseException as error:  # of any kind: it is raised in the job's caller
            job.error = error
        if job.error is not None:
            connection.execute("ROLLBACK TO job")
            connection.head, connection.changed = head, changed
        connection.execute("RELEASE job")

    def _begin(self, items: Sequence[_Item]) -> Connection:
        """Take the write lock, less the time that the first item has already waited behind a locked batch.

        Otherwise the second batch would fail after twice the time, when its sender has given up without a 503.
        """
        self._require_files()
        is_new = self._connection is None
        if self._connection is None:
            self._connection = connect(self._path)
        connection = self._connection
        self._settled = 0
        waited = time.monotonic() - min((item.since for item in items), default=time.monotonic())
        if waited < _SHORTEST_WAIT_S * 2:
            connection.execute("BEGIN IMMEDIATE")
        else:
            wait_s = max(WRITER_WAIT_S - waited, _SHORTEST_WAIT_S)
            connection.execute(f"PRAGMA busy_timeout = {round(wait_s * 1000)}")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA busy_timeout = {round(WRITER_WAIT_S * 1000)}")
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version != self._data_version or connection.head is None:
            self._data_version = version  # the first transaction, or another process has written
            connection.head = journal.head(connection)
        if is_new and self._files is not None:
            self._files.remember_log()
        return connection

    def _require_files(self) -> None:
        """Raises FilesLost if the files were deleted, replaced or emptied: what is written to them is gone at the next start."""
        problem = self._files.problem() if self._files is not None else None
        if problem is not None:
            raise FilesLost(problem)

    def _commit(self, connection: Connection) -> None:
        connection.execute("COMMIT")
        self._projected += self._settled
        self._settled = 0

    def _fail(self, items: Sequence[_Item], reason: sqlite3.Error) -> None:
        for item in items:
            # One exception each: raised in several tasks, a shared object would collect all their tracebacks.
            error = store_unavailable(reason, self._path)
            if isinstance(item, _Job):
                item.result, item.error = None, error
            elif item.done is None:
                self._unwritten.append(item)
            else:
                item.result = error
                self._projected += 1

    def _fail_if_lost(self, batch: Sequence[_Item]) -> None:
        """Fail what was committed to files that are gone: it must not be acknowledged."""
        problem = self._files.problem() if self._files is not None else None
        if problem is None:
            return
        for item in batch:
            error = store_unavailable(FilesLost(problem), self._path)
            if isinstance(item, _Job):
                item.result, item.error = None, item.error or error
            elif item.done is not None:
                item.result = error

    def _report(self, batch: Sequence[_Item], changed: frozenset[str]) -> None:
        """Complete futures and call back, with one wake-up per event loop: fifty separate ones would cost more than the commit."""
        by_loop: dict[asyncio.AbstractEventLoop, list[_Item]] = {}
        for item in batch:
            if isinstance(item, _Job) or item.done is not None:
                by_loop.setdefault(item.loop, []).append(item)
        for loop, items in by_loop.items():
            try:
                loop.call_soon_threadsafe(self._resolve, items, changed)
            except RuntimeError:
                pass  # the loop is closed: the write is done and no caller is left

    def _resolve(self, items: Sequence[_Item], changed: frozenset[str]) -> None:
        if changed:
            self._on_changed(changed)
        for item in items:
            if isinstance(item, _Row):
                if item.done is not None:
                    item.done(item.result)
            elif item.future.done():
                continue  # the caller was cancelled; the write remains
            elif item.error is not None:
                item.future.set_exception(item.error)
            else:
                item.future.set_result(item.result)

    # --------------------------------------------------------------------------------------------- projection, checkpoints

    def _project(self, most: int) -> None:
        """Project at most so many rows in a transaction of their own. A failure delays the tables, never an order."""
        if not self._backlog:
            return
        backlog = list(self._backlog)
        try:
            connection = self._begin(())
            self._project_in(connection, most)
            self._commit(connection)
        except FilesLost as error:
            self._backlog = backlog
            log.warning("projection_delayed", error=str(error))
            time.sleep(_RETRY_S)
        except (sqlite3.Error, MemoryError) as error:
            self._backlog = backlog
            self._drop_connection()
            log.warning("projection_delayed", error=str(error))
            time.sleep(_SHORTEST_WAIT_S)

    def _project_in(self, connection: Connection, most: int) -> None:
        """Project at most so many rows inside the open transaction."""
        if not self._backlog:
            return
        done = projector.position(connection)  # a command of this process may have projected some
        piece = [each for each in self._backlog[:most] if each[0] > done]
        known = min(most, len(self._backlog)) - len(piece)
        del self._backlog[:known]
        self._settled += known
        if not piece:
            return
        connection.execute("SAVEPOINT projection")
        try:
            projector.project(connection, [entry for _, entry in piece], last=piece[-1][0])
        except sqlite3.Error as error:
            if is_unavailable(error):
                raise
            self._give_up(connection, piece, error)
        except Exception as error:
            self._give_up(connection, piece, error)
        connection.execute("RELEASE projection")
        del self._backlog[: len(piece)]
        self._settled += len(piece)

    def _give_up(self, connection: Connection, piece: Sequence[tuple[int, Entry]], error: Exception) -> None:
        """A defect: the journal holds these rows, the tables do not. Project them one by one, so that only what cannot be is missing."""
        connection.execute("ROLLBACK TO projection")
        for sequence, entry in piece:
            connection.execute("SAVEPOINT one")
            try:
                projector.project(connection, [entry], last=sequence)
            except Exception as failure:
                connection.execute("ROLLBACK TO one")
                log.error(
                    "row_not_projected",
                    sequence=sequence,
                    kind=entry.kind,
                    alert_id=entry.alert_id,
                    client_order_id=entry.client_order_id,
                    error=f"{type(failure).__name__}: {failure}",
                    first=f"{type(error).__name__}: {error}",
                )
            connection.execute("RELEASE one")

    def _drop_connection(self) -> None:
        """Close the connection, which rolls back an open transaction."""
        if self._connection is not None:
            try:
                self._connection.close()
            except sqlite3.Error:
                pass  # already broken
            if self._files is not None:
                self._files.forget_log()
            self._connection = None
            self._data_version = None

    def _checkpoint(self) -> None:
        """Copy the log into the database, so that the log restarts from its beginning; a busy reader only postpones it."""
        items, self._items_since_checkpoint = self._items_since_checkpoint, 0
        if self._connection is None or (self._is_replicated and self._is_checkpointed_elsewhere(items)):
            return
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error:
            self._drop_connection()  # nothing is lost: committed data is in the log

    def _is_checkpointed_elsewhere(self, items: int) -> bool:
        """True if the program that copies the log has restarted it not long ago: what it has not read must not be overwritten.

        If it is overwritten nevertheless, the program notices, and copies the whole database.
        """
        try:
            with open(f"{self._path}-wal", "rb") as log_file:
                salt = log_file.read(_LOG_SALT.stop)[_LOG_SALT]
        except OSError:
            salt = b""
        if salt != self._log_salt:
            self._log_salt, self._items_in_log = salt, 0
        self._items_in_log += items
        return self._items_in_log < _REPLICATED_ITEMS
