"""Whoever waits for a bell hears it, whenever it rings, and waits for nothing longer than asked."""

from __future__ import annotations

import asyncio

import pytest

from kekbridge.execution.updates import TimedEvent


async def test_a_bell_that_has_rung_costs_no_turn_of_the_loop() -> None:
    """What came before the wait is not missed, and nobody else runs in between."""
    has_run = False

    def run() -> None:
        nonlocal has_run
        has_run = True

    asyncio.get_running_loop().call_soon(run)
    bell = TimedEvent()
    bell.set()
    assert await bell.wait(60)
    assert not has_run


async def test_ringing_ends_the_wait() -> None:
    """Also when it rings twice before the waiter runs."""
    bell = TimedEvent()
    waiting = asyncio.create_task(bell.wait(60))
    await asyncio.sleep(0)
    bell.set()
    bell.set()
    async with asyncio.timeout(5):
        assert await waiting


async def test_without_a_ring_the_wait_ends_by_itself() -> None:
    """The time is asked for in seconds; a ring of before that was cleared does not count."""
    bell = TimedEvent()
    bell.set()
    bell.clear()
    async with asyncio.timeout(5):
        assert not await bell.wait(0.001)


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    """The next ring finds nobody, and the next wait begins anew."""
    bell = TimedEvent()
    waiting = asyncio.create_task(bell.wait(60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    bell.set()
    bell.clear()
    assert not await bell.wait(0)
