"""An order waits for its place in the exchange's rate window as a queued order, so that whatever ends the wait leaves no question."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.request import Request, urlopen

from tests.system.harness import WEBHOOK_PATH, Bridge, running_bridge, wait_until
from tests.waiting import DEADLINE_S

ORDERS = 25
WINDOW = 10


def states(bridge: Bridge) -> Counter[str]:
    """How many orders the store has in each state, read from outside."""
    with sqlite3.connect(f"file:{bridge.data_dir / 'kekbridge.db'}?mode=ro", uri=True) as connection:
        return Counter(status for (status,) in connection.execute("SELECT status FROM orders"))


def send(bridge: Bridge, number: int) -> None:
    body = json.dumps(bridge.alert(alertId=f"turn-{number}", price=None)).encode()
    with urlopen(Request(bridge.url + WEBHOOK_PATH, data=body), timeout=DEADLINE_S) as answer:  # noqa: S310 - loopback http only
        assert answer.status in (200, 202)


def stops_waiting(bridge: Bridge) -> bool:
    """Stop the daemon if a window is used up and the other orders are queued, none of them "submitting"; let it go on if not."""
    os.kill(bridge.daemon.pid, signal.SIGSTOP)
    found = states(bridge)
    if found["filled"] >= WINDOW and found["queued"] and not found["submitting"]:
        return True
    os.kill(bridge.daemon.pid, signal.SIGCONT)
    return False


def test_kill_while_waiting_for_the_rate_window(tmp_path: Path) -> None:
    """kill -9 with the window used up: nothing is "submitting" that never left, and the restart orders everything once."""
    with running_bridge(tmp_path, environment={"KEKBRIDGE_SERVER_RESPOND_WITHIN_S": "0"}) as bridge:
        with ThreadPoolExecutor(ORDERS) as pool:
            list(pool.map(partial(send, bridge), range(ORDERS)))
        wait_until(partial(stops_waiting, bridge), what="a full rate window with orders that wait for the next one")
        bridge.daemon.kill()
        bridge.start_daemon()
        wait_until(lambda: states(bridge)["filled"] == ORDERS, what="all orders")
        assert set(bridge.orders_received().values()) == {1}
        assert len(bridge.orders_received()) == ORDERS
