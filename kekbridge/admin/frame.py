"""The frame of every page: head, menu, sign-in page and error pages, and the files that they load."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from importlib.resources import files
from typing import Final
from urllib.parse import urlencode, urlsplit

import htpy as h
from aiohttp import web
from htpy import Node, Renderable

from kekbridge.admin.auth import SESSION, SINCE
from kekbridge.admin.elements import form_key
from kekbridge.model import Mode

#: The menu; on a phone the first four and the rest under "More".
MENU: Final = (
    ("/", "Overview"),
    ("/log", "Log"),
    ("/orders", "Orders"),
    ("/positions", "Positions"),
    ("/stats", "Statistics"),
    ("/risk", "Risk"),
    ("/webhooks", "Webhooks"),
)
#: Pages that are opened rarely: under "More" on every screen.
MORE: Final[tuple[tuple[str, str], ...]] = (
    ("/keys", "Keys and wallet"),
    ("/notifications", "Notifications"),
    ("/history", "History"),
    ("/jobs", "Jobs"),
    ("/doctor", "Doctor"),
    ("/backup", "Backup"),
    ("/docs", "Documentation"),
)
#: The document that explains a page, by the beginning of the page's path; all others belong to operations.
EXPLAINED: Final = (
    ("/log", "answers", "Answers"),
    ("/orders", "answers", "Answers"),
    ("/risk", "limits", "Limits"),
    ("/webhooks", "alerts", "Alerts"),
    ("/keys", "live", "Going live"),
    ("/", "operations", "Operations"),
)
_ON_PHONE: Final = 4
_REFRESH_S: Final = 15
_THEMES: Final = (("", "System"), ("light", "Light"), ("dark", "Dark"))
# Outlines of the menu's symbols on a phone, 24 units wide.
_SYMBOLS: Final = {
    "/": "M3 11l9-8 9 8v10h-6v-6H9v6H3z",
    "/log": "M4 5h16M4 10h16M4 15h16M4 20h10",
    "/orders": "M7 4v16M7 20l-4-4M7 20l4-4M17 20V4M17 4l-4 4M17 4l4 4",
    "/positions": "M3 20h18M6 16v-5M12 16V5M18 16v-8",
    "more": "M5 12h.01M12 12h.01M19 12h.01",
}
_TYPES: Final = {
    "app.js": "text/javascript",
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
    "icon-180.png": "image/png",
    "icon-192.png": "image/png",
    "icon-512.png": "image/png",
}
_MANIFEST: Final = "manifest.webmanifest"
#: What is served without a session: nothing in it is secret.
ASSET_PATHS: Final = frozenset(f"/{name}" for name in (*_TYPES, _MANIFEST))
# Only what stays on this listener: a link to another site must not follow a sign-in.
_LOCAL: Final = re.compile(r"/(?!/)[!-\[\]-~]*")  # printable, without a backslash, which browsers take for a slash
_LONGEST_PATH: Final = 1000


def local_path(text: str | None) -> str | None:
    """A path of this listener, with its query, to which a sign-in may lead; None for anything else, and for pages about signing in."""
    if text is None or len(text) > _LONGEST_PATH or not _LOCAL.fullmatch(text):
        return None
    return None if text.startswith(("/login", "/logout", "/sign-in", "/api/")) else text


def login_path(request: web.Request) -> str:
    """The sign-in page that leads back to the page that was asked for."""
    wanted = local_path(request.raw_path) if request.method in ("GET", "HEAD") else None
    return "/login" if wanted in (None, "/") else f"/login?{urlencode({'next': wanted})}"


def origin_page(request: web.Request) -> str:
    """The page that a form was sent from, as the browser says; the overview if it is not one of this listener."""
    sent_from = urlsplit(request.headers.get("Referer", ""))
    query = f"?{sent_from.query}" if sent_from.query else ""
    is_here = sent_from.netloc == request.headers.get("Host")
    return (local_path(f"{sent_from.path}{query}") if is_here else None) or "/"


class Frame:
    """Renders whole pages and serves the files of all of them."""

    def __init__(self, mode: Mode) -> None:
        """`mode`: shown in the head of every page, so that real money is never taken for practice."""
        self._mode = mode
        own = files("kekbridge.admin")
        self._assets = {name: own.joinpath(name).read_bytes() for name in _TYPES}
        # A new version has other addresses, so that browsers may keep these files.
        self._paths = {
            name: f"/{name}?v={hashlib.sha256(body).hexdigest()[:10]}" for name, body in self._assets.items()
        }
        self._manifest = self._build_manifest()

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes of the files."""
        for path in ASSET_PATHS:
            router.add_get(path, self._send_asset)

    def page(
        self, request: web.Request | None, title: str, *content: Node, is_live: bool = False, status: int = 200
    ) -> web.Response:
        """Render a page, with the menu if there is a request of a session or a token.

        On a live page the script replaces each element with `data-live` and an id when something has changed; without a script the
        page is loaded again every 15 s.
        """
        document = h.html(lang="en")[
            h.head[
                h.meta(charset="utf-8"),
                h.meta(name="viewport", content="width=device-width, initial-scale=1, viewport-fit=cover"),
                h.title["kekbridge" if title == "kekbridge" else f"{title} - kekbridge"],
                h.meta(name="color-scheme", content="light dark"),
                h.link(rel="stylesheet", href=self._paths["style.css"]),
                # Not deferred: it sets the theme before anything is drawn.
                h.script(src=self._paths["app.js"]),
                h.link(rel="icon", href=self._paths["icon.svg"], type="image/svg+xml"),
                h.link(rel="apple-touch-icon", href=self._paths["icon-180.png"]),
                h.link(rel="manifest", href=f"/{_MANIFEST}"),
                h.noscript[h.meta(http_equiv="refresh", content=_REFRESH_S)] if is_live else None,
            ],
            h.body(data_after=None if request is None else request.get(SINCE))[
                None if request is None else _header(request, self._mode),
                h.main(id="main", tabindex="-1")[h.h1[title], content],
                None if request is None or request.path.startswith("/docs") else _footer(request),
            ],
        ]
        return web.Response(text=str(document), content_type="text/html", status=status)

    def error(self, request: web.Request, status: int, message: str) -> web.Response:
        """Render an error page, with the menu for a session. A refused form leads back to its page."""
        is_form = request.method == "POST"
        title = "Not found" if status == 404 else "Could not save" if is_form else "Error"
        origin = origin_page(request) if is_form else "/"
        back = h.a(href=origin, class_="button")["Back to the overview" if origin == "/" else "Back to the form"]
        known = request if SESSION in request else None
        return self.page(known, title, h.p(class_="problem", role="alert")[message], h.p[back], status=status)

    def login(self, wanted: str | None, error: str = "", *, status: int = 200) -> web.Response:
        """Render the sign-in form; `wanted`: the page that it leads to; `error`: what was wrong with the last attempt."""
        form = h.form(method="post", action="/login", class_="card", data_wanted=wanted or "/")[
            h.input(type="hidden", name="next", value=wanted) if wanted else None,
            h.label["Token", h.input(type="password", name="token", autofocus=True, autocomplete="current-password")],
            h.button["Log in"],
        ]
        hint = h.p(class_="dim")["Print it with: ", h.code["kekbridge web token"]]
        problem = h.p(class_="bad", role="alert")[error] if error else None
        return self.page(None, "kekbridge", problem, form, hint, status=status)

    async def _send_asset(self, request: web.Request) -> web.Response:
        name = request.path.removeprefix("/")
        if name == _MANIFEST:
            return web.Response(text=self._manifest, content_type="application/manifest+json")
        kept = {"Cache-Control": "public, max-age=31536000, immutable"} if "v" in request.query else {}
        return web.Response(body=self._assets[name], content_type=_TYPES[name], charset=_charset(name), headers=kept)

    def _build_manifest(self) -> str:
        icons = [{"src": self._paths["icon.svg"], "sizes": "any", "type": "image/svg+xml"}] + [
            {"src": self._paths[f"icon-{size}.png"], "sizes": f"{size}x{size}", "type": "image/png"}
            for size in (192, 512)
        ]
        return json.dumps(
            {
                "name": "kekbridge",
                "short_name": "kekbridge",
                "description": "Alerts, orders and positions of this bridge",
                "id": "/",
                "start_url": "/",
                "display": "standalone",
                "background_color": "#12171e",
                "theme_color": "#12171e",
                "icons": icons,
            }
        )


