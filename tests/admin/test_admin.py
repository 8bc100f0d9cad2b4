"""The admin listener of a running bridge: authentication, the API, the pages and the trading controls."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import timedelta
from decimal import Decimal
from html import escape

import pytest

from kekbridge.admin.auth import check_loopback
from kekbridge.errors import ConfigError
from kekbridge.model import Limits, TradingState
from kekbridge.ops.web_token import TOKEN_FILE, MakeSignInLink, new_sign_in_code, rotate_token
from kekbridge.reports import alert_report
from kekbridge.store import conditions, job_runs
from tests.admin.session import Browser
from tests.bridge import BTC
from tests.waiting import until


async def test_every_page_needs_the_token(browser: Browser) -> None:
    """No page, state or metric without the token; a wrong token opens no session; only the owner can read the token file."""
    assert await browser.page("/api/state", 401)
    assert await browser.page("/metrics", 401)
    async with browser.session.get(browser.url + "/", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/login")
    assert (await browser.post("/login", token="wrong"))[0] == 401
    assert (browser.bridge.data_dir / TOKEN_FILE).stat().st_mode & 0o777 == 0o600


async def test_a_sign_in_link_works_once_for_ten_minutes(browser: Browser) -> None:
    """As `serve` and `web link` print it; without the token in it. A used, changed, old or foreign code signs nobody in."""
    now = browser.bridge.clock()

    async def sign_in(code: str) -> int:
        async with browser.session.get(
            f"{browser.url}/sign-in", params={"code": code}, allow_redirects=False
        ) as answer:
            return answer.status

    code = new_sign_in_code(browser.token, now)
    assert browser.token not in code
    wrong = [
        "",
        "x.y.z",
        code[:-1] + ("A" if code[-1] != "A" else "B"),
        new_sign_in_code("another token", now),
        new_sign_in_code(browser.token, now - timedelta(minutes=11)),
        new_sign_in_code(browser.token, now - timedelta(minutes=9)),  # from before this process
        new_sign_in_code(browser.token, now + timedelta(minutes=1)),
    ]
    assert [await sign_in(one) for one in wrong] == [401] * len(wrong)
    await browser.page("/login")
    assert await sign_in(code) == 303
    assert "log out" in (await browser.page("/")).lower()
    assert await sign_in(code) == 401
    link = (await browser.bridge.daemon.operations.run(MakeSignInLink()))["url"]
    assert link.startswith(f"{browser.url}/sign-in?code=")
    assert await sign_in(link.partition("code=")[2]) == 303


async def test_a_new_token_ends_every_session(browser: Browser) -> None:
    """After `web token --rotate` the old token and every cookie are refused at once; the new token signs in."""
    await browser.log_in()
    assert await browser.page("/", 200)
    replaced = rotate_token(browser.bridge.data_dir)
    async with browser.session.get(browser.url + "/", allow_redirects=False) as page:
        assert (page.status, page.headers["Location"]) == (303, "/login")
    assert (await browser.post("/login", token=browser.token))[0] == 401
    assert (await browser.post("/login", token=replaced))[0] == 303
    assert (browser.bridge.data_dir / TOKEN_FILE).stat().st_mode & 0o777 == 0o600


async def test_foreign_hosts_and_origins_are_refused(browser: Browser) -> None:
    """A foreign Host (DNS rebinding) and a foreign Origin are refused even with the token; pages allow no script and no frame."""
    proof = {"Authorization": f"Bearer {browser.token}"}
    for headers, status in (({"Host": "evil.example:80"}, 421), ({"Origin": "http://evil.example"}, 403), ({}, 200)):
        async with browser.session.get(browser.url + "/api/state", headers=proof | headers) as answer:
            assert answer.status == status
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


async def test_a_form_that_cannot_be_read_is_a_400(browser: Browser) -> None:
    """Before and after signing in: one sentence, no traceback in the log, never a 5xx."""

    async def send(path: str, body: bytes, kind: str = "application/x-www-form-urlencoded") -> int:
        async with browser.session.post(browser.url + path, data=body, headers={"Content-Type": kind}) as answer:
            text = await answer.text()
            assert ("send it as a browser does" in text) == (answer.status == 400), text
            return answer.status

    boundless, multipart = "multipart/form-data", "multipart/form-data; boundary=x"
    part = b"--x\r\nContent-Disposition: form-data%s\r\n\r\nabc\r\n--x--\r\n"
    for path in ("/login", "/keys/wallet/prepare", "/trading/halt"):
        assert await send(path, b"token=\xff") == 400
        assert await send(path, b"token=x", "application/x-www-form-urlencoded; charset=foo") == 400
        assert await send(path, b"token=x", boundless) == 400
        assert await send(path, b"--x\r\n\r\nabc", multipart) == 400
        assert await send(path, part % b"", multipart) == 400
        assert await send(path, part % b'; name="key"\r\nContent-Type: text/plain; charset=foo', multipart) == 400
        await browser.log_in()


async def test_changes_need_the_form_key(browser: Browser) -> None:
    """GET of a trading control does nothing, and a form without the session's form key is refused."""
    await browser.log_in()
    async with browser.session.get(browser.url + "/trading/halt") as answer:
        assert answer.status == 405
    assert (await browser.post("/trading/halt"))[0] == 403
    assert (await browser.post("/trading/halt", key="guess"))[0] == 403
    assert browser.state() is TradingState.RUNNING


