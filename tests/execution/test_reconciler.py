"""Unknown orders are found, or proven never to have arrived; a start reconciles before anything trades."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kekbridge.errors import ExchangeUnavailable
from kekbridge.execution.reconciler import query_pause_s
from kekbridge.model import OrderStatus, TradingState
from kekbridge.store import codec, fills, protection
from kekbridge.store.connections import WRITER_WAIT_S
from tests.bridge import BTC, ETH, Bridge, quick_bridge, running_paper
from tests.waiting import until

D = Decimal


async def test_an_order_whose_response_was_lost_is_found(bridge: Bridge) -> None:
    """Accepted by the exchange, response lost: queried by its client order id, never sent again."""
    await bridge.fault("lose_answer", path="/v1/order", method="POST", count=1)
    _, answer = await bridge.send()
    order = await bridge.until_stored(answer, "filled")
    assert len(await bridge.journal("order_accepted", client_order_id=order.client_order_id)) == 1
    assert await bridge.positions() == {BTC: D("0.01")}


async def test_an_entry_that_never_arrived_is_not_sent_again(bridge: Bridge) -> None:
    """The connection broke before the request was read: after the acceptance window the entry ends as unknown and frees its symbol."""
    await bridge.fault("reset_before", path="/v1/order", method="POST", count=1)
    _, answer = await bridge.send()
    _, behind = await bridge.send(quantity="0.02")
    await bridge.until_stored(behind, "filled")
    order = await bridge.order(answer)
    assert order.status is OrderStatus.UNKNOWN
    assert order.finished_at is not None
    assert await bridge.positions() == {BTC: D("0.02")}


@given(attempt=st.integers(1, 20), left_s=st.floats(-100, 100), jitter=st.floats(0, 0.25))
def test_no_pause_outlasts_the_acceptance_window(attempt: int, left_s: float, jitter: float) -> None:
    """While the window is open the next query comes at the latest right after it; afterwards every second."""
    pause = query_pause_s(attempt, left_s, jitter=jitter)
    longest = 4 if left_s > 0 else 1
    assert 0 < pause <= longest
    assert pause == min(0.5 * 2 ** (attempt - 1) * (1 + jitter), longest) or left_s < pause <= left_s + 0.011


async def test_unknown_orders_are_queried_when_the_stream_is_back(bridge: Bridge) -> None:
    """After an outage the next query does not wait for the pause that the failed ones have grown to."""
    pausing = asyncio.create_task(bridge.daemon.trading.reconciler.pause(3_600))
    await asyncio.sleep(0)
    await bridge.fault("stream_drop", count=1)
    await until(pausing.done)
    await pausing


async def test_a_start_sends_the_exits_that_were_deferred(tmp_path: Path) -> None:
    """A close waits for the market's rules to be read again when the daemon stops: the next start sends it at once, not when it was due."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url) as bridge:
            await bridge.set_positions(BTC="0.02")
            await bridge.fault("refuse", code=-1105)
            await bridge.fault("server_error", path="/v1/public/info")
            _, answer = await bridge.send(action="close", quantity=None)

            async def is_deferred() -> bool:
                return (await bridge.order(answer)).code == "orderly:-1105"

            await until(is_deferred)
            deferred = await bridge.order(answer)
        assert deferred.next_attempt_at is not None
        await _control(paper_url, "faults", {})
        async with quick_bridge(tmp_path, paper_url) as bridge:
            sent = await bridge.until_stored(answer, "filled")
            assert sent.submitted_at is not None
            assert sent.submitted_at < deferred.next_attempt_at


async def test_a_clock_that_jumps_ahead_proves_nothing(tmp_path: Path) -> None:
    """The clock jumps ten minutes during a lookup, and reads lag: "does not exist" is no proof before the window has really passed."""
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        quick_bridge(tmp_path, paper_url, exchange__recv_window_ms=15_000) as bridge,
    ):
        await bridge.send()
        await bridge.fault("read_lag", delay_ms=2500)
        await bridge.fault("withhold_reports")
        await bridge.fault("lose_answer", path="/v1/order", method="POST", count=1)
        _, answer = await bridge.send(action="close", quantity=None)
        assert answer["status"] == "unknown"
        bridge.clock.offset = timedelta(minutes=10)
        order = await bridge.until_stored(answer, "filled")
        assert order.attempt == 1
        assert len(await bridge.journal("order_accepted", client_order_id=order.client_order_id)) == 1


