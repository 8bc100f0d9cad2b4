"""Statistics against the outside witness: what `stats` shows equals what is recomputed from the paper exchange's own journal."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from kekbridge.model.statistics import build_report
from kekbridge.store import statistics
from tests.system.desk import Desk, open_desk
from tests.waiting import until

BTC = "PERP_BTC_USDC"


async def trade(desk: Desk) -> None:
    """Entries, an addition, a partial close at a gain, a flip at a loss, funding paid and received, a duplicate, refusals."""
    for price, fields in (
        ("50000", {"action": "buy", "quantity": "0.2"}),
        ("51000", {"action": "buy", "quantity": "0.1"}),
        ("52345.6", {"action": "close", "quantity": "0.15"}),
        ("48000", {"action": "flip"}),
        ("47000.5", {"action": "close"}),
    ):
        await desk.control("prices", {BTC: price})
        status, answer = await desk.send(**fields)
        assert status == 200, answer
        await desk.settled()
        snapshot = await desk.daemon.exchange.refresh()
        held = {symbol: one.quantity for symbol, one in snapshot.positions.items() if one.quantity}
        await desk.seen(held)
        await desk.control("funding", {BTC: "0.000123" if price < "52000" else "-0.00031"})
    message: dict[str, Any] = {"action": "ping", "symbol": None, "alertId": "again"}
    await desk.send(**message)
    await desk.send(**message)
    assert (await desk.send(action="buy", quantity="1", symbol="NOPEUSDT.P"))[0] == 422
    assert (await desk.post(b'{"apiKey": "nobody"}'))[0] == 401


def sums(journal: list[dict[str, Any]]) -> dict[str, Decimal | int]:
    """What the exchange booked, and realized P&L from the executions alone, by average cost; nothing of kekbridge is used."""
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
    """P&L, fees, funding and fills to the last unit, and what they come to is the account's value; every request is in one group."""
    async with open_desk(tmp_path) as desk:
        desk.add_webhook("main")
        await trade(desk)
        await desk.daemon.rejected_requests.flush()
        await desk.daemon.operator_services.equity.run()
        found = build_report(await desk.daemon.database.read(statistics.gather_facts, since=None, now=desk.clock()))
        wanted = sums(await desk.control("journal"))
        stored = await desk.daemon.database.read(lambda c: c.execute("SELECT count(*) FROM fills").fetchone()[0])
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


async def test_what_is_not_decided_yet_is_counted_too(tmp_path: Path) -> None:
    """While one order's outcome is unknown another waits behind it; later one is done and one expired, and the sum always fits."""
    async with open_desk(tmp_path, server__respond_within_s=0.2) as desk:
        desk.add_webhook("main")

        async def groups() -> tuple[int, ...]:
            found = build_report(
                await desk.daemon.database.read(statistics.gather_facts, since=None, now=desk.clock())
            ).counts
            parts = (found.refused, found.duplicate, found.expired, found.done, found.unknown, found.waiting)
            assert found.received == sum(parts) == desk.sent
            return parts

        lost = {"fault": "lose_answer", "path": "/v1/order", "method": "POST", "count": 1}
        silent = [{"fault": "read_lag", "delay_ms": 600_000}, {"fault": "withhold_reports"}]
        await desk.control("faults", {"faults": [lost, *silent]})
        await desk.send(action="buy", quantity="0.01")

        async def stands_at(*wanted: int) -> None:
            async def does() -> bool:
                return await groups() == wanted

            await until(does)

        await stands_at(0, 0, 0, 0, 1, 0)
        assert (await desk.send(action="buy", quantity="0.02"))[0] == 202
        assert await groups() == (0, 0, 0, 0, 1, 1)
        desk.clock.jump_to(desk.clock() + timedelta(seconds=70))
        await stands_at(0, 0, 1, 0, 1, 0)
        await desk.control("faults", {})
        await desk.settled()
        await stands_at(0, 0, 1, 1, 0, 0)
        assert await desk.position() == Decimal("0.01")
