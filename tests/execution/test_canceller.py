"""Cancel steps deny queued orders and cancel open ones at the exchange; protective orders stay."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.model import OrderStatus
from kekbridge.store import alerts, journal
from kekbridge.store.alerts import StoredAlert
from tests.bridge import BTC, Bridge, quick_bridge, running_paper
from tests.waiting import until

D = Decimal
LIMIT = {"orderType": "limit", "limitPrice": "64000"}


async def _cancel(bridge: Bridge, **fields: Any) -> str:
    """Send a cancel, wait until it is executed, and return the alert's status."""
    return (await _ended(bridge, await _send_cancel(bridge, **fields))).status


async def _send_cancel(bridge: Bridge, **fields: Any) -> str:
    _, answer = await bridge.send(action="cancel", quantity=None, **fields)
    return str(answer["alertId"])


async def _ended(bridge: Bridge, alert_id: str) -> StoredAlert:
    """The cancel's alert once it has ended."""

    async def is_done() -> bool:
        return (await bridge.daemon.database.read(alerts.find, alert_id)).status != "queued"

    await until(is_done)
    return await bridge.daemon.database.read(alerts.find, alert_id)


async def _until_requested(bridge: Bridge, answer: dict[str, Any]) -> None:
    async def is_requested() -> bool:
        return (await bridge.order(answer)).cancel_requested_at is not None

    await until(is_requested)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tries within a second."""
    for name in ("_FIRST_PAUSE_S", "_LONGEST_PAUSE_S", "_REPORTED_WITHIN_S"):
        monkeypatch.setattr(f"kekbridge.execution.canceller.{name}", 0.02)
    monkeypatch.setattr("kekbridge.execution.canceller._STILL_OPEN_AFTER", timedelta(seconds=0.3))


async def test_a_resting_order_is_cancelled(bridge: Bridge) -> None:
    """It is canceled in the store only once the exchange reports it so."""
    _, resting = await bridge.send(orderType="limit", limitPrice="64000")
    assert await _cancel(bridge) == "done"
    assert (await bridge.order(resting)).status is OrderStatus.CANCELED
    assert await bridge.daemon.exchange.open_orders() == ()


async def test_a_queued_order_is_denied(bridge: Bridge) -> None:
    """An order that waits for its next attempt is denied and never sent."""
    await bridge.fault("rate_limit", path="/v1/order", method="POST")
    _, queued = await bridge.send()
    assert await _cancel(bridge) == "done"
    await bridge.clear_faults()
    order = await bridge.order(queued)
    assert (order.status, order.code) == (OrderStatus.DENIED, "canceled_by_alert")
    assert await bridge.journal("order_accepted") == []


@pytest.mark.parametrize("sender", ["main", "other"])
@pytest.mark.parametrize("action", ["cancel", "cancel_all"])
async def test_a_close_that_is_not_sent_yet_stays(bridge: Bridge, sender: str, action: str) -> None:
    """An exit lives until it is done: a cancel, also of another webhook, ends no close that waits for the exchange."""
    bridge.add_webhook("other")
    await bridge.send(quantity="0.02")
    await bridge.fault("rate_limit", path="/v1/order", method="POST")
    _, leaving = await bridge.send(action="close", quantity=None)
    _, answer = await bridge.send(sender, action=action, quantity=None)
    assert (await _ended(bridge, str(answer["alertId"]))).status == "done"
    await bridge.clear_faults()
    await bridge.until_stored(leaving, "filled")
    assert await bridge.positions() == {}


async def test_only_the_entry_of_a_waiting_flip_is_cancelled(bridge: Bridge) -> None:
    """The position is closed as the flip wanted, and the other side is not opened any more."""
    await bridge.send(quantity="0.02")
    await bridge.fault("rate_limit", path="/v1/order", method="POST")
    _, flip = await bridge.send(action="flip", quantity=None)
    assert await _cancel(bridge) == "done"
    await bridge.clear_faults()
    await bridge.until_settled()
    closing, entry = [order for order in await bridge.orders() if order.webhook_id and order.leg in (0, 1)][-2:]
    assert (closing.client_order_id, closing.status) == (flip["clientOrderId"], OrderStatus.FILLED)
    assert (entry.status, entry.code) == (OrderStatus.DENIED, "canceled_by_alert")
    assert await bridge.positions() == {}


async def test_a_resting_exit_is_cancelled(bridge: Bridge) -> None:
    """A limit close rests because the trader wanted a price: it is an open order like any other."""
    await bridge.send(quantity="0.02")
    _, resting = await bridge.send(action="close", quantity=None, orderType="limit", limitPrice="70000")
    assert await _cancel(bridge) == "done"
    assert (await bridge.order(resting)).status is OrderStatus.CANCELED
    assert await bridge.positions() == {BTC: D("0.02")}


async def test_the_stop_of_a_position_stays(bridge: Bridge) -> None:
    """A cancel closes no position, so its stop must stay."""
    await bridge.send(stopLoss="2%")
    assert await _cancel(bridge) == "done"
    assert await bridge.positions() == {BTC: D("0.01")}
    assert len(await bridge.daemon.exchange.live_stops(BTC)) == 1


async def test_orders_of_another_symbol_stay(bridge: Bridge) -> None:
    """A cancel step concerns the orders of its own symbol only."""
    _, other = await bridge.send(symbol="ETHUSDT.P", quantity="0.1", orderType="limit", limitPrice="1790")
    assert await _cancel(bridge) == "done"
    assert (await bridge.order(other)).status is OrderStatus.ACCEPTED


FAILURES = [
    {"fault": "maintenance"},
    {"fault": "server_error", "status": 502, "when": "before"},
    {"fault": "lose_answer"},
    {"fault": "rate_limit"},
    {"fault": "html"},
    {"fault": "key_revoked"},
]


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: str(failure["fault"]))
async def test_a_cancel_is_tried_until_the_order_has_an_end(bridge: Bridge, failure: dict[str, Any]) -> None:
    """However often the exchange does not carry it out: it is never given up, the trader hears that the order is still open, once."""
    _, resting = await bridge.send(**LIMIT)
    await bridge.fault("stream_drop")  # no report: what the exchange did must be asked for
    limited = {} if failure["fault"] == "maintenance" else {"method": "DELETE", "path": "/v1/order"}
    await bridge.control("faults", {**failure, **limited})
    alert_id = await _send_cancel(bridge)

    async def noted() -> int:
        return [event.kind for event in await bridge.daemon.database.read(journal.list_events)].count("cancel_waiting")

    async def is_noted() -> bool:
        return await noted() > 0

    if failure["fault"] != "lose_answer":  # a cancel whose answer is lost is carried out
        await until(is_noted)
        assert (await bridge.order(resting)).status is OrderStatus.ACCEPTED
    await bridge.clear_faults()
    assert (await _ended(bridge, alert_id)).status == "done"
    assert (await bridge.order(resting)).status is OrderStatus.CANCELED
    assert await noted() <= 1
    assert await bridge.daemon.exchange.open_orders() == ()


async def test_a_cancel_reaches_an_order_that_reads_do_not_show(bridge: Bridge) -> None:
    """Its answer was lost and reads lag: it is cancelled once it is found, within the acceptance window or after it."""
    await bridge.fault("read_lag", delay_ms=900)
    await bridge.fault("withhold_reports")
    await bridge.fault("lose_answer", path="/v1/order", method="POST", count=1)
    _, lost = await bridge.send(**LIMIT)
    assert await _cancel(bridge) == "done"
    assert (await bridge.order(lost)).status is OrderStatus.CANCELED
    (canceled,) = await bridge.journal("order_canceled")
    assert canceled["client_order_id"] == lost["clientOrderId"]


@pytest.mark.usefixtures("short_pauses")
async def test_a_restart_goes_on_with_a_cancel(tmp_path: Path) -> None:
    """Stopped while the exchange does not carry it out: the next start cancels what rests, and sends nothing that was queued."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url) as bridge:
            _, resting = await bridge.send(**LIMIT)
            for _ in range(5):
                bridge.daemon.trading.submitter.breaker.record(was_unknown=True)
            _, queued = await bridge.send(**LIMIT)
            await bridge.fault("server_error", status=502, method="DELETE", path="/v1/order")
            alert_id = await _send_cancel(bridge)
            await bridge.until_stored(queued, "denied")
        async with quick_bridge(tmp_path, paper_url) as bridge:
            assert (await bridge.order(resting)).cancel_requested_at is not None
            assert (await bridge.order(resting)).status is OrderStatus.ACCEPTED
            await bridge.clear_faults()
            assert (await _ended(bridge, alert_id)).status == "done"
            assert (await bridge.order(resting)).status is OrderStatus.CANCELED
            assert len(await bridge.journal("order_accepted")) == 1


