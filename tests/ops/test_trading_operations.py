"""Operations on trading: what is stored, in whose name, and what is returned."""

from __future__ import annotations

import sqlite3

import pytest

from kekbridge.errors import NotFound
from kekbridge.model import TradingState
from kekbridge.ops.backup import LAST_BACKUP
from kekbridge.ops.operations import Operations
from kekbridge.ops.trading_operations import ExitsOnly, Halt, RecordBackup, Resume
from kekbridge.ops.webhook_operations import CreateWebhook
from kekbridge.store import journal, settings
from tests.ops.operating import Desk


async def test_states_are_stored_with_reason_and_author(desk: Desk) -> None:
    """Halt, exits only and resume return the state that is in force, and the history names who set it."""
    run = Operations(desk).run
    halted = await run(Halt(reason="storm", by="web page"))
    assert (halted["state"], halted["reason"], halted["by"]) == ("halted", "storm", "web page")
    assert (await run(ExitsOnly()))["by"] == "command line"
    resumed = await run(Resume())
    assert (resumed["state"], "equityPeak" in resumed) == ("running", False)
    history = await desk.database.read(journal.list_events)
    assert [(event.data["state"], event.data["by"]) for event in history] == [
        ("halted", "web page"),
        ("exits_only", "command line"),
        ("running", "command line"),
    ]


async def test_one_webhook_is_resumed_alone(desk: Desk) -> None:
    """The account's own state stays; without a name every webhook is resumed, too."""
    run = Operations(desk).run
    webhook = await run(CreateWebhook(name="w"))

    def close(connection: sqlite3.Connection) -> None:
        settings.set_trading_state(
            connection,
            TradingState.EXITS_ONLY,
            reason="loss",
            by="limit daily_loss",
            now=desk.clock(),
            scope=webhook["id"],
        )

    async def state(scope: str) -> TradingState:
        return (await desk.database.read(settings.trading_control, now=desk.clock(), scope=scope)).state

    await desk.database.write(close)
    await run(Halt())
    assert (await run(Resume(webhook="w")))["state"] == "running"
    assert (await state(webhook["id"]), await state(settings.ACCOUNT)) == (TradingState.RUNNING, TradingState.HALTED)
    await desk.database.write(close)
    await run(Resume())
    assert (await state(webhook["id"]), await state(settings.ACCOUNT)) == (TradingState.RUNNING,) * 2
    with pytest.raises(NotFound, match="did you mean w"):
        await run(Resume(webhook="ww"))


async def test_a_peak_that_is_not_known_yet_is_null(desk: Desk) -> None:
    """Before the first equity mark there is nothing to reset it to."""
    assert (await Operations(desk).run(Resume(reset_peak=True)))["equityPeak"] is None


async def test_the_last_backup_is_recorded(desk: Desk) -> None:
    """For `doctor`, as the time of the copy."""
    at = desk.clock()
    await Operations(desk).run(RecordBackup(made_at=at))
    assert str(await desk.database.read(settings.get_value, LAST_BACKUP)).startswith(f"{at:%Y-%m-%dT%H:%M:%S}")
