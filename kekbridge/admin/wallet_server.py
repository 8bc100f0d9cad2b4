"""One page on loopback for one browser: register a key with its wallet before there is a bridge that could serve the pages.

For `kekbridge keys register --browser`. A link with a one-time code opens it; every request is checked like those of the web pages: the
Host header names this machine, the Origin is this listener, a cookie names the session, and changes return its form key.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Final

import htpy as h
from aiohttp import web

from kekbridge.admin.auth import SESSION, Session
from kekbridge.admin.frame import ASSET_PATHS, Frame
from kekbridge.admin.server import add_headers, read_form
from kekbridge.admin.wallet_registration import WALLET_PATH, WalletRegistration
from kekbridge.connections.hosts import is_foreign_origin, is_our_name
from kekbridge.errors import KekbridgeError, Unreadable
from kekbridge.model import Mode
from kekbridge.ops.operation import Operation

# Cookies are shared by all ports of a host: not the name of the web pages' own.
_COOKIE: Final = "kekbridge-wallet"
_LIFE: Final = timedelta(hours=1)
_MOST_BYTES: Final = 64 * 1024
_STOP_S: Final = 2.0
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WalletServer:
    """Call `start`, show the link, wait for `registered`, then `close`."""

    def __init__(
        self, run: Callable[[Operation], Awaitable[Any]], mode: Mode, broker_id: str, *, clock: Callable[[], datetime]
    ) -> None:
        """`run` runs operations of this mode."""
        self._mode, self._broker_id, self._clock = mode, broker_id, clock
        self._code: str | None = secrets.token_urlsafe(24)
        self._cookie = secrets.token_urlsafe(32)
        self._session = Session(secrets.token_urlsafe(32), clock() + _LIFE)
        self._done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._frame = Frame(mode)
        self._registration = WalletRegistration(
            run, self._venue, self._next_steps, clock=clock, link=None, on_registered=self._finish
        )
        app = web.Application(middlewares=[self._guard], client_max_size=_MOST_BYTES)
        app.on_response_prepare.append(add_headers)
        app.router.add_get("/", self._show)
        self._frame.register(app.router)
        self._registration.register(app.router)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_STOP_S)

    async def start(self, port: int) -> str:
        """Listen on a port of 127.0.0.1, or on any if it is taken; return the link that opens the page once."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", port).start()
        except OSError:
            await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/?code={self._code}"

    async def registered(self) -> dict[str, Any]:
        """Wait until a key is registered; return the result of `keys-register`."""
        return await self._done

    async def close(self) -> None:
        """Stop serving; the last answer gets 2 s."""
        await self._runner.cleanup()

    def _finish(self, done: dict[str, Any]) -> None:
        if not self._done.done():
            self._done.set_result(done)

    async def _venue(self) -> tuple[Mode, str, str]:
        return self._mode, "", self._broker_id

    async def _next_steps(self, mode: Mode, account_id: str) -> list[str]:
        return ["The command in your terminal has finished and says what to do next. This page can be closed."]

    async def _show(self, request: web.Request) -> web.Response:
        return self._frame.page(
            None, "Register a key", self._registration.section(request, self._mode, self._broker_id)
        )

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            return await self._authorize(request, handler)
        except web.HTTPNotFound:
            return self._refuse(request, 404, "there is no such page")
        except Unreadable as error:
            return self._refuse(request, 400, error.message)
        except KekbridgeError as error:
            return self._refuse(request, 409, error.message)

    def _refuse(self, request: web.Request, status: int, message: str) -> web.Response:
        if request.path.startswith(WALLET_PATH):
            return web.json_response({"success": False, "error": message}, status=status)
        return self._frame.page(None, "Not opened", h.p(class_="problem", role="alert")[message], status=status)

    async def _authorize(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if not is_our_name(request.headers.get("Host", "")):
            return self._refuse(request, 421, "use http://127.0.0.1 or http://localhost with this listener's port")
        if is_foreign_origin(request.headers.get("Origin"), request.headers.get("Host", "")):
            return self._refuse(request, 403, "this request comes from another page")
        if request.path in ASSET_PATHS:
            return await handler(request)
        code = request.query.get("code", "")
        if self._code is not None and _is_same(code, self._code):
            self._code = None
            response = web.HTTPSeeOther("/")
            response.set_cookie(_COOKIE, self._cookie, httponly=True, samesite="Strict", path="/")
            raise response
        if not _is_same(request.cookies.get(_COOKIE, ""), self._cookie) or self._session.ends_at <= self._clock():
            return self._refuse(
                request,
                401,
                "open the link that the command printed: it works once, for one hour; or run the command again",
            )
        request[SESSION] = self._session
        if request.method != "GET":
            await read_form(request)
        if request.method != "GET" and not _is_same(str((await request.post()).get("key", "")), self._session.form_key):
            return self._refuse(request, 403, "this form has expired; reload the page")
        return await handler(request)


def _is_same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())
