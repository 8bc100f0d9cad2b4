"""Notifications: every event once, later if the receiver was down; nothing else waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.config import Notify
from kekbridge.execution import transitions
from kekbridge.model import Mode, OrderStatus, OrderType, Purpose, Side
from kekbridge.model.notifications import NotificationText, Severity
from kekbridge.ops.notifier import Channel, Notifier, _Line, channels_of, compose
from kekbridge.ops.notify_settings import SetLevel, SetQuietHours
from kekbridge.store import journal
from kekbridge.store.database import Database
from tests.fresh_database import open_database
from tests.ops.operating import Desk
from tests.receiver import Receiver
from tests.store.factories import NOW, exit_intent
from tests.stored import book_on, bring, record_fill, store_order
from tests.waiting import until


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path / "data")
    yield opened
    opened.close_now()


def happen(database: Database, *kinds: str, at: datetime = NOW, **data: Any) -> None:
    """Add events to the history."""
    with database.transaction() as connection:
        for kind in kinds:
            journal.append(connection, kind, now=at, data=data)


class Clock:
    """A time that stands still until a test moves it."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


async def start(
    database: Database, channel: Channel, *, clock: Callable[[], datetime] | None = None, **options: Any
) -> asyncio.Task[None]:
    """Start a notifier at NOW and wait until its cursor is stored. `options` are settings of [notify]."""
    options.setdefault("zone", "UTC")
    notifier = Notifier(database, [channel], mode=Mode.PAPER, notify=Notify(**options), clock=clock or Clock())
    task = asyncio.create_task(notifier.run())

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
    assert [message["title"] for message in receiver.received] == [
        "[PAPER] stop of ETH was missing and has been replaced"
    ]


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
    assert receiver.lines() == ["storm, by command line", "disk full"]
    assert receiver.received[1]["type"] == "failure"
    assert [message["title"] for message in receiver.received] == [
        "[PAPER] trading halted",
        "[PAPER] job backup failed",
    ]


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
    assert [line for line in receiver.lines() if line != "at 10:30:05"] == expected
    assert receiver.received[0]["title"] == "[PAPER] job j0 failed, and 19 more"  # the worst one


async def test_muted_and_minor_events_are_not_sent(database: Database, receiver: Receiver) -> None:
    """`mute` drops event kinds, `least` severities; what is dropped is not sent later either."""
    task = await start(database, Channel(receiver.url), mute=("restored",), least="warning")
    happen(database, "restored", made_at="x")
    happen(database, "protection_live")
    happen(database, "order_unknown")
    await until(lambda: len(receiver.lines()) == 1)
    await stop(task)
    assert receiver.received[0]["title"].startswith("[PAPER] no answer")


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
    assert [message["title"] for message in receiver.received] == ["[PAPER] default: denied buy 0.01 BTC"]
    assert receiver.lines() == ["too little margin"]


async def test_templates_replace_the_default_texts(database: Database, receiver: Receiver) -> None:
    """A template in [notify.templates] is sent with the event's values; other events keep their default text."""
    templates = {"job_failed": "ALARM {job}: {error} ({event})"}
    task = await start(database, Channel(receiver.url), templates=templates)
    happen(database, "job_failed", job="backup", error="no room")
    happen(database, "restored", made_at="yesterday")
    await until(lambda: len(receiver.lines()) == 2)
    await stop(task)
    assert receiver.lines() == ["ALARM backup: no room (job_failed)", "a backup of yesterday was restored"]
    assert receiver.received[0]["title"] == "[PAPER] job failed, and 1 more"


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
            record_fill(book, order, side=Side.SELL)
            if wanted.fired_event is not None:
                data = {"quantity": order.executed_quantity, "average_price": Decimal(63990), "trigger_price": 64000}
                book.note(wanted.fired_event, order, now=NOW, data=data)
    await until(lambda: len(receiver.lines()) == 2)
    await stop(task)
    assert receiver.lines()[0] == "default: stop fired: sell 0.01 BTC at 63,990: fee 0.29 USDC"
    assert receiver.lines()[1].startswith("default: filled sell 0.01 BTC at 65,000")


