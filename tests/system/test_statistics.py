"""Statistics against the outside witness: what `stats` shows equals what is recomputed from the paper exchange's own journal."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from kekbridge.stats import report
from kekbridge.store import statistics
from tests.system.desk import Desk, open_desk

BTC = "PERP_BTC_USDC"


async def trade(desk: Desk) -> None:
    """Entries, an addition, a partial close at a gain, a flip at a loss, a duplicate, refusals."""
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
    message: dict[str, Any] = {"action": "ping", "symbol": None, "alertId": "again"}
    await desk.send(**message)
    await desk.send(**message)
    assert (await desk.send(action="buy", quantity="1", symbol="NOPEUSDT.P"))[0] == 422
    assert (await desk.post(b'{"apiKey": "nobody"}'))[0] == 401


def sums(journal: list[dict[str, Any]]) -> dict[str, Decimal | int]:
    """Fees and realized P&L from the executions alone, by average cost; nothing of kekbridge is used."""
    held, cost, realized, fees, count = Decimal(0), Decimal(0), Decimal(0), Decimal(0), 0
    for event in journal:
        if event["event"] != "fill":
            continue
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
    return {"realized": realized, "fees": fees, "fills": count}


async def test_stats_equal_the_exchanges_journal(tmp_path: Path) -> None:
    """P&L, fees and fills to the last unit; every request is in exactly one group."""
    async with open_desk(tmp_path) as desk:
        desk.add_webhook("main")
        await trade(desk)
        await desk.daemon.refusals.flush()
        found = report(await desk.daemon.database.read(statistics.gather, since=None, now=desk.clock()))
        wanted = sums(await desk.control("journal"))
        stored = await desk.daemon.database.read(lambda c: c.execute("SELECT count(*) FROM fills").fetchone()[0])
    assert stored == wanted["fills"]
    assert found.fees == wanted["fees"]
    assert abs(found.realized_pnl - wanted["realized"]) <= Decimal("0.000001")
    assert found.closing_orders >= 3
    counts = found.counts
    assert counts.received == 9
    assert (counts.duplicate, counts.refused, counts.done) == (1, 2, 6)
    assert counts.by_code == {"symbol_unknown": 1, "api_key_unknown": 1}
    assert found.fill_rate == 1
