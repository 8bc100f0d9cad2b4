"""The web pages in a real browser, at desktop and phone width: every button works, nothing overflows, no errors.

Screenshots go to KEKBRIDGE_TEST_ARTIFACTS, by default `kekbridge-test-artifacts` in the directory of temporary files.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kekbridge.admin.frame import MENU, MORE
from kekbridge.model import TradingState, Webhook
from kekbridge.ops.web_token import read_token, rotate_token
from kekbridge.store import codec, settings, webhooks
from kekbridge.store.daemon_addresses import admin_address
from tests.admin.browser import AXE, CHROMIUM, Page, open_page
from tests.admin.readme_picture import PICTURE, TAKEN_AT, WIDTH, save, shown_words, trade_for_an_hour, words_of
from tests.bridge import Bridge, Clock, running_bridge, running_paper
from tests.waiting import until

pytestmark = pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="Chromium is not installed")
WIDTHS = (1280, 390)


def artifacts() -> Path:
    """Directory of the screenshots."""
    configured = os.environ.get("KEKBRIDGE_TEST_ARTIFACTS") or Path(tempfile.gettempdir()) / "kekbridge-test-artifacts"
    directory = Path(configured)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@dataclass
class Visit:
    """A logged-in browser and its bridge."""

    bridge: Bridge
    page: Page
    url: str

    async def goto(self, path: str) -> None:
        await self.page.goto(self.url + path)

    async def check_page(self, path: str, name: str) -> None:
        """Open a page at both widths; check that it fits; take screenshots."""
        await self.goto(path)
        for width in WIDTHS:
            await self.page.be_wide(width)
            assert await self.page.overflow() == 0, f"{path} is wider than {width} pixels"
            assert await self.page.cut_tables() == [], f"{path} cuts a table at {width} pixels"
            assert await self.page.text("h1")
            screenshot = artifacts() / f"{name}-{width}.png"
            await self.page.picture(screenshot)
            assert int.from_bytes(screenshot.read_bytes()[16:20]) == width
        await self.page.be_wide(1280)

    def trading(self) -> TradingState:
        with self.bridge.daemon.database.snapshot() as connection:
            return settings.trading_control(connection, now=self.bridge.clock()).state

    def webhook(self, name: str) -> Webhook:
        with self.bridge.daemon.database.snapshot() as connection:
            return webhooks.find(connection, name)


@pytest.fixture
async def visit(tmp_path: Path, chromium: str) -> AsyncIterator[Visit]:
    """A browser logged in with the token."""
    async with running_bridge(tmp_path, admin__port=0) as bridge, open_page(chromium) as page:
        bridge.add_webhook("main")
        with bridge.daemon.database.snapshot() as connection:
            url = admin_address(connection)
        assert url is not None
        await page.be_wide(1280)
        await page.goto(url)
        assert await page.text("h1") == "kekbridge"
        await page.picture(artifacts() / "login.png")
        await page.fill("input[name=token]", str(read_token(bridge.data_dir)))
        await page.press("main button")
        assert await page.text("h1") == "Overview"
        yield Visit(bridge, page, url)
        assert page.errors == []


async def test_every_page_on_every_screen(visit: Visit) -> None:
    """All pages of a bridge with orders and positions, at 1280 and 390 pixels."""
    bridge = visit.bridge
    await bridge.send(action="buy", quantity="0.01", stopLoss="2%", comment="<b>bold</b>")
    await bridge.send(action="buy", quantity="1", symbol="ETHUSDT.P")
    await bridge.send(action="buy", quantity="0.02", orderType="limit", limitPrice="30000")
    await bridge.send(
        action="buy", quantity="0.02", orderType="limit", limitPrice="90000"
    )  # rejected: a long text beside a button
    await bridge.send(action="buy", quantity="0.01", symbol="NOPEUSDT.P")
    await bridge.post(b'{"apiKey": "nobody"}')
    await bridge.daemon.rejected_requests.flush()
    await bridge.until_settled()
    for price in ("65100", "64200", "66300", "65900"):
        await bridge.control("prices", {"PERP_BTC_USDC": price})
        await bridge.daemon.operator_services.equity.run()
    for path, name in (
        *(("/", "overview"), ("/log", "log"), ("/orders", "orders"), ("/positions", "positions")),
        *(("/stats?days=all", "stats"), ("/risk", "risk"), ("/webhooks", "webhooks"), ("/confirm/flatten", "flatten")),
        *(
            ("/notifications", "notifications"),
            ("/history?show=all", "history"),
            ("/jobs", "jobs"),
            ("/backup", "backup"),
            ("/docs/alerts", "document"),
        ),
    ):
        await visit.check_page(path, name)
    await visit.goto("/log")
    assert "api_key_unknown" in await visit.page.text()
    links = await visit.page.evaluate("[...document.querySelectorAll('td a')].map(one => one.pathname)")
    await visit.check_page(links[-1], "alert")
    report = await visit.page.text()
    for words in ("<b>bold</b>", "Signed", "Slippage to mark", "stop loss", "Answered with HTTP 200"):
        assert words in report
    await visit.check_page(links[0], "refused-alert")
    assert "symbol_unknown" in await visit.page.text()
    hook = visit.webhook("main")
    await visit.check_page(f"/webhooks/{hook.id}", "webhook")
    await visit.page.be_wide(1280, dark=True)
    await visit.goto("/")
    await visit.page.picture(artifacts() / "overview-dark.png")


async def test_charts_are_read_with_pointer_and_keys(visit: Visit) -> None:
    """The crosshair follows the pointer and the arrow keys, names time, value and drawdown, and leaves; an alert is sent again dry."""
    bridge, page = visit.bridge, visit.page
    await bridge.send(action="buy", quantity="0.1")
    await bridge.until_settled()
    with bridge.daemon.database.transaction() as connection:
        for minutes, value in ((30, "100100"), (20, "99000"), (10, "99500")):
            at = codec.time_text(bridge.clock() - timedelta(minutes=minutes))
            connection.execute("INSERT INTO equity_marks VALUES (?, ?, '0', '100100')", (at, value))
    await visit.goto("/stats?days=1")
    place = "document.querySelector('[data-crosshair]').getBoundingClientRect()"
    box = {name: await page.evaluate(f"{place}.{name}") for name in ("left", "top", "width", "height")}
    middle = box["top"] + box["height"] / 2
    await page.call("Input.dispatchMouseEvent", type="mouseMoved", x=box["left"] + box["width"] - 1, y=middle)
    last = await page.text("output")
    assert last.endswith("below its peak")
    assert await page.evaluate("document.querySelectorAll('[data-crosshair] > .cross').length") == 2
    await page.evaluate("document.querySelector('[data-crosshair]').focus()")
    await page.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft", code="ArrowLeft")
    before = await page.text("output")
    assert before != last
    assert before.endswith(("99,500.00 USDC, 0.60 % below its peak", "99,000.00 USDC, 1.10 % below its peak"))
    await page.call("Input.dispatchMouseEvent", type="mouseMoved", x=5, y=5)
    assert await page.text("output") == ""
    assert await page.evaluate("document.querySelectorAll('.cross').length") == 0
    await visit.goto("/log")
    await page.press("td a[href^='/log/']")
    await page.press("form[action$=dry-run] button")
    assert "It would be accepted" in await page.text(".result")


async def test_log_filters(visit: Visit) -> None:
    """The form's filters are those of `kekbridge logs`."""
    await visit.bridge.send(action="buy", quantity="0.01")
    await visit.bridge.send(action="buy", quantity="1", symbol="ETHUSDT.P")
    await visit.bridge.until_settled()
    await visit.goto("/log")
    await visit.page.fill("input[name=symbol]", "ETH")
    await visit.page.fill("select[name=status]", "filled")
    await visit.page.press("form.search button")
    rows = await visit.page.evaluate("[...document.querySelectorAll('tbody tr')].map(one => one.innerText)")
    assert len(rows) == 1
    assert "buy ETH" in rows[0]


