"""A strategy's alerts arrive in any order, at once or one by one: the account ends at the strategy's position.

tests/planning/test_strategy_position.py tests the pure rule; here queue, orders in flight and waiting alerts take part.
KEKBRIDGE_TEST_SEQUENCES=200 runs more sequences.
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


def random_fills(bridge: Bridge, chance: random.Random) -> tuple[list[dict[str, Any]], Decimal]:
    """Build alerts of a strategy that starts flat, at most two per second; return them and its final position."""
    position = began_at = Decimal(0)
    second = fills = 0
    alerts: list[dict[str, Any]] = []
    for _ in range(chance.randint(2, 5)):
        after = chance.choice([size for size in SIZES if size not in (position, began_at)])
        stamp = bridge.clock() - timedelta(seconds=30 - second)
        action = "buy" if after > position else "sell"
        alerts.append(
            {"timestamp": f"{stamp:%Y-%m-%dT%H:%M:%SZ}", **position_fields(action, str(position), str(after))}
        )
        position = after
        fills += 1
        if fills == 2 or chance.random() < 0.5:
            second, fills, began_at = second + 1, 0, position
    return alerts, position


@pytest.mark.parametrize("resync", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
async def test_any_order_of_arrival_ends_at_the_strategys_position(bridge: Bridge, resync: bool, at_once: bool) -> None:
    """An account that follows a strategy stays in step with it, with and without resync, in any order of arrival."""
    for seed in range(SEQUENCES):
        chance = random.Random(seed)
        name = f"follower-{seed}"
        bridge.add_webhook(name, follow="position", resync=resync, reorder_ms=chance.choice([0, 50, 300]))
        alerts, wanted = random_fills(bridge, chance)
        chance.shuffle(alerts)
        if at_once:
            await asyncio.gather(*(bridge.send(name, **fields) for fields in alerts))
        else:
            for fields in alerts:
                await bridge.send(name, **fields)
        await bridge.until_settled()
        assert await bridge.position() == wanted, (seed, alerts)
        await bridge.send(name, action="close")
        await bridge.until_settled()
        await bridge.until_positions({})
