"""The writer thread: group commit, facts that are never given up, and tables that follow the journal."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from functools import partial
from typing import Any

import pytest

from kekbridge.errors import StoreUnavailable
from kekbridge.execution.book import Book
from kekbridge.model import OrderStatus
from kekbridge.store import alerts, journal, orders, projector, settings
from kekbridge.store.database import Database
from kekbridge.store.journal import Entry
from kekbridge.store.writer import QUEUE_BOUND, Writer
from tests.store.factories import NOW, new_alert
from tests.stored import bring, record_fill, respond, shrink, store_alert, store_order
from tests.waiting import until


@pytest.fixture
def changes() -> list[frozenset[str]]:
    """What the writer reported as changed."""
    return []


@pytest.fixture
async def writer(database: Database, changes: list[frozenset[str]]) -> AsyncIterator[Writer]:
    opened = Writer(database.path, changes.append)
    yield opened
    opened.close()


def put_key(connection: sqlite3.Connection, key: str, value: object = 1) -> str:
    settings.set_value(connection, key, value, now=NOW)
    return key


def keys(connection: sqlite3.Connection) -> set[str]:
    return {key for (key,) in connection.execute("SELECT key FROM settings WHERE key <> 'migrated_by'")}


def note(kind: str = "stream_down", size: int = 0) -> Entry:
    """A row that no table follows from."""
    return Entry(kind=kind, at=NOW, data=f'{{"text":"{"x" * size}"}}')


def kinds(connection: sqlite3.Connection) -> list[str]:
    return [event.kind for event in journal.list_events(connection)]


async def traced(writer: Writer) -> list[str]:
    """The statements of the writer's connection from now on."""
    statements: list[str] = []
    await writer.submit(lambda connection: connection.set_trace_callback(statements.append))
    statements.clear()
    return statements


async def appended(writer: Writer, entry: Entry) -> bool:
    """Append a row and wait for its flush. Raises StoreUnavailable."""
    done: asyncio.Future[bool | StoreUnavailable] = asyncio.get_running_loop().create_future()
    writer.append(entry, done.set_result)
    result = await done
    if isinstance(result, StoreUnavailable):
        raise result
    return result


# ------------------------------------------------------------------------------------------------------------ group commit


async def test_pending_writes_share_a_commit(writer: Writer) -> None:
    """Fifty alerts of one bar close cost a few flushes, not fifty; each sees what those before it did."""
    gate = threading.Event()

    def number(connection: sqlite3.Connection) -> int:
        taken = len(keys(connection))
        put_key(connection, f"n{taken}")
        return taken

    statements = await traced(writer)
    holding = writer.submit(lambda connection: gate.wait(10))
    waiting = [writer.submit(number) for _ in range(50)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*waiting) == list(range(50))
    await holding
    assert statements.count("COMMIT") <= 2


async def test_writes_of_one_loop_iteration_share_a_flush(database: Database, writer: Writer) -> None:
    """Alerts of a bar close are read in one iteration: the first does not take a flush of its own while others are being read."""
    statements = await traced(writer)
    waiting: list[asyncio.Future[Any]] = []
    results: list[bool | StoreUnavailable] = []
    for _ in range(5):
        writer.append(note(), results.append)
        waiting.append(writer.submit(lambda connection: None))
        time.sleep(0.01)  # the same iteration, in which the writer thread could run
    await asyncio.gather(*waiting)
    assert results == [True] * 5
    assert statements.count("COMMIT") == 1
    unfinished = writer.submit(lambda connection: 7)
    writer.close()  # also what was submitted in this iteration
    assert await unfinished == 7


async def test_what_may_wait_shares_the_flush_of_what_may_not(database: Database, writer: Writer) -> None:
    """Rows and jobs that may wait go with the next that may not, in order of the calls; alone they are flushed after a moment."""
    statements = await traced(writer)
    for kind in ("one", "two"):
        writer.append_soon(note(kind))
    seen = writer.submit(kinds, soon=True)
    await asyncio.sleep(0)
    assert await appended(writer, note("three"))
    assert (await seen, statements.count("COMMIT")) == (["one", "two"], 1)
    writer.append_soon(note("four"))

    def is_written() -> bool:
        with database.snapshot() as connection:
            return kinds(connection) == ["one", "two", "three", "four"]

    await until(is_written)


async def test_row_is_on_disk_before_it_is_reported(database: Database, writer: Writer) -> None:
    """Promise 1: when the callback runs, another connection reads the row; the chain is whole."""
    for number in range(20):
        assert await appended(writer, note(f"k{number}"))
        with database.snapshot() as connection:
            assert kinds(connection)[-1] == f"k{number}"
            assert journal.verify(connection) is None


