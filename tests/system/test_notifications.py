"""Notifications: every kind reaches a receiver, most of them provoked in a running bridge, and none is sent twice."""

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
from kekbridge.store import journal, webhooks
from kekbridge.vault import open_vault
from tests.bridge import BTC, ETH, Bridge, quick_bridge, running_paper
from tests.receiver import Receiver
from tests.waiting import until

# Kinds that would need a broken machine, hours, or a second process. They are appended to the history; the tests of ops, store, ingress and
# execution check that their causes append them.
BY_HISTORY = {
    "admin_port_taken",
    "admin_port_free",
    "order_denied",
    "order_expired",
    "exit_waiting",
    "exit_canceled",
    "cancel_failed",
    "cancel_waiting",
    "ghost_order",
    "ghost_suspected",
    "ghost_cleared",
    "key_expired",
    "certificate_expiring",
    "certificate_expired",
    "certificate_valid",
    "certificate_renewed",
    "certificate_not_renewed",
    "disk_low",
    "disk_enough",
    "replica_behind",
    "replica_current",
    "restored",
    "taken_over",
    "history_incomplete",
    "account_adopted",
    "orderly_key_removed",
    "stop_fired",
    "take_profit_fired",
    "trailing_fired",
    "liquidation",
    "adl",
    "records_incomplete",
    "records_complete",
    "transfer",
    "leverage_changed",
    "margin_mode_changed",
    "market_changed",
    "market_rules_changed",
    "market_delisted",
    "topic_refused",
}
# Templates that put the kind in front of the text.
NAMED = {kind: f"{kind}| {message.template}" for kind, message in MESSAGES.items()}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.close()


def counts(receiver: Receiver) -> Counter[str]:
    return Counter(line.partition("|")[0] for line in receiver.lines())


@pytest.fixture
async def bridge(tmp_path: Path, receiver: Receiver) -> AsyncIterator[Bridge]:
    """A bridge with one notification channel that requires a stop for every position."""
    data_dir = tmp_path / "data"
    prepare_data_dir(data_dir)
    open_vault(Vault(backend="key_file"), data_dir, Mode.PAPER).set(NOTIFY_URLS, receiver.url.encode())
    (tmp_path / "blocked").touch()
    options: dict[str, Any] = {
        "notify__templates": NAMED,
        "notify__down_after_s": 0.5,
        "exchange__refresh_s": 1.0,
        "risk__require_stop_loss": True,
        "queue__protect_within_s": 3.0,  # the exchange accepts one bracket or stop a second, so a stop may have to wait
        "backup__dir": str(tmp_path / "blocked" / "backups"),
    }
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        quick_bridge(tmp_path, paper_url, **options) as bridge,
    ):

        def has_begun() -> bool:
            with bridge.daemon.database.snapshot() as connection:
                found = connection.execute("SELECT 1 FROM settings WHERE key LIKE 'notified:%'").fetchone()
            return found is not None

        await until(has_begun)
        yield bridge


async def run(bridge: Bridge, *names: str) -> None:
    """Run these jobs now."""
    for name in names:
        await bridge.daemon.operator_services.jobs.run_now(name)


async def trade(bridge: Bridge, receiver: Receiver) -> None:
    """Orders and stops that succeed, are rejected, get no answer, are lost, or cannot be placed."""
    await bridge.send(stopLoss="2%")
    await bridge.fault("lose_stop", count=1)
    await bridge.send(stopLoss="2%", quantity="0.02")
    await until(lambda: counts(receiver)["protection_replaced"] == 1)
    await bridge.send()  # without a stop
    await bridge.fault("refuse", code=-1101, count=1)
    await bridge.send(stopLoss="2%")
    await bridge.fault("lose_answer", path="/v1/algo/order", method="POST", count=1)
    await bridge.fault("withhold_reports", topic="algoexecutionreportv2")  # which would say what became of the order
    await bridge.send(stopLoss="2%")
    await until(lambda: counts(receiver)["order_unknown"] >= 1)
    await bridge.clear_faults()
    await bridge.send(symbol="ETHUSDT.P", quantity="0.1", stopLoss="2%")
    await bridge.fault("refuse", code=-1103, symbol=ETH, count=2)
    _, close = await bridge.send(action="close", symbol="ETHUSDT.P", quantity=None)
    await bridge.until_stored(close, "rejected")
    await bridge.clear_faults()


async def lose_a_stop_for_good(bridge: Bridge) -> None:
    await bridge.fault("lose_stop", count=1)
    await bridge.fault("refuse", algo_type="STOP", code=-1101)
    await bridge.fault("rate_limit", path="/v1/order", method="POST", count=1)  # the first close fails
    await bridge.send(stopLoss="2%", symbol="SOLUSDT.P", quantity="1")
    await bridge.until_flat("PERP_SOL_USDC")
    await bridge.clear_faults()


async def lose_the_exchange(bridge: Bridge, receiver: Receiver) -> None:
    """Expect more of each than before: on a busy machine half a second without a response may have been notified already."""
    before = counts(receiver)
    await bridge.fault("stream_drop")
    await bridge.control("prices", {BTC: "64900"})
    await until(lambda: counts(receiver)["stream_down"] > before["stream_down"])
    await bridge.clear_faults()
    await until(lambda: counts(receiver)["stream_back"] > before["stream_back"])
    await bridge.fault("server_error", method="GET")
    await until(lambda: counts(receiver)["exchange_down"] > before["exchange_down"])
    await bridge.clear_faults()
    await until(lambda: counts(receiver)["exchange_back"] > before["exchange_back"])


