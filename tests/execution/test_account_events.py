"""What changes at the exchange without a request of ours is written once, in words, and the next order follows it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kekbridge.exchange.base import (
    AccountEvent,
    LeverageChanged,
    MarginModeChanged,
    MarketChanged,
    RecordsChanged,
    RulesChanged,
    TopicRefused,
)
from kekbridge.execution.account_events import describe
from kekbridge.model import MarginMode
from kekbridge.model.notifications import render_notification
from tests.bridge import BTC, ETH, Bridge, Clock, quick_bridge, running_bridge, running_paper
from tests.equality import assert_rebuilt_equal
from tests.waiting import until

D = Decimal
MORNING = datetime(2026, 3, 10, 9, tzinfo=UTC)


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        quick_bridge(tmp_path, paper_url) as opened,
    ):
        yield opened
    assert_rebuilt_equal(tmp_path / "data")


async def leverages_set(bridge: Bridge, symbol: str = BTC) -> list[int]:
    """Every leverage that the exchange has set, by whomever."""
    return [row["leverage"] for row in await bridge.journal("leverage_set", symbol=symbol)]


@pytest.mark.parametrize(
    ("event", "severity", "text"),
    [
        (
            LeverageChanged(BTC, MarginMode.CROSS, D(10), D(3)),
            "warning",
            "BTC: leverage changed elsewhere from 10 to 3: cross",
        ),
        (
            MarginModeChanged(BTC, MarginMode.CROSS, MarginMode.ISOLATED),
            "warning",
            "BTC: margin mode changed elsewhere from cross to isolated",
        ),
        (
            MarketChanged(ETH, "ACTIVE", "POST_ONLY"),
            "warning",
            "ETH: the exchange changed the market from active to post_only",
        ),
        (
            MarketChanged(ETH, "ACTIVE", "DELISTING"),
            "warning",
            "ETH is being delisted (delisting): close what you hold in it",
        ),
        (
            RulesChanged(ETH, {"base_tick": (D("0.0001"), D("0.01"))}),
            "info",
            "ETH: the exchange changed the rules of the market: base_tick from 0.0001 to 0.01",
        ),
        (
            TopicRefused("account", "invalid topic"),
            "warning",
            "the exchange refuses the stream topic account: invalid topic; what it reports is read by queries instead",
        ),
    ],
)
def test_each_event_has_a_message(event: AccountEvent, severity: str, text: str) -> None:
    """One line with what it was and what it is."""
    described = describe(event)
    assert described is not None
    assert render_notification(*described) == (severity, text)


def test_a_hint_is_no_event() -> None:
    """What the records say is written once they are read."""
    assert describe(RecordsChanged()) is None


async def test_a_leverage_changed_elsewhere_is_told_and_set_again(bridge: Bridge) -> None:
    """The trader sets 3 in the front end after an order at 5: that is reported, our own change is not; the next order sets it again."""
    await bridge.send(quantity="0.01", leverage=5)
    await bridge.control("leverage", {"symbol": BTC, "leverage": 3})
    told = await bridge.heard("leverage_changed")
    assert (told["symbol"], D(told["before"]), D(told["after"])) == (BTC, D(5), D(3))
    await bridge.send(quantity="0.01", leverage=5)
    await bridge.until_settled()
    assert await leverages_set(bridge) == [5, 3, 5]
    assert len(await bridge.events("leverage_changed")) == 1


async def test_without_the_topic_the_leverage_is_read_before_the_order(tmp_path: Path) -> None:
    """The exchange refuses the topic `account`: that is reported, all else is live, and no order goes out at a leverage of a minute ago."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with aiohttp.ClientSession() as session:
            body = {"fault": "refuse_topic", "topic": "account"}
            assert (await session.post(f"{paper_url}/paper/faults", json=body)).status == 200
        async with quick_bridge(tmp_path, paper_url) as bridge:
            told = await bridge.heard("topic_refused")
            assert told["topic"] == "account"
            exchange = bridge.daemon.exchange
            await until(lambda: exchange.health.stream_is_live)
            assert "account" in exchange.health.detail
            await bridge.send(quantity="0.01", leverage=5)
            await bridge.until_settled()
            await bridge.control("leverage", {"symbol": BTC, "leverage": 3})
            await until(
                lambda: exchange.leverage_of(BTC) is None
            )  # the read for the first order is not believed any more
            _, answer = await bridge.send(quantity="0.01", leverage=5)
            await bridge.until_stored(answer, "filled")
            assert await leverages_set(bridge) == [5, 3, 5]


