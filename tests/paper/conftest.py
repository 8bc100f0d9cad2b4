"""Fixtures: a running paper exchange on a free port, and a client of it."""

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
    """A paper exchange with static prices and without rate limits."""
    running = PaperExchange(tmp_path, settings=PaperSettings(prices="static", rate_limits=False))
    await running.start()
    yield running
    await running.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client session."""
    async with aiohttp.ClientSession() as one:
        yield one


@pytest.fixture
async def trader(paper: PaperExchange, session: aiohttp.ClientSession) -> Trader:
    """A client with the key of the paper account."""
    return Trader(session, paper.base_url)