async def test_a_webhook_from_its_creation_to_its_first_trade(visit: Visit) -> None:
    """A wrong field is kept, a message is built while one types, copied, tried and sent on paper; unsaved changes are asked about."""
    page, bridge = visit.page, visit.bridge
    await visit.goto("/webhooks")
    await page.press("a[href='/webhooks/new']")
    await page.fill("[name=name]", "from-page")
    await page.fill("[name=max_order_size]", "1 BTC")
    await page.fill("[name=allowed_symbols]", "BTC,ETH")
    await page.press("main form button")
    assert "1 field is wrong" in await page.text()
    assert await page.evaluate("document.activeElement.name") == "max_order_size"
    assert await page.evaluate("document.querySelector('[name=allowed_symbols]').value") == "BTC,ETH"
    assert "422" in page.errors.pop()
    await page.fill("[name=max_order_size]", "0.5")
    await page.press("main form button")
    assert await page.text("h1") == "Webhook from-page"
    made = visit.webhook("from-page")
    assert made.settings.limits.max_order_size == Decimal("0.5")

    await page.press("a[href$='kind=indicator']")
    await page.fill("[name=quantity]", "0.02")
    await page.fill("[name=symbol]", "{{ticker}}")
    await page.fill("[name=take_profit]", "2%:50%, 4%:50%")
    await page.evaluate("document.querySelector('[name=quantity]').dispatchEvent(new Event('input', {bubbles: true}))")

    async def is_built() -> bool:
        return '"quantity":"0.02"' in await page.text("#message-text")

    await until(is_built)
    assert "quantity=0.02" in await page.evaluate("location.search")
    await page.call("Emulation.setFocusEmulationEnabled", enabled=True)
    permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    await page.call("Browser.grantPermissions", permissions=permissions, browserContextId=page.context)
    await page.evaluate("document.querySelector('[data-copy=\"#message-text\"]').click()")

    async def is_copied() -> bool:
        return await page.text("[data-copy='#message-text']") == "Copied"

    await until(is_copied)
    message = str(await page.text("#message-text"))
    await visit.check_page(f"/webhooks/{made.id}?kind=indicator&stop_loss=abc", "webhook-alert")

    await visit.goto(f"/webhooks/{made.id}/test")
    await page.fill("[name=message]", message)
    await page.press("main form[action$=test] button")
    assert "It would be accepted: buy 0.02 BTC as a market order" in await page.text("#result")
    await page.press("button[name=send]")
    assert "Sent on paper: HTTP 200" in await page.text("#result")
    await bridge.until_settled()
    assert await bridge.position() == Decimal("0.02")
    for tab in ("test", "activity", "limits", "message", "keys"):
        await visit.check_page(f"/webhooks/{made.id}/{tab}", f"webhook-{tab}")
    await page.be_wide(390, dark=True)
    await visit.goto(f"/webhooks/{made.id}/activity")
    assert "buy BTC" in await page.text()
    await page.picture(artifacts() / "webhook-activity-dark.png")
    await page.be_wide(1280)

    await visit.goto(f"/webhooks/{made.id}/limits")
    leave = "const leaving = new Event('beforeunload', {cancelable: true}); dispatchEvent(leaving);"
    is_asked = f"(() => {{ {leave} return leaving.defaultPrevented; }})()"
    assert await page.evaluate(is_asked) is False
    await page.fill("[name=cooldown]", "5m")
    await page.evaluate("document.querySelector('[name=cooldown]').dispatchEvent(new Event('input', {bubbles: true}))")
    assert await page.evaluate(is_asked) is True
    await page.press("form[action$=limits] button")
    assert "Saved." in await page.text()
    assert visit.webhook("from-page").settings.limits.cooldown_s == 300


