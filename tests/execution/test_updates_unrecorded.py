"""A decision waits for executions that the account shows and the store does not, and not for ever."""

from __future__ import annotations

import asyncio

import pytest

from kekbridge.execution import updates
from kekbridge.execution.updates import UnrecordedFills


async def test_nothing_unbooked_costs_no_turn_of_the_loop() -> None:
    """The usual alert does not wait: nobody else runs in between, so what it sees is what it decides on."""
    has_run = False

    def run() -> None:
        nonlocal has_run
        has_run = True

    asyncio.get_running_loop().call_soon(run)
    await UnrecordedFills().wait()
    assert not has_run


async def test_a_decision_waits_for_every_execution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for one that is heard while it waits; the same order heard twice is booked once."""
    monkeypatch.setattr(updates, "LONGEST_WAIT_S", 60)
    executions = UnrecordedFills()
    executions.add("a")
    executions.add("a")
    waiting = asyncio.create_task(executions.wait())
    await asyncio.sleep(0)
    executions.add("b")
    executions.discard("a")
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    executions.discard("b")
    await waiting


async def test_what_is_never_booked_holds_nobody_for_ever() -> None:
    """An execution whose order's answer is lost is not booked for seconds: alerts go on before."""
    executions = UnrecordedFills()
    executions.add("a")
    async with asyncio.timeout(30):
        await executions.wait()


def test_booking_what_was_not_heard_is_no_error() -> None:
    """Reports found by asking were never heard from the stream."""
    UnrecordedFills().discard("a")
