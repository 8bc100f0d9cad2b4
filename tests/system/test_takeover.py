"""A standby takes over from a machine that was killed in a burst: nothing is doubled, and the old machine cannot trade any more.

Judged by the journal of a paper exchange that runs beside both, as a third process.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from kekbridge.paper.settings import PAPER_ACCOUNT_ID, PAPER_ORDERLY_KEY, PAPER_ORDERLY_SECRET
from tests.replication import needs_litestream
from tests.system.forked import ForkedProcess, run_forked
from tests.system.harness import (
    WEBHOOK_PATH,
    Sent,
    TradingView,
    call,
    catch_up,
    clean_environment,
    free_port,
    timestamp,
    wait_until,
)
from tests.waiting import DEADLINE_S, until

OWN_SECRET = "ed25519:4wBqpZM9xaSheZzJSMawUKKwhdpChKbZ5eu5ky4Vigw"
OWN_KEY = "ed25519:9C6hybhQ6Aycep9jaUnP6uL9ZYvDjUp1aSkFWPUFJtpj"
QUANTITIES = {"BTCUSDT.P": "0.001", "ETHUSDT.P": "0.02", "SOLUSDT.P": "0.2"}
MARKETS = tuple(QUANTITIES)
FIRST = 3
BURST = 16
LATE = 2
CUT_AFTER = 4


class Machine:
    """A data directory with its settings, its secrets and its port."""

    def __init__(self, directory: Path) -> None:
        self.data_dir = directory / "data"
        self.data_dir.mkdir(mode=0o700, parents=True)
        self.secrets = directory / "secrets"
        self.secrets.mkdir(mode=0o700)
        self.log = directory / "daemon.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.master = f"{directory.name:x<32}".encode()
        (self.secrets / "master-key").write_bytes(self.master)
        (self.secrets / "master-key").chmod(0o600)
        (self.data_dir / "config.toml").write_text(f'[vault]\nbackend = "directory"\nsecrets_dir = "{self.secrets}"\n')
        self.environment = {**clean_environment(), "KEKBRIDGE_DATA_DIR": str(self.data_dir)}
        self.environment["KEKBRIDGE_SERVER_PORT"] = str(self.port)
        self.daemon = ForkedProcess(["serve", "--json"], environment=self.environment, log=self.log)
        self.printed: list[str] = []

    def run(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        """Run a command; return its stdout."""
        done = run_forked(*arguments, environment=self.environment, stdin=stdin)
        self.printed += [done.stdout, done.stderr]
        assert done.returncode == code, done.stderr
        return done.stdout

    def start(self) -> None:
        self.daemon = ForkedProcess(["serve", "--json"], environment=self.environment, log=self.log)
        self.printed.append(json.dumps(self.daemon.start()))

    def post(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        request = Request(self.url + WEBHOOK_PATH, data=json.dumps(body).encode())  # noqa: S310 - loopback http only
        try:
            with urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310 - loopback http only
                return answer.status, json.load(answer)
        except HTTPError as error:
            return error.code, json.load(error)

    def litestream(self) -> int:
        """Process id of the program that copies the database."""
        children = Path(f"/proc/{self.daemon.pid}/task/{self.daemon.pid}/children").read_text().split()
        (found,) = [pid for pid in children if b"litestream" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return int(found)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        catch_up(self.data_dir)
        with closing(sqlite3.connect(f"file:{self.data_dir / 'kekbridge.db'}?mode=ro", uri=True)) as connection:
            return connection.execute(statement).fetchall()

    def is_ready(self) -> bool:
        try:
            return bool(call(f"{self.url}/readyz", timeout=2)["ready"])
        except (OSError, ValueError, KeyError):
            return False


class Exchange:
    """The paper exchange, as a process."""

    def __init__(self, directory: Path) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        arguments = ["paper", "--port", str(port), "--data-dir", str(directory), "--prices", "static", "--json"]
        self.process = ForkedProcess(arguments, environment={}, log=directory.with_suffix(".log"))
        self.process.start()

    def accepted(self) -> Counter[str]:
        """How often each order of the bridge was accepted, by client order id."""
        events = call(f"{self.url}/paper/journal", timeout=60)
        names = [event.get("client_order_id") for event in events if event["event"] == "order_accepted"]
        return Counter(str(name) for name in names if name)

    def positions(self) -> dict[str, Decimal]:
        state = call(f"{self.url}/paper/state")
        return {symbol: Decimal(text) for symbol, text in state["positions"].items() if Decimal(text)}


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[Exchange]:
    running = Exchange(tmp_path / "paper")
    yield running
    running.process.kill()


@pytest.fixture
def machines(tmp_path: Path, exchange: Exchange) -> Iterator[tuple[Machine, Machine]]:
    """One that trades, with its copy beside it, and a second one."""
    one, two = Machine(tmp_path / "one"), Machine(tmp_path / "two")
    config = one.data_dir / "config.toml"
    config.write_text(
        f'mode = "testnet"\n{config.read_text()}[exchange]\naccount_id = "{PAPER_ACCOUNT_ID}"\nbase_url = "{exchange.url}"\n'
        f'request_timeout_s = 1\nrecv_window_ms = 500\n[queue]\nclock_tolerance_s = 0.2\n[replica]\nurl = "file://{tmp_path}/replica"\n'
        "sync_s = 0.2\n"
    )
    yield one, two
    for machine in (one, two):
        machine.daemon.kill()


def alert(api_key: str, number: int, **fields: Any) -> dict[str, Any]:
    return {
        "apiKey": api_key,
        "alertId": f"alert-{number}",
        "action": "buy",
        "symbol": MARKETS[number % len(MARKETS)],
        "quantity": QUANTITIES[MARKETS[number % len(MARKETS)]],
        "stopLoss": "2%",
        "timestamp": timestamp(),
        **fields,
    }


def prepare(one: Machine, two: Machine, exchange: Exchange) -> str:
    """From two empty machines to one that trades and one that is ready to take over; returns the webhook's apiKey."""
    one.run("keys", "add", stdin=PAPER_ORDERLY_SECRET)
    created = json.loads(
        one.run("webhook", "create", "main", "--no-require-signature", "--max-notional", "none", "--json")
    )
    one.start()
    wait_until(one.is_ready, what="the first machine")
    sealed = one.run("replica", "seal", two.run("replica", "prepare").strip())
    two.run("replica", "prepare", "-", "--yes", stdin=sealed)
    call(f"{exchange.url}/paper/keys", {"orderly_key": OWN_KEY, "scope": "read,trading"})
    two.run("keys", "add", stdin=OWN_SECRET)
    return str(created["apiKey"])