async def test_a_webhook_is_changed(visit: Visit) -> None:
    """Every kind of setting, disable and enable, a new key, rename, delete after confirmation."""
    page, hook = visit.page, visit.webhook("main")
    base = f"/webhooks/{hook.id}"
    await visit.goto(f"{base}/limits")
    for name, value in (
        *(("max_order_size", "0.5"), ("max_drawdown", "20%"), ("require_stop_loss", "yes"), ("max_leverage", "")),
        *(("allowed_symbols", "BTC,ETH"), ("rate_per_minute", "7"), ("trading_hours", "Mon-Fri 07:00-22:00 UTC")),
    ):
        await page.fill(f"[name={name}]", value)
    await page.press("form[action$=limits] button")
    limits = visit.webhook("main").settings.limits
    assert (limits.max_order_size, limits.max_drawdown) == (Decimal("0.5"), Decimal("0.2"))
    assert (limits.require_stop_loss, limits.max_leverage) == (True, None)
    assert limits.allowed_symbols == ("PERP_BTC_USDC", "PERP_ETH_USDC")
    assert visit.webhook("main").settings.rates.per_minute == 7
    assert await page.evaluate("document.querySelector('[name=max_drawdown]').value") == "20%"
    await visit.goto(f"{base}/message")
    await page.fill("[name=profile]", "traderspost")
    await page.fill("[name=lock]", "quantity=0.01\nsymbol=BTCUSDT.P")
    await page.press("form[action$=message] button")
    made = visit.webhook("main")
    assert (made.settings.profile, dict(made.settings.locked)) == (
        "traderspost",
        {"quantity": "0.01", "symbol": "BTCUSDT.P"},
    )
    await page.press("a[href$=disable]")
    assert visit.webhook("main").enabled
    await page.press("form[action$=disable] button")
    assert not visit.webhook("main").enabled
    await page.press("form[action$=enable] button")
    assert visit.webhook("main").enabled
    await visit.goto(f"{base}/keys")
    await page.press("form[action$=rotate] button")
    keys = await page.evaluate("document.querySelectorAll('tbody tr').length")
    assert keys == 2
    await page.fill("form[action$=rename] input[name=name]", "renamed")
    await page.press("form[action$=rename] button")
    assert await page.text("h1") == "Webhook renamed"
    await page.press("a[href$=delete]")
    await visit.page.picture(artifacts() / "delete-webhook.png")
    await page.press("form[action$=delete] button")
    assert "renamed" not in await page.text()


