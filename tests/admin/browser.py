"""Headless Chromium for tests, one for all of a test process, driven over the DevTools protocol; collects its errors."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.paths import ROOT
from tests.waiting import until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    *("--remote-debugging-port=0", "--remote-debugging-address=127.0.0.1", "about:blank"),
)
#: Installed by .ci/run; elsewhere: `npm ci --prefix .ci --ignore-scripts`.
AXE = ROOT / ".ci" / "node_modules" / "axe-core" / "axe.min.js"
_WAIT_S = 60.0


@dataclass
class Page:
    """One tab. `errors` are those of the console, the network and the content security policy."""

    socket: aiohttp.ClientWebSocketResponse
    #: The browser's name for the tab's cookies, storage and permissions, which no other tab has.
    context: str = ""
    errors: list[str] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _answers: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _loaded: asyncio.Event = field(default_factory=asyncio.Event)
    _functions: dict[str, Callable[[str], Awaitable[None]]] = field(default_factory=dict)
    _tasks: set[asyncio.Future[None]] = field(default_factory=set)

    async def listen(self) -> None:
        """Read messages until cancelled: resolve pending calls, record page loads and errors."""
        async for message in self.socket:
            received = json.loads(message.data)
            if "id" in received:
                self._answers.pop(received["id"]).set_result(received)
            elif received["method"] == "Page.loadEventFired":
                self._loaded.set()
            elif received["method"] == "Log.entryAdded" and received["params"]["entry"]["level"] in (
                "error",
                "warning",
            ):
                entry = received["params"]["entry"]
                self.errors.append(f"{entry['text']} {entry.get('url', '')}")
            elif received["method"] == "Runtime.bindingCalled":
                call = self._functions[received["params"]["name"]](received["params"]["payload"])
                self._tasks.add(task := asyncio.ensure_future(call))  # it may call the page itself
                task.add_done_callback(self._tasks.discard)
            elif received["method"] == "Runtime.exceptionThrown":
                self.errors.append(str(received["params"]))

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol and its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(_WAIT_S):
            received = await answer
        assert "error" not in received, f"{method}: {received}"
        found: dict[str, Any] = received["result"]
        return found

    async def goto(self, url: str) -> None:
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        await self._wait()

    async def press(self, selector: str) -> None:
        """Click what leads to another page: a link, or a form's button."""
        self._loaded.clear()
        await self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")
        await self._wait()

    async def fill(self, selector: str, text: str) -> None:
        await self.evaluate(f"document.querySelector({json.dumps(selector)}).value = {json.dumps(text)}")

    async def text(self, selector: str = "main") -> str:
        """What a person reads there."""
        return str(await self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def evaluate(self, expression: str) -> Any:
        """The value (of the promise) of a script in the page, run by the debugger: the page's own policy allows none."""
        received = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in received, f"{expression}: {received['exceptionDetails']}"
        return received["result"].get("value")

    async def be_wide(self, width: int, *, dark: bool = False) -> None:
        """Be a screen of so many pixels, below 600 a phone."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=scheme)

    async def expose(self, name: str, function: Callable[[str], Awaitable[None]]) -> None:
        """Let scripts of every document call a function of the test with a text."""
        self._functions[name] = function
        await self.call("Runtime.addBinding", name=name)

    async def until_text(self, selector: str, part: str) -> str:
        """Wait until a person reads `part` there; return the whole text."""

        async def is_there() -> bool:
            return part in await self.text(selector)

        await until(is_there)
        return await self.text(selector)

    async def run_scripts(self, *, allowed: bool) -> None:
        """Allow or forbid the page's own scripts, from the next page on."""
        await self.call("Emulation.setScriptExecutionDisabled", value=not allowed)

    async def until(self, expression: str) -> None:
        """Wait until a script's value is true."""
        await until(lambda: self._is_true(expression))

    async def _is_true(self, expression: str) -> bool:
        return bool(await self.evaluate(expression))

    async def barriers(self, *rules: str) -> list[str]:
        """Serious and critical barriers for people with disabilities, as axe-core finds them: rule and element. No `rules`: all."""
        if not await self.evaluate("'axe' in window"):
            await self.evaluate(AXE.read_text(encoding="utf-8"))
        options = json.dumps({"resultTypes": ["violations"], **({"runOnly": rules} if rules else {})})
        found = await self.evaluate(f"axe.run({options}).then(result => result.violations)")
        return [
            f"{one['id']}: {node['html'][:120]}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    async def overflow(self) -> int:
        """By how many pixels the page is wider than the screen."""
        return int(await self.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    async def cut_tables(self) -> list[str]:
        """The beginning of every table that hides a part of its columns, but for slim ones, which are scrolled."""
        tables = "[...document.querySelectorAll('.wide:not([tabindex])')]"
        cut = f"{tables}.filter(one => one.innerText && one.scrollWidth > one.clientWidth).map(one => one.innerText.slice(0, 80))"
        return list(await self.evaluate(cut))

    async def picture(self, file: Path) -> None:
        """The whole page as a PNG or a WebP file by the name's ending."""
        size = (await self.call("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 6000), "scale": 1}
        kind = (
            {"format": "webp", "quality": 90} if file.suffix == ".webp" else {"format": "png", "optimizeForSpeed": True}
        )
        received = await self.call("Page.captureScreenshot", **kind, captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(received["data"]))

    async def _wait(self) -> None:
        async with asyncio.timeout(_WAIT_S):
            await self._loaded.wait()


@contextmanager
def running_chromium() -> Iterator[str]:
    """Run a browser; yields the address of its DevTools. Its profile goes with it."""
    assert CHROMIUM is not None
    profile = Path(tempfile.mkdtemp(prefix="kekbridge-chromium-"))
    process = subprocess.Popen(
        [CHROMIUM, f"--user-data-dir={profile}", *FLAGS], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{_port(profile, process)}"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(profile, ignore_errors=True)


@asynccontextmanager
async def open_page(chromium: str) -> AsyncIterator[Page]:
    """A tab that knows nothing of others, in the browser with this address."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{chromium}/json/version") as answer:
            address = (await answer.json())["webSocketDebuggerUrl"]
        async with _listening(session, address) as browser:
            context = (await browser.call("Target.createBrowserContext"))["browserContextId"]
            tab = await browser.call("Target.createTarget", url="about:blank", browserContextId=context)
            async with _listening(session, f"{chromium}/devtools/page/{tab['targetId']}", context) as page:
                for domain in ("Page", "Log", "Runtime"):
                    await page.call(f"{domain}.enable")
                yield page
            await browser.call("Target.disposeBrowserContext", browserContextId=context)


@asynccontextmanager
async def _listening(session: aiohttp.ClientSession, address: str, context: str = "") -> AsyncIterator[Page]:
    async with session.ws_connect(address, max_msg_size=0) as socket:
        page = Page(socket, context)
        listening = asyncio.create_task(page.listen())
        try:
            yield page
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening


def _port(profile: Path, process: subprocess.Popen[bytes]) -> int:
    """Where the browser listens, once it says so."""
    said = profile / "DevToolsActivePort"
    end = time.monotonic() + _WAIT_S
    while not (said.exists() and said.read_text().strip()):
        assert process.poll() is None, "Chromium ended at its start"
        assert time.monotonic() < end, "Chromium did not start"
        time.sleep(0.05)
    return int(said.read_text().split()[0])