async def test_trading_controls(browser: Browser) -> None:
    """Halt, exits only and resume by form; exits only by the API of the terminal dashboard; flatten closes the position."""
    key = await browser.log_in()
    await browser.post("/trading/halt", key=key)
    assert browser.state() is TradingState.HALTED
    await browser.post("/trading/resume", key=key)
    assert browser.state() is TradingState.RUNNING
    proof = {"Authorization": f"Bearer {browser.token}"}
    async with browser.session.post(
        browser.url + "/api/trading", json={"state": "exits_only"}, headers=proof
    ) as answer:
        assert (answer.status, (await answer.json())["state"]) == (200, "exits_only")
    await browser.post("/trading/resume", key=key)
    await browser.post("/trading/halt", key=key, reason="lunch")
    assert "lunch" in await browser.page("/")
    await browser.post("/trading/reset-peak", key=key)
    assert browser.state() is TradingState.RUNNING
    await browser.bridge.send(action="buy", quantity="0.01")
    await browser.bridge.until_settled()
    status, text = await browser.post("/trading/flatten", key=key)
    assert status == 200
    assert "<h1>Flat</h1>" in text
    assert await browser.bridge.position() == 0
    assert browser.state() is TradingState.HALTED


async def test_the_log_is_searched_by_any_spelling_of_a_market(browser: Browser) -> None:
    """The chart's ticker is that of the alerts; a market that does not exist is named, with the nearest one."""
    await browser.log_in()
    await browser.bridge.send(quantity="0.02")
    await browser.bridge.until_settled()
    for text in ("BTC", "BTCUSDT.P"):
        assert "No alerts" not in await browser.page(f"/log?symbol={text}"), text
    assert "did you mean ETH?" in await browser.page("/log?symbol=eht", status=404)


async def test_a_position_is_closed_and_an_order_canceled_by_form(browser: Browser) -> None:
    """Asked first; a part, then the rest of the cross position, the isolated one stays. An order by its button; wrong input is one line."""
    key, bridge = await browser.log_in(), browser.bridge
    await bridge.set_isolated(BTC, "-0.3")
    await bridge.send(quantity="0.2")
    _, resting = await bridge.send(orderType="limit", limitPrice="60000")
    link = f"/positions/close?symbol={BTC}&amp;mode=CROSS"
    assert link in await browser.page("/positions")
    asked = await browser.page(link.replace("&amp;", "&"))
    assert "Close the cross BTC position" in asked
    assert "Long 0.2 BTC, entry 65," in asked
    named = {"key": key, "symbol": BTC, "mode": "CROSS"}
    status, text = await browser.post("/positions/close", **named, quantity="0.05")
    assert (status, "<h1>Closed</h1>" in text, "cross 0.15" in text) == (200, True, True)
    assert (await browser.post("/positions/close", **named, quantity="1,5"))[0] == 409
    assert (await browser.post("/positions/close", **{**named, "key": "guess"}))[0] == 403
    status, text = await browser.post("/positions/close", **named, quantity="")
    assert "Open in BTC now: isolated -0.3." in text
    assert (await bridge.positions(), await bridge.isolated_positions()) == ({}, {BTC: Decimal("-0.3")})
    assert resting["clientOrderId"] in await browser.page("/orders")
    link = f"/orders/cancel?order={resting['clientOrderId']}"
    assert link in await browser.page("/orders")
    assert "Cancel the limit order: buy 0.01 BTC at 60,000?" in await browser.page(link)
    status, text = await browser.post("/orders/cancel", key=key, order=resting["clientOrderId"])
    assert (status, "<h1>Canceled</h1>" in text) == (200, True)
    assert await bridge.daemon.exchange.open_orders() == ()
    assert link not in await browser.page("/orders")


