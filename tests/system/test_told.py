"""The trader is told: every event of the table reaches a receiver, most of them provoked in a running bridge; none is told twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.config import Vault
from kekbridge.daemon.resources import prepare_data_dir
from kekbridge.exchange.orderly.client import OrderlyExchange
from kekbridge.model import Mode, TradingState
from kekbridge.model.notifications import MESSAGES
from kekbridge.ops.notifier import NOTIFY_URLS
from kekbridge.store import events, webhooks
from kekbridge.vault import open_vault
from tests.bridge import BTC, ETH, House, running_house, running_paper
from tests.receiver import Receiver
from tests.waiting import until

# What would need a broken machine, hours, or a second process: put into the history as the part itself would, each of which has its
# own test (upkeep/test_watches.py, store/test_orders.py, test_backup.py, ingress/test_lockout.py …).
BY_HISTORY = {
    "order_denied",
    "order_expired",
    "cancel_failed",
    "key_expired",
    "certificate_expiring",
    "certificate_expired",
    "certificate_valid",
    "certificate_renewed",
    "certificate_not_renewed",
    "disk_low",
    "disk_enough",
    "restored",
    "orderly_key_removed",
}
# The name of the event in front: the line itself says which one it is.
NAMED = {kind: f"{kind}| {message.words}" for kind, message in MESSAGES.items()}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def told(receiver: Receiver) -> Counter[str]:
    return Counter(line.partition("|")[0] for line in receiver.lines())


@pytest.fixture
async def house(tmp_path: Path, receiver: Receiver) -> AsyncIterator[House]:
    """A bridge with one channel, which demands a stop for every position."""
    data_dir = tmp_path / "data"
    prepare_data_dir(data_dir)
    open_vault(Vault(backend="key_file"), data_dir, Mode.PAPER).set(NOTIFY_URLS, receiver.url.encode())
    (tmp_path / "blocked").touch()
    options: dict[str, Any] = {
        "notify__templates": NAMED,
        "notify__down_after_s": 0.5,
        "exchange__refresh_s": 1.0,
        "risk__require_stop_loss": True,
        "queue__protect_within_s": 3.0,  # the exchange takes one bracket or stop a second: a stop must find its turn
        "backup__dir": str(tmp_path / "blocked" / "backups"),
    }
    async with (
        running_paper(tmp_path / "paper", rate_limits=False) as paper_url,
        running_house(data_dir, paper_url, **options) as house,
    ):

        def has_begun() -> bool:
            with house.daemon.database.snapshot() as connection:
                found = connection.execute("SELECT 1 FROM settings WHERE key LIKE 'notified:%'").fetchone()
            return found is not None

        await until(has_begun)
        yield house


async def run(house: House, *names: str) -> None:
    """Let these jobs do what the clock would let them do."""
    for name in names:
        await house.daemon.operator_services.jobs.run_now(name)


async def trade(house: House, receiver: Receiver) -> None:
    """Orders and their stops: well, refused, without an answer, stop lost, stop impossible."""
    await house.send(stopLoss="2%")
    await house.fault("lose_stop", count=1)
    await house.send(stopLoss="2%", quantity="0.02")
    await until(lambda: told(receiver)["protection_replaced"] == 1)
    await house.send()  # without a stop
    await house.fault("refuse", code=-1101, count=1)
    await house.send(stopLoss="2%")
    await house.fault("lose_answer", path="/v1/algo/order", method="POST", count=1)
    await house.send(stopLoss="2%")
    await house.send(symbol="ETHUSDT.P", quantity="0.1", stopLoss="2%")
    await house.fault("refuse", code=-1103, symbol=ETH, count=2)
    _, leaving = await house.send(action="close", symbol="ETHUSDT.P", quantity=None)
    await house.until_stored(leaving, "rejected")
    await house.clear_faults()


async def lose_a_stop_for_good(house: House) -> None:
    await house.fault("lose_stop", count=1)
    await house.fault("refuse", algo_type="STOP", code=-1101)
    await house.send(stopLoss="2%", symbol="SOLUSDT.P", quantity="1")
    await house.until_flat("PERP_SOL_USDC")
    await house.clear_faults()


async def lose_the_exchange(house: House, receiver: Receiver) -> None:
    """More of each than before: on a busy machine half a second without an answer may have been told already."""
    before = told(receiver)
    await house.fault("stream_drop")
    await house.control("prices", {BTC: "64900"})
    await until(lambda: told(receiver)["stream_down"] > before["stream_down"])
    await house.clear_faults()
    await until(lambda: told(receiver)["stream_back"] > before["stream_back"])
    await house.fault("server_error", method="GET")
    await until(lambda: told(receiver)["exchange_down"] > before["exchange_down"])
    await house.clear_faults()
    await until(lambda: told(receiver)["exchange_back"] > before["exchange_back"])


async def surprise(house: House) -> None:
    """Positions that no trade explains and that have no stop, and a strategy that believes something else."""
    await run(house, "reconcile")
    await house.control("positions", {ETH: "0.3"})
    await run(house, "reconcile", "reconcile", "protection", "protection")
    await house.control("positions", {ETH: "0"})
    await run(house, "reconcile", "protection")
    step = {"marketPosition": "long", "marketPositionSize": "1", "prevMarketPosition": "long", "stopLoss": "2%"}
    await house.send(**step, prevMarketPositionSize="0.99")
    held = (await house.positions())[BTC]
    await house.send(**step | {"marketPositionSize": str(held + Decimal("0.01"))}, prevMarketPositionSize=str(held))


async def keep_waiting(house: House, receiver: Receiver) -> None:
    """An alert that is expected every second, and one that ends at TradingView."""
    with house.daemon.database.transaction() as connection:
        (hook,) = webhooks.list_all(connection)
        ends_at = house.clock() + timedelta(days=3)
        wanted = replace(hook.settings, expect_alert_every_s=1, alert_expires_at=ends_at)
        webhooks.change_settings(connection, hook.id, wanted, now=house.clock())

    async def is_missed() -> bool:
        await run(house, "heartbeat")
        return told(receiver)["heartbeat_missed"] >= 1

    await until(is_missed)
    with house.daemon.database.transaction() as connection:
        wanted = replace(wanted, expect_alert_every_s=3600, alert_expires_at=house.clock())
        webhooks.change_settings(connection, hook.id, wanted, now=house.clock())
    await house.send(action="ping")
    await run(house, "heartbeat")


async def age(house: House, tmp_path: Path, receiver: Receiver) -> None:
    """A key near its end, a clock that is set wrong, a backup without a place, the day's end."""
    exchange = house.daemon.exchange
    assert isinstance(exchange, OrderlyExchange)
    signer = exchange.signer
    for days in (5, 300):
        expiration = int((house.clock() + timedelta(days=days)).timestamp() * 1000)
        await house.control("keys", {"orderly_key": signer.orderly_key, "expiration": expiration})
        await run(house, "expiry")
    await run(house, "backup", "summary", "summary")
    (tmp_path / "blocked").unlink()
    await run(house, "backup")
    house.clock.offset = timedelta(seconds=30)
    await until(lambda: told(receiver)["clock_skew"] == 1)
    house.clock.offset = timedelta(0)
    await until(lambda: told(receiver)["clock_right"] == 1)


