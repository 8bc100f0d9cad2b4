"""A browser session with a running bridge, without a browser: what its requests get."""

from __future__ import annotations

import re
from dataclasses import dataclass

import aiohttp

from kekbridge.model import TradingState
from kekbridge.store import settings
from tests.bridge import Bridge


@dataclass
class Browser:
    """A browser session with a running bridge."""

    bridge: Bridge
    url: str
    token: str
    session: aiohttp.ClientSession

    async def page(self, path: str, status: int = 200) -> str:
        async with self.session.get(self.url + path) as answer:
            text = await answer.text()
            assert answer.status == status, text
            return text

    async def location(self, path: str) -> str:
        """Where a page leads to."""
        async with self.session.get(self.url + path, allow_redirects=False) as answer:
            assert answer.status == 303
            return answer.headers["Location"]

    async def post(self, path: str, **fields: str) -> tuple[int, str]:
        async with self.session.post(self.url + path, data=fields, allow_redirects=False) as answer:
            return answer.status, await answer.text()

    async def log_in(self) -> str:
        """Log in; return the form key."""
        status, _ = await self.post("/login", token=self.token)
        assert status == 303
        found = re.search(r'name="key" value="([\w-]+)"', await self.page("/"))
        assert found is not None
        return found[1]

    def state(self) -> TradingState:
        with self.bridge.daemon.database.snapshot() as connection:
            return settings.trading_control(connection, now=self.bridge.clock()).state
