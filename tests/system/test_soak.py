"""The soak at a small size; `python -m tests.system.soak --minutes 30` runs it in full."""

from __future__ import annotations

import os

import pytest

from tests.system.forked import ForkedBridge
from tests.system.soak import Report, Sample, soak


@pytest.mark.parametrize(
    ("samples", "memory", "failure"),
    [
        (23, 900, "23 samples after 100 alerts, expected at least 24"),
        (24, 900, "memory grew to"),
        (24, 100, None),
    ],
)
def test_a_run_that_is_too_short_shows_nothing(samples: int, memory: float, failure: str | None) -> None:
    """The first and the last samples are compared: where they overlap, the growth between them would look smaller than it is."""
    report = Report(seed=1, first_alerts=100)
    for number in range(-3, samples):
        size = 100.0 if number < 12 else memory
        report.samples.append(Sample(at_s=number, alerts=100 + number, pss_mib=size, files=20, threads=4))
    assert [failure is not None and one.startswith(failure) for one in report.failures()] == [True] * (
        failure is not None
    )


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
