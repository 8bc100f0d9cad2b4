"""The documents in the browser: index, pages, downloads, for sessions and tokens only."""

from __future__ import annotations

import re
from pathlib import Path

from yarl import URL

import kekbridge
from kekbridge.documents import documents, topics
from tests.admin.session import Browser

DIRECTORY = Path(kekbridge.__file__).parent / "docs"


async def test_documents_are_read_in_the_browser(browser: Browser) -> None:
    """After the sign-in: the index links every document, each is a page with its title; an unknown one is 404 with the nearest."""
    assert URL(await browser.location("/docs/limits")).query == {"next": "/docs/limits"}
    await browser.log_in()
    index = await browser.page("/docs")
    assert set(re.findall(r'href="/docs/([^"]*)"', index)) == set(topics())
    assert '<a href="/docs" aria-current="page">' in index
    for one in documents():
        page = await browser.page(f"/docs/{one.name}")
        assert f"<h1>{one.title}</h1>" in page
        assert page.count("<h1") == 1
    assert '<a href="#templates">Templates</a>' in await browser.page("/docs/alerts")
    assert "did you mean limits?" in await browser.page("/docs/limit", 404)
    for path in ("/docs/..%2F..%2Fpyproject.toml", "/docs/../config.py", "/docs/%2Fetc%2Fpasswd", "/docs/internals"):
        await browser.page(path, 404)


async def test_files_beside_the_documents_are_served(browser: Browser) -> None:
    """What programs read is downloaded, byte by byte; pictures are shown where documents show them."""
    await browser.log_in()
    assert 'href="/docs/api.yaml"' in await browser.page("/docs/api")
    assert 'href="/docs/config.example.toml"' in await browser.page("/docs/config.example")
    shown = {path.name for path in DIRECTORY.iterdir() if path.suffix in (".png", ".webp", ".svg")}
    for name in ("api.yaml", "config.example.toml", *shown):
        async with browser.session.get(f"{browser.url}/docs/{name}") as answer:
            assert answer.status == 200
            file = DIRECTORY / name
            assert not file.exists() or await answer.read() == file.read_bytes()
            assert ("Content-Disposition" in answer.headers) == (name not in shown)
            assert (answer.content_type.startswith("image/")) == (name in shown)
