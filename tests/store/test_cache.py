"""The cache always equals a fresh read: after any mix of jobs, of jobs rolled back, and of commits by other connections."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st
from msgspec.structs import replace

from kekbridge.model import AccountSnapshot, Order, OrderStatus, Position, RateLimits, TradingState
from kekbridge.model import StrategyHistory as Course
from kekbridge.model.admission import Decision
from kekbridge.store import (
    cache,
    conditions,
    fills,
    order_journal,
    order_lifecycle,
    order_queue,
    orders,
    positions,
    settings,
)
from kekbridge.store.admissions import admit
from kekbridge.store.database import Database
from kekbridge.store.events import verify
from kekbridge.store.orders import ImmediateClaim
from kekbridge.store.reservations import read_usage
from tests.store.factories import NOW, admitting, exit_intent, fill, intent, new_alert, status_report

Job = Callable[[sqlite3.Connection], object]

_HOOKS = ("one", "two")
_SYMBOLS = ("PERP_BTC_USDC", "PERP_ETH_USDC")
_FEW = RateLimits(per_minute=2, per_hour=8, per_day=0)
_MORE = RateLimits(per_minute=4, per_hour=0, per_day=12)


class Refused(Exception):
    """Raised by a job that is to be rolled back."""


# ------------------------------------------------------------------------------------------- what a job may do to the tables


def alert(number: int, now: datetime, is_exit: bool) -> Job:
    """An alert that is admitted if the rates allow it; every other order is claimed at once."""
    symbol = _SYMBOLS[number % 2]
    order = (exit_intent if is_exit else intent)(symbol=symbol, quantity=Decimal(number % 7 + 1) / 100)
    decision = Decision(
        status="admitted",
        intents=(order,),
        is_exit=is_exit,
        symbol=symbol,
        warnings=("drift: they differ",) if number % 5 == 0 else (),
        strategy_histories=((symbol, Course(start=Decimal(number), steps=())),) if number % 4 == 0 else (),
    )
    incoming = new_alert(
        id=f"01KF{number:022d}",
        webhook_id=_HOOKS[number % 3 % 2],
        alert_id=None,
        identity=f"id:{number}",
        fingerprint=str(number),
        received_at=now,
    )
    immediate_claim = ImmediateClaim(now + timedelta(microseconds=4711), None) if number % 2 else None
    return lambda connection: admit(
        connection,
        incoming,
        lambda usage: replace(decision, error=repr(usage)),  # the usage is stored, and so compared
        rates=_FEW,
        account_rates=_MORE,
        now=now,
        expires_at=now + timedelta(hours=1),
        claim_first=lambda *_: immediate_claim,
    )


def step(number: int, now: datetime, status: OrderStatus) -> Job:
    """The oldest unfinished order is claimed, accepted, filled in part, or ends."""

    def run(connection: sqlite3.Connection) -> None:
        for order in order_queue.unfinished(connection)[:1]:
            _move(connection, order, number, now, status)

    return run


def _move(connection: sqlite3.Connection, order: Order, number: int, now: datetime, status: OrderStatus) -> None:
    name = order.client_order_id
    if order.status is OrderStatus.QUEUED:
        order_lifecycle.claim(connection, name, now=now)
    elif status is OrderStatus.REJECTED:
        order_lifecycle.mark_rejected(connection, name, code="no", error="no", now=now)
    elif status is OrderStatus.ACCEPTED:
        order_lifecycle.mark_accepted(connection, name, order_id=name[-6:], now=now, signed_at=now)
    else:
        executed = order.intent.quantity / (1 if status is OrderStatus.FILLED else 2)
        reported = fill(
            trade_id=str(number),
            order_id=name[-6:],
            client_order_id=name,
            quantity=executed,
            realized_pnl=Decimal(number),
        )
        fills.record(connection, (reported,), order=orders.get(connection, name))
        report = status_report(name, status, executed, average_price=None, fee=Decimal("0.01"))
        order_lifecycle.apply_report(connection, name, report, now=now)


def snapshot_job(number: int, now: datetime) -> Job:
    """A snapshot with one, two or no positions."""
    shown = {
        symbol: Position(symbol=symbol, quantity=Decimal(number), average_open_price=Decimal(1), updated_at=now)
        for symbol in _SYMBOLS[: number % 3]
    }
    snapshot = AccountSnapshot(now, {}, {}, shown, Decimal(1), Decimal(1))
    return lambda connection: positions.replace_all(connection, snapshot, now=now)


def fact(number: int, now: datetime) -> Job:
    """A halt or its end, a condition that begins or ends, or the equity peak."""
    scope = _HOOKS[number % 2]

    def run(connection: sqlite3.Connection) -> None:
        match number % 5:
            case 0:
                settings.set_trading_state(connection, TradingState.HALTED, reason="r", by="b", now=now, scope=scope)
            case 1:
                settings.resume_all(connection, reason="r", by="b", now=now)
            case 2:
                settings.set_value(connection, settings.EQUITY_PEAK, Decimal(number), now=now)
            case 3:
                conditions.begin(connection, "c", "stream_down", now=now)
            case _:
                conditions.end(connection, "c", "stream_up", now=now)

    return run


def taken_back(job: Job) -> Job:
    def run(connection: sqlite3.Connection) -> None:
        job(connection)
        raise Refused

    return run


def job_of(number: int, kind: str, seconds: int) -> Job:
    now = NOW + timedelta(seconds=seconds, microseconds=number)
    match kind:
        case "entry" | "exit":
            return alert(number, now, kind == "exit")
        case "snapshot":
            return snapshot_job(number, now)
        case "fact":
            return fact(number, now)
        case _:
            return step(number, now, OrderStatus(kind))


# ---------------------------------------------------------------------------------------------------------------- the property

_KINDS = (
    "entry",
    "entry",
    "entry",
    "exit",
    "fact",
    "snapshot",
    "fact",
    "accepted",
    "partially_filled",
    "filled",
    "rejected",
)
_STEPS = st.lists(
    st.tuples(st.sampled_from(_KINDS), st.integers(0, 9), st.sampled_from(("kept", "kept", "kept", "back", "foreign"))),
    min_size=1,
    max_size=30,
)


def content(database: Database) -> dict[str, list[tuple[object, ...]]]:
    with database.snapshot() as connection:
        assert verify(connection) is None
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: [tuple(row) for row in connection.execute(f"SELECT * FROM {name}")]
            for name in tables
            if name[0] != "_"
        }


def looks(connection: sqlite3.Connection) -> list[object]:
    """The data that decisions use."""
    usages = [read_usage(connection, hook, now=NOW) for hook in _HOOKS]
    return [
        *usages,
        *(orders.get(connection, order.client_order_id) for order in order_queue.unfinished(connection)),
    ]


async def write_all(database: Database, jobs: list[Job]) -> None:
    """In one batch, or several; a job that raises is taken back alone."""
    await asyncio.gather(*(database.write(job) for job in jobs), return_exceptions=True)


def write_plainly(database: Database, job: Job) -> None:
    """On a connection without a cache."""
    try:
        with database.transaction() as connection:
            job(connection)
    except (Refused, order_journal.IllegalTransition):
        pass


@trying(max_examples=30)
@given(steps=_STEPS)
def test_tables_are_the_same_without_the_cache(steps: list[tuple[str, int, str]]) -> None:
    """Rows, totals, hashes and decisions are equal to the last digit, whatever others write in between and whatever fails."""

    async def remembering(database: Database) -> None:
        batch: list[Job] = []
        seconds = 0
        for number, (kind, pause, how) in enumerate(steps, 1):
            seconds += pause
            job = job_of(number, kind, seconds)
            if how == "foreign":
                await write_all(database, batch)
                batch.clear()
                write_plainly(database, job)
            else:
                batch.append(taken_back(job) if how == "back" else job)
        await write_all(database, batch)
        with database.snapshot() as connection:
            assert await database.write(looks) == looks(connection)
        await database.close()

    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        with_memory, without = Database.open(Path(one)), Database.open(Path(other))
        asyncio.run(remembering(with_memory))
        seconds = 0
        for number, (kind, pause, how) in enumerate(steps, 1):
            seconds += pause
            if how != "back":
                write_plainly(without, job_of(number, kind, seconds))
        assert content(with_memory) == content(without)


# ----------------------------------------------------------------------------------------------------------------- the mechanism


async def test_entry_outlives_its_transaction(database: Database) -> None:
    """An entry of one transaction is available in the next ones; other connections have no cache."""
    await database.write(cache.put, "table", "key", 1)
    assert await database.write(cache.get, "table", "key") == 1
    assert await database.write(cache.get_or_load, "table", "key", lambda _: 2) == 1
    with database.transaction() as connection:
        cache.put(connection, "table", "key", 2)
        assert cache.get(connection, "table", "key") is None
        assert cache.get_or_load(connection, "table", "key", lambda _: 3) == 3


async def test_commit_of_another_connection_clears_the_cache(database: Database) -> None:
    """After any commit of the command line the writer reads again."""
    await database.write(cache.put, "table", "key", 1)
    with database.transaction() as connection:
        settings.set_value(connection, "any", 1, now=NOW)
    assert await database.write(cache.get, "table", "key") is None


@pytest.mark.parametrize("beside_others", [False, True])
async def test_rollback_clears_the_cache(database: Database, beside_others: bool) -> None:
    """A job that fails, alone or among others, leaves no entry behind, and the next job of its batch reads again."""

    def fail(connection: sqlite3.Connection) -> None:
        cache.put(connection, "table", "key", 1)
        raise Refused

    failing = database.write(fail)
    found = [database.write(cache.get, "table", "key")] if beside_others else []
    answers = await asyncio.gather(failing, *found, return_exceptions=True)
    assert isinstance(answers[0], Refused)
    assert answers[1:] == [None] * len(found)
    assert await database.write(cache.get, "table", "key") is None


async def test_entries_are_invalidated_by_key_or_table(database: Database) -> None:
    """Invalidating affects no other key if one is given, and no other table."""
    for table, key in (("a", 1), ("a", 2), ("a", 3), ("b", 1)):
        await database.write(cache.put, table, key, "fact")
    await database.write(cache.invalidate, "a", 1)
    assert [await database.write(cache.get, "a", key) for key in (1, 2, 3)] == [None, "fact", "fact"]
    await database.write(cache.invalidate, "a")
    assert [await database.write(cache.get, table, key) for table, key in (("a", 2), ("b", 1))] == [None, "fact"]


async def test_cache_is_bounded(database: Database) -> None:
    """Of any number of entries only a bounded number is kept, among them the newest."""

    def fill_up(connection: sqlite3.Connection) -> int:
        for number in range(5000):
            cache.put(connection, "table", number, "fact")
        return sum(cache.get(connection, "table", number) is not None for number in range(5000))

    assert await database.write(fill_up) <= 1000
    assert await database.write(cache.get, "table", 4999) == "fact"


async def test_own_changes_are_visible_at_once(database: Database) -> None:
    """A halt and its end, a condition and its end, and the last room of a rate window."""
    for state in (TradingState.RUNNING, TradingState.HALTED, TradingState.RUNNING):
        await database.write(settings.set_trading_state, state, reason="r", by="b", now=NOW)
        assert (await database.write(read_usage, "one", now=NOW)).trading_state is state
    for holds in (False, True):
        if holds:
            assert await database.write(conditions.begin, "c", "stream_down", now=NOW)
        ends = [await database.write(conditions.end, "c", "stream_up", now=NOW) for _ in range(2)]
        assert ends == [holds, False]
    rates = RateLimits(per_minute=2, per_hour=0, per_day=0)
    kinds = []
    for _ in range(3):
        admitted = await database.write(
            admit, new_alert(), admitting(), rates=rates, now=NOW, expires_at=NOW + timedelta(hours=1)
        )
        kinds.append(admitted.kind)
    assert kinds == ["admitted", "admitted", "rate_limited"]