async def test_trading_controls(visit: Visit) -> None:
    """Halt and flatten ask for confirmation; each control changes the state, and the overview shows it."""
    page = visit.page
    await visit.bridge.send(action="buy", quantity="0.01")
    await visit.bridge.until_settled()
    await visit.goto("/")
    await page.press("a[href='/confirm/halt']")
    assert visit.trading() is TradingState.RUNNING
    await page.press("form[action='/trading/halt'] button")
    assert visit.trading() is TradingState.HALTED
    assert "halted" in await page.text(".banner")
    await page.press("form[action='/trading/exits-only'] button")
    assert visit.trading() is TradingState.EXITS_ONLY
    await page.press("form[action='/trading/resume'] button")
    assert visit.trading() is TradingState.RUNNING
    await page.press("a[href='/confirm/flatten']")
    assert await visit.bridge.position() != 0
    submit = "(() => { const sent = new Event('submit', {bubbles: true, cancelable: true});"
    submit += " document.querySelector('main form').dispatchEvent(sent); return sent.defaultPrevented; })()"
    assert [await page.evaluate(submit), await page.evaluate(submit)] == [False, True]  # a double click sends once
    await visit.goto("/confirm/flatten")
    await page.press("form[action='/trading/flatten'] button")
    assert await page.text("h1") == "Flat"

    async def is_flat() -> bool:
        return await visit.bridge.position() == 0

    await until(is_flat)
    await visit.page.picture(artifacts() / "flat.png")


