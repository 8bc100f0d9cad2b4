"""Statistics equal the figures recomputed from the paper exchange's journal."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from kekbridge.model.statistics import build_report
from kekbridge.store import statistics
from tests.bridge import Bridge, running_bridge
from tests.waiting import until

BTC = "PERP_BTC_USDC"


async def trade(bridge: Bridge) -> None:
    """Entries, an addition, a partial close at a gain, a flip at a loss, funding paid and received, a duplicate, rejections."""
    for price, fields in (
        ("50000", {"action": "buy", "quantity": "0.2"}),
        ("51000", {"action": "buy", "quantity": "0.1"}),
        ("52345.6", {"action": "close", "quantity": "0.15"}),
        ("48000", {"action": "flip"}),
        ("47000.5", {"action": "close"}),
    ):
        await bridge.control("prices", {BTC: price})
        status, answer = await bridge.send(**fields)
        assert status == 200, answer
        await bridge.until_settled()
        state = await bridge.control("state")  # the exchange's own: a snapshot may have been asked for before the fill
        held = {symbol: Decimal(text) for symbol, text in state["positions"].items() if Decimal(text)}
        await bridge.until_positions(held)
        await bridge.control("funding", {BTC: "0.000123" if price < "52000" else "-0.00031"})
    message = json.dumps(bridge.message(action="ping", symbol=None)).encode()
    await bridge.post(message)
    await bridge.post(message)
    assert (await bridge.send(action="buy", quantity="1", symbol="NOPEUSDT.P"))[0] == 422
    assert (await bridge.post(b'{"apiKey": "unknown"}'))[0] == 401


def sums(journal: list[dict[str, Any]]) -> dict[str, Decimal | int]:
    """Sum the exchange's bookings, and compute realized P&L from its fills by average cost, without kekbridge's code."""
    held, cost, realized, fees, count = Decimal(0), Decimal(0), Decimal(0), Decimal(0), 0
    booked, funding = Decimal(0), Decimal(0)
    for event in journal:
        if event["event"] == "funding":
            funding += Decimal(event["funding_fee"])
        if event["event"] != "fill":
            continue
        booked += Decimal(event["realized_pnl"])
        count += 1
        signed = Decimal(event["quantity"]) * (1 if event["side"] == "BUY" else -1)
        price = Decimal(event["price"])
        fees += Decimal(event["fee"])
        if held and (held > 0) != (signed > 0):
            closing = min(abs(signed), abs(held))
            side = 1 if held > 0 else -1
            average = cost / held
            realized += (price - average) * closing * side
            held, cost = held - side * closing, cost - side * closing * average
            signed += side * closing
        held, cost = held + signed, cost + signed * price
    return {"realized": realized, "booked": booked, "fees": fees, "funding": funding, "fills": count}


async def test_stats_equal_the_exchanges_journal(tmp_path: Path) -> None:
    """P&L, fees, funding and fills are exact and add up to the account value; every request is counted in one group."""
    async with running_bridge(tmp_path) as bridge:
        bridge.add_webhook("main")
        await trade(bridge)
        # As the job of every 10 s does: what the stream brings is stored once a second.
        await bridge.daemon.trading.tracker.save_positions(await bridge.daemon.exchange.refresh())
        await bridge.daemon.rejected_requests.flush()
        await bridge.daemon.operator_services.equity.run()
        found = build_report(await bridge.daemon.database.read(statistics.gather_facts, since=None, now=bridge.clock()))
        wanted = sums(await bridge.control("journal"))
        stored = await bridge.daemon.database.read(lambda c: c.execute("SELECT count(*) FROM fills").fetchone()[0])
    assert stored == wanted["fills"]
    assert (found.fees, found.funding, found.realized_pnl) == (wanted["fees"], wanted["funding"], wanted["booked"])
    assert wanted["funding"] != 0
    assert found.net_pnl == found.realized_pnl - wanted["fees"] - wanted["funding"]
    assert found.account_value is not None
    assert abs(Decimal(100_000) + found.net_pnl + (found.unrealized_pnl or 0) - found.account_value) <= Decimal(
        "0.000001"
    )
    assert abs(found.realized_pnl - wanted["realized"]) <= Decimal("0.000001")
    assert found.closing_orders >= 3
    counts = found.counts
    assert counts.received == 9
    assert (counts.duplicate, counts.refused, counts.done) == (1, 2, 6)
    assert counts.by_code == {"symbol_unknown": 1, "api_key_unknown": 1}
    assert found.fill_rate == 1


async def test_undecided_alerts_are_counted_too(tmp_path: Path) -> None:
    """An unknown order and one that waits behind it are counted, later as done and expired; the groups always add up."""
    async with running_bridge(tmp_path, server__respond_within_s=0.2) as bridge:
        bridge.add_webhook("main")

        async def groups() -> tuple[int, ...]:
            found = build_report(
                await bridge.daemon.database.read(statistics.gather_facts, since=None, now=bridge.clock())
            ).counts
            parts = (found.refused, found.duplicate, found.expired, found.done, found.unknown, found.waiting)
            assert found.received == sum(parts) == bridge.sent
            return parts

        lost = {"fault": "lose_answer", "path": "/v1/order", "method": "POST", "count": 1}
        silent = [{"fault": "read_lag", "delay_ms": 600_000}, {"fault": "withhold_reports"}]
        await bridge.control("faults", {"faults": [lost, *silent]})
        await bridge.send(action="buy", quantity="0.01")

        async def until_groups_are(*wanted: int) -> None:
            async def are_equal() -> bool:
                return await groups() == wanted

            await until(are_equal)

        await until_groups_are(0, 0, 0, 0, 1, 0)
        assert (await bridge.send(action="buy", quantity="0.02"))[0] == 202
        assert await groups() == (0, 0, 0, 0, 1, 1)
        bridge.clock.jump_to(bridge.clock() + timedelta(seconds=70))
        await until_groups_are(0, 0, 1, 0, 1, 0)
        await bridge.control("faults", {})
        await bridge.until_settled()
        await until_groups_are(0, 0, 1, 1, 0, 0)
        assert await bridge.position() == Decimal("0.01")