async def test_the_acceptance_window_starts_when_the_request_is_sent(tmp_path: Path) -> None:
    """Claimed long ago, sent just now (it had waited for a permit), then a crash: not found at once is no proof yet."""
    database = tmp_path / "data" / "kekbridge.db"
    slow: dict[str, Any] = {"exchange__recv_window_ms": 15_000, "server__shutdown_timeout_s": 0.5}
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url, **slow) as bridge:
            await bridge.send()
            await bridge.fault("read_lag", delay_ms=2500)
            await bridge.fault("withhold_reports")
            await bridge.fault("lose_answer", path="/v1/order", method="POST", count=1)
            _, answer = await bridge.send(action="close", quantity=None)
            claimed_at = codec.time_text(bridge.clock() - timedelta(seconds=30))
        # What is on disk after a kill between the request and its response: only the claim.
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(
                "UPDATE orders SET status = 'submitting', submitted_at = ? WHERE client_order_id = ?",
                (claimed_at, answer["clientOrderId"]),
            )
        async with quick_bridge(tmp_path, paper_url, **slow) as bridge:
            order = await bridge.until_stored(answer, "filled")
            assert order.attempt == 1
            assert len(await bridge.journal("order_accepted", client_order_id=order.client_order_id)) == 1


async def test_a_result_that_cannot_be_stored_is_stored_later(tmp_path: Path) -> None:
    """The exchange accepted, but the database was locked when the response came: it is kept, and the order is not sent again."""
    database = tmp_path / "data" / "kekbridge.db"
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        quick_bridge(tmp_path, paper_url, exchange__request_timeout_s=10) as bridge,
    ):
        await bridge.fault("stream_drop")  # it would bring the fill before the response
        await bridge.fault("delay", path="/v1/order", method="POST", when="after", delay_ms=1000, count=1)
        sending = asyncio.ensure_future(bridge.send())

        async def is_accepted() -> bool:
            return bool(await bridge.journal("order_accepted"))

        await until(is_accepted)
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await until(lambda: bridge.daemon.trading.submitter.in_flight_count == 0)
            known = {order.status.value for order in bridge.daemon.trading.book.orders.values()}
            assert known in (set(), {"accepted"})  # or filled already, and neither is on disk
            assert other.execute("SELECT status FROM orders").fetchall() in ([], [("submitting",)])
            await asyncio.sleep(WRITER_WAIT_S + 0.5)
            other.execute("ROLLBACK")
        _, answer = await sending
        order = await bridge.until_stored(answer, "filled")
        assert order.attempt == 1
        assert len(await bridge.journal("order_accepted")) == 1


async def test_no_position_is_protected_before_reconciliation(tmp_path: Path) -> None:
    """An entry filled while the bridge was down, its stop was lost: nothing is sent for it until the trades are known; then a stop is."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url) as bridge:
            _, entry = await bridge.send(orderType="limit", limitPrice="64800", stopLoss="60000")
            await bridge.fault("lose_stop", count=1)
        await _control(paper_url, "prices", {BTC: "64700"})
        await _control(paper_url, "faults", {"fault": "server_error", "status": 500, "path": "/v1/trades"})
        async with quick_bridge(tmp_path, paper_url, ready=False) as bridge:
            sent_before = len(await bridge.journal("order_received"))
            await bridge.until_stored(entry, "filled")
            for _ in range(2):
                with pytest.raises(ExchangeUnavailable):
                    await bridge.daemon.trading.reconciler.reconcile_at_start()
            assert not bridge.daemon.readiness().is_ready
            assert len(await bridge.journal("order_received")) == sent_before
            await bridge.clear_faults()

            async def has_stop() -> bool:
                return len(await bridge.journal("order_received")) > sent_before

            await until(has_stop)
            assert bridge.daemon.readiness().is_ready


async def test_nothing_is_sent_before_reconciliation(tmp_path: Path) -> None:
    """An alert that arrives while the trades cannot be read is stored and stays queued, unclaimed; it is rechecked and sent later."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url):
            pass
        await _control(paper_url, "faults", {"fault": "server_error", "status": 500, "path": "/v1/trades"})
        async with quick_bridge(tmp_path, paper_url, ready=False, server__respond_within_s=0) as bridge:
            _, answer = await bridge.send()
            assert not bridge.daemon.trading.submitter.is_dispatching
            order = await bridge.order(answer)
            assert (order.status, order.attempt) == (OrderStatus.QUEUED, 0)
            await bridge.clear_faults()
            order = await bridge.until_stored(answer, "filled")
            assert order.attempt == 1