async def unexplained_positions(bridge: Bridge) -> None:
    """Positions without a trade or a stop, and a strategy whose position differs from the account's."""
    await run(bridge, "reconcile")
    await bridge.control("positions", {ETH: "0.3"})
    await run(bridge, "reconcile", "reconcile", "protection", "protection")
    await bridge.control("positions", {ETH: "0"})
    await run(bridge, "reconcile", "protection")
    step = {"marketPosition": "long", "marketPositionSize": "1", "prevMarketPosition": "long", "stopLoss": "2%"}
    await bridge.send(**step, prevMarketPositionSize="0.99")
    held = (await bridge.positions())[BTC]
    await bridge.send(**step | {"marketPositionSize": str(held + Decimal("0.01"))}, prevMarketPositionSize=str(held))


async def missed_heartbeat(bridge: Bridge, receiver: Receiver) -> None:
    """An alert expected every second that does not come, and one that expires at TradingView."""
    database = bridge.daemon.database
    (hook,) = await database.read(webhooks.list_all)
    ends_at = bridge.clock() + timedelta(days=3)
    wanted = replace(hook.settings, expect_alert_every_s=1, alert_expires_at=ends_at)
    await database.write(webhooks.change_settings, hook.id, wanted, now=bridge.clock())

    async def is_missed() -> bool:
        await run(bridge, "heartbeat")
        return counts(receiver)["heartbeat_missed"] >= 1

    await until(is_missed)
    wanted = replace(wanted, expect_alert_every_s=3600, alert_expires_at=bridge.clock())
    await database.write(webhooks.change_settings, hook.id, wanted, now=bridge.clock())
    await bridge.send(action="ping")
    await run(bridge, "heartbeat")


async def operations(bridge: Bridge, tmp_path: Path, receiver: Receiver) -> None:
    """An expiring key, a backup that fails, the daily summary, and a wrong clock."""
    exchange = bridge.daemon.exchange
    assert isinstance(exchange, OrderlyExchange)
    signer = exchange.signer
    for days in (5, 300):
        expiration = int((bridge.clock() + timedelta(days=days)).timestamp() * 1000)
        await bridge.control("keys", {"orderly_key": signer.orderly_key, "expiration": expiration})
        await run(bridge, "expiry")
    await run(bridge, "backup", "summary", "summary")
    (tmp_path / "blocked").unlink()
    await run(bridge, "backup")
    bridge.clock.offset = timedelta(seconds=30)
    await until(lambda: counts(receiver)["clock_skew"] == 1)
    bridge.clock.offset = timedelta(0)
    await until(lambda: counts(receiver)["clock_right"] == 1)


async def attack(bridge: Bridge) -> None:
    """Unknown keys until the address is locked out; no alert is accepted from here afterwards."""
    for _ in range(25):
        await bridge.send(apiKey="wh_test_unknown")


async def lose_database(bridge: Bridge) -> None:
    """The database is moved away under the bridge, and back."""
    path = bridge.daemon.database.path
    for source, target in ((path, path.with_name("aside")), (path.with_name("aside"), path)):
        source.rename(target)
        await run(bridge, "database")


async def test_every_kind_is_sent(bridge: Bridge, receiver: Receiver, tmp_path: Path) -> None:
    """Each kind arrives at a receiver; a condition arrives once, however often it was checked."""
    await trade(bridge, receiver)
    await lose_a_stop_for_good(bridge)
    await unexplained_positions(bridge)
    await missed_heartbeat(bridge, receiver)
    await lose_the_exchange(bridge, receiver)
    await bridge.set_state(TradingState.HALTED)
    await bridge.set_state(TradingState.RUNNING)
    await operations(bridge, tmp_path, receiver)
    await attack(bridge)
    await lose_database(bridge)
    for kind in sorted(BY_HISTORY):
        data = {"error": "x", "free": "1 MiB"}
        await bridge.daemon.database.write(journal.append, kind, now=bridge.clock(), data=data)
    missing: set[str] = set()

    def is_complete() -> bool:
        missing.clear()
        missing.update(set(MESSAGES) - set(counts(receiver)))
        return not missing

    try:
        await until(is_complete)
    except AssertionError:
        raise AssertionError(f"never sent: {sorted(missing)}") from None
    found = counts(receiver)
    # A clock that jumps makes a few requests too old, so half a second without the exchange may be notified once more.
    once = {
        *(kind for kind in MESSAGES if kind.split("_")[0] in ("clock", "key", "heartbeat", "job")),
        *("position_unprotected", "position_protected", "daily_summary", "position_drift", "position_in_step"),
    }
    assert {kind: found[kind] for kind in once if found[kind] != 1} == {}
    assert set(found) <= set(MESSAGES)


async def test_a_receiver_that_is_down_delays_no_order(bridge: Bridge, receiver: Receiver) -> None:
    """Orders fill at once meanwhile; when it is back, each message arrives once and in order."""
    receiver.status = 503
    names = []
    for _ in range(6):
        status, answer = await bridge.send(stopLoss="2%")
        assert (status, answer["status"]) == (200, "filled")
        names.append(answer["clientOrderId"])
    await until(lambda: receiver.rejected >= 1)
    assert receiver.lines() == []
    receiver.status = 200
    await until(lambda: counts(receiver)["order_filled"] == len(names))
    with bridge.daemon.database.snapshot() as connection:
        stored = [event.kind for event in journal.list_events(connection) if event.kind in MESSAGES]
    await until(lambda: sum(counts(receiver).values()) >= len(stored))
    assert [line.partition("|")[0] for line in receiver.lines()][: len(stored)] == stored
