"""The pages as a browser draws them, wide and narrow: no page is broken, and nothing is wider than a phone.

Screenshots are kept in KEKBRIDGE_TEST_ARTIFACTS when that names a directory.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path

import aiohttp
import pytest

from kekbridge.admin.access import read_token
from kekbridge.daemon import admin_address
from tests.system.desk import open_desk

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


async def screenshot(page: Path, picture: Path, width: int) -> bytes:
    """Draw a file of HTML; the PNG's bytes."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={picture.with_suffix('')}-profile",
        f"--window-size={width},1000",
        f"--screenshot={picture}",
        page.as_uri(),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(60):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return picture.read_bytes()


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="Chromium is not installed")
async def test_pages_are_drawn(tmp_path: Path) -> None:
    """The overview of a bridge that has traded, at 1280 and 390 pixels: a picture of that width, with more in it than paper."""
    kept = Path(os.environ.get("KEKBRIDGE_TEST_ARTIFACTS") or tmp_path)
    async with (
        open_desk(tmp_path, admin__port=0) as desk,
        aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session,
    ):
        desk.add_webhook("main")
        await desk.send(action="buy", quantity="0.01")
        await desk.settled()
        with desk.daemon.database.snapshot() as connection:
            url = admin_address(connection)
        await session.post(f"{url}/login", data={"token": read_token(desk.data_dir)})
        style = await (await session.get(f"{url}/style.css")).text()
        text = await (await session.get(f"{url}/")).text()
    assert "Last alerts" in text
    page = tmp_path / "overview.html"
    page.write_text(re.sub(r"<link[^>]*>", f"<style>{style}</style>", text), encoding="utf-8")
    for width in (1280, 390):
        picture = await screenshot(page, kept / f"overview-{width}.png", width)
        assert picture[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(picture[16:20]) == width
        assert len(picture) > 10_000
