"""Orders that stood in line, claimed and not sent, when the daemon was killed: each is sent once after the restart."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from tests.system.harness import Bridge, call, running_bridge, wait_until
from tests.system.test_turns import send, states

BURST = 12
LIVES = 4
MOST_LIVES = 12  # on a busy machine the exchange may be too slow for a line, or the line gone before the kill
SLOW = {"fault": "delay", "path": "/v1/order", "method": "POST", "delay_ms": 20}


def have_ended(bridge: Bridge, count: int) -> bool:
    """True when so many orders are filled, or left as unknown."""
    found = states(bridge)
    return found["filled"] + found["unknown"] == count


def test_kill_with_orders_in_line(tmp_path: Path) -> None:
    """kill -9 in the middle of bursts of one market: no order twice, and of each line at most the one in front is left as unknown."""
    settings = {
        "KEKBRIDGE_SERVER_RESPOND_WITHIN_S": "0",
        "KEKBRIDGE_EXCHANGE_RATE_FACTOR": "100",
        "KEKBRIDGE_EXCHANGE_RECV_WINDOW_MS": "500",
        "KEKBRIDGE_EXCHANGE_REQUEST_TIMEOUT_S": "1",
        "KEKBRIDGE_QUEUE_CLOCK_TOLERANCE_S": "0.2",
    }
    with running_bridge(tmp_path, environment=settings) as bridge:
        call(f"{bridge.paper_url}/paper/faults", SLOW)
        sent = longest = life = 0
        while life < LIVES or (longest <= 1 and life < MOST_LIVES):
            for number in range(3):  # the exchange is known to be quick enough
                send(bridge, 1000 * life + number)
            wait_until(lambda: not states(bridge)["submitting"] and not states(bridge)["queued"], what="a quiet bridge")

            async def burst(first: int) -> None:
                await asyncio.gather(*(asyncio.to_thread(send, bridge, first + number) for number in range(BURST)))

            asyncio.run(burst(1000 * life + 100))
            bridge.daemon.kill()
            longest = max(longest, states(bridge)["submitting"])
            sent += 3 + BURST
            life += 1
            bridge.start_daemon()
            wait_until(partial(have_ended, bridge, sent), what="all orders")
        assert set(bridge.orders_received().values()) == {1}
        assert states(bridge)["unknown"] <= life
        assert states(bridge)["filled"] == len(bridge.orders_received()) == sent - states(bridge)["unknown"]
        assert longest > 1, "no life ended with a line"
