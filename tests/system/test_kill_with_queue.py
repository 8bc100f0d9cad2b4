"""kill -9 while orders are queued for the exchange's rate window or for orders of their own symbol: each is sent once in the end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.request import Request, urlopen

from tests.system.forked import forked_bridge
from tests.system.harness import WEBHOOK_PATH, BridgeProcess, call, wait_until
from tests.waiting import DEADLINE_S

ORDERS = 25
WINDOW = 10
BURST = 6
KILLS = 2
SLOW = {"fault": "delay", "path": "/v1/order", "method": "POST", "delay_ms": 250}


def count_by_status(bridge: BridgeProcess) -> Counter[str]:
    """Count the stored orders by status, read from outside the daemon."""
    with sqlite3.connect(f"file:{bridge.data_dir / 'kekbridge.db'}?mode=ro", uri=True) as connection:
        return Counter(status for (status,) in connection.execute("SELECT status FROM orders"))


def send(bridge: BridgeProcess, number: int) -> None:
    body = json.dumps(bridge.alert(alertId=f"alert-{number}", price=None)).encode()
    with urlopen(Request(bridge.url + WEBHOOK_PATH, data=body), timeout=DEADLINE_S) as answer:  # noqa: S310 - loopback http only
        assert answer.status in (200, 202)


def stop_with_full_window(bridge: BridgeProcess) -> bool:
    """Stop the daemon's process if a window is used up and the other orders are queued, none of them "submitting"; else let it run on."""
    os.kill(bridge.daemon.pid, signal.SIGSTOP)
    found = count_by_status(bridge)
    if found["filled"] >= WINDOW and found["queued"] and not found["submitting"]:
        return True
    os.kill(bridge.daemon.pid, signal.SIGCONT)
    return False


def test_kill_while_waiting_for_the_rate_window(tmp_path: Path) -> None:
    """With the window used up no unsent order is stored as "submitting", and after the restart every order is sent once."""
    # No order may become too old on a busy machine.
    settings = {"KEKBRIDGE_SERVER_RESPOND_WITHIN_S": "0", "KEKBRIDGE_QUEUE_MAX_AGE_S": "600"}
    with forked_bridge(tmp_path, environment=settings) as bridge:
        with ThreadPoolExecutor(ORDERS) as pool:
            list(pool.map(partial(send, bridge), range(ORDERS)))
        wait_until(
            partial(stop_with_full_window, bridge), what="a full rate window with orders that wait for the next one"
        )
        bridge.daemon.kill()
        bridge.start_daemon()
        wait_until(lambda: count_by_status(bridge)["filled"] == ORDERS, what="all orders")
        assert set(bridge.orders_received().values()) == {1}
        assert len(bridge.orders_received()) == ORDERS


def have_ended(bridge: BridgeProcess, count: int) -> bool:
    """Return True if `count` orders are filled or left as unknown."""
    found = count_by_status(bridge)
    return found["filled"] + found["unknown"] == count


def test_kill_while_a_burst_of_one_symbol_leaves(tmp_path: Path) -> None:
    """Several orders of a symbol are claimed and leave together: none is doubled, and only those that never left end as unknown."""
    settings = {
        "KEKBRIDGE_SERVER_RESPOND_WITHIN_S": "0",
        "KEKBRIDGE_EXCHANGE_RATE_FACTOR": "100",
        "KEKBRIDGE_EXCHANGE_RECV_WINDOW_MS": "500",
        "KEKBRIDGE_EXCHANGE_REQUEST_TIMEOUT_S": "1",
        "KEKBRIDGE_QUEUE_CLOCK_TOLERANCE_S": "0.2",
    }
    with forked_bridge(tmp_path, environment=settings) as bridge:
        call(f"{bridge.paper_url}/paper/faults", SLOW)
        sent = 0
        for kills in range(KILLS):
            for number in range(3):  # quick responses, so that the daemon claims several orders of a symbol at once
                send(bridge, 1000 * kills + number)
            wait_until(
                lambda: not {"submitting", "queued"} & {*count_by_status(bridge)},
                what="a bridge without waiting orders",
            )

            async def burst(first: int) -> None:
                await asyncio.gather(*(asyncio.to_thread(send, bridge, first + number) for number in range(BURST)))

            asyncio.run(burst(1000 * kills + 100))
            wait_until(lambda: count_by_status(bridge)["submitting"] > 1, what="several claimed orders")
            bridge.daemon.kill()
            sent += 3 + BURST
            bridge.start_daemon()
            wait_until(partial(have_ended, bridge, sent), what="all orders")
        counts = count_by_status(bridge)
        assert set(bridge.orders_received().values()) == {1}
        assert counts["filled"] == len(bridge.orders_received()) == sent - counts["unknown"]
