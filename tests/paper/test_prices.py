"""Live mark prices from another exchange's public API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest

from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PaperSettings
from tests.paper.trader import BTC, ETH, Trader, until


@pytest.fixture
async def follower(paper: PaperExchange, tmp_path: Path) -> AsyncIterator[PaperExchange]:
    """A paper exchange whose live prices come from `paper`."""
    live = PaperSettings(
        prices="live",
        rate_limits=False,
        live_url=paper.base_url,
        live_stream_url=paper.base_url.replace("http", "ws") + "/ws/stream/anyone",
        live_interval_s=0.05,
    )
    follower = PaperExchange(tmp_path / "follower", settings=live)
    await follower.start()
    yield follower
    await follower.close()


def mark(paper: PaperExchange, symbol: str) -> Decimal:
    """Return the current mark price."""
    return paper.exchange.state.marks[symbol].price


async def test_live_marks_are_followed_except_overrides(paper: PaperExchange, follower: PaperExchange) -> None:
    """Mark prices follow the live exchange; a price set by hand stays."""
    follower.exchange.set_price(ETH, Decimal(1234), "override")
    paper.exchange.set_price(BTC, Decimal(71000), "override")
    paper.exchange.set_price(ETH, Decimal(2222), "override")

    async def followed() -> bool | None:
        return True if mark(follower, BTC) == 71000 else None

    await until(followed)
    assert mark(follower, ETH) == 1234
    assert follower.hint_price(BTC, Decimal(1)) is False


async def test_triggers_run_on_live_marks(
    paper: PaperExchange, follower: PaperExchange, session: aiohttp.ClientSession
) -> None:
    """A stop is triggered when the live mark price reaches it."""
    trader = Trader(session, follower.base_url)
    await trader.done(await trader.order())
    stop = {
        "symbol": BTC,
        "algo_type": "STOP",
        "type": "MARKET",
        "side": "SELL",
        "quantity": "0.01",
        "trigger_price": "64000",
        "reduce_only": True,
    }
    await trader.ok("POST", "/v1/algo/order", stop)
    paper.exchange.set_price(BTC, Decimal(63990), "override")
    await trader.until_position(BTC, "0")


async def test_unreachable_live_prices_change_nothing(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    """Without a connection, start, orders and stop work as with static prices."""
    dead = PaperSettings(
        prices="live", live_url="http://127.0.0.1:9", live_stream_url="ws://127.0.0.1:9/x", live_interval_s=0.01
    )
    paper = PaperExchange(tmp_path, settings=dead)
    trader = Trader(session, await paper.start())
    assert (await trader.done(await trader.order()))["average_executed_price"] == 65000
    await paper.close()
