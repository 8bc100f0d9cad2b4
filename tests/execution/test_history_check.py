"""A database that is older than its own orders at the exchange is noticed at the start; a new one adopts what it finds (engine rule 10)."""

from __future__ import annotations

import asyncio
import json
import shutil
from decimal import Decimal
from pathlib import Path

from kekbridge.execution.direct_orders import send_directly
from kekbridge.execution.flatten import flatten
from kekbridge.model import TradingState
from kekbridge.store import journal, lost_orders
from kekbridge.store.connections import FILE_NAME
from kekbridge.store.settings import trading_control
from tests.bridge import BTC, SOL, Bridge, running_bridge, running_paper
from tests.system.forked import run_cli

DATABASE = FILE_NAME + "*"


def copy_database(source: Path, target: Path) -> None:
    """Replace the database's files by those of another directory."""
    target.mkdir(exist_ok=True)
    for file in target.glob(DATABASE):
        file.unlink()
    for file in source.glob(DATABASE):
        shutil.copy2(file, target / file.name)


def state_of(bridge: Bridge) -> TradingState:
    with bridge.daemon.database.snapshot() as connection:
        return trading_control(connection, now=bridge.clock()).state


async def kinds(bridge: Bridge) -> list[str]:
    return [event.kind for event in await bridge.daemon.database.read(journal.list_events)]


async def test_an_older_database_refuses_entries_until_the_trader_has_seen_it(tmp_path: Path) -> None:
    """After a restored backup the orders sent since are unknown: entries are refused, exits pass, `doctor` lists, `resume` ends it."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with running_bridge(tmp_path, paper_url) as bridge:
            bridge.add_webhook()
            assert (await bridge.send())[0] == 200
        copy_database(tmp_path / "data", tmp_path / "older")
        async with running_bridge(tmp_path, paper_url) as bridge:
            assert state_of(bridge) is TradingState.RUNNING
            lost = [(await bridge.send(**fields))[1]["clientOrderId"] for fields in ({}, {"stopLoss": "5%"})]
        copy_database(tmp_path / "older", tmp_path / "data")

        async with running_bridge(tmp_path, paper_url) as bridge:
            status, answer = await bridge.send()
            assert (status, answer["code"]) == (422, "exits_only")
            assert (await bridge.send(action="close", quantity="0.01"))[0] == 200
            assert await bridge.position() == Decimal("0.02")
            assert (await kinds(bridge)).count("history_incomplete") == 1
            resumed = await asyncio.to_thread(run_cli, "resume", data_dir=bridge.data_dir, check=False)
            assert (resumed, state_of(bridge)) == ("", TradingState.EXITS_ONLY)

        async with running_bridge(tmp_path, paper_url) as bridge:  # a restart ends nothing and repeats nothing
            assert (await kinds(bridge)).count("history_incomplete") == 1
            shown = json.loads(
                await asyncio.to_thread(run_cli, "doctor", "--json", data_dir=bridge.data_dir, check=False)
            )
            listed = " ".join(check["text"] for check in shown["checks"] if check["name"] == "lost order")
            assert all(name in listed for name in lost)
            await asyncio.to_thread(run_cli, "resume", data_dir=bridge.data_dir)
            assert (await bridge.send())[0] == 200
        async with running_bridge(tmp_path, paper_url) as bridge:
            assert state_of(bridge) is TradingState.RUNNING


async def test_a_lost_log_is_noticed(tmp_path: Path) -> None:
    """Only the write-ahead log of a killed bridge is gone: the orders in it are unknown to the database, and nothing else says so."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with running_bridge(tmp_path, paper_url) as bridge:
            bridge.add_webhook()
            await bridge.send()
        async with running_bridge(tmp_path, paper_url) as bridge:
            await bridge.send()
            await bridge.send(symbol="SOLUSDT.P", quantity="1", orderType="limit", limitPrice="139")
            await asyncio.to_thread(copy_database, bridge.data_dir, tmp_path / "killed")
        (tmp_path / "killed" / f"{FILE_NAME}-wal").unlink()
        copy_database(tmp_path / "killed", tmp_path / "data")
        async with running_bridge(tmp_path, paper_url) as bridge:
            assert state_of(bridge) is TradingState.EXITS_ONLY
            with bridge.daemon.database.snapshot() as connection:
                found = lost_orders.pending(connection)
            assert found is not None
            assert {(order.symbol, order.status) for order in found.orders} == {(BTC, "filled"), (SOL, "accepted")}


async def test_a_new_directory_takes_over_what_it_finds(tmp_path: Path) -> None:
    """It says once which positions and orders it found; an order of another directory is no lost one."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with running_bridge(tmp_path / "first", paper_url) as bridge:
            bridge.add_webhook()
            await bridge.send(stopLoss="5%")
            await bridge.send(symbol="SOLUSDT.P", quantity="1", orderType="limit", limitPrice="139")
        for start in range(3):
            async with running_bridge(tmp_path / "second", paper_url) as bridge:
                if start == 0:
                    bridge.add_webhook()
                assert state_of(bridge) is TradingState.RUNNING
                adopted = [
                    e for e in await bridge.daemon.database.read(journal.list_events) if e.kind == "account_adopted"
                ]
                assert [(e.data["positions"], e.data["orders"]) for e in adopted] == [(f"0.01 {BTC}", 2)]
                assert (await bridge.send())[0] == 200


async def test_an_empty_account_is_nothing_to_say(tmp_path: Path) -> None:
    """The first start of a new trader is silent, and so is a later one after the first trades."""
    async with running_paper(tmp_path / "paper") as paper_url:
        for _ in range(2):
            async with running_bridge(tmp_path, paper_url) as bridge:
                if not bridge.credentials:
                    bridge.add_webhook()
                await bridge.send()
                assert not {"account_adopted", "history_incomplete"} & set(await kinds(bridge))


async def test_a_flatten_without_the_store_is_no_lost_order(tmp_path: Path) -> None:
    """`flatten` closes positions past the store; its orders are not taken for lost ones at the next start."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with running_bridge(tmp_path, paper_url) as bridge:
            bridge.add_webhook()
            await bridge.send()
            result = await flatten(
                bridge.daemon.exchange,
                send=send_directly(bridge.daemon.exchange, bridge.clock),
                deadline_s=20,
                on_progress=lambda _line: None,
            )
            assert result.is_flat
        async with running_bridge(tmp_path, paper_url) as bridge:
            assert state_of(bridge) is TradingState.RUNNING
