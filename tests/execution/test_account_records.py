"""Transfers, funding, liquidations and auto-deleveraging are read completely, recorded once and counted in P&L, drawdown and limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kekbridge.model import Limits, TradingState
from kekbridge.store import codec, equity, fills, read_positions, reservations, settings
from kekbridge.store.read_positions import RecordKind
from tests.bridge import BTC, ETH, Bridge, Clock, quick_bridge, running_bridge, running_paper
from tests.equality import assert_rebuilt_equal
from tests.stored import funding_total
from tests.waiting import until

D = Decimal
MORNING = datetime(2026, 3, 10, 9, tzinfo=UTC)


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        quick_bridge(tmp_path, paper_url, queue__reconcile_every_s=3600) as opened,
    ):
        yield opened
    assert_rebuilt_equal(tmp_path / "data")


async def read(bridge: Bridge) -> None:
    """Run the job that reads the account's records."""
    await bridge.daemon.operator_services.jobs.run_now("equity")


async def day(bridge: Bridge, scope: str = settings.ACCOUNT) -> reservations.DayTotals:
    today = codec.day_of(bridge.clock())
    return await bridge.daemon.database.read(reservations.read_day, scope, today)


async def no_differences(bridge: Bridge) -> None:
    for _ in range(3):
        await bridge.daemon.operator_services.jobs.run_now("reconcile")
    assert await bridge.events("reconciliation_difference") == []


async def test_a_liquidation_is_told_and_counted(bridge: Bridge) -> None:
    """Its P&L and fee are the exchange's own figures, count for the webhook that entered, and stop entries over the daily loss."""
    bridge.add_webhook("careful", limits=Limits(max_notional=None, max_leverage=None, max_daily_loss=D(300)))
    _, answer = await bridge.send("careful", quantity="0.5")
    webhook_id = (await bridge.order(answer)).webhook_id
    await no_differences(bridge)
    await bridge.control("prices", {BTC: "64000"})
    await bridge.control("liquidate", {"symbol": BTC})
    told = await bridge.heard("liquidation")
    (taken,) = (await bridge.journal("liquidation"))[0]["positions"]
    assert D(told["realized_pnl"]) == D(taken["realized_pnl"])
    assert (told["side"], D(told["quantity"]), D(told["price"])) == ("sell", D("0.5"), D(64000))
    (fill,) = [each for each in await bridge.daemon.database.read(fills.list_fills) if each.client_order_id is None]
    assert fill.fee == sum((D(taken[name]) for name in ("abs_liquidator_fee", "abs_insurance_fund_fee")), D(0))
    assert (await day(bridge)).realized_pnl == (await day(bridge, webhook_id)).realized_pnl == D(taken["realized_pnl"])
    assert D(taken["realized_pnl"]) < -300
    await until(lambda: bridge.daemon.book.control(webhook_id, now=bridge.clock()).state is TradingState.EXITS_ONLY)
    status, refused = await bridge.send("careful")
    assert (status, refused["code"]) == (422, "exits_only")
    await read(bridge)
    await no_differences(bridge)
    assert len(await bridge.events("liquidation")) == 1


async def test_a_liquidation_in_parts_is_counted_in_parts(bridge: Bridge) -> None:
    """Four tenths first, while the rest stays open; then all of it: both together are the exchange's figures."""
    await bridge.send(quantity="0.5")
    await bridge.control("prices", {BTC: "64000"})
    await bridge.control("liquidate", {"symbol": BTC, "tenths": 4})
    await bridge.heard("liquidation")
    await bridge.control("liquidate", {"symbol": BTC})

    async def are_both_told() -> bool:
        return len(await bridge.events("liquidation")) == 2

    await until(are_both_told)
    taken = [row for event in await bridge.journal("liquidation") for row in event["positions"]]
    assert (await day(bridge)).realized_pnl == sum(D(row["realized_pnl"]) for row in taken)
    await no_differences(bridge)


async def test_an_isolated_position_is_liquidated_beside_a_cross_one(bridge: Bridge) -> None:
    """Opened by hand: its loss is the account's, not that of the webhook that trades the cross position, which stays as it is."""
    _, answer = await bridge.send(quantity="0.1")
    webhook_id = (await bridge.order(answer)).webhook_id
    await bridge.set_isolated(BTC, "0.5")
    await bridge.control("prices", {BTC: "64000"})
    await bridge.control("liquidate", {"symbol": BTC, "margin_mode": "ISOLATED"})
    await bridge.heard("liquidation")
    (taken,) = (await bridge.journal("liquidation"))[0]["positions"]
    assert (await day(bridge)).realized_pnl == D(taken["realized_pnl"]) != 0
    assert (await day(bridge, webhook_id)).realized_pnl == 0
    assert await bridge.position() == D("0.1")
    await no_differences(bridge)


