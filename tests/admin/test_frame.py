"""The frame of the pages: links that survive the sign-in, error pages, files that browsers keep, the size of each page."""

from __future__ import annotations

import json
import re

import pytest
from yarl import URL

from kekbridge.admin.frame import EXPLAINED, MENU, MORE, local_path
from kekbridge.documents import topics
from tests.admin.session import Browser

PAGES = [path for path, _ in (*MENU, *MORE)]


@pytest.mark.parametrize("path", ["/", "/log", "/log?status=filled&text=a%20b", "/positions/close?symbol=X&mode=CROSS"])
def test_a_sign_in_leads_to_pages_of_this_listener(path: str) -> None:
    """With their query."""
    assert local_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            None,
            "log",
            "//evil.example/",
            "/\\evil.example/",
            "https://evil.example/",
            "javascript:alert(1)",
            "\\/x",
        ),
        *("/ log", "/log\r\nSet-Cookie: a=b", "/\t/evil.example", "/l\u00f6g", "/" + "x" * 1000),
        *("/login?next=/log", "/logout", "/sign-in?code=x", "/api/state"),
    ],
)
def test_a_sign_in_leads_nowhere_else(path: str | None) -> None:
    """Not to another site in any spelling that browsers understand, not into a header, not in a circle."""
    assert local_path(path) is None


async def test_a_link_survives_the_sign_in(browser: Browser) -> None:
    """The page that was asked for is shown after the sign-in, also after a wrong token; a form that was sent is not repeated."""
    wanted = "/log?status=filled&text=a%20b"
    login = await browser.location(wanted)
    assert URL(login).query == {"next": wanted}
    assert f'name="next" value="{wanted.replace("&", "&amp;")}"' in await browser.page(login)
    for given, status in (("wrong", 401), (browser.token, 303)):
        sent = {"token": given, "next": wanted}
        async with browser.session.post(f"{browser.url}/login", data=sent, allow_redirects=False) as answer:
            assert answer.status == status
            assert status == 303 or "status=filled" in await answer.text()
    assert answer.headers["Location"] == wanted
    browser.session.cookie_jar.clear()
    assert await browser.location("/") == "/login"
    async with browser.session.post(f"{browser.url}/trading/halt", allow_redirects=False) as answer:
        assert answer.headers["Location"] == "/login"
    sent = {"token": browser.token, "next": "//evil.example"}
    async with browser.session.post(f"{browser.url}/login", data=sent, allow_redirects=False) as answer:
        assert answer.headers["Location"] == "/"


async def test_the_sign_in_page_can_ask_for_the_page(browser: Browser) -> None:
    """A link from elsewhere comes without the cookie: the script of the sign-in page asks again from here, and leaves if that works."""
    for wanted, signed_in in (("/log", False), ("/log", True)):
        if signed_in:
            await browser.log_in()
        async with browser.session.head(f"{browser.url}{wanted}", allow_redirects=False) as answer:
            assert answer.status == (200 if signed_in else 303)
    assert 'data-wanted="/log"' in await browser.page("/login?next=/log")


async def test_error_pages_have_the_menu(browser: Browser) -> None:
    """Unknown pages and alerts are 404, a form's address is 405, a refused form 409 with a link back to its page; the API answers JSON."""
    key = await browser.log_in()
    for path in ("/nothing-here", "/log/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/webhooks/wh_nothing"):
        page = await browser.page(path, 404)
        assert "<h1>Not found</h1>" in page
        assert '<nav aria-label="Pages">' in page
    assert '<nav aria-label="Pages">' in await browser.page("/trading/halt", 405)
    status, page = await browser.post("/webhooks", key=key, name="x" * 70_000)
    assert (status, "64 KiB" in page, '<nav aria-label="Pages">' in page) == (413, True, True)
    headers = {"Referer": f"{browser.url}/positions?from=here"}
    sent = {"key": key, "symbol": "PERP_BTC_USDC", "mode": "no mode"}
    async with browser.session.post(f"{browser.url}/positions/close", data=sent, headers=headers) as answer:
        assert answer.status == 409
        page = await answer.text()
    assert '<nav aria-label="Pages">' in page
    assert 'href="/positions?from=here"' in page
    async with browser.session.get(f"{browser.url}/api/nothing") as answer:
        assert (answer.status, (await answer.json())["code"]) == (404, "not_found")


async def test_every_page_is_small(browser: Browser) -> None:
    """Page, style and script together are under 150 KB, the script under 20 KB, with fifty rows of long errors in the log."""
    for number in range(60):
        await browser.bridge.send(symbol=f"NOPE{number}USDT.P", comment="x" * 200)
    await browser.log_in()
    page = await browser.page("/")
    files = [re.search(rf'(?:href|src)="(/{name}\?v=\w+)"', page) for name in (r"style\.css", r"app\.js")]
    sizes = [len(await browser.page(found[1])) for found in files if found is not None]
    assert len(sizes) == 2
    assert sizes[1] < 20_000
    for path in PAGES:
        assert len(await browser.page(path)) + sum(sizes) < 150_000, path


async def test_files_are_kept_by_browsers_and_need_no_session(browser: Browser) -> None:
    """Style, script and icons have addresses of their content; pages are never stored. The manifest names icons that exist."""
    page = await browser.page("/login")
    async with browser.session.get(f"{browser.url}/login") as answer:
        assert answer.headers["Cache-Control"] == "no-store"
    manifest = json.loads(await browser.page("/manifest.webmanifest"))
    assert (manifest["start_url"], manifest["display"]) == ("/", "standalone")
    icons = [(one["src"], one["type"]) for one in manifest["icons"]]
    found = re.findall(r'(?:href|src)="(/[\w.-]+\?v=\w+)"', page)
    assert len(found) == 4
    for path, kind in [*icons, *((path, None) for path in found)]:
        async with browser.session.get(browser.url + path) as answer:
            assert answer.status == 200
            assert "immutable" in answer.headers["Cache-Control"]
            assert kind in (None, answer.content_type)


async def test_pages_without_a_script_load_themselves_again(browser: Browser) -> None:
    """A live page reloads every 15 s where no script runs; older rows of the log stay as they are."""
    await browser.log_in()
    for path in ("/", "/log", "/orders", "/positions"):
        assert '<noscript><meta http-equiv="refresh" content="15"></noscript>' in await browser.page(path)
    for path in ("/log?before=2026-01-01T00:00:00%2B00:00", "/orders?before=1", "/webhooks"):
        assert "http-equiv" not in await browser.page(path)


async def test_every_page_leads_to_its_document(browser: Browser) -> None:
    """From any page one click leads to what explains it; the documents themselves need no such link."""
    await browser.log_in()
    assert {topic for _, topic, _ in EXPLAINED} <= set(topics())
    for path, topic in (
        ("/", "operations"),
        ("/risk", "limits"),
        ("/webhooks/new", "alerts"),
        ("/log", "answers"),
        ("/jobs", "operations"),
    ):
        assert f'<footer>More about this page: <a href="/docs/{topic}">' in await browser.page(path)
    assert "<footer>" not in await browser.page("/docs/limits")
    assert "<footer>" not in await browser.page("/login")


async def test_every_page_names_the_mode(browser: Browser) -> None:
    """Real money is never taken for practice, whatever page is open."""
    await browser.log_in()
    for path in ("/", "/log", "/webhooks", "/nope"):
        page = await browser.page(path, 404 if path == "/nope" else 200)
        assert '<span class="status paper" title="Mode: paper">paper</span>' in page, path