async def burst(one: Machine, api_key: str, exchange: Exchange) -> list[Sent]:
    """Send more alerts at once than the exchange takes, and kill the machine while it has answered some and queued others.

    Its copy ends before that: what is queued in the copy has been sent since, and the last alerts are in no copy.
    """
    sender, sent = TradingView(one.url), [Sent(f"alert-{number}") for number in range(100, 100 + BURST + LATE)]
    for number, each in enumerate(sent, 100):
        each.body = alert(api_key, number)
    tasks = [asyncio.create_task(sender.send(each.body, each)) for each in sent[:BURST]]
    await until(lambda: sum(each.is_acknowledged for each in sent) >= CUT_AFTER)
    await asyncio.sleep(0.5)  # what is queued reaches the copy
    os.kill(one.litestream(), signal.SIGSTOP)
    copied = len(exchange.accepted())
    tasks += [asyncio.create_task(sender.send(each.body, each)) for each in sent[BURST:]]
    await until(lambda: len(exchange.accepted()) > copied)
    one.daemon.kill()
    await asyncio.gather(*tasks)
    return sent


def alerts_of(machine: Machine) -> dict[str, str]:
    """The sender's alert id of each order of a machine, by client order id."""
    statement = "SELECT o.client_order_id, a.alert_id FROM orders o JOIN alerts a ON a.id = o.alert_id"
    return {str(name): str(alert_id) for name, alert_id in machine.rows(statement)}


