"""Exits that two webhooks in one market cannot keep apart are named in a warning of the entry."""

from __future__ import annotations

from decimal import Decimal

from tests.bridge import BTC, Bridge
from tests.waiting import until

D = Decimal
TAKE_PROFITS = [{"price": "1%", "share": "50%"}, {"price": "2%", "share": "50%"}]


def _shared(answer: dict[str, object]) -> list[str]:
    warnings = answer.get("warnings", [])
    assert isinstance(warnings, list)
    return [text for text in warnings if "closes the whole position" in text]


async def test_a_stop_for_the_whole_position_beside_another_webhook(bridge: Bridge) -> None:
    """The entry that brings it is warned, and so is each entry that comes under it; one webhook alone is not."""
    bridge.add_webhook("other")
    _, first = await bridge.send(quantity="0.02", stopLoss="2%", takeProfit=TAKE_PROFITS)
    assert _shared(first) == []
    _, again = await bridge.send(quantity="0.02", stopLoss="3%", takeProfit=TAKE_PROFITS)
    assert _shared(again) == []
    _, neighbour = await bridge.send("other", quantity="0.01", stopLoss="4%")
    (text,) = _shared(neighbour)
    assert "stop loss of another webhook" in text
    book, webhook = bridge.daemon.trading.book, (await bridge.order(neighbour)).webhook_id
    await until(lambda: book.held_by_others(webhook, BTC, D("0.05")) == D("0.04"))  # every fill is recorded
    _, beside = await bridge.send("other", quantity="0.01", stopLoss="4%", takeProfit=TAKE_PROFITS)
    (text,) = _shared(beside)
    assert "other webhooks hold 0.04 of it" in text


async def test_exits_of_their_own_size_need_no_warning(bridge: Bridge) -> None:
    """A stop and one take-profit follow what their entry executes; on the other side of the market nothing is shared either."""
    bridge.add_webhook("other")
    await bridge.send(quantity="0.02", stopLoss="2%", takeProfit="3%")
    _, beside = await bridge.send("other", quantity="0.01", stopLoss="4%", takeProfit="5%")
    assert _shared(beside) == []
    _, against = await bridge.send("other", action="sell", quantity="0.01", stopLoss="4%", takeProfit=TAKE_PROFITS)
    assert _shared(against) == []
