"""Each campaign at its small size, with every oracle after it. Sizes: campaign.py."""

from __future__ import annotations

import pytest

from tests.system.campaign import CAMPAIGNS, table
from tests.system.campaigns.kills import POINTS, crash_point
from tests.system.campaigns.run import Outcome
from tests.system.disk import CAN_TRACE_DAEMON

SEED = 4
needs_tracing = pytest.mark.skipif(not CAN_TRACE_DAEMON, reason="needs strace and root")
# R2 has a test per point, R4 more to check.
NAMES = [
    pytest.param(name, marks=needs_tracing if name == "R3" else ()) for name in CAMPAIGNS if name not in ("R2", "R4")
]


@pytest.mark.parametrize("name", NAMES)
async def test_campaign(name: str) -> None:
    """No alert is lost, no order doubled, no limit breached, and no oracle finds a violation."""
    campaign, small, _ = CAMPAIGNS[name]
    outcome = await campaign(SEED, small)
    assert isinstance(outcome, Outcome)
    _check(outcome)
    assert outcome.trials >= small


@pytest.mark.parametrize("point", POINTS)
async def test_crash_point(point: str) -> None:
    """Killed at a failpoint of docs/internals/architecture.md section 9, the bridge recovers to the state in its table."""
    outcome = await crash_point(SEED, 1, point)
    _check(outcome)
    assert outcome.trials == 1


@needs_tracing
async def test_the_wal_is_flushed_before_the_response_is_sent() -> None:
    """R4: for every alert, write to the WAL, flush and 2xx happen in this order."""
    campaign, small, _ = CAMPAIGNS["R4"]
    outcome = await campaign(SEED, small)
    assert isinstance(outcome, Outcome)
    _check(outcome)
    assert outcome.note == f"{small} of {small} in order"


def _check(outcome: Outcome) -> None:
    assert outcome.findings.failures == []
    assert outcome.findings.is_clean, table([outcome], markdown=False)