def _charset(name: str) -> str | None:
    return None if name.endswith(".png") else "utf-8"


def _header(request: web.Request, mode: Mode) -> Renderable:
    log_out = None
    if SESSION in request:
        log_out = h.form(method="post", action="/logout")[form_key(request), h.button["Log out"]]
    theme = h.label(data_script=True, hidden=True)[
        "Theme",
        h.select(data_theme_choice=True)[(h.option(value=value)[label] for value, label in _THEMES)],
    ]
    more = h.details(class_="more")[
        h.summary[_symbol("more"), h.span["More"]],
        h.div[
            h.ul(class_="phone")[_links(request, MENU[_ON_PHONE:])],
            h.ul[_links(request, MORE)] if MORE else None,
            theme,
            log_out,
        ],
    ]
    return h.fragment[
        h.a(class_="skip", href="#main")["Skip to the content"],
        h.header[
            h.a(class_="brand", href="/")[
                "kekbridge ", h.span(class_=f"status {mode.value}", title=f"Mode: {mode.value}")[mode.value]
            ],
            h.nav(aria_label="Pages")[
                h.ul[_links(request, MENU[:_ON_PHONE])], h.ul(class_="desk")[_links(request, MENU[_ON_PHONE:])], more
            ],
            h.span(class_="dot", role="status", data_dot=True, hidden=True)["connecting"],
        ],
    ]


def _footer(request: web.Request) -> Renderable:
    topic, title = next((topic, title) for path, topic, title in EXPLAINED if request.path.startswith(path))
    return h.footer["More about this page: ", h.a(href=f"/docs/{topic}")[title]]


def _links(request: web.Request, entries: Iterable[tuple[str, str]]) -> Iterable[Renderable]:
    for path, name in entries:
        is_here = request.path == path or (path != "/" and request.path.startswith(f"{path}/"))
        current = "page" if is_here else None
        yield h.li[h.a(href=path, aria_current=current)[_symbol(path), h.span[name]]]


def _symbol(name: str) -> Renderable | None:
    drawn = _SYMBOLS.get(name)
    return None if drawn is None else h.svg(viewBox="0 0 24 24", aria_hidden="true")[h.path(d=drawn)]
