"""Fixtures: a running paper exchange on its own port, and traders that talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PaperSettings
from tests.paper.trader import Trader


@pytest.fixture
async def paper(tmp_path: Path) -> AsyncIterator[PaperExchange]:
    """A static exchange without rate limits."""
    paper = PaperExchange(tmp_path, settings=PaperSettings(prices="static", rate_limits=False))
    await paper.start()
    yield paper
    await paper.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client session."""
    async with aiohttp.ClientSession() as one:
        yield one


@pytest.fixture
async def trader(paper: PaperExchange, session: aiohttp.ClientSession) -> Trader:
    """The owner of the paper account."""
    return Trader(session, paper.base_url)
