"""Scheduled jobs: a failing job stops neither itself nor the others."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from tests.bridge import BTC, ETH, quick_bridge, running_paper
from tests.waiting import until


async def test_reconciliation_continues_after_an_outage(tmp_path: Path) -> None:
    """After reads failed for a while, the jobs still run and find a position opened elsewhere."""
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        quick_bridge(tmp_path, paper_url, queue__reconcile_every_s=0.2, exchange__refresh_s=0.5) as bridge,
    ):
        await bridge.fault("server_error", method="GET")
        await until(lambda: not bridge.daemon.readiness().is_ready)
        await bridge.clear_faults()
        await bridge.control("positions", {ETH: "0.3"})

        async def is_seen() -> bool:
            with bridge.daemon.database.snapshot() as connection:
                row = connection.execute("SELECT quantity FROM positions WHERE symbol = ?", (ETH,)).fetchone()
            return row is not None and Decimal(row[0]) == Decimal("0.3")

        await until(is_seen)
        await until(lambda: bridge.daemon.readiness().is_ready)


async def test_a_lost_report_is_found_by_the_job(tmp_path: Path) -> None:
    """The stream is live but lost the fill of a resting order: the next reconciliation stores it."""
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        quick_bridge(tmp_path, paper_url, queue__reconcile_every_s=0.5) as bridge,
    ):
        _, answer = await bridge.send(orderType="limit", limitPrice="64800")
        await bridge.fault("withhold_reports")
        await bridge.control("prices", {BTC: "64700"})
        order = await bridge.until_stored(answer, "filled")
        assert order.executed_quantity == Decimal("0.01")
