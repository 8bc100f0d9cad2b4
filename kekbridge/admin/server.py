"""Admin HTTP server on loopback: JSON API, metrics and web pages.

Every request is checked first, in this order: the Host header names this machine, a browser's Origin is this listener, and a bearer
token or a session cookie authenticates it. GET changes nothing; a form must return its session's form key, and a request of a page's
script must name that page as its Origin.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from aiohttp import web

from kekbridge.admin.api import Api
from kekbridge.admin.auth import COOKIE, SESSION, SINCE, Session, Sessions
from kekbridge.admin.events import EventStreams
from kekbridge.admin.frame import ASSET_PATHS, Frame, local_path, login_path
from kekbridge.admin.json_requests import answer_errors, error_response, is_api
from kekbridge.admin.pages import Pages
from kekbridge.admin.service import AdminService
from kekbridge.admin.wallet_registration import WALLET_PATH
from kekbridge.connections.hosts import is_foreign_origin, is_our_name
from kekbridge.connections.server import AppServer
from kekbridge.errors import KekbridgeError, NotFound, StoreUnavailable, Unreadable
from kekbridge.execution.latency import LatencyHistograms
from kekbridge.log import get_logger
from kekbridge.ops.web_token import SIGN_IN_PATH, SignInCodes, WebToken
from kekbridge.store import journal

log = get_logger("kekbridge.admin")

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self';"
    " manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": browsers then send forms with `Origin: null`, as a foreign page would.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_PUBLIC_PATHS: Final = frozenset({"/login", SIGN_IN_PATH}) | ASSET_PATHS
_MOST_BYTES: Final = 64 * 1024
_MOST_CONNECTIONS: Final = 64
_IDLE_S: Final = 75.0
_BODY_S: Final = 5.0
_STOP_S: Final = 1.0
_CODES: Final = {401: "unauthorized", 403: "forbidden", 421: "wrong_host"}


class AdminServer:
    """The server of one daemon. Call `start` once, then `close`."""

    def __init__(
        self, service: AdminService, token: WebToken, durations: LatencyHistograms, codes: SignInCodes
    ) -> None:
        self._service = service
        self._sessions = Sessions(token)
        self._codes = codes
        self._durations = durations
        app = web.Application(middlewares=[self._guard], client_max_size=_MOST_BYTES)
        app.on_response_prepare.append(add_headers)
        app.router.add_get("/api/events", self._events)
        app.router.add_get("/metrics", self._show_metrics)
        app.router.add_get("/login", self._login_page)
        app.router.add_post("/login", self._login)
        app.router.add_get(SIGN_IN_PATH, self._sign_in)
        app.router.add_post("/logout", self._logout)
        Api(service).register(app.router)
        self._frame = Frame(service.settings.mode)
        self._frame.register(app.router)
        Pages(service, self._frame.page).register(app.router)
        self._streams = EventStreams(service.database, service.live_state)
        self._server = AppServer(
            app,
            most_connections=_MOST_CONNECTIONS,
            keepalive_timeout=_IDLE_S,
            lingering_time=_BODY_S,
            body_timeout_s=_BODY_S,
            name="web pages",
        )

    async def start(self, listening: socket.socket) -> None:
        """Serve connections of this listening socket (see lazy_server.py)."""
        await self._server.start([listening])

    async def close(self) -> None:
        """Stop serving: event streams end at once, other open requests get 1 s to finish."""
        self._streams.close()
        await self._server.close(longest_s=_STOP_S)

    # ------------------------------------------------------------------------------------------------------- guards

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if is_api(request):
            return await answer_errors(request, self._authorize, handler)
        try:
            return await self._authorize(request, handler)
        except web.HTTPNotFound:
            return self._error(request, 404, "there is no such page")
        except web.HTTPMethodNotAllowed:
            return self._error(request, 405, "this is the address of a form; begin at its page")
        except web.HTTPRequestEntityTooLarge:
            return self._error(
                request, 413, f"found a form of more than {_MOST_BYTES // 1024} KiB; shorten what is entered"
            )
        except NotFound as error:
            return self._error(request, 404, error.message)
        except Unreadable as error:
            return self._error(request, 400, error.message)
        except KekbridgeError as error:
            return self._error(request, 409, error.message)
        except web.HTTPException:
            raise
        except Exception:
            log.exception("page_failed", path=request.path)
            text = "the bridge failed on this request, which may have taken effect; its log has the details"
            return self._error(request, 422, text)

    async def _authorize(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if not is_our_name(request.headers.get("Host", "")):
            return self._error(request, 421, "use http://127.0.0.1 or http://localhost with this listener's port")
        if is_foreign_origin(request.headers.get("Origin"), request.headers.get("Host", "")):
            return self._error(request, 403, "this request comes from another page")
        if request.path in _PUBLIC_PATHS:
            await read_form(request)
            return await handler(request)
        if self._has_token(request):
            if not is_api(request):
                await read_form(request)
            return await self._handle(request, handler)
        session = self._sessions.find(request.cookies.get(COOKIE), self._service.clock())
        if session is None:
            if is_api(request) or request.path.startswith(WALLET_PATH):
                text = "send the token: Authorization: Bearer …; `kekbridge web token` prints it"
                return self._error(request, 401, text)
            raise web.HTTPSeeOther(login_path(request))
        request[SESSION] = session
        if is_api(request):
            # A browser names the page that its script belongs to; a foreign one was refused above.
            if request.method != "GET" and "Origin" not in request.headers:
                return self._error(request, 403, "send the bearer token instead of a session cookie")
        elif request.method not in ("GET", "HEAD") and not await _has_form_key(request, session):
            return self._error(request, 403, "this form has expired; reload the page")
        return await self._handle(request, handler)

    async def _handle(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if request.method == "GET":
            with suppress(StoreUnavailable):
                request[SINCE] = self._service.database.read_now(journal.head)[0]
        return await handler(request)

    def _has_token(self, request: web.Request) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self._sessions.is_token(given.strip())

    def _error(self, request: web.Request, status: int, message: str) -> web.Response:
        if is_api(request):
            return error_response(status, _CODES[status], message)
        if request.path.startswith(WALLET_PATH):
            return web.json_response({"success": False, "error": message}, status=status)
        return self._frame.error(request, status, message)

    # ---------------------------------------------------------------------------------------------------------- API

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """See events.py; the stream ends with the session, or with the token that opened it."""
        cookie = request.cookies.get(COOKIE)

        def is_allowed() -> bool:
            if SESSION in request:
                return self._sessions.find(cookie, self._service.clock()) is not None
            return self._has_token(request)

        return await self._streams.serve(request, is_allowed)

    async def _show_metrics(self, request: web.Request) -> web.Response:
        from kekbridge.admin import metrics  # late: most bridges are never scraped

        service = self._service
        page = metrics.page(self._durations, await service.report(since=None), await service.state(), service.data_dir)
        return web.Response(body=page, headers={"Content-Type": metrics.CONTENT_TYPE})

    # -------------------------------------------------------------------------------------------------------- login

    async def _login_page(self, request: web.Request) -> web.Response:
        return self._frame.login(local_path(request.query.get("next")))

    async def _login(self, request: web.Request) -> web.Response:
        form = await request.post()
        wanted = local_path(str(form.get("next", "")))
        if not self._sessions.is_token(str(form.get("token", "")).strip()):
            await asyncio.sleep(0.5)
            return self._frame.login(wanted, "That is not the token of this data directory.", status=401)
        raise self._signed_in(wanted)

    async def _sign_in(self, request: web.Request) -> web.Response:
        """A link with a one-time code, as `serve` and `kekbridge web link` print it."""
        if not self._codes.redeem(request.query.get("code", ""), self._service.clock()):
            await asyncio.sleep(0.5)
            text = "That link was used, or is older than ten minutes. `kekbridge web link` prints a new one."
            return self._frame.login(None, text, status=401)
        raise self._signed_in(local_path(request.query.get("next")))

    def _signed_in(self, wanted: str | None) -> web.HTTPSeeOther:
        """Lead to the page that was asked for, with the cookie of a new session."""
        response = web.HTTPSeeOther(wanted or "/")
        response.set_cookie(
            COOKIE,
            self._sessions.begin(self._service.clock()),
            httponly=True,
            samesite="Strict",
            path="/",
            max_age=43_200,
        )
        return response

    async def _logout(self, request: web.Request) -> web.Response:
        self._sessions.end(request.cookies.get(COOKIE))
        raise web.HTTPSeeOther("/login")


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Add the security headers of every answer."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


async def read_form(request: web.Request) -> None:
    """Read the form of a request, so that `request.post()` cannot fail later. Raises Unreadable if it is none."""
    try:
        await request.post()
    except (LookupError, ValueError, AssertionError):  # no such charset or field name, not in its charset, no boundary
        raise Unreadable("invalid_form", "the form cannot be read; send it as a browser does, in UTF-8") from None


async def _has_form_key(request: web.Request, session: Session) -> bool:
    await read_form(request)
    given = str((await request.post()).get("key", ""))
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), session.form_key.encode())
