"""The documents of the package as web pages: an index, one page per document, and the files that they show or link."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Callable, Iterable
from typing import Final

import htpy as h
from aiohttp import web
from htpy import Node, Renderable

from kekbridge.admin.elements import table
from kekbridge.documents import Document, attachment, documents, find_document, topics

_PICTURES: Final = {".png": "image/png", ".webp": "image/webp", ".svg": "image/svg+xml"}
# A page with fewer headings needs no list of them.
_LEAST_HEADINGS: Final = 4
_FOR_ENGINEERS: Final = "internals/"


class DocumentPages:
    """Handlers of the pages. `page` renders a whole page from a request, a title and contents."""

    def __init__(self, page: Callable[..., web.Response]) -> None:
        self._page = page

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/docs", self._index)
        router.add_get("/docs/{name:.+}", self._show)

    async def _index(self, request: web.Request) -> web.Response:
        every = await asyncio.to_thread(documents)
        return self._page(
            request,
            "Documentation",
            _list(one for one in every if not one.name.startswith(_FOR_ENGINEERS)),
            h.h2["For engineers"],
            _list(one for one in every if one.name.startswith(_FOR_ENGINEERS)),
            h.p(class_="dim")["In a terminal: ", h.code["kekbridge docs"]],
        )

    async def _show(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in topics() and (content := attachment(name)) is not None:
            return _file(name, content)
        document = find_document(name)
        parts = await asyncio.to_thread(_markdown if document.is_markdown else _plain, document)
        back = h.p(class_="dim")[h.a(href="/docs")["Documentation"]]
        return self._page(request, document.title, back, *parts)


def _list(shown: Iterable[Document]) -> Renderable:
    rows = [(h.a(href=f"/docs/{one.name}")[one.title], one.summary) for one in shown]
    return h.div(class_="doc")[table(("Document", "About"), rows, empty="None.", phone=("first", "second"))]


def _markdown(document: Document) -> list[Node]:
    from kekbridge.admin.document_html import render  # late: most bridges never show a document

    shown = render(document)
    links = [h.li[h.a(href=f"#{one.id}")[one.title]] for one in shown.headings]
    contents = h.details[h.summary["On this page"], h.ul[links]] if len(links) >= _LEAST_HEADINGS else None
    return [contents, h.div(class_="doc")[shown.content]]


def _plain(document: Document) -> list[Node]:
    """YAML and TOML, for programs and people."""
    file = posixpath.basename(document.path)
    download = h.a(href=f"/docs/{file}", class_="button", download=True)[f"Download {file}"]
    return [h.p[document.summary], h.p[download], h.pre[document.text]]


def _file(name: str, content: bytes) -> web.Response:
    kind = _PICTURES.get(posixpath.splitext(name)[1])
    if kind is not None:
        return web.Response(body=content, content_type=kind)
    headers = {"Content-Disposition": f'attachment; filename="{posixpath.basename(name)}"'}
    return web.Response(body=content, content_type="application/octet-stream", headers=headers)
