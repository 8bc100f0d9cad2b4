"""An API key that the exchange rejects: exits go on being tried until the exchange says that the key is gone, then the bridge halts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from kekbridge.execution import key_watch
from kekbridge.model import OrderStatus, TradingState
from kekbridge.paper.settings import PAPER_ORDERLY_KEY
from kekbridge.store import journal
from kekbridge.store.settings import ACCOUNT
from tests.bridge import BTC, Bridge, quick_bridge, running_paper
from tests.waiting import until

D = Decimal
CREATE = {"path": "/v1/order", "method": "POST"}
ASK = {"path": "/v1/get_orderly_key", "method": "GET"}


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        quick_bridge(tmp_path, paper_url, server__respond_within_s=0.2) as inside,
    ):
        await inside.send(quantity="0.02")
        yield inside


async def _set_key(bridge: Bridge, **fields: object) -> None:
    await bridge.control("keys", {"orderly_key": PAPER_ORDERLY_KEY, **fields})


def _state(bridge: Bridge) -> TradingState:
    return bridge.daemon.trading.book.control(ACCOUNT, now=bridge.clock()).state


@pytest.mark.parametrize(
    ("gone", "back", "word"),
    [
        ({"status": "REMOVED"}, {"status": "ACTIVE"}, "removed"),
        ({"expiration": 1_700_000_000_000}, {"expiration": 4_000_000_000_000}, "expired"),
    ],
)
async def test_a_key_that_is_gone_halts(
    bridge: Bridge, gone: dict[str, object], back: dict[str, object], word: str
) -> None:
    """The exit stays queued, one message says why, and it is sent once a key works again and trading was resumed."""
    await _set_key(bridge, **gone)
    _, leaving = await bridge.send(action="close", quantity=None)
    await until(lambda: _state(bridge) is TradingState.HALTED)
    assert word in bridge.daemon.trading.book.control(ACCOUNT, now=bridge.clock()).reason
    assert (await bridge.order(leaving)).status is OrderStatus.QUEUED
    attempts = (await bridge.order(leaving)).attempt
    await _set_key(bridge, **back)
    assert await bridge.positions() == {BTC: D("0.02")}
    assert (await bridge.order(leaving)).attempt == attempts
    await bridge.set_state(TradingState.RUNNING)
    await bridge.until_stored(leaving, "filled")
    assert await bridge.positions() == {}
    told = [
        event.kind
        for event in await bridge.daemon.database.read(journal.list_events)
        if event.kind == "exit_waiting" or event.data.get("state") == "halted"
    ]
    assert sorted(told) == ["exit_waiting", "trading_state"]


@pytest.mark.parametrize("code", [-1001, -1002])
async def test_a_key_that_is_valid_never_halts(bridge: Bridge, code: int) -> None:
    """However often the exchange rejects it: the exit is tried with pauses until it is accepted."""
    await bridge.fault("refuse", code=code, message="orderly key error", count=4, **CREATE)
    _, leaving = await bridge.send(action="close", quantity=None)
    assert (await bridge.until_stored(leaving, "filled")).attempt == 5
    assert _state(bridge) is TradingState.RUNNING
    assert await bridge.positions() == {}


async def test_a_key_that_cannot_be_asked_for_is_asked_for_again(bridge: Bridge) -> None:
    """No answer about the key proves nothing: the next rejection asks again."""
    await bridge.fault("html", count=2, **ASK)
    await _set_key(bridge, status="REMOVED")
    _, leaving = await bridge.send(action="close", quantity=None)
    await until(lambda: _state(bridge) is TradingState.HALTED)
    assert (await bridge.order(leaving)).attempt >= 3


async def test_a_rejected_cancel_has_the_key_asked_for(bridge: Bridge) -> None:
    """A bridge without exits learns of a removed key from the cancel that the exchange rejects."""
    _, resting = await bridge.send(orderType="limit", limitPrice="64000")
    await _set_key(bridge, status="REMOVED")
    await bridge.send(action="cancel", quantity=None)
    await until(lambda: _state(bridge) is TradingState.HALTED)
    await _set_key(bridge, status="ACTIVE")
    await bridge.until_stored(resting, "canceled")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is asked for every 50 ms while the account cannot be read."""
    monkeypatch.setattr(key_watch, "_CHECK_EVERY_S", 0.05)


async def test_an_idle_bridge_halts_when_its_key_is_removed(often: None, bridge: Bridge) -> None:
    """Without an order to send: the stream is closed and refused, and the bridge halts and names the standby that may have taken over."""
    await _set_key(bridge, status="REMOVED")
    await until(lambda: _state(bridge) is TradingState.HALTED)
    reason = bridge.daemon.trading.book.control(ACCOUNT, now=bridge.clock()).reason
    assert "removed at the exchange" in reason
    assert "standby has taken over" in reason
    status, answer = await bridge.send(quantity="0.01")
    assert (status, answer["code"]) == (422, "trading_halted")


async def test_a_start_with_a_removed_key_halts(often: None, tmp_path: Path) -> None:
    """A machine that comes back after a standby has removed its key halts before it is reconciled, and an alert is not stored."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url) as first:
            await _set_key(first, status="REMOVED")
        async with quick_bridge(tmp_path, paper_url, ready=False) as second:
            await until(lambda: _state(second) is TradingState.HALTED)
            assert not second.daemon.trading.is_reconciled
            assert (await second.send(quantity="0.01"))[0] in (422, 503)
            assert await second.journal("order_accepted") == []


async def test_an_outage_is_no_removed_key(often: None, bridge: Bridge) -> None:
    """While the exchange does not answer, the bridge keeps its trading state."""
    await bridge.fault("html", count=30)
    await until(lambda: not bridge.daemon.exchange.health.is_reachable)
    await until(lambda: bridge.daemon.exchange.health.is_reachable)
    assert _state(bridge) is TradingState.RUNNING
