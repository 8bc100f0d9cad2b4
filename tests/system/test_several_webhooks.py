"""Several webhooks and the trader's hand in one market: what a strategy states closes what its own webhook holds, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kekbridge.execution.book import Book
from kekbridge.execution.load_book import load_book
from kekbridge.model import OrderStatus, RateLimits, Side
from kekbridge.risk.holdings import NOBODY
from kekbridge.store import positions, webhooks
from tests.bridge import BTC, Bridge, position_fields, quick_bridge, running_paper
from tests.waiting import until

D = Decimal
CREATE: dict[str, Any] = {"path": "/v1/order", "method": "POST"}


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    """A bridge with the webhooks `a` and `b`."""
    async with running_paper(tmp_path / "paper") as url, quick_bridge(tmp_path, url) as opened:
        opened.add_webhook("a")
        opened.add_webhook("b")
        yield opened


def _holdings(bridge: Bridge) -> dict[str, Decimal]:
    """What each holder has of BTC by its webhook's name; `hand` for what is nobody's."""
    with bridge.daemon.database.snapshot() as connection:
        names = {webhook.id: webhook.name for webhook in webhooks.list_all(connection)} | {NOBODY: "hand"}
    held = bridge.daemon.trading.book.holdings.comparable().get(BTC, {})
    return {names[holder]: quantity for holder, quantity in held.items()}


async def _until_held(bridge: Bridge, **wanted: str) -> None:
    """Wait until the account and the recorded fills show these holdings of BTC."""
    held = {name: D(quantity) for name, quantity in wanted.items()}
    await bridge.until_positions({BTC: total} if (total := sum(held.values(), D(0))) else {})
    await until(lambda: _holdings(bridge) == held)


async def _open_both(bridge: Bridge, **of_b: Any) -> None:
    """Both strategies are long 0.04; `of_b`: more fields of b's entry."""
    await bridge.send("a", **position_fields("buy", "0", "0.04"))
    await bridge.send("b", **(position_fields("buy", "0", "0.04") | of_b))
    await _until_held(bridge, a="0.04", b="0.04")


async def _fire_stop_of_b(bridge: Bridge) -> None:
    """The price falls to b's stop at 1 %."""
    await bridge.control("prices", {BTC: "64300"})
    await _until_held(bridge, a="0.04")


async def test_a_queued_exit_leaves_what_others_hold(bridge: Bridge) -> None:
    """b's flat waits for the exchange, b's stop fires meanwhile: nothing of b is left, and a keeps its part."""
    await _open_both(bridge, stopLoss="1%")
    await bridge.fault("rate_limit", **CREATE)
    _, leaving = await bridge.send("b", **position_fields("sell", "0.04", "0"))
    await bridge.until_stored(leaving, "queued")
    await _fire_stop_of_b(bridge)
    await bridge.clear_faults()
    assert (await bridge.until_stored(leaving, "denied")).code == "nothing_to_close"
    assert await bridge.positions() == {BTC: D("0.04")}


async def test_an_exit_beside_one_of_unknown_outcome(bridge: Bridge) -> None:
    """b's partial exit is executed, its answer lost; the flat goes out beside it, for what that one leaves of b's part."""
    await _open_both(bridge)
    await bridge.fault("withhold_reports")
    await bridge.fault("lose_answer", count=1, **CREATE)
    _, part = await bridge.send("b", **position_fields("sell", "0.04", "0.02"))
    _, leaving = await bridge.send("b", **position_fields("sell", "0.02", "0"))
    await bridge.clear_faults()
    for answer in (part, leaving):
        await bridge.until_stored(answer, "filled")
    assert await bridge.positions() == {BTC: D("0.04")}


async def test_a_queued_exit_after_a_restart(tmp_path: Path) -> None:
    """The stop fires while no bridge runs: the next one records it first, and its queued exit finds nothing of its own."""
    async with running_paper(tmp_path / "paper") as url:
        async with quick_bridge(tmp_path, url) as first:
            first.add_webhook("a")
            first.add_webhook("b")
            await _open_both(first, stopLoss="1%")
            await first.fault("rate_limit", **CREATE)
            _, leaving = await first.send("b", **position_fields("sell", "0.04", "0"))
            await first.until_stored(leaving, "queued")
        async with aiohttp.ClientSession() as session:
            for path, body in (("prices", {BTC: "64300"}), ("faults", {})):
                async with session.post(f"{url}/paper/{path}", json=body) as response:
                    assert response.status == 200
        async with quick_bridge(tmp_path, url) as second:
            await second.until_stored(leaving, "denied")
            await second.until_settled()
            assert await second.positions() == {BTC: D("0.04")}


async def test_a_queued_exit_closes_what_is_left_of_its_own(bridge: Bridge) -> None:
    """Of two exits of b that wait, the second finds what the first has left, not what a holds."""
    await _open_both(bridge)
    await bridge.fault("rate_limit", **CREATE)
    _, part = await bridge.send("b", **position_fields("sell", "0.04", "0.01"))
    await bridge.until_stored(part, "queued")
    _, again = await bridge.send("b", **position_fields("sell", "0.04", "0.01"))
    await bridge.clear_faults()
    await bridge.until_stored(part, "filled")
    await until(lambda: _holdings(bridge) == {"a": D("0.04")})
    assert (await bridge.order(again)).executed_quantity == D("0.01")
    assert await bridge.positions() == {BTC: D("0.04")}