async def test_taken_identity_is_reported_and_stores_nothing(database: Database, writer: Writer) -> None:
    """The unique index decides between two copies of one alert, also within a batch; another webhook's identity is its own."""
    rows = [
        Entry(kind="alert_denied", at=NOW, alert_id=str(number), webhook_id=webhook_id, identity="id:1", data="{}")
        for number, webhook_id in enumerate(("hook", "hook", "other"))
    ]
    assert await asyncio.gather(*(appended(writer, row) for row in rows)) == [True, False, True]
    assert not await appended(writer, rows[1])
    with database.snapshot() as connection:
        assert [event.alert_id for event in journal.list_events(connection)] == ["0", "2"]
        assert journal.verify(connection) is None
        assert journal.find_identity(connection, "hook", "id:1") == "0"
    assert not writer.is_behind


# ------------------------------------------------------------------------------------------------------------ failing jobs


async def test_failing_job_rolls_back_only_its_own_changes(database: Database, writer: Writer) -> None:
    """One job that fails must not lose the others of its batch, nor rows appended beside it, nor leave a gap in the chain."""

    def fail(connection: sqlite3.Connection) -> None:
        put_key(connection, "half done")
        journal.append(connection, "half_done", now=NOW)
        raise LookupError("a bug")

    def break_constraint(connection: sqlite3.Connection) -> None:
        put_key(connection, "also half done")
        connection.execute("INSERT INTO settings VALUES ('x', NULL, '')")

    outcomes = await asyncio.gather(
        writer.submit(partial(put_key, key="before")),
        writer.submit(fail),
        appended(writer, note("between")),
        writer.submit(break_constraint),
        writer.submit(partial(put_key, key="after")),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [str, LookupError, bool, sqlite3.IntegrityError, str]
    with database.snapshot() as connection:
        assert keys(connection) == {"before", "after"}
        assert kinds(connection) == ["between"]
        assert journal.verify(connection) is None


async def test_changes_are_reported_before_the_caller_goes_on(writer: Writer, changes: list[frozenset[str]]) -> None:
    """What the daemon holds in memory is read again before the command that changed it is answered; a failed job reports nothing."""
    known: list[list[frozenset[str]]] = []

    async def change(run: Callable[[sqlite3.Connection], Any]) -> None:
        await writer.submit(run)
        known.append(list(changes))

    def fail_late(connection: sqlite3.Connection) -> None:
        put_key(connection, "half")
        raise LookupError

    await change(partial(put_key, key="k"))
    await change(lambda connection: None)
    with pytest.raises(LookupError):
        await change(fail_late)
    assert known == [[frozenset({"settings"})]] * 2
    assert changes == [frozenset({"settings"})]


# ------------------------------------------------------------------------------------------------------------ failing disk


async def test_row_that_nobody_waits_for_survives_a_failing_disk(database: Database, writer: Writer) -> None:
    """A fact of the exchange is never given up: it is written in its place once there is room, while what is waited for fails."""
    await writer.submit(shrink)
    writer.append_soon(note("fact", 200_000))
    with pytest.raises(StoreUnavailable):
        await appended(writer, note("alert", 200_000))
    assert await appended(writer, note("later"))  # the connection was opened again, which ends the artificial limit
    with database.snapshot() as connection:
        assert kinds(connection) == ["fact", "later"]
        assert journal.verify(connection) is None


async def test_unwritten_row_is_written_without_another_write(database: Database, writer: Writer) -> None:
    """The next alert may be hours away."""
    await writer.submit(shrink)
    writer.append_soon(note("fact", 200_000))

    def is_written() -> bool:
        with database.snapshot() as connection:
            return kinds(connection) == ["fact"]

    await until(is_written)


async def test_unwritten_row_is_written_at_the_latest_by_the_shutdown(database: Database, writer: Writer) -> None:
    """Closing tries once more."""
    await writer.submit(shrink)
    writer.append_soon(note("fact", 200_000))
    with pytest.raises(StoreUnavailable):
        await appended(writer, note("alert", 200_000))
    writer.close()
    with database.snapshot() as connection:
        assert kinds(connection) == ["fact"]


async def test_reads_see_facts_after_a_failing_disk(database: Database) -> None:
    """Rows that failed, rows without tables and lost identities are counted once: a read still waits for the tables."""
    book = Book(append=database.append_soon)
    await database.write(shrink)
    for kind in ("one", "two"):
        database.append_soon(note(kind, 200_000))  # each has no table, and fails at first
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await database.write(put_key, "k", "x" * 200_000)
        await database.write(shrink)
    order = store_order(book, status=OrderStatus.FILLED)
    assert (await database.read(orders.get, order.client_order_id)).status is OrderStatus.FILLED
    record_fill(book, order)
    assert await database.read(lambda c: c.execute("SELECT count(*) FROM fills").fetchone()[0]) == 1


async def test_queue_is_bounded_for_alerts_and_never_for_facts(database: Database, writer: Writer) -> None:
    """A disk that hangs costs a 503 for new alerts, and no fact of the exchange is lost."""
    gate = threading.Event()
    holding = writer.submit(lambda connection: gate.wait(60))
    await asyncio.sleep(0)
    for _ in range(QUEUE_BOUND):
        writer.append_soon(note())
    with pytest.raises(StoreUnavailable, match="already waiting"):
        writer.append(note("alert"), lambda result: None)
    with pytest.raises(StoreUnavailable, match="already waiting"):
        writer.submit(keys)
    writer.append_soon(note("fact"))
    gate.set()
    await holding

    def all_written() -> bool:
        with database.snapshot() as connection:
            return journal.head(connection)[0] == QUEUE_BOUND + 1

    await until(all_written)
    assert await appended(writer, note("alert"))


async def test_closed_writer_refuses_everything(writer: Writer) -> None:
    """A shutdown loses nothing that was handed over before; what comes later is an error, not a silent loss."""
    results: list[bool | StoreUnavailable] = []
    writer.append(note("last"), results.append)
    writer.append_soon(note("soon"))
    writer.close()
    writer.close()
    await asyncio.sleep(0)
    assert results == [True]
    for hand_over in (
        lambda: writer.append(note(), results.append),
        lambda: writer.append_soon(note()),
        lambda: writer.submit(keys),
    ):
        with pytest.raises(StoreUnavailable, match="stopping"):
            hand_over()


# -------------------------------------------------------------------------------------------------------------- projection


async def test_read_sees_everything_appended_before(database: Database) -> None:
    """The tables follow late, but this process never reads them without what it has appended itself."""
    book = Book(append=database.append_soon)
    for _ in range(20):
        admission = store_alert(book)
        assert (await database.read(alerts.get, admission.alert.id)).status == "queued"
        order = bring(book, admission.orders[0], OrderStatus.FILLED)
        assert await database.read(orders.get, order.client_order_id) == order
        respond(book, admission.alert.id, body={"n": 1})
        assert (await database.read(alerts.get, admission.alert.id)).answer == {"n": 1}


async def test_job_sees_everything_appended_before(database: Database) -> None:
    """Rows handed over before a job are in the tables when it runs, in the same transaction."""
    book = Book(append=database.append_soon)
    order = store_order(book, status=OrderStatus.ACCEPTED)
    found = await database.write(orders.get, order.client_order_id)
    assert found == order
    assert await database.write(projector.position) == (await database.write(journal.head))[0]


async def test_tables_follow_soon_without_a_reader(database: Database) -> None:
    """A page on another connection shows what happened after a moment, although nothing asks the daemon."""
    book = Book(append=database.append_soon)
    order = store_order(book, status=OrderStatus.FILLED)

    def is_there() -> bool:
        with database.snapshot() as connection:
            found = orders.find(connection, order.client_order_id)
            return found == order and not projector.is_behind(connection)

    await until(is_there)


async def test_long_backlog_is_projected_in_pieces(database: Database, writer: Writer) -> None:
    """Under load nothing is idle: the tables must not fall behind without bound, and no piece holds up an alert for long."""
    book = Book(append=writer.append_soon)
    backlogs: list[int] = []
    with closing(sqlite3.connect(database.path)) as reader:
        for _ in range(60):
            for _ in range(40):
                store_alert(book, new_alert())
            await appended(writer, note())
            head, done = reader.execute(
                "SELECT (SELECT max(sequence) FROM journal), (SELECT sequence FROM projection)"
            ).fetchone()
            backlogs.append(head - done)
    assert max(backlogs) < 1500
    assert backlogs[-1] < 1000
    assert await writer.submit(lambda c: c.execute("SELECT count(*) FROM alerts").fetchone()[0]) == 60 * 40


async def test_row_that_cannot_be_projected_holds_up_no_other(database: Database) -> None:
    """A defect is logged and costs the tables one row, not every row behind it; the journal keeps it."""
    book = Book(append=database.append_soon)
    first = store_order(book)
    respond(book, "01KFMISSING")  # a response to an alert that was never stored
    second = store_order(book, status=OrderStatus.ACCEPTED)
    assert await database.read(orders.unfinished) == (first, second)
    with database.snapshot() as connection:
        assert "alert_answered" in kinds(connection)
        assert journal.verify(connection) is None


async def test_a_replicated_log_is_left_to_the_program_that_copies_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has not read yet is not overwritten, unless it has not restarted the log for long: then it does not run."""
    monkeypatch.setattr("kekbridge.store.writer._CHECKPOINT_ITEMS", 50)
    monkeypatch.setattr("kekbridge.store.writer._REPLICATED_ITEMS", 300)
    opened = Writer(database.path, lambda _: None, is_replicated=True)
    before = database.path.stat().st_size

    async def write(items: int) -> None:
        for index in range(items // 10):
            await asyncio.gather(
                *(opened.submit(partial(put_key, key=f"{index}{n}", value="x" * 900)) for n in range(10))
            )

    try:
        await write(200)
        assert database.path.stat().st_size == before
        with closing(
            sqlite3.connect(database.path)
        ) as program:  # another program checkpoints, and the next write restarts the log
            program.execute("PRAGMA wal_checkpoint(RESTART)")
        checkpointed = database.path.stat().st_size
        assert checkpointed > before
        await write(250)
        assert database.path.stat().st_size == checkpointed
        await write(1000)
        assert database.path.stat().st_size > checkpointed
    finally:
        opened.close()