async def test_pages_change_in_place(visit: Visit) -> None:
    """An alert, its position, a close and a halt appear without a reload; typed text, focus and an open menu survive; the theme is kept."""
    page, bridge = visit.page, visit.bridge
    await visit.goto("/")
    await page.until("document.querySelector('.dot').textContent === 'live'")
    await page.evaluate("window.isSamePage = true; document.querySelector('.more summary').click()")
    await bridge.send(action="buy", quantity="0.01")
    fields: dict[str, Any] = {
        "orderType": "limit",
        "limitPrice": "90000",
        "reduceOnly": True,
    }  # a halt leaves resting exits
    _, resting = await bridge.send(action="sell", quantity="0.01", **fields)
    await page.until("document.querySelector('#live-alerts tbody')?.rows.length === 2")
    await page.until("document.querySelector('#live-alerts').innerText.includes('filled')")
    await page.until("document.querySelector('#live-positions').innerText.includes('BTC')")
    await page.until("document.querySelector('#live-orders').innerText.includes('90,000')")
    focused = "document.querySelector('#live-orders td.buttons a').focus(), document.activeElement.innerText"
    assert await page.evaluate(focused) == "Cancel…"
    await bridge.set_state(TradingState.HALTED)
    await page.until("document.querySelector('.banner').innerText.includes('halted')")
    await page.until("document.querySelector('#live-controls').innerText.includes('Resume')")
    assert await page.evaluate("document.activeElement.innerText") == "Cancel…"
    assert await page.evaluate("window.isSamePage && document.querySelector('.more').open")
    shown = await page.evaluate(
        "[...document.querySelectorAll('#live-alerts time')].map(one => [one.innerText, one.title])"
    )
    assert all("UTC" not in text and title.endswith(" UTC") for text, title in shown)
    await page.press("#live-orders td.buttons a")
    await page.press("form[action='/orders/cancel'] button.bad")
    assert await page.text("h1") == "Canceled"
    await visit.goto("/positions")
    await page.press("#positions td.buttons a")
    await page.press("form[action='/positions/close'] button.bad")
    assert await page.text("h1") == "Closed"
    await visit.goto("/orders")
    assert await page.evaluate(
        f"document.getElementById('order-{resting['clientOrderId']}').innerText.includes('canceled')"
    )
    await visit.goto("/log")
    await page.evaluate("window.isSamePage = true; document.querySelector('summary').click()")
    await page.evaluate("document.querySelector('details input').focus()")
    await page.fill("details input", "typed")
    await bridge.set_state(TradingState.RUNNING)
    await bridge.send(action="sell", quantity="1", symbol="ETHUSDT.P")
    await page.until("document.querySelector('#log').innerText.includes('sell ETH')")
    assert await page.evaluate("window.isSamePage && document.querySelector('details input').value") == "typed"
    choose = "const one = document.querySelector('[data-theme-choice]'); one.value = 'dark'"
    await page.evaluate(f"{choose}; one.dispatchEvent(new Event('change', {{bubbles: true}}))")
    await visit.goto("/")
    assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 23, 30)"
    rotate_token(bridge.data_dir)
    await page.until("location.pathname === '/login' && document.querySelector('input[name=token]') !== null")
    page.errors.clear()  # the browser reports the refused stream


async def test_a_phone_and_a_browser_without_scripts(visit: Visit) -> None:
    """The menu and the buttons to stop are in the thumb's reach, rows have two lines; without scripts every part works."""
    page, bridge = visit.page, visit.bridge
    await bridge.send(action="buy", quantity="0.01", stopLoss="2%")
    await bridge.until_settled()
    await page.be_wide(390)
    await visit.goto("/orders")
    top, bottom, height = await page.evaluate(
        "(box => [box.top, box.bottom, innerHeight])(document.querySelector('nav').getBoundingClientRect())"
    )
    assert (bottom, top > height - 90) == (height, True)
    lines = await page.evaluate("new Set([...document.querySelector('tbody tr').cells].map(one => one.offsetTop)).size")
    assert lines <= 3  # two lines, whose texts differ in size
    await visit.goto("/")
    sizes = await page.evaluate("[...document.querySelectorAll('.big')].map(one => one.offsetHeight)")
    assert len(sizes) == 2
    assert min(sizes) >= 56
    await page.evaluate("document.querySelector('.more summary').click()")
    assert "Webhooks" in await page.text(".more")
    await page.run_scripts(allowed=False)
    await visit.goto("/")
    assert "UTC" in await page.text("#live-alerts time")
    assert await page.evaluate(
        "document.querySelector('.dot').hidden && document.querySelector('[data-theme-choice]').closest('[hidden]') !== null"
    )
    await page.press(".more li a[href='/risk']")
    assert await page.text("h1") == "Risk"
    await visit.goto("/")
    await page.press("a[href='/confirm/halt']")
    await page.press("form[action='/trading/halt'] button")
    assert visit.trading() is TradingState.HALTED
    assert "halted" in await page.text(".banner")
    await page.run_scripts(allowed=True)


