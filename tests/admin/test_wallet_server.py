"""The page of `keys register --browser`: one browser, opened by a link that works once, guarded like the web pages."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kekbridge.admin.wallet_server import WalletServer
from kekbridge.daemon.orderly_keys import OrderlyKeys
from kekbridge.model import Mode
from kekbridge.ops.operations import Operations
from kekbridge.paper.server import PaperExchange
from kekbridge.paper.settings import PaperSettings
from kekbridge.wallet import signing
from tests.ops.operating import Desk

WALLET_KEY = "08" * 32


@dataclass
class OneOff:
    """A server, its link, and a browser."""

    server: WalletServer
    link: str
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return self.link.partition("/?")[0]

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        async with self.session.get(self.url + path, headers=headers) as answer:
            return answer.status, await answer.text()

    async def post(self, what: str, fields: list[tuple[str, str]], **headers: str) -> tuple[int, Any]:
        async with self.session.post(f"{self.url}/keys/wallet/{what}", data=fields, headers=headers) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def one_off(tmp_path: Path) -> AsyncIterator[OneOff]:
    paper = PaperExchange(tmp_path / "paper", settings=PaperSettings(prices="static", rate_limits=False))
    await paper.start()
    desk = Desk(tmp_path / "data")
    desk.keys = OrderlyKeys(desk.settings, paper.base_url)
    server = WalletServer(Operations(desk).run, Mode.PAPER, "kek_ai", clock=desk.clock)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        yield OneOff(server, await server.start(0), session)
    await server.close()
    await desk.database.close()
    await paper.close()


async def test_a_wallet_registers_a_key_on_the_page(one_off: OneOff) -> None:
    """The link opens it, the signatures end the wait, and the page says that the terminal goes on."""
    status, page = await one_off.get(one_off.link.removeprefix(one_off.url))
    assert (status, "data-wallet" in page) == (200, True)
    (form_key,) = re.findall(r'name="key" value="([\w-]+)"', page)
    wallet = signing.address_of(WALLET_KEY)
    _, ready = await one_off.post("prepare", [("key", form_key), ("wallet", wallet), ("days", "90")])
    signatures = [("signature", signing.sign(json.loads(one["typed"]), WALLET_KEY)) for one in ready["messages"]]
    status, answer = await one_off.post("register", [("key", form_key), ("attempt", ready["attempt"]), *signatures])
    assert (status, "href" in answer["html"], "terminal" in answer["html"]) == (200, False, True)
    assert (await one_off.server.registered())["accountId"] == signing.account_id(wallet, "kek_ai")
    assert (await one_off.get("/app.js"))[0] == 200


async def test_the_link_works_once_and_for_its_browser(one_off: OneOff) -> None:
    """Without it nothing is served; neither by another name of this machine, nor to another page."""
    for path in ("/", "/?code=guessed", "/keys"):
        assert (await one_off.get(path))[0] == 401
    path = one_off.link.removeprefix(one_off.url)
    assert (await one_off.get(path, Host="evil.example"))[0] == 421
    assert (await one_off.get(path, Origin="http://evil.example"))[0] == 403
    assert (await one_off.get(path))[0] == 200
    async with aiohttp.ClientSession() as other, other.get(one_off.link) as answer:
        assert (answer.status, "works once" in await answer.text()) == (401, True)
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    wallet = [("wallet", signing.address_of(WALLET_KEY))]
    assert (await one_off.post("prepare", wallet))[0] == 403
    assert (await one_off.post("prepare", [("key", "guessed"), *wallet]))[0] == 403
    assert (await one_off.get("/nothing"))[0] == 404
