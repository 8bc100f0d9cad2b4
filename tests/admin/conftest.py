"""Fixtures of the tests of the web pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from kekbridge.ops.web_token import read_token
from kekbridge.store.daemon_addresses import admin_address
from tests.admin.browser import running_chromium
from tests.admin.session import Browser
from tests.bridge import running_bridge


@pytest.fixture(scope="session")
def chromium() -> Iterator[str]:
    """The address of a running Chromium: starting one takes as much as ten pages."""
    with running_chromium() as address:
        yield address


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    """Signed out, with the webhook "main"."""
    async with running_bridge(tmp_path, admin__port=0) as bridge:
        with bridge.daemon.database.snapshot() as connection:
            url = admin_address(connection)
        token = read_token(bridge.data_dir)
        assert url is not None
        assert token is not None
        bridge.add_webhook("main")
        jar = aiohttp.CookieJar(unsafe=True)  # "unsafe" lets it keep cookies of addresses
        async with aiohttp.ClientSession(cookie_jar=jar) as session:
            yield Browser(bridge, url, token, session)