async def test_a_fill_waits_for_its_result_for_one_poll(database: Database, receiver: Receiver) -> None:
    """Its trades are recorded a moment after it; a fill without any is sent all the same."""
    task = await start(database, Channel(receiver.url))
    with database.transaction() as connection:
        book = book_on(connection)
        first = bring(book, store_order(book, exit_intent()), OrderStatus.FILLED)
        record_fill(book, first, side=Side.SELL, realized_pnl=Decimal("12.3"))
        bring(book, store_order(book, exit_intent()), OrderStatus.FILLED)
    await until(lambda: len(receiver.received) == 2)
    await stop(task)
    assert receiver.lines() == ["P&L +12.30 USDC, fee 0.29 USDC", "at 10:30:05"]


async def test_quiet_hours_let_failures_through_and_end_with_a_digest(database: Database, receiver: Receiver) -> None:
    """The rest comes afterwards in one message, with times, also after a restart; nothing twice, and nothing is lost."""
    clock = Clock(datetime(2026, 1, 15, 21, 30, tzinfo=UTC))  # 22:30 in Berlin
    options = {"quiet_hours": "22:00-07:00", "zone": "Europe/Berlin"}
    channel = Channel(receiver.url)
    task = await start(database, channel, clock=clock, **options)
    happen(database, "stream_back", "restored", at=clock.now)
    happen(database, "job_failed", at=clock.now, job="backup", error="disk full")
    await until(lambda: len(receiver.received) == 1)
    assert (receiver.received[0]["title"], receiver.lines()) == ("[PAPER] job backup failed", ["disk full"])
    await stop(task)
    happen(database, "job_recovered", at=clock.now, job="backup")
    task = await start(database, channel, clock=clock, **options)
    clock.now = datetime(2026, 1, 16, 6, 0, tzinfo=UTC)  # 07:00
    await until(lambda: len(receiver.received) == 2)
    assert receiver.received[1]["title"] == "[PAPER] quiet hours, 3 events: a backup of was restored"
    assert receiver.lines()[1:] == [
        "01-15 22:30  the exchange's stream is back",
        "01-15 22:30  a backup of was restored",
        "01-15 22:30  job backup works again",
    ]
    happen(database, "stream_back", at=clock.now)
    await until(lambda: len(receiver.received) == 3)
    await stop(task)
    assert receiver.received[2]["title"] == "[PAPER] the exchange's stream is back"


async def test_levels_and_quiet_hours_take_effect_while_it_runs(desk: Desk, receiver: Receiver) -> None:
    """What a command stores counts from the next event on, without a restart."""
    task = await start(desk.database, Channel(receiver.url))
    await SetLevel(event="stream_back", level="failure").run(desk)
    await SetLevel(event="restored", level="off").run(desk)
    await SetQuietHours(hours="00:00-23:59", zone="UTC").run(desk)
    happen(desk.database, "exchange_back", "restored", "stream_back")
    await until(lambda: len(receiver.received) == 1)
    assert receiver.received[0]["title"] == "[PAPER] the exchange's stream is back"
    await SetQuietHours(hours="off").run(desk)
    await until(lambda: len(receiver.received) == 2)
    await stop(task)
    assert receiver.received[1]["title"] == "[PAPER] the exchange is reachable again"


def test_a_long_digest_keeps_the_worst_and_counts_the_rest() -> None:
    """One message holds twenty lines: failures and warnings first, then the newest; the others are counted by kind."""

    def line(kind: str, severity: Severity, number: int) -> _Line:
        text = f"{kind} {number}"
        return _Line(kind, NOW + timedelta(seconds=number), NotificationText(severity, text, "", text))

    lines = [line("stop_fired", "warning", 0), *(line("order_filled", "info", number) for number in range(1, 31))]
    title, body = compose(lines, "[LIVE] ", now=NOW, zone=UTC, is_digest=True)
    assert title == "[LIVE] quiet hours, 31 events: stop_fired 0"
    shown = body.splitlines()
    assert [shown[0], shown[1], shown[19]] == ["stop_fired 0", "order_filled 12", "order_filled 30"]
    assert shown[20:] == ["and 11 more: order filled 11; see `kekbridge history`"]
