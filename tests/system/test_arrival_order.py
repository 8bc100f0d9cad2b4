"""A strategy's messages through a running bridge in any order, together or apart: the account ends where the strategy is.

The pure rule is proven in tests/alerts/test_course.py; here the queue, orders under way and waiting alerts have their say, too.
More of it: KEKBRIDGE_TEST_SEQUENCES=200.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.bridge import Bridge, position_fields, running_bridge

BTC = "PERP_BTC_USDC"
SEQUENCES = int(os.environ.get("KEKBRIDGE_TEST_SEQUENCES", "8"))
SIZES = [Decimal(tenths) / 10 for tenths in range(-3, 4)]


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    async with running_bridge(tmp_path) as opened:
        await opened.control("prices", {BTC: "50000"})
        yield opened


def messages(bridge: Bridge, chance: random.Random) -> tuple[list[dict[str, Any]], Decimal]:
    """Some fills of a strategy that begins flat, at most two of them in one second, and where it ends."""
    position = began_at = Decimal(0)
    second = fills = 0
    made: list[dict[str, Any]] = []
    for _ in range(chance.randint(2, 5)):
        after = chance.choice([size for size in SIZES if size not in (position, began_at)])
        stamp = bridge.clock() - timedelta(seconds=30 - second)
        action = "buy" if after > position else "sell"
        made.append({"timestamp": f"{stamp:%Y-%m-%dT%H:%M:%SZ}", **position_fields(action, str(position), str(after))})
        position = after
        fills += 1
        if fills == 2 or chance.random() < 0.5:
            second, fills, began_at = second + 1, 0, position
    return made, position


@pytest.mark.parametrize("resync", [False, True])
@pytest.mark.parametrize("together", [False, True])
async def test_any_order_of_arrival_ends_where_the_strategy_is(bridge: Bridge, resync: bool, together: bool) -> None:
    """An account in step stays in step, with and without resync, whatever overtakes what."""
    for seed in range(SEQUENCES):
        chance = random.Random(seed)
        name = f"follower-{seed}"
        bridge.add_webhook(name, follow="position", resync=resync, reorder_ms=chance.choice([0, 50, 300]))
        made, wanted = messages(bridge, chance)
        chance.shuffle(made)
        if together:
            await asyncio.gather(*(bridge.send(name, **fields) for fields in made))
        else:
            for fields in made:
                await bridge.send(name, **fields)
        await bridge.until_settled()
        assert await bridge.position() == wanted, (seed, made)
        await bridge.send(name, action="close")
        await bridge.until_settled()
        await bridge.until_positions({})