async def test_a_cancel_that_an_execution_overtook_says_so(bridge: Bridge) -> None:
    """The order was filled before it could be cancelled: its fill is known, and the alert says which order it was."""
    _, resting = await bridge.send(**LIMIT)
    await bridge.fault("server_error", status=502, method="DELETE", path="/v1/order")
    alert_id = await _send_cancel(bridge)
    await _until_requested(bridge, resting)
    await bridge.control("prices", {BTC: "63900"})
    alert = await _ended(bridge, alert_id)
    assert (alert.status, alert.code) == ("failed", "cancel_failed")
    assert resting["clientOrderId"] in (alert.error or "")
    assert (await bridge.order(resting)).status is OrderStatus.FILLED
    assert await bridge.positions() == {BTC: D("0.01")}


async def test_a_cancel_step_spares_the_orders_of_its_own_alert(bridge: Bridge) -> None:
    """Cancel what rests, then place a new order: the new one stays."""
    _, earlier = await bridge.send(**LIMIT)
    steps = [{"action": "cancel"}, {"action": "buy", "quantity": "0.02", **LIMIT}]
    _, answer = await bridge.send(steps=steps)
    await bridge.until_stored(earlier, "canceled")
    (kept,) = await bridge.daemon.exchange.open_orders()
    assert kept.client_order_id == answer["clientOrderId"]
    assert kept.quantity == D("0.02")