@pytest.mark.skipif(not AXE.exists() and not os.environ.get("CI"), reason="axe-core is not installed: see .ci/run")
async def test_no_page_has_a_serious_barrier(visit: Visit) -> None:
    """Labels, contrast, names and roles, as axe-core judges them, on a wide screen, on a phone and in the dark."""
    bridge, page = visit.bridge, visit.page
    await bridge.send(action="buy", quantity="0.01", stopLoss="2%")
    await bridge.send(action="buy", quantity="0.02", orderType="limit", limitPrice="30000")
    await bridge.send(action="buy", quantity="0.01", symbol="NOPEUSDT.P")
    await bridge.until_settled()
    (order,) = [one for one in await bridge.orders() if one.intent.limit_price is not None]
    alert, hook = order.alert_id, visit.webhook("main").id
    found: dict[str, list[str]] = {}
    for path in (
        *(path for path, _ in (*MENU, *MORE)),
        *(f"/webhooks/{hook}{tab}" for tab in ("", "/activity", "/limits")),
        f"/log/{alert}",
        *("/docs/limits", "/confirm/halt", f"/orders/cancel?order={order.client_order_id}", "/nothing-here"),
    ):
        await page.be_wide(1280)
        await visit.goto(path)
        # Of the rules, these depend on theme and width.
        for width, dark, rules in ((1280, False, ()), (390, True, ("color-contrast", "scrollable-region-focusable"))):
            await page.be_wide(width, dark=dark)
            if barriers := await page.barriers(*rules):
                found[f"{path} at {width}"] = barriers
    page.errors.clear()  # the browser reports the page that does not exist
    await page.press("form[action='/logout'] button")
    found["sign-in"] = await page.barriers()
    assert found == {"sign-in": []}


async def test_the_picture_in_the_readme_is_the_overview(tmp_path: Path, chromium: str) -> None:
    """The README's picture shows the words of the overview page as it is now.

    KEKBRIDGE_DRAW_README=1 draws it again: needed after a change of the overview page.
    """
    clock = Clock.starting_at(TAKEN_AT - timedelta(hours=1))
    risk: dict[str, Any] = {"risk__max_daily_loss": 250, "risk__daily_limit": 25_000, "risk__max_open_positions": 5}
    async with (
        running_paper(tmp_path / "paper", clock=clock, rate_limits=False, balance=Decimal(10_444)) as paper_url,
        running_bridge(tmp_path, paper_url, clock=clock, **risk) as bridge,
        open_page(chromium) as page,
    ):
        await trade_for_an_hour(bridge)
        with bridge.daemon.database.snapshot() as connection:
            url = admin_address(connection)
        await page.be_wide(WIDTH)
        await page.call("Emulation.setTimezoneOverride", timezoneId="UTC")
        await page.goto(str(url))
        await page.fill("input[name=token]", str(read_token(bridge.data_dir)))
        await page.press("main button")
        await page.press("form[action='/checklist/dismiss'] button")
        await page.until("document.querySelector('.dot').textContent === 'live'")
        words = shown_words(await page.text("body"))
        drawn = artifacts() / PICTURE.name
        await page.picture(drawn)
        save(drawn.read_bytes(), words, drawn)
        if os.environ.get("KEKBRIDGE_DRAW_README") == "1":
            PICTURE.write_bytes(drawn.read_bytes())
    assert words == words_of(PICTURE), "draw it again: KEKBRIDGE_DRAW_README=1"
    assert PICTURE.stat().st_size < 150_000
