"""Fixtures that several rooms share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.house import House, running_house, running_paper


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A daemon in this process, with its paper exchange, ready to trade."""
    async with running_paper(tmp_path / "paper") as paper_url, running_house(tmp_path / "data", paper_url) as inside:
        yield inside


@pytest.fixture
async def hasty_house(tmp_path: Path) -> AsyncIterator[House]:
    """The same, with half the time to protect a position and few attempts for an entry: what ends badly ends sooner."""
    async with (
        running_paper(tmp_path / "paper") as paper_url,
        running_house(tmp_path / "data", paper_url, queue__protect_within_s=2.5, queue__attempts=3) as inside,
    ):
        yield inside