async def test_a_refused_topic_of_orders_leaves_the_others_in_use(tmp_path: Path) -> None:
    """Orders are polled then, positions and marks come by stream, and the connection stays: fills and P&L are complete."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with aiohttp.ClientSession() as session:
            body = {"fault": "refuse_topic", "topic": "executionreport"}
            assert (await session.post(f"{paper_url}/paper/faults", json=body)).status == 200
        async with quick_bridge(tmp_path, paper_url) as bridge:
            assert (await bridge.heard("topic_refused"))["topic"] == "executionreport"
            _, answer = await bridge.send(quantity="0.01")
            await bridge.until_stored(answer, "filled")
            _, answer = await bridge.send(orderType="limit", limitPrice="64800")
            await bridge.control("prices", {BTC: "64700"})
            order = await bridge.until_stored(answer, "filled")
            assert order.executed_quantity == D("0.01")
            assert "executionreport" in bridge.daemon.exchange.health.detail


async def test_a_margin_mode_changed_elsewhere_is_told(tmp_path: Path) -> None:
    """With the read of the account's settings, once a minute."""
    async with running_bridge(tmp_path, clock=Clock.starting_at(MORNING)) as bridge:
        await bridge.control("margin_mode", {"symbol": BTC, "margin_mode": "ISOLATED"})
        await bridge.jump_to(MORNING.replace(minute=2))
        told = await bridge.heard("margin_mode_changed")
        assert (told["symbol"], told["before"], told["after"]) == (BTC, "cross", "isolated")


@pytest.mark.parametrize("rules", [{"status": "DELISTING"}, None], ids=["delisting", "unlisted"])
async def test_a_market_that_is_delisted(bridge: Bridge, rules: dict[str, Any] | None) -> None:
    """It is reported once, entries are refused by name, and what is held in it keeps its name, size and mark."""
    await bridge.send(symbol="ETHUSDT.P", quantity="0.1")
    await bridge.control("markets", {ETH: rules})
    for _ in range(2):
        await bridge.daemon.exchange.refresh_rules()
    told = await bridge.heard("market_delisted")
    assert (told["symbol"], told["before"]) == (ETH, "active")
    status, refused = await bridge.send(symbol="ETHUSDT.P", quantity="0.1")
    assert (status, refused["code"]) == (422, "market_closed")
    snapshot = bridge.daemon.exchange.snapshot
    assert snapshot is not None
    assert snapshot.position_quantity(ETH) == D("0.1")
    if rules is not None:  # exits are taken until the market is gone
        _, answer = await bridge.send(symbol="ETHUSDT.P", action="close")
        await bridge.until_stored(answer, "filled")


async def test_a_market_that_was_delisted_while_no_daemon_ran(tmp_path: Path) -> None:
    """The next start says so if the account holds a position in it, once; a market without a position is not named."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url) as bridge:
            await bridge.send(symbol="ETHUSDT.P", quantity="0.1")
        async with aiohttp.ClientSession() as session:
            body = {ETH: {"status": "DELISTING"}, BTC: {"status": "DELISTING"}}
            assert (await session.post(f"{paper_url}/paper/markets", json=body)).status == 200
        for _ in range(2):
            async with quick_bridge(tmp_path, paper_url) as bridge:
                assert (await bridge.heard("market_delisted"))["symbol"] == ETH
                await bridge.daemon.trading.account_events.note_leaving_markets()
                assert len(await bridge.events("market_delisted")) == 1
    assert_rebuilt_equal(tmp_path / "data")


async def test_a_coarser_step_is_told_and_followed(bridge: Bridge) -> None:
    """The next order has a size of the new step."""
    await bridge.control("markets", {ETH: {"base_tick": "0.1", "base_min": "0.1"}})
    await bridge.daemon.exchange.refresh_rules()
    told = await bridge.heard("market_rules_changed")
    assert told["symbol"] == ETH
    assert "base_tick from " in told["changes"]
    _, answer = await bridge.send(symbol="ETHUSDT.P", quantity="0.25")
    order = await bridge.until_stored(answer, "filled")
    assert order.executed_quantity == D("0.2")


async def test_a_market_that_is_closed_and_opened_again(bridge: Bridge) -> None:
    """Both are reported; afterwards entries pass as before."""
    for status in ("REDUCE_ONLY", "ACTIVE"):
        await bridge.control("markets", {ETH: {"status": status}})
        await bridge.daemon.exchange.refresh_rules()
    told = await bridge.events("market_changed")
    assert sorted(each["after"] for each in told) == ["active", "reduce_only"]
    assert (await bridge.send(symbol="ETHUSDT.P", quantity="0.1"))[0] == 200