async def test_a_liquidation_while_the_daemon_was_down_is_counted(tmp_path: Path) -> None:
    """The next start finds it in the lists, with what it realized."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url) as first:
            await first.send(quantity="0.5")
            await read(first)
        await _call(paper_url, "prices", {BTC: "64000"})
        await _call(paper_url, "liquidate", {"symbol": BTC})
        async with quick_bridge(tmp_path, paper_url) as second:
            told = await second.heard("liquidation")
            (taken,) = (await second.journal("liquidation"))[0]["positions"]
            assert D(told["realized_pnl"]) == D(taken["realized_pnl"])
            assert (await day(second)).realized_pnl == D(taken["realized_pnl"])
            await no_differences(second)
    assert_rebuilt_equal(tmp_path / "data")


async def _call(paper_url: str, what: str, body: dict[str, Any]) -> None:
    """Call a control path of the paper exchange while no daemon runs."""
    async with aiohttp.ClientSession() as session, session.post(f"{paper_url}/paper/{what}", json=body) as response:
        assert response.status == 200, await response.text()


async def test_auto_deleveraging_is_told_and_counted(bridge: Bridge) -> None:
    """It has no trade and no topic: the history of positions names it, in parts and at the end."""
    await bridge.send(quantity="0.5")
    await no_differences(bridge)
    for quantity in ("0.2", "0.3"):
        await bridge.control("adl", {"symbol": BTC, "quantity": quantity, "price": "66000"})
        await read(bridge)
    told = await bridge.events("adl")
    assert sorted(D(one["quantity"]) for one in told) == [D("0.2"), D("0.3")]
    realized = sum(D(event["realized_pnl"]) for event in await bridge.journal("adl"))
    assert realized > 0
    assert (await day(bridge)).realized_pnl == realized
    await no_differences(bridge)


async def test_every_page_of_the_funding_is_read_once(bridge: Bridge) -> None:
    """Short pages, two markets, several payments: the day's total is the sum of what the exchange has charged, and stays so."""
    await bridge.control("pages", {"funding_fee": 3})
    for market in ("BTCUSDT.P", "ETHUSDT.P"):
        await bridge.send(symbol=market, quantity="0.5")
    for _ in range(5):
        await bridge.control("funding", {BTC: "0.001", ETH: "-0.0005"})
    for _ in range(2):
        await read(bridge)
        paid = sum(D(row["funding_fee"]) for row in await bridge.journal("funding"))
        found = await bridge.daemon.database.read(funding_total)
        assert found == (await day(bridge)).funding == paid != 0


async def test_funding_counts_against_the_daily_loss(bridge: Bridge) -> None:
    """What the position paid today is a loss of today, for the webhook that entered."""
    limits = Limits(max_notional=None, max_leverage=None, max_daily_loss=D(20))
    bridge.add_webhook("careful", limits=limits)
    _, answer = await bridge.send("careful", quantity="0.5")
    await bridge.control("funding", {BTC: "0.002"})
    await read(bridge)
    webhook_id = (await bridge.order(answer)).webhook_id
    assert (await day(bridge, webhook_id)).funding > 20
    status, refused = await bridge.send("careful", quantity="0.01")
    assert (status, refused["code"]) == (422, "exits_only")


async def test_a_loss_and_a_deposit_in_one_minute(tmp_path: Path) -> None:
    """60 % are lost and nearly as much is deposited before the next mark: the drawdown is what was lost, and entries stop."""
    async with running_bridge(tmp_path, clock=Clock.starting_at(MORNING), risk__max_drawdown="0.5") as bridge:
        bridge.add_webhook(limits=Limits(max_notional=None, max_leverage=None))
        await bridge.control("transfer", {"amount": "-99000"})
        await read(bridge)
        await bridge.jump_to(MORNING.replace(minute=30))
        await read(bridge)
        start = await bridge.daemon.database.write(equity.reset_peak, by="test", now=bridge.clock())
        assert start is not None
        await bridge.send(quantity="0.1")
        await bridge.control("prices", {BTC: "59000"})
        await bridge.control("transfer", {"amount": "600"})
        await bridge.jump_to(MORNING.replace(minute=31))
        await read(bridge)
        mark = await bridge.daemon.database.read(equity.latest)
        assert mark is not None
        lost = (start - (mark.value - 600)) / start
        assert D("0.55") < lost < D("0.65")
        assert abs((mark.peak - mark.value) / mark.peak - lost) < D("1e-20")
        assert bridge.daemon.book.control(settings.ACCOUNT, now=bridge.clock()).state is TradingState.EXITS_ONLY


async def test_a_transfer_is_told_at_once(bridge: Bridge) -> None:
    """The stream's hint starts the read; each transfer is reported and stored once."""
    await read(bridge)
    await bridge.control("transfer", {"amount": "250"})
    told = await bridge.heard("transfer")
    assert (told["what"], D(told["amount"])) == ("deposit", D(250))
    await read(bridge)
    assert len(await bridge.events("transfer")) == 1


async def test_a_kind_that_cannot_be_read_stays_where_it_is(bridge: Bridge) -> None:
    """The others go on; once it can be read again, nothing is missing."""
    await bridge.send(quantity="0.5")
    await read(bridge)
    before = await bridge.daemon.database.read(read_positions.read_all)
    await bridge.fault("server_error", method="GET", path="/v1/funding_fee/history")
    await bridge.control("funding", {BTC: "0.001"})
    await read(bridge)
    after = await bridge.daemon.database.read(read_positions.read_all)
    assert after[RecordKind.FUNDING] == before[RecordKind.FUNDING]
    assert after[RecordKind.LIQUIDATIONS] > before[RecordKind.LIQUIDATIONS]
    assert (await day(bridge)).funding == 0
    await bridge.clear_faults()
    await read(bridge)
    assert (await day(bridge)).funding > 0
