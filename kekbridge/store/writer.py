"""The one writer thread: whatever waits is committed together, with one flush, and only then is anybody told.

Group commit is what keeps fifty alerts of one bar close from waiting for fifty flushes, and one writer is what makes limits exact:
each job sees what every job before it did. It knows no table; jobs are functions of the connection.
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
from kekbridge.store.connections import WRITER_WAIT_S, connect, is_machine_trouble, unavailable

T = TypeVar("T")

QUEUE_BOUND: Final = 10_000
# Long enough for any burst that one account can send, short enough that the first of them does not wait for the last.
BATCH_BOUND: Final = 256
# Checkpoints flush twice and make the next commit flush once more: done when nobody waits, or when the log has grown long.
_CHECKPOINT_IDLE_JOBS: Final = 512
_CHECKPOINT_JOBS: Final = 1024
_IDLE_S: Final = 0.25
_SHORTEST_WAIT_S: Final = 0.05


@dataclass(slots=True)
class _Job:
    """A function to run in the next transaction, and whoever waits for it. One of `result`, `error` is set before the reply."""

    run: Callable[[sqlite3.Connection], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    due: float  # by time.monotonic(): until then it may wait for others to share its flush
    result: Any = None
    error: BaseException | None = None


class _Control(Enum):
    """What else is said to the thread, in its place among the jobs."""

    HURRY = "hurry"  # whatever came before it waits no longer for others
    END = "end"


class Writer:
    """Runs jobs one after the other on its own thread and connection; a failing job takes back only what it did itself."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[_Job | _Control] = queue.SimpleQueue()
        self._connection: Connection | None = None
        self._memory = WriterCache()
        self._jobs_since_checkpoint = 0
        self._is_closed = False
        self._closing = threading.Lock()  # nothing may be queued behind the end
        # What this turn of the loop has said so far. All of it is queued at once: the requests of a burst share a flush then, instead of
        # waking the thread one by one.
        self._pending: list[_Job | _Control] = []
        self._flush_scheduled_on: asyncio.AbstractEventLoop | None = None  # whose next turn queues it
        # A daemon thread: what is not committed when the process ends was never acknowledged.
        self._thread = threading.Thread(target=self._run, name="kekbridge-writer", daemon=True)
        self._thread.start()

    def submit(self, run: Callable[[sqlite3.Connection], T], *, within_s: float = 0.0) -> asyncio.Future[T]:
        """Queue a job; the future is done after the commit. Cancelling it does not stop the job. Raises StoreUnavailable.

        A job may wait `within_s` seconds for others: the flush of the first that may not wait is theirs, too. Order is kept.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._closing:
            if self._is_closed:
                raise StoreUnavailable("store_unavailable", "the store is closed: kekbridge is stopping")
            if self._queue.qsize() + len(self._pending) >= QUEUE_BOUND:
                raise StoreUnavailable("store_unavailable", f"{QUEUE_BOUND} writes are waiting for the disk already")
            self._pending.append(_Job(run, loop, future, time.monotonic() + within_s))
            if self._flush_scheduled_on is not loop:
                self._flush_scheduled_on = loop
                loop.call_soon(self._hand_over)
        return future

    def flush_now(self) -> None:
        """Somebody waits for a job that may wait for others: flush what is queued now."""
        with self._closing:
            if self._pending:
                self._pending.append(_Control.HURRY)
            else:
                self._queue.put(_Control.HURRY)

    def close(self) -> None:
        """Finish what waits, then close the connection. Blocks; calling it twice is harmless."""
        with self._closing:
            if not self._is_closed:
                self._is_closed = True
                self._queue_all()
                self._queue.put(_Control.END)
        self._thread.join()

    def _hand_over(self) -> None:
        with self._closing:
            self._queue_all()

    def _queue_all(self) -> None:
        for said in self._pending:
            self._queue.put(said)
        self._pending.clear()
        self._flush_scheduled_on = None

    # ------------------------------------------------------------------------------------------------ on the thread

    def _run(self) -> None:
        is_closing = False
        while not is_closing:
            batch, is_closing = self._take()
            if batch:
                self._commit(batch)
                _reply(batch)
            elif not is_closing:
                self._checkpoint()
                continue
            if self._jobs_since_checkpoint >= _CHECKPOINT_JOBS:
                self._checkpoint()
        if self._connection is not None:
            self._checkpoint()
            self._drop_connection()

    def _take(self) -> tuple[list[_Job], bool]:
        """Everything that waits, in order, at least one job; nothing after a quiet moment that is good for a checkpoint.

        While every job so far may wait, it waits for more of them.
        """
        batch: list[_Job] = []
        due = float("inf")
        try:
            while len(batch) < BATCH_BOUND:
                said = self._next(due) if batch else self._first()
                if said is _Control.END:
                    return batch, True
                if isinstance(said, _Job):
                    batch.append(said)
                    due = min(due, said.due)
                elif batch:
                    due = 0.0  # hurry
        except queue.Empty:
            pass  # nothing more to share the flush with
        return batch, False

    def _first(self) -> _Job | _Control:
        """What comes next, however long it takes; raises queue.Empty in a quiet moment that is good for a checkpoint."""
        return self._queue.get(timeout=_IDLE_S if self._jobs_since_checkpoint >= _CHECKPOINT_IDLE_JOBS else None)

    def _next(self, due: float) -> _Job | _Control:
        """What comes until then; raises queue.Empty."""
        left = due - time.monotonic()
        return self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()

    def _commit(self, batch: list[_Job]) -> None:
        """One transaction for the batch. Trouble with the file fails every job of it, and the next batch opens the file anew."""
        self._jobs_since_checkpoint += len(batch)
        try:
            connection = self._connect()
            self._begin(connection, min(job.due for job in batch))
            self._memory.begin(connection)
            if len(batch) == 1:
                # Nothing beside it to be kept when it fails: the transaction itself is what it takes back.
                _run_job(connection, batch[0])
                if batch[0].error is not None:
                    self._restore_savepoint(connection, "ROLLBACK")
                    return
            else:
                for job in batch:
                    self._run_beside_others(connection, job)
            connection.execute("COMMIT")
        except (sqlite3.Error, MemoryError) as error:
            self._drop_connection()
            reason = error if isinstance(error, sqlite3.Error) else sqlite3.OperationalError("out of memory")
            for job in batch:
                # Each its own exception: raised in several tasks, one object would collect all their tracebacks.
                job.result, job.error = None, unavailable(reason, self._path)

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = connect(self._path)
            self._connection.memory = self._memory = WriterCache()
        return self._connection

    def _begin(self, connection: sqlite3.Connection, due: float) -> None:
        """Take the write lock, and wait for it no longer than the first due job may: what waited behind a locked batch has waited already.

        Otherwise the second batch would be refused after twice the time, when its sender has long gone away without a 503.
        """
        waited = time.monotonic() - due
        if waited < _SHORTEST_WAIT_S:
            connection.execute("BEGIN IMMEDIATE")
            return
        wait_s = max(WRITER_WAIT_S - waited, _SHORTEST_WAIT_S)
        connection.execute(f"PRAGMA busy_timeout = {round(wait_s * 1000)}")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA busy_timeout = {round(WRITER_WAIT_S * 1000)}")

    def _run_beside_others(self, connection: sqlite3.Connection, job: _Job) -> None:
        connection.execute("SAVEPOINT job")
        _run_job(connection, job)
        if job.error is not None:
            self._restore_savepoint(connection, "ROLLBACK TO job")
        connection.execute("RELEASE job")

    def _restore_savepoint(self, connection: sqlite3.Connection, statement: str) -> None:
        connection.execute(statement)
        self._memory.forget_all()

    def _drop_connection(self) -> None:
        """Close and forget; an open transaction is rolled back by that."""
        if self._connection is not None:
            try:
                self._connection.close()
            except sqlite3.Error:
                pass  # it is broken, which is why it goes
            self._connection = None

    def _checkpoint(self) -> None:
        """Move the log into the database so that the log is used again from its beginning; a busy reader only postpones it."""
        self._jobs_since_checkpoint = 0
        if self._connection is None:
            return
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error:
            self._drop_connection()  # nothing is lost: what was committed is in the log


def _run_job(connection: sqlite3.Connection, job: _Job) -> None:
    try:
        job.result = job.run(connection)
    except sqlite3.Error as error:
        if is_machine_trouble(error):
            raise
        job.error = error
    except BaseException as error:  # whatever it is, it belongs to whoever waits for the job
        job.error = error


def _reply(batch: list[_Job]) -> None:
    """Wake the waiters, once per event loop: fifty separate wake-ups would cost more than the commit."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in batch:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, jobs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, jobs)
        except RuntimeError:
            pass  # the loop is closed: the write is done and nobody asks any more


def _resolve(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue  # the waiter was cancelled; the write stands all the same
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
