"""The soak at a small size; `python -m tests.system.soak --minutes 30` runs it in full."""

from __future__ import annotations

import os

import pytest

from tests.system.forked import ForkedBridge
from tests.system.soak import soak


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory of a process that forbids core dumps")
async def test_nothing_is_lost_while_a_bridge_is_used_in_every_way() -> None:
    """Alerts, prices, pages, event streams and commands side by side: no alert is lost or doubled, no page, stream or command fails."""
    report = await soak(6.0, rate=8, seed=1, first_alerts=1, bridge_type=ForkedBridge)
    assert report.errors == []
    assert report.findings.failures == []
    assert report.findings.is_clean
    assert report.pages
    assert report.streams
    assert report.commands
    assert report.early()