async def test_an_exit_that_never_arrived_is_sent_again(bridge: Bridge) -> None:
    """Proven not to be at the exchange: an exit is sent again, reduce-only, and closes the position once."""
    await bridge.send()
    await bridge.fault("reset_before", path="/v1/order", method="POST", count=1)
    _, answer = await bridge.send(action="close", quantity=None)
    order = await bridge.until_stored(answer, "filled")
    assert order.attempt == 2
    assert len(await bridge.journal("order_accepted", client_order_id=order.client_order_id)) == 1
    assert await bridge.positions() == {}


async def test_a_start_catches_up_with_what_happened_meanwhile(tmp_path: Path) -> None:
    """A stop fires and a resting order fills while no daemon runs: the next start knows both before anything trades."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url) as bridge:
            _, entry = await bridge.send(symbol="ETHUSDT.P", quantity="0.1", stopLoss="1%", takeProfit="2%")
            _, resting = await bridge.send(orderType="limit", limitPrice="64800")
        await _control(paper_url, "prices", {ETH: "1764", BTC: "64700"})
        async with quick_bridge(tmp_path, paper_url) as bridge:
            assert (await bridge.order(resting)).status is OrderStatus.FILLED
            legs = {
                leg.kind: leg.status
                for leg in await bridge.daemon.database.read(protection.exits_of, entry["clientOrderId"])
            }
            assert legs == {"STOP_LOSS": OrderStatus.FILLED, "TAKE_PROFIT": OrderStatus.CANCELED}
            assert len(await bridge.daemon.database.read(fills.exits_of, entry["clientOrderId"])) == 1
            assert await bridge.positions() == {BTC: D("0.01")}


async def _control(paper_url: str, what: str, body: dict[str, Any]) -> None:
    """Move prices or arm a fault while no daemon runs."""
    async with aiohttp.ClientSession() as session, session.post(f"{paper_url}/paper/{what}", json=body) as answer:
        assert answer.status == 200


async def test_an_unresolved_order_does_not_hold_the_other_symbols(tmp_path: Path) -> None:
    """After a start, the symbol of an order in flight waits for its outcome; every other symbol trades at once."""
    async with running_paper(tmp_path / "paper") as paper_url:
        slow: dict[str, Any] = {"exchange__recv_window_ms": 30_000}
        async with quick_bridge(tmp_path, paper_url, server__shutdown_timeout_s=0.5, **slow) as bridge:
            await bridge.fault("reset_before", path="/v1/order", method="POST", count=1)
            _, stuck = await bridge.send()
            assert stuck["status"] == "unknown"
        async with quick_bridge(tmp_path, paper_url, server__shutdown_timeout_s=0.5, **slow) as bridge:
            status, other = await bridge.send(alertId="other", symbol="ETHUSDT.P", quantity="0.1")
            assert (status, other["status"]) == (200, "filled")
            assert (await bridge.order(stuck)).finished_at is None
            assert await bridge.positions() == {ETH: D("0.1")}
            _, behind = await bridge.send(alertId="behind", quantity="0.02")
            assert behind["status"] == "queued"
            await bridge.set_state(TradingState.HALTED)
            await bridge.until_stored(behind, "denied")


async def test_orders_claimed_together_and_never_sent_are_not_sent_again(tmp_path: Path) -> None:
    """Killed with three claims of one symbol on disk: each is asked for, and an entry that the exchange does not have ends as unknown."""
    async with running_paper(tmp_path / "paper") as paper_url:
        async with quick_bridge(tmp_path, paper_url) as bridge:
            _, known = await bridge.send()
            for _ in range(5):
                bridge.daemon.trading.submitter.breaker.record(was_unknown=True)
            answers = [await bridge.send(quantity=f"0.0{number}") for number in (2, 3, 4)]
        with closing(sqlite3.connect(tmp_path / "data" / "kekbridge.db")) as connection, connection:
            # What is on disk after a kill between the flush of the claims and the first request.
            moment = codec.time_text(datetime.now(UTC))
            connection.execute(
                "UPDATE orders SET status = 'submitting', attempt = 1, submitted_at = ? WHERE status = 'queued'",
                (moment,),
            )
        async with quick_bridge(tmp_path, paper_url) as bridge:
            for _, answer in answers:

                async def has_ended(answer: dict[str, Any] = answer) -> bool:
                    return (await bridge.order(answer)).finished_at is not None

                await until(has_ended)
                assert (await bridge.order(answer)).status is OrderStatus.UNKNOWN
            accepted = [row["client_order_id"] for row in await bridge.journal("order_accepted")]
            assert accepted == [known["clientOrderId"]]
