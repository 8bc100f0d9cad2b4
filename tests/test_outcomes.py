"""Who waits for an alert's outcome is told soon, in time, or that the daemon stops."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from kekbridge.model import Order, OrderIntent, OrderStatus, OrderType, Purpose, Side
from kekbridge.outcomes import Outcomes

NOW = datetime(2026, 1, 15, tzinfo=UTC)
FOR_EVER_S = 600.0
ORDER = Order(
    client_order_id="kb-1",
    alert_id="01",
    webhook_id="hook",
    leg=0,
    sequence=1,
    intent=OrderIntent(
        symbol="PERP_BTC_USDC",
        side=Side.BUY,
        order_type=OrderType.MARKET,
        quantity=Decimal("0.1"),
        purpose=Purpose.ENTRY,
        reference_price=Decimal(65000),
    ),
    status=OrderStatus.QUEUED,
    created_at=NOW,
    expires_at=NOW + timedelta(minutes=1),
)


@pytest.mark.parametrize("stops_first", [False, True])
async def test_a_stop_ends_every_wait_at_once(*, stops_first: bool) -> None:
    """While the daemon stops nobody waits for an outcome: the next one's connection is in the backlog already."""
    outcomes = Outcomes()
    if stops_first:
        outcomes.stop_waiting()
    with outcomes.watch(ORDER.alert_id, [ORDER]) as watch:
        waiting = asyncio.create_task(watch.wait(FOR_EVER_S))
        await asyncio.sleep(0)
        if not stops_first:
            outcomes.stop_waiting()
        async with asyncio.timeout(20):
            assert await waiting == (ORDER,)