async def test_a_form_that_moves_money_is_done_once(browser: Browser) -> None:
    """However often it is sent: by a double click, "back", or loading the result again. An old one, or with other entries: nothing."""
    key, bridge = await browser.log_in(), browser.bridge
    await bridge.send(quantity="0.2")
    await bridge.until_settled()

    async def opened(path: str) -> dict[str, str]:
        found = re.search(r'name="once" value="([^"]+)"', await browser.page(path))
        assert found is not None
        return {"key": key, "once": found[1]}

    page = f"/positions/close?symbol={BTC}&mode=CROSS"
    form = await opened(page) | {"symbol": BTC, "mode": "CROSS", "quantity": "0.05"}
    answers = [*await asyncio.gather(*(browser.post("/positions/close", **form) for _ in range(3)))]
    answers.append(await browser.post("/positions/close", **form))
    assert all(status == 200 and "cross 0.15" in text for status, text in answers)
    assert sum("was sent before" in text for _, text in answers) == 3
    assert await bridge.position() == Decimal("0.15")
    status, text = await browser.post("/positions/close", **form | {"quantity": "0.1"})
    assert (status, "sent before with other entries" in text) == (409, True)
    await browser.post("/positions/close", **form | await opened(page))
    assert await bridge.position() == Decimal("0.10")

    form = await opened("/confirm/flatten")
    assert "<h1>Flat</h1>" in (await browser.post("/trading/flatten", **form))[1]
    await browser.post("/trading/resume", key=key)
    await bridge.send(quantity="0.2", alertId="later")
    await bridge.until_settled()
    assert "was sent before" in (await browser.post("/trading/flatten", **form))[1]
    assert await bridge.position() == Decimal("0.2")
    for wrong in ("1.old", "x.y", "²³.y"):
        assert (await browser.post("/trading/flatten", key=key, once=wrong))[0] == 409
    assert await bridge.position() == Decimal("0.2")


async def test_pages_show_alerts_and_orders(browser: Browser) -> None:
    """Every page renders; an alert's page has every section of its report; text from outside is never markup."""
    await browser.bridge.send(action="buy", quantity="0.01", alertId="<script>alert(1)</script>")
    await browser.bridge.until_settled()
    await browser.log_in()
    for path in ("/", "/log", "/orders", "/positions", "/stats", "/stats?days=all", "/risk", "/webhooks"):
        assert "<script>" not in await browser.page(path)
    found = re.search(r'href="(/log/\w{26})"', await browser.page("/log"))
    assert found is not None
    report = await browser.page(found[1])
    assert "&lt;script&gt;" in report
    assert "<script>" not in report
    with browser.bridge.daemon.database.snapshot() as connection:
        sections = alert_report.read(connection, found[1].removeprefix("/log/")).sections(browser.bridge.clock())
        assert all(escape(section.title) in report for section in sections if section.kind != "stages")
    assert "<h2>Stages</h2>" in report
    assert "BTC" in await browser.page("/positions")


async def test_metrics_and_state_agree_with_the_exchange(browser: Browser) -> None:
    """Position, counts and status match what was traded."""
    await browser.bridge.send(action="buy", quantity="0.01")
    await browser.bridge.until_settled()
    proof = {"Authorization": f"Bearer {browser.token}"}
    async with browser.session.get(browser.url + "/metrics", headers=proof) as answer:
        page = await answer.text()
    assert "kekbridge_orders_filled_total 1.0" in page
    assert 'kekbridge_alerts{outcome="done"} 1.0' in page
    assert 'kekbridge_position{symbol="PERP_BTC_USDC"} 0.01' in page
    assert "kekbridge_incomplete_orders 0.0" in page
    assert 'kekbridge_records_complete_until_seconds{kind="trades"}' in page
    async with browser.session.get(browser.url + "/api/state", headers=proof) as answer:
        state = await answer.json()
    assert state["account"]["positions"][0]["quantity"] == "0.01"
    assert state["lastAlerts"][0]["status"] == "filled"


