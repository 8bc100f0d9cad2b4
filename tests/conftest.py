"""Fixtures that several rooms share, and how long property tests try: HYPOTHESIS_PROFILE=release makes 10,000 examples of each.

Such a run needs more than the usual time: pytest -o timeout=3600.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.bridge import Bridge, quick_bridge, running_paper

# Property tests run on busy machines: no deadline for a single example.
settings.register_profile("ci", deadline=None)
settings.register_profile("release", deadline=None, max_examples=10_000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    """A daemon in this process, with its paper exchange, ready to trade."""
    async with running_paper(tmp_path / "paper") as paper_url, quick_bridge(tmp_path, paper_url) as inside:
        yield inside


@pytest.fixture
async def hasty_bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    """The same, with half the time to protect a position and few attempts for an entry: what ends badly ends sooner."""
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        quick_bridge(tmp_path, paper_url, queue__protect_within_s=2.5, queue__attempts=3) as inside,
    ):
        yield inside
