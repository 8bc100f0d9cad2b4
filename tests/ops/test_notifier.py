"""Notifications: every event once, later if the receiver was down; nothing else waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.execution import transitions
from kekbridge.model import OrderStatus, OrderType, Purpose
from kekbridge.ops.notifier import Channel, Notifier, channels_of, order_facts
from kekbridge.store import journal
from kekbridge.store.database import Database
from tests.receiver import Receiver
from tests.store.factories import NOW, exit_intent
from tests.stored import book_on, bring, store_order
from tests.waiting import until


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(tmp_path / "data")
    yield opened
    opened.close_now()


def happen(database: Database, *kinds: str, **data: Any) -> None:
    """Add events to the history."""
    with database.transaction() as connection:
        for kind in kinds:
            journal.append(connection, kind, now=NOW, data=data)


async def start(database: Database, channel: Channel, **options: Any) -> asyncio.Task[None]:
    """Start a notifier and wait until its cursor is stored."""
    task = asyncio.create_task(Notifier(database, [channel], clock=lambda: datetime.now(UTC), **options).run())

    def has_begun() -> bool:
        with database.snapshot() as connection:
            row = connection.execute("SELECT 1 FROM settings WHERE key LIKE 'notified:%'").fetchone()
        return row is not None

    await until(has_begun)
    return task


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_event_that_is_marked_quiet_is_not_sent(database: Database, receiver: Receiver) -> None:
    """The same state of a stop was published within the hour: it is in the history only."""
    task = await start(database, Channel(receiver.url))
    happen(database, "protection_replaced", quiet=True, symbol="PERP_BTC_USDC")
    happen(database, "protection_replaced", symbol="PERP_ETH_USDC")
    await until(lambda: len(receiver.lines()) >= 1)
    await stop(task)
    assert receiver.lines() == ["protective stop was missing and has been replaced: PERP_ETH_USDC"]


async def test_events_are_sent_once_also_after_a_restart(database: Database, receiver: Receiver) -> None:
    """Nothing from before the channel was added, everything after, no line twice after a restart."""
    happen(database, "trading_state", state="halted", scope="account", by="before", reason="old")
    channel = Channel(receiver.url)
    task = await start(database, channel)
    happen(database, "trading_state", state="halted", scope="account", by="command line", reason="storm")
    await until(lambda: len(receiver.received) == 1)
    await stop(task)
    happen(database, "job_failed", job="backup", error="disk full")  # while no daemon runs
    task = await start(database, channel)
    await until(lambda: len(receiver.lines()) >= 2)
    await stop(task)
    assert receiver.lines() == [
        "trading is halted (account), by command line: storm",
        "job backup failed: disk full",
    ]
    assert receiver.received[1]["type"] == "failure"
    assert [message["title"] for message in receiver.received] == ["kekbridge: warning", "kekbridge: failure"]


async def test_a_receiver_that_was_down_gets_everything_later(database: Database, receiver: Receiver) -> None:
    """Rejected messages are kept, writes go on meanwhile, and all arrive in order, once."""
    task = await start(database, Channel(receiver.url))
    receiver.status = 503
    happen(database, "restored", made_at="2026-01-01")
    await until(lambda: receiver.rejected >= 1)
    for number in range(30):
        await database.write(journal.append, "job_failed", now=NOW, data={"job": f"j{number}", "error": "x"})
    receiver.status = 200
    await until(lambda: len(receiver.lines()) >= 31)
    await stop(task)
    expected = ["a backup of 2026-01-01 was restored", *(f"job j{number} failed: x" for number in range(30))]
    assert receiver.lines() == expected


async def test_muted_and_minor_events_are_not_sent(database: Database, receiver: Receiver) -> None:
    """`mute` drops event kinds, `least` severities; what is dropped is not sent later either."""
    task = await start(database, Channel(receiver.url), mute=("restored",), least="warning")
    happen(database, "restored", made_at="x")
    happen(database, "protection_live")
    happen(database, "order_unknown")
    await until(lambda: len(receiver.lines()) == 1)
    await stop(task)
    assert receiver.lines()[0].startswith("no answer")


async def test_order_messages_contain_the_order(database: Database, receiver: Receiver) -> None:
    """Side, quantity, symbol and reason come from the order, not from its event."""
    task = await start(database, Channel(receiver.url))
    with database.transaction() as connection:
        book = book_on(connection)
        order = store_order(book)
        denied = transitions.denied(order, code="free_margin", error="too little margin", now=NOW)
        book.change(order, denied, now=NOW)
    await until(lambda: len(receiver.lines()) == 1)
    await stop(task)
    assert receiver.lines() == ["denied: buy 0.01 PERP_BTC_USDC: free_margin too little margin"]


def test_an_event_says_what_was_known_then(database: Database) -> None:
    """A fill that came later shows in no event before it, and a message sent late says what happened then."""
    with database.transaction() as connection:
        order = store_order(book_on(connection), status=OrderStatus.FILLED)
    with database.snapshot() as connection:
        events = {
            event.kind: order_facts(connection, event)
            for event in journal.list_events(connection)
            if event.client_order_id == order.client_order_id
        }
    executed = {kind: facts["executed_quantity"] for kind, facts in events.items()}
    assert executed == {"order_submitting": None, "order_accepted": None, "order_filled": "0.01"}
    assert {facts["quantity"] for facts in events.values()} == {"0.01"}


async def test_templates_replace_the_default_texts(database: Database, receiver: Receiver) -> None:
    """A template in [notify.templates] is sent with the event's values; other events keep their default text."""
    templates = {"job_failed": "ALARM {job}: {error} ({event})"}
    task = await start(database, Channel(receiver.url), templates=templates)
    happen(database, "job_failed", job="backup", error="no room")
    happen(database, "restored", made_at="yesterday")
    await until(lambda: len(receiver.lines()) == 2)
    await stop(task)
    assert receiver.lines() == ["ALARM backup: no room (job_failed)", "a backup of yesterday was restored"]


def test_a_channel_never_shows_its_url() -> None:
    """Neither repr nor name contains the token; comments are not channels."""
    (channel,) = channels_of(b"# mine\n\ntgram://123:TOKEN/chat\ntgram://123:TOKEN/chat\n")
    assert "TOKEN" not in repr(channel) + channel.name + str(channel)
    assert channel.name.startswith("tgram-")


async def test_an_exit_that_has_fired_is_one_message(database: Database, receiver: Receiver) -> None:
    """Its own, with side, size and price; the fill of the order that it was is not sent beside it, any other fill is."""
    task = await start(database, Channel(receiver.url))
    with database.transaction() as connection:
        book = book_on(connection)
        stop_loss = exit_intent(purpose=Purpose.PROTECT, order_type=OrderType.STOP, trigger_price=Decimal(64000))
        for wanted in (stop_loss, exit_intent()):
            order = bring(book, store_order(book, wanted), OrderStatus.FILLED)
            if wanted.fired_event is not None:
                data = {"quantity": order.executed_quantity, "average_price": Decimal(63990), "trigger_price": 64000}
                book.note(wanted.fired_event, order, now=NOW, data=data)
    await until(lambda: len(receiver.lines()) == 2)
    await stop(task)
    assert receiver.lines()[0] == "stop fired: sell 0.01 PERP_BTC_USDC at 63990"
    assert receiver.lines()[1].startswith("filled: sell 0.01 PERP_BTC_USDC")