async def test_conditions_and_job_failures_are_shown(browser: Browser) -> None:
    """A condition in force is on the overview, as text, and in the metrics until it ends; so are failures of a job."""
    await browser.log_in()
    database, now = browser.bridge.daemon.database, browser.bridge.clock()
    data = {"webhook": "<b>x</b>", "lasting": "2 h", "every": "1 h"}
    await database.write(conditions.begin, "heartbeat:x", "heartbeat_missed", now=now, data=data)
    await database.write(job_runs.record_run, "backup", error="disk full", took_ms=1, next_at=None, now=now)
    proof = {"Authorization": f"Bearer {browser.token}"}

    async def metrics() -> str:
        async with browser.session.get(browser.url + "/metrics", headers=proof) as answer:
            return await answer.text()

    assert "&lt;b&gt;x&lt;/b&gt;: no alert for 2 h" in await browser.page("/")
    assert 'kekbridge_condition{event="heartbeat_missed"} 1.0' in await metrics()
    assert 'kekbridge_job_failures{job="backup"} 1.0' in await metrics()
    assert 'kekbridge_job_failed_total{job="backup"} 1.0' in await metrics()
    await browser.bridge.fault("lose_stop", count=1)
    await browser.bridge.fault("refuse", algo_type="STOP", code=-1101)
    await browser.bridge.send(stopLoss="2%", quantity="0.02")

    async def is_unprotected() -> bool:
        return 'kekbridge_condition{event="protection_wanted"} 1.0' in await metrics()

    await until(is_unprotected)
    assert "0.02 of 0.02 without a stop" in await browser.page("/")
    await database.write(conditions.end, "heartbeat:x", "heartbeat_back", now=now)
    assert "no alert for" not in await browser.page("/")
    assert 'kekbridge_condition{event="heartbeat_missed"}' not in await metrics()


def test_only_loopback_is_allowed() -> None:
    """As listening address; for Host headers see tests/connections/test_hosts.py."""
    check_loopback("127.0.0.1")
    with pytest.raises(ConfigError, match="SSH tunnel"):
        check_loopback("0.0.0.0")  # noqa: S104
    check_loopback("0.0.0.0", in_container=True)  # noqa: S104


async def test_scraping_does_not_change_the_counts(browser: Browser) -> None:
    """Each stage of each alert is counted once, also if it filled before the first scrape; a second scrape adds nothing."""
    proof = {"Authorization": f"Bearer {browser.token}"}

    async def counts() -> dict[str, str]:
        async with browser.session.get(browser.url + "/metrics", headers=proof) as answer:
            return dict(re.findall(r'kekbridge_stage_seconds_count\{stage="(\w+)"\} ([\d.]+)', await answer.text()))

    await browser.bridge.send(action="buy", quantity="0.01")
    ping = json.dumps(browser.bridge.message(action="ping", symbol=None, alertId="twice")).encode()
    await browser.bridge.post(ping)
    await browser.bridge.post(ping)
    await browser.bridge.until_settled()
    once = {"admitted": "1.0", "signed": "1.0", "accepted": "1.0", "filled": "1.0"}
    expected = {"received": "2.0", "stored": "2.0", "answered": "2.0"} | once
    assert await counts() == expected
    assert await counts() == expected


async def test_entries_of_a_closed_webhook_are_resumed(browser: Browser) -> None:
    """The risk page names the webhook that a limit closed and the reason, and resumes only that webhook."""
    browser.bridge.add_webhook("tight", limits=Limits(daily_limit=Decimal(1000)))
    for _ in range(2):
        await browser.bridge.send(webhook="tight", action="buy", quantity="0.01")
    await browser.bridge.until_settled()
    key = await browser.log_in()
    page = await browser.page("/risk")
    assert "daily limit of 1,000.00 USDC used up" in page
    assert page.count("Resume entries") == 1
    await browser.post("/trading/resume", key=key, webhook="tight")
    assert "Resume entries" not in await browser.page("/risk")


async def test_pnl_follows_the_mark_price(browser: Browser) -> None:
    """The overview's P&L is that of the positions shown beside it, at the current mark price."""
    await browser.bridge.send(action="buy", quantity="0.01")
    await browser.bridge.until_settled()
    await browser.log_in()
    await browser.bridge.control("prices", {"PERP_BTC_USDC": "66000"})

    async def is_shown() -> bool:
        await browser.bridge.daemon.exchange.refresh()
        return (await browser.page("/")).count("+10.00") == 2

    await until(is_shown)