async def attack(house: House) -> None:
    """Keys that nobody knows, until the address is locked out: the last thing that comes in from here."""
    for _ in range(25):
        await house.send(apiKey="wh_test_nobody")


async def test_every_event_reaches_the_trader(house: House, receiver: Receiver, tmp_path: Path) -> None:
    """Each kind of the table arrives at a receiver; those that are conditions arrive once however often they were looked at."""
    await trade(house, receiver)
    await lose_a_stop_for_good(house)
    await surprise(house)
    await keep_waiting(house, receiver)
    await lose_the_exchange(house, receiver)
    await house.set_state(TradingState.HALTED)
    await house.set_state(TradingState.RUNNING)
    await age(house, tmp_path, receiver)
    await attack(house)
    with house.daemon.database.transaction() as connection:
        for kind in sorted(BY_HISTORY):
            events.append(connection, kind, now=house.clock(), data={"error": "x", "free": "1 MiB"})
    missing: set[str] = set()

    def is_complete() -> bool:
        missing.clear()
        missing.update(set(MESSAGES) - set(told(receiver)))
        return not missing

    try:
        await until(is_complete)
    except AssertionError:
        raise AssertionError(f"never told: {sorted(missing)}") from None
    found = told(receiver)
    # A clock that jumps makes a few requests too old: half a second without the exchange may be told once more.
    once = {
        *(kind for kind in MESSAGES if kind.split("_")[0] in ("clock", "key", "heartbeat", "job")),
        *("position_unprotected", "position_protected", "daily_summary", "position_drift", "position_in_step"),
    }
    assert {kind: found[kind] for kind in once if found[kind] != 1} == {}
    assert set(found) <= set(MESSAGES)


async def test_a_receiver_that_is_down_holds_up_no_order(house: House, receiver: Receiver) -> None:
    """Orders are filled at once meanwhile; when it is back, each message arrives, once and in order."""
    receiver.status = 503
    names = []
    for _ in range(6):
        status, answer = await house.send(stopLoss="2%")
        assert (status, answer["status"]) == (200, "filled")
        names.append(answer["clientOrderId"])
    await until(lambda: receiver.refused >= 1)
    assert receiver.lines() == []
    receiver.status = 200
    await until(lambda: told(receiver)["order_filled"] == len(names))
    with house.daemon.database.snapshot() as connection:
        stored = [event.kind for event in events.list_events(connection) if event.kind in MESSAGES]
    await until(lambda: sum(told(receiver).values()) >= len(stored))
    assert [line.partition("|")[0] for line in receiver.lines()][: len(stored)] == stored