def positions_of(machine: Machine) -> dict[str, Decimal]:
    rows = machine.rows("SELECT symbol, quantity FROM positions")
    return {str(symbol): Decimal(str(quantity)) for symbol, quantity in rows if Decimal(str(quantity))}


def stopped_markets(exchange: Exchange) -> set[str]:
    """Markets with a live stop loss at the exchange."""
    found = set()
    waiting = list(call(f"{exchange.url}/paper/state")["open_algo_orders"])
    while waiting:
        order = waiting.pop()
        waiting += order.get("child_orders", [])
        if order["algo_type"] == "STOP_LOSS" and order["is_activated"] and not order["is_triggered"]:
            found.add(str(order["symbol"]))
    return found


@needs_litestream
def test_a_standby_takes_over_from_a_machine_that_was_killed_in_a_burst(
    machines: tuple[Machine, Machine], exchange: Exchange
) -> None:
    """Every alert that was answered and copied is there, resends double nothing, positions agree, stops are live; the first one halts."""
    one, two = machines
    api_key = prepare(one, two, exchange)
    early = [alert(api_key, number) for number in range(FIRST)]
    assert {one.post(body)[0] for body in early} == {200}
    wait_until(lambda: json.loads(one.run("replica", "status", "--json"))["lagS"] < 1, what="the copy")
    sent = asyncio.run(burst(one, api_key, exchange))
    taken = json.loads(two.run("takeover", "--yes", "--json"))
    assert taken["removedKeys"] == [PAPER_ORDERLY_KEY]
    assert taken["doubted"] > 0
    two.start()
    wait_until(two.is_ready, what="the second machine")

    # The senders send again what was not answered, and once what was.
    with ThreadPoolExecutor(BURST + LATE + 1) as pool:
        again = [status for status, _ in pool.map(two.post, [early[0], *(each.body for each in sent)])]
    assert {*again} <= {200, 202}, again
    wait_until(lambda: not two.rows("SELECT 1 FROM orders WHERE finished_at IS NULL"), what="the end of every order")
    known, accepted = alerts_of(two), exchange.accepted()
    assert {body["alertId"] for body in early} | {each.alert_id for each in sent} == set(known.values())
    assert set(accepted.values()) == {1}
    assert accepted.keys() <= known.keys()
    filled = {str(name) for (name,) in two.rows("SELECT client_order_id FROM orders WHERE status = 'filled'")}
    assert filled == accepted.keys()
    assert {each.alert_id for each in sent[BURST:]} <= {known[name] for name in filled}
    wait_until(lambda: positions_of(two) == exchange.positions(), what="positions that agree")
    assert stopped_markets(exchange) == set(exchange.positions())

    # The first machine comes back: it says why it does not trade.
    one.start()
    wait_until(lambda: "removed at the exchange" in one.run("doctor", code=1), what="the halt of the first machine")
    assert one.post(alert(api_key, 999))[0] in (422, 503)
    assert one.daemon.is_alive
    assert exchange.accepted() == accepted
    per_alert = Counter({**known, **alerts_of(one)}[name] for name in accepted)
    assert set(per_alert.values()) == {1}

    written = "".join((*one.printed, *two.printed, one.log.read_text(), two.log.read_text()))
    files = b"".join(path.read_bytes() for each in machines for path in each.data_dir.rglob("*") if path.is_file())
    for secret in (PAPER_ORDERLY_SECRET, OWN_SECRET, one.master.hex(), one.master.decode()):
        assert secret.removeprefix("ed25519:") not in written
        assert secret.removeprefix("ed25519:").encode() not in files
