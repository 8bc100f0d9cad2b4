"""The writer thread: commits all pending jobs together, with one flush, and completes their futures afterwards.

Group commit keeps fifty alerts of one bar close from waiting for fifty flushes; a single writer makes limits exact, because each job sees
what every job before it did. Knows no table: jobs are functions of the connection.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar

from kekbridge.errors import StoreUnavailable
from kekbridge.store.cache import Connection, WriterCache
from kekbridge.store.connections import WRITER_WAIT_S, connect, is_unavailable, store_unavailable

T = TypeVar("T")

QUEUE_BOUND: Final = 10_000
# Enough for any burst that one account can send, few enough that the first job does not wait for the last.
BATCH_BOUND: Final = 256
# Checkpoints flush twice and make the next commit flush once more: done while idle, or when the log has grown long.
_CHECKPOINT_IDLE_JOBS: Final = 512
_CHECKPOINT_JOBS: Final = 1024
_IDLE_S: Final = 0.25
_SHORTEST_WAIT_S: Final = 0.05


@dataclass(slots=True)
class _Job:
    """A function to run in the next transaction, and the future of its caller."""

    run: Callable[[sqlite3.Connection], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    #: Until this time (time.monotonic()) it may wait for other jobs to share its flush.
    due: float
    #: One of them is set before the future is completed.
    result: Any = None
    error: BaseException | None = None


class _Control(Enum):
    """A command to the thread, queued in order with the jobs."""

    FLUSH_NOW = "flush_now"  # jobs queued before it must not wait for more jobs
    SHUTDOWN = "shutdown"


class Writer:
    """Runs jobs in order on its own thread and connection; a failing job rolls back only its own changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[_Job | _Control] = queue.SimpleQueue()
        self._connection: Connection | None = None
        self._cache = WriterCache()
        self._jobs_since_checkpoint = 0
        self._is_closed = False
        self._closing = threading.Lock()  # nothing may be queued behind SHUTDOWN
        # Jobs submitted in this iteration of the event loop. They are queued together, so that the requests of a burst share a flush
        # instead of waking the thread one by one.
        self._pending: list[_Job | _Control] = []
        self._flush_scheduled_on: asyncio.AbstractEventLoop | None = None  # the loop that will queue them
        # A daemon thread: a job that is not committed when the process ends was never acknowledged.
        self._thread = threading.Thread(target=self._run, name="kekbridge-writer", daemon=True)
        self._thread.start()

    def submit(self, run: Callable[[sqlite3.Connection], T], *, within_s: float = 0.0) -> asyncio.Future[T]:
        """Queue a job; its future completes after the commit. Cancelling it does not stop the job. Raises StoreUnavailable.

        A job may wait `within_s` seconds for others, and shares the flush of the first job that must not wait. Order is kept.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._closing:
            if self._is_closed:
                raise StoreUnavailable("store_unavailable", "the store is closed: kekbridge is stopping")
            if self._queue.qsize() + len(self._pending) >= QUEUE_BOUND:
                raise StoreUnavailable("store_unavailable", f"{QUEUE_BOUND} writes are already waiting for the disk")
            self._pending.append(_Job(run, loop, future, time.monotonic() + within_s))
            if self._flush_scheduled_on is not loop:
                self._flush_scheduled_on = loop
                loop.call_soon(self._enqueue_pending)
        return future

    def flush_now(self) -> None:
        """Flush what is queued now, because a caller waits for a job that may wait for others."""
        with self._closing:
            if self._pending:
                self._pending.append(_Control.FLUSH_NOW)
            else:
                self._queue.put(_Control.FLUSH_NOW)

    def close(self) -> None:
        """Finish pending jobs, then close the connection. Blocks; calling it twice is harmless."""
        with self._closing:
            if not self._is_closed:
                self._is_closed = True
                self._move_pending_to_queue()
                self._queue.put(_Control.SHUTDOWN)
        self._thread.join()

    def _enqueue_pending(self) -> None:
        with self._closing:
            self._move_pending_to_queue()

    def _move_pending_to_queue(self) -> None:
        for item in self._pending:
            self._queue.put(item)
        self._pending.clear()
        self._flush_scheduled_on = None

    # ------------------------------------------------------------------------------------------------ writer thread

    def _run(self) -> None:
        is_closing = False
        while not is_closing:
            batch, is_closing = self._next_batch()
            if batch:
                self._commit(batch)
                _complete(batch)
            elif not is_closing:
                self._checkpoint()
                continue
            if self._jobs_since_checkpoint >= _CHECKPOINT_JOBS:
                self._checkpoint()
        if self._connection is not None:
            self._checkpoint()
            self._drop_connection()

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """The next jobs, in order, and whether to shut down; no job after an idle time that is good for a checkpoint.

        While every job so far may wait, it waits for more.
        """
        batch: list[_Job] = []
        due = float("inf")
        try:
            while len(batch) < BATCH_BOUND:
                item = self._get_until(due) if batch else self._get_first()
                if item is _Control.SHUTDOWN:
                    return batch, True
                if isinstance(item, _Job):
                    batch.append(item)
                    due = min(due, item.due)
                elif batch:
                    due = 0.0  # FLUSH_NOW
        except queue.Empty:
            pass  # no more jobs to share the flush with
        return batch, False

    def _get_first(self) -> _Job | _Control:
        """Wait for the next item; raises queue.Empty after an idle time that is good for a checkpoint."""
        return self._queue.get(timeout=_IDLE_S if self._jobs_since_checkpoint >= _CHECKPOINT_IDLE_JOBS else None)

    def _get_until(self, due: float) -> _Job | _Control:
        """Wait for the next item until `due`; raises queue.Empty."""
        left = due - time.monotonic()
        return self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()

    def _commit(self, batch: list[_Job]) -> None:
        """Run the batch in one transaction. A file error fails all its jobs, and the next batch reopens the file."""
        self._jobs_since_checkpoint += len(batch)
        try:
            connection = self._connect()
            self._begin(connection, min(job.due for job in batch))
            self._cache.begin(connection)
            if len(batch) == 1:
                # Without other jobs to keep, no savepoint is needed: the whole transaction is rolled back.
                _run_job(connection, batch[0])
                if batch[0].error is not None:
                    self._roll_back(connection, "ROLLBACK")
                    return
            else:
                for job in batch:
                    self._run_in_savepoint(connection, job)
            connection.execute("COMMIT")
        except (sqlite3.Error, MemoryError) as error:
            self._drop_connection()
            reason = error if isinstance(error, sqlite3.Error) else sqlite3.OperationalError("out of memory")
            for job in batch:
                # One exception per job: raised in several tasks, a shared object would collect all their tracebacks.
                job.result, job.error = None, store_unavailable(reason, self._path)

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = connect(self._path)
            self._connection.cache = self._cache = WriterCache()
        return self._connection

    def _begin(self, connection: sqlite3.Connection, due: float) -> None:
        """Take the write lock, less the time that the first due job has already waited behind a locked batch.

        Otherwise the second batch would fail after twice the time, when its sender has given up without a 503.
        """
        waited = time.monotonic() - due
        if waited < _SHORTEST_WAIT_S:
            connection.execute("BEGIN IMMEDIATE")
            return
        wait_s = max(WRITER_WAIT_S - waited, _SHORTEST_WAIT_S)
        connection.execute(f"PRAGMA busy_timeout = {round(wait_s * 1000)}")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA busy_timeout = {round(WRITER_WAIT_S * 1000)}")

    def _run_in_savepoint(self, connection: sqlite3.Connection, job: _Job) -> None:
        connection.execute("SAVEPOINT job")
        _run_job(connection, job)
        if job.error is not None:
            self._roll_back(connection, "ROLLBACK TO job")
        connection.execute("RELEASE job")

    def _roll_back(self, connection: sqlite3.Connection, statement: str) -> None:
        connection.execute(statement)
        self._cache.clear()

    def _drop_connection(self) -> None:
        """Close the connection, which rolls back an open transaction."""
        if self._connection is not None:
            try:
                self._connection.close()
            except sqlite3.Error:
                pass  # already broken
            self._connection = None

    def _checkpoint(self) -> None:
        """Copy the log into the database, so that the log restarts from its beginning; a busy reader only postpones it."""
        self._jobs_since_checkpoint = 0
        if self._connection is None:
            return
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error:
            self._drop_connection()  # nothing is lost: committed data is in the log


def _run_job(connection: sqlite3.Connection, job: _Job) -> None:
    try:
        job.result = job.run(connection)
    except sqlite3.Error as error:
        if is_unavailable(error):
            raise
        job.error = error
    except BaseException as error:  # of any kind: it is raised in the job's caller
        job.error = error


def _complete(batch: list[_Job]) -> None:
    """Complete the futures, with one wake-up per event loop: fifty separate ones would cost more than the commit."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in batch:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, jobs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, jobs)
        except RuntimeError:
            pass  # the loop is closed: the write is done and no caller is left


def _resolve(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue  # the caller was cancelled; the write remains
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
