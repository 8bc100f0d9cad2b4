"""An order waits for its place in the exchange's rate window as a queued order, so that whatever ends the wait leaves no question."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path
from urllib.request import Request, urlopen

from tests.system.harness import WEBHOOK_PATH, BridgeProcess, bridge_process, wait_until

ORDERS = 25
WINDOW = 10


def states(bridge: BridgeProcess) -> Counter[str]:
    """How many orders the store has in each state, read from outside."""
    with sqlite3.connect(f"file:{bridge.data_dir / 'kekbridge.db'}?mode=ro", uri=True) as connection:
        return Counter(status for (status,) in connection.execute("SELECT status FROM orders"))


def send(bridge: BridgeProcess, number: int) -> None:
    body = json.dumps(bridge.alert(alertId=f"turn-{number}", price=None)).encode()
    with urlopen(Request(bridge.url + WEBHOOK_PATH, data=body), timeout=10) as answer:  # noqa: S310 - loopback http only
        assert answer.status in (200, 202)


def test_kill_while_waiting_for_the_rate_window(tmp_path: Path) -> None:
    """kill -9 with the window used up: nothing is "submitting" that never left, and the restart orders everything once."""
    with bridge_process(tmp_path, environment={"KEKBRIDGE_SERVER_RESPOND_WITHIN_S": "0"}) as bridge:
        for number in range(ORDERS):
            send(bridge, number)
        wait_until(lambda: states(bridge)["filled"] >= WINDOW, what="a full rate window")
        bridge.daemon.kill()
        left = states(bridge)
        assert left["submitting"] == 0, left
        assert left["queued"] >= 1, left
        bridge.start_daemon()
        wait_until(lambda: states(bridge)["filled"] == ORDERS, deadline_s=30, what="all orders")
        assert set(bridge.orders_received().values()) == {1}
        assert len(bridge.orders_received()) == ORDERS