@pytest.mark.parametrize("after", ["0.02", "0", "-0.04"])
async def test_a_late_step_after_the_own_stop(bridge: Bridge, after: str) -> None:
    """b's stop fired before its strategy left: partial and whole exits find nothing; a reversal sells its short, and a's long stays a's."""
    await _open_both(bridge, stopLoss="1%")
    await _fire_stop_of_b(bridge)
    _, answer = await bridge.send("b", **position_fields("sell", "0.04", after))
    await bridge.until_settled()
    sold = [order for order in await bridge.orders() if order.intent.side is Side.SELL]
    if D(after) >= 0:
        assert (answer["code"], sold) == ("nothing_to_close", [])
        assert await bridge.positions() == {BTC: D("0.04")}
        return
    assert [(order.intent.quantity, order.status) for order in sold] == [(D("0.04"), OrderStatus.FILLED)]
    assert await bridge.positions() == {}  # the exchange nets b's short with a's long


async def test_a_reversal_closes_only_its_own_part(bridge: Bridge) -> None:
    """a 0.04 long and b from 0.04 long to 0.1 short make 0.06 short, whatever b's stop did meanwhile."""
    await _open_both(bridge, stopLoss="1%")
    await bridge.fault("rate_limit", **CREATE)
    await bridge.send("b", **position_fields("sell", "0.04", "-0.1"))
    await _fire_stop_of_b(bridge)
    await bridge.clear_faults()
    await bridge.until_positions({BTC: D("-0.06")})


@pytest.mark.parametrize("resync", [True, False])
async def test_position_mode_counts_its_own_part(bridge: Bridge, resync: bool) -> None:
    """A webhook that holds nothing closes nothing, also if its strategy states exactly the size that another one holds."""
    bridge.add_webhook("c", follow="position", resync=resync, reorder_ms=0)
    await bridge.send("a", **position_fields("buy", "0", "0.02"))
    await _until_held(bridge, a="0.02")
    _, answer = await bridge.send("c", **position_fields("sell", "0.02", "0"))
    assert answer["code"] == "nothing_to_close"
    await bridge.send("c", **position_fields("buy", "0", "0.03"))
    await _until_held(bridge, a="0.02", c="0.03")
    await bridge.send("c", **position_fields("sell", "0.03", "0.01"))
    await _until_held(bridge, a="0.02", c="0.01")
    await bridge.send("c", **position_fields("sell", "0.01", "0"))
    await _until_held(bridge, a="0.02")


async def test_an_exit_that_overtakes_its_entry_waits_for_it(bridge: Bridge) -> None:
    """Alerts of one bar arrive swapped: what another webhook holds is not taken for the position that the exit starts from."""
    bridge.add_webhook("c", reorder_ms=5_000)
    await bridge.send("a", **position_fields("buy", "0", "0.04"))
    await _until_held(bridge, a="0.04")
    leaving = asyncio.create_task(bridge.send("c", **position_fields("sell", "0.04", "0")))
    waiting = bridge.daemon.trading.receiver._reordering._admitted
    await until(lambda: bool(waiting))
    await bridge.send("c", **position_fields("buy", "0", "0.04"))
    _, answer = await leaving
    await bridge.until_stored(answer, "filled")
    await _until_held(bridge, a="0.04")


async def test_a_close_that_states_flat(bridge: Bridge) -> None:
    """`close` with the strategy's position closes what its webhook holds; without one it closes the market."""
    await _open_both(bridge)
    await bridge.send("b", **(position_fields("sell", "0.04", "0") | {"action": "close"}))
    await _until_held(bridge, a="0.04")
    await bridge.send("b", action="close")
    await bridge.until_flat(BTC)


async def test_what_was_opened_by_hand_is_closed_by_the_next_exit(bridge: Bridge) -> None:
    """A strategy that was entered by hand is left by its alert; what another webhook holds stays."""
    await bridge.send("a", **position_fields("buy", "0", "0.04"))
    await _until_held(bridge, a="0.04")
    await bridge.place_elsewhere(side=Side.BUY, quantity=D("0.1"))
    await _until_held(bridge, a="0.04", hand="0.1")
    await bridge.send("b", **position_fields("sell", "0.1", "0"))
    await _until_held(bridge, a="0.04")


async def test_own_part_beside_a_trade_by_hand(bridge: Bridge) -> None:
    """A sale by hand comes out of what was bought by hand; a restart knows it, too. The strategy's flat closes both."""
    await bridge.send("b", **position_fields("buy", "0", "0.04"))
    await _until_held(bridge, b="0.04")
    await bridge.place_elsewhere(side=Side.BUY, quantity=D("0.1"))
    await _until_held(bridge, b="0.04", hand="0.1")
    await bridge.place_elsewhere(side=Side.SELL, quantity=D("0.03"), reduce_only=True)
    await _until_held(bridge, b="0.04", hand="0.07")

    async def is_stored() -> bool:
        held = await bridge.daemon.database.read(positions.list_all)
        return [one.quantity for one in held] == [D("0.11")]

    await until(is_stored)
    with bridge.daemon.database.snapshot() as connection:
        loaded = Book()
        load_book(connection, loaded, account_rates=RateLimits(), now=bridge.clock())
    assert loaded.holdings.comparable() == bridge.daemon.trading.book.holdings.comparable()
    await bridge.send("b", **position_fields("sell", "0.04", "0"))
    await bridge.until_flat(BTC)


async def test_a_stop_beside_a_trade_by_hand_is_its_webhooks(bridge: Bridge) -> None:
    """Its execution is first a trade without an order of ours; once it is known as b's stop, what was bought by hand is whole again."""
    await bridge.send("b", **position_fields("buy", "0", "0.04"), stopLoss="1%")
    await _until_held(bridge, b="0.04")
    await bridge.place_elsewhere(side=Side.BUY, quantity=D("0.1"))
    await _until_held(bridge, b="0.04", hand="0.1")
    await bridge.control("prices", {BTC: "64300"})
    await _until_held(bridge, hand="0.1")
