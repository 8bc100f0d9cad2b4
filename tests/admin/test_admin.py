"""The admin listener of a running bridge: who is let in, what the API and the pages show, what the levers do."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest

from kekbridge.admin.auth import TOKEN_FILE, check_loopback, is_our_name, read_token
from kekbridge.admin.html import h, table
from kekbridge.errors import ConfigError
from kekbridge.model import Limits, TradingState
from kekbridge.store import conditions, job_runs, settings, webhooks
from kekbridge.store.daemon_addresses import admin_address
from tests.bridge import Bridge, running_bridge
from tests.waiting import until


@dataclass
class Visitor:
    """A browser, and the bridge it looks at."""

    bridge: Bridge
    url: str
    token: str
    session: aiohttp.ClientSession

    async def page(self, path: str, status: int = 200) -> str:
        async with self.session.get(self.url + path) as answer:
            text = await answer.text()
            assert answer.status == status, text
            return text

    async def post(self, path: str, **fields: str) -> tuple[int, str]:
        async with self.session.post(self.url + path, data=fields, allow_redirects=False) as answer:
            return answer.status, await answer.text()

    async def log_in(self) -> str:
        """The key that forms must bring back."""
        status, _ = await self.post("/login", token=self.token)
        assert status == 303
        found = re.search(r'name="key" value="([\w-]+)"', await self.page("/"))
        assert found is not None
        return found[1]

    def state(self) -> TradingState:
        with self.bridge.daemon.database.snapshot() as connection:
            return settings.trading_control(connection, now=self.bridge.clock()).state


@pytest.fixture
async def visitor(tmp_path: Path) -> AsyncIterator[Visitor]:
    async with running_bridge(tmp_path, admin__port=0) as bridge:
        with bridge.daemon.database.snapshot() as connection:
            url = admin_address(connection)
        token = read_token(bridge.data_dir)
        assert url is not None
        assert token is not None
        bridge.add_webhook("main")
        jar = aiohttp.CookieJar(unsafe=True)  # "unsafe" lets it keep cookies of addresses
        async with aiohttp.ClientSession(cookie_jar=jar) as session:
            yield Visitor(bridge, url, token, session)


async def test_nobody_without_the_token(visitor: Visitor) -> None:
    """No page, state or metric without proof; a wrong token is no session; the file is its owner's alone."""
    assert await visitor.page("/api/state", 401)
    assert await visitor.page("/metrics", 401)
    async with visitor.session.get(visitor.url + "/", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/login")
    assert (await visitor.post("/login", token="wrong"))[0] == 401
    assert (visitor.bridge.data_dir / TOKEN_FILE).stat().st_mode & 0o777 == 0o600


async def test_no_other_page_reaches_it(visitor: Visitor) -> None:
    """A foreign Host (DNS rebinding) and a foreign Origin are refused even with the token; pages allow no script and no frame."""
    proof = {"Authorization": f"Bearer {visitor.token}"}
    for headers, status in (({"Host": "evil.example:80"}, 421), ({"Origin": "http://evil.example"}, 403), ({}, 200)):
        async with visitor.session.get(visitor.url + "/api/state", headers=proof | headers) as answer:
            assert answer.status == status
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


async def test_nothing_changes_without_the_forms_key(visitor: Visitor) -> None:
    """A GET of a lever does nothing, and a form without the session's key is refused."""
    await visitor.log_in()
    async with visitor.session.get(visitor.url + "/trading/halt") as answer:
        assert answer.status == 405
    assert (await visitor.post("/trading/halt"))[0] == 403
    assert (await visitor.post("/trading/halt", key="guess"))[0] == 403
    assert visitor.state() is TradingState.RUNNING


async def test_the_levers(visitor: Visitor) -> None:
    """Halt, exits only, resume by form; halt by the API that the terminal's dashboard uses; flatten closes what is held."""
    key = await visitor.log_in()
    await visitor.post("/trading/halt", key=key)
    assert visitor.state() is TradingState.HALTED
    await visitor.post("/trading/resume", key=key)
    assert visitor.state() is TradingState.RUNNING
    proof = {"Authorization": f"Bearer {visitor.token}"}
    async with visitor.session.post(
        visitor.url + "/api/trading", json={"state": "exits_only"}, headers=proof
    ) as answer:
        assert (answer.status, (await answer.json())["state"]) == (200, "exits_only")
    await visitor.post("/trading/resume", key=key)
    await visitor.post("/trading/halt", key=key, reason="lunch")
    assert "lunch" in await visitor.page("/")
    await visitor.post("/trading/reset-peak", key=key)
    assert visitor.state() is TradingState.RUNNING
    await visitor.bridge.send(action="buy", quantity="0.01")
    await visitor.bridge.until_settled()
    status, text = await visitor.post("/trading/flatten", key=key)
    assert status == 200
    assert "<h1>Flat</h1>" in text
    assert await visitor.bridge.position() == 0
    assert visitor.state() is TradingState.HALTED


async def test_the_pages_show_what_happened(visitor: Visitor) -> None:
    """Every page answers; the alert's own page tells its order; what came from outside is text, never markup."""
    await visitor.bridge.send(action="buy", quantity="0.01", alertId="<script>alert(1)</script>")
    await visitor.bridge.until_settled()
    await visitor.log_in()
    for path in ("/", "/log", "/orders", "/positions", "/stats", "/stats?days=all", "/risk", "/webhooks"):
        assert "<script" not in await visitor.page(path)
    found = re.search(r'href="(/log/\w{26})"', await visitor.page("/log"))
    assert found is not None
    story = await visitor.page(found[1])
    assert "&lt;script&gt;" in story
    assert "<script" not in story
    assert "Order 1" in story
    assert "BTC" in await visitor.page("/positions")


async def test_webhooks_by_page(visitor: Visitor) -> None:
    """Create, limit, disable and rotate through the same functions as the command line, with the same refusals."""
    key = await visitor.log_in()
    database = visitor.bridge.daemon.database
    assert (await visitor.post("/webhooks", key=key, name="from page"))[0] == 409
    assert (await visitor.post("/webhooks", key=key, name="paged"))[0] == 303
    made = await database.read(webhooks.find, "paged")
    base = f"/webhooks/{made.id}"
    typed = {"max_order_size": "0.5", "daily_orders": "7", "max_leverage": ""}
    assert (await visitor.post(f"{base}/settings", key=key, **typed))[0] == 303
    assert (await visitor.post(f"{base}/settings", key=key, max_order_size="1e5"))[0] == 409
    limits = (await database.read(webhooks.get, made.id)).settings.limits
    assert (str(limits.max_order_size), limits.daily_orders, limits.max_leverage) == ("0.5", 7, None)
    await visitor.post(f"{base}/disable", key=key)
    await visitor.post(f"{base}/rotate", key=key)
    assert not (await database.read(webhooks.get, made.id)).enabled
    assert len(await database.read(webhooks.list_keys, made.id)) == 2
    assert "wh_test_" in await visitor.page(base)


async def test_metrics_and_state_agree_with_the_exchange(visitor: Visitor) -> None:
    """The position, the counts and the fees are those of what was traded."""
    await visitor.bridge.send(action="buy", quantity="0.01")
    await visitor.bridge.until_settled()
    proof = {"Authorization": f"Bearer {visitor.token}"}
    async with visitor.session.get(visitor.url + "/metrics", headers=proof) as answer:
        page = await answer.text()
    assert "kekbridge_orders_filled_total 1.0" in page
    assert 'kekbridge_alerts{outcome="done"} 1.0' in page
    assert 'kekbridge_position{symbol="PERP_BTC_USDC"} 0.01' in page
    async with visitor.session.get(visitor.url + "/api/state", headers=proof) as answer:
        state = await answer.json()
    assert state["account"]["positions"][0]["quantity"] == "0.01"
    assert state["lastAlerts"][0]["status"] == "filled"


async def test_what_holds_and_what_fails_shows_everywhere(visitor: Visitor) -> None:
    """A condition stands on the overview in its words, as text, and in the metrics until it is over; so do a job's failures."""
    await visitor.log_in()
    database, now = visitor.bridge.daemon.database, visitor.bridge.clock()
    data = {"webhook": "<b>x</b>", "lasting": "2 h", "every": "1 h"}
    await database.write(conditions.begin, "heartbeat:x", "heartbeat_missed", now=now, data=data)
    await database.write(job_runs.record_run, "backup", error="disk full", took_ms=1, next_at=None, now=now)
    proof = {"Authorization": f"Bearer {visitor.token}"}

    async def metrics() -> str:
        async with visitor.session.get(visitor.url + "/metrics", headers=proof) as answer:
            return await answer.text()

    assert "no alert for 2 h, webhook &lt;b&gt;x&lt;/b&gt; expects one every 1 h" in await visitor.page("/")
    assert 'kekbridge_condition{event="heartbeat_missed"} 1.0' in await metrics()
    assert 'kekbridge_job_failures{job="backup"} 1.0' in await metrics()
    assert 'kekbridge_job_failed_total{job="backup"} 1.0' in await metrics()
    await database.write(conditions.end, "heartbeat:x", "heartbeat_back", now=now)
    assert "no alert for" not in await visitor.page("/")
    assert 'kekbridge_condition{event="heartbeat_missed"}' not in await metrics()


def test_names_of_this_machine() -> None:
    """Only loopback addresses and localhost are names of this machine, and only those may be listened on."""
    assert all(map(is_our_name, ("127.0.0.1:8081", "localhost", "[::1]:9", "LOCALHOST:1")))
    assert not any(map(is_our_name, ("", "evil.example", "127.0.0.1.evil.example", "10.0.0.1:80", "[::", "0.0.0.0")))  # noqa: S104
    check_loopback("127.0.0.1")
    with pytest.raises(ConfigError, match="SSH tunnel"):
        check_loopback("0.0.0.0")  # noqa: S104


def test_text_is_never_markup() -> None:
    """What goes into an element or attribute is escaped."""
    assert h("p", "<b>&", title='"x') == '<p title="&quot;x">&lt;b&gt;&amp;</p>'
    assert "&lt;i&gt;" in table(("<i>",), [("<i>",)], empty="")


async def test_looking_does_not_change_the_counts(visitor: Visitor) -> None:
    """Each stage of each alert is in the histograms once, also of one that filled before the first look; a second look adds nothing."""
    proof = {"Authorization": f"Bearer {visitor.token}"}

    async def counts() -> dict[str, str]:
        async with visitor.session.get(visitor.url + "/metrics", headers=proof) as answer:
            return dict(re.findall(r'kekbridge_stage_seconds_count\{stage="(\w+)"\} ([\d.]+)', await answer.text()))

    await visitor.bridge.send(action="buy", quantity="0.01")
    await visitor.bridge.send(action="ping", symbol=None, alertId="twice")
    await visitor.bridge.send(action="ping", symbol=None, alertId="twice")
    await visitor.bridge.until_settled()
    once = {"admitted": "1.0", "signed": "1.0", "accepted": "1.0", "filled": "1.0"}
    wanted = {"received": "2.0", "stored": "2.0", "answered": "2.0"} | once
    assert await counts() == wanted
    assert await counts() == wanted


async def test_a_webhook_that_a_limit_closed_is_opened_again(visitor: Visitor) -> None:
    """The risk page says which one and why, and opens that one only."""
    visitor.bridge.add_webhook("tight", limits=Limits(daily_limit=Decimal(1000)))
    for _ in range(2):
        await visitor.bridge.send(webhook="tight", action="buy", quantity="0.01")
    await visitor.bridge.until_settled()
    key = await visitor.log_in()
    page = await visitor.page("/risk")
    assert "daily_limit" in page
    assert page.count("Let entries pass again") == 1
    await visitor.post("/trading/resume", key=key, webhook="tight")
    assert "Let entries pass again" not in await visitor.page("/risk")


async def test_profit_moves_with_the_mark(visitor: Visitor) -> None:
    """The overview's profit and loss is that of the positions beside it, at the mark of this moment."""
    await visitor.bridge.send(action="buy", quantity="0.01")
    await visitor.bridge.until_settled()
    await visitor.log_in()
    await visitor.bridge.control("prices", {"PERP_BTC_USDC": "66000"})

    async def is_told() -> bool:
        await visitor.bridge.daemon.exchange.refresh()
        return (await visitor.page("/")).count("+10.00") == 2

    await until(is_told)
