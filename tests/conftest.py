"""Fixtures shared by several packages, and Hypothesis profiles: HYPOTHESIS_PROFILE=release runs 10,000 examples per property test.

Such a run exceeds the usual time limit: use `pytest -o timeout=3600`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.bridge import Bridge, quick_bridge, running_paper

# No deadline for a single example: test machines are often busy.
settings.register_profile("ci", deadline=None)
settings.register_profile("release", deadline=None, max_examples=10_000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    """A daemon in this process with its paper exchange, short waits and the webhook "main", ready to trade."""
    async with running_paper(tmp_path / "paper") as paper_url, quick_bridge(tmp_path, paper_url) as inside:
        yield inside


@pytest.fixture
async def hasty_bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    """Like `bridge`, with half the time to protect a position and few attempts per entry, so that failures come sooner."""
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        quick_bridge(tmp_path, paper_url, queue__protect_within_s=2.5, queue__attempts=3) as inside,
    ):
        yield inside
