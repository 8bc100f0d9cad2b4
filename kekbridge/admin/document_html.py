"""Markdown of the package's documents as HTML for the pages.

HTML of its own is shown as text, and nothing needs an inline style or script: the pages' content security policy holds here, too. Headings
have GitHub's ids, links between documents lead to their pages, a table is one of rows or, on a phone, of cards.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import htpy as h
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup, escape

from kekbridge.admin.elements import copy_button
from kekbridge.documents import Document, follow, heading_id, topics

#: Where the pages of the documents are.
ROOT_PATH: Final = "/docs"


class DocumentHeading(NamedTuple):
    """A heading of the second level."""

    #: Id of the heading.
    id: str
    #: Its text.
    title: str


class Rendered(NamedTuple):
    """A document as HTML."""

    #: Everything below the first heading.
    content: Markup
    #: The headings of the second level, in their order.
    headings: tuple[DocumentHeading, ...]


def render(document: Document) -> Rendered:
    """Render a Markdown document, without its first heading."""
    parser = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable(["table", "strikethrough"])
    tokens = parser.parse(document.text)
    if tokens and tokens[0].tag == "h1":
        del tokens[:3]
    state = _RenderState(document.name, topics())
    content = parser.renderer.render(tokens, parser.options, {"state": state})
    return Rendered(Markup(content), tuple(state.headings))  # noqa: S704 - the renderer escapes every text


@dataclass
class _RenderState:
    topic: str
    known: Sequence[str]
    headings: list[DocumentHeading] = field(default_factory=list)
    #: Titles of the columns of the table that is rendered.
    titles: list[str] = field(default_factory=list)
    column: int = 0
    blocks: int = 0
    #: Whether each link that is open has an element.
    links: list[bool] = field(default_factory=list)


class _Renderer(RendererHTML):
    """Rules by the type of a token; all others are markdown-it's own."""

    def heading_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        title = self.renderInlineAsText(tokens[idx + 1].children, options, env)
        tokens[idx].attrSet("id", heading_id(title))
        if tokens[idx].tag == "h2":
            env["state"].headings.append(DocumentHeading(heading_id(title), title))
        return self.renderToken(tokens, idx, options, env)

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        env["state"].titles.clear()
        return '<div class="wide cards" tabindex="0"><table>'

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return "</table></div>\n"

    def tr_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        env["state"].column = 0
        return "<tr>"

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        title = self.renderInlineAsText(tokens[idx + 1].children, options, env)
        env["state"].titles.append(title)
        # An empty th would be read as a title.
        return f'<th scope="col"{_class(tokens[idx])}>' if title else "<td>"

    def th_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return "</th>" if env["state"].titles[-1] else "</td>"

    def td_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        state = env["state"]
        title = state.titles[state.column]
        state.column += 1
        if tokens[idx + 1].content in ("", "-"):  # left out of a phone's cards
            return '<td class="nothing"><div>'
        return f'<td{_class(tokens[idx])} data-label="{escape(title)}"><div>'

    def td_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return "</div></td>"

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        env["state"].blocks += 1
        name = f"code-{env['state'].blocks}"
        return str(h.div(class_="copied")[h.pre(id=name)[tokens[idx].content.rstrip("\n")], copy_button(f"#{name}")])

    code_block = fence

    def link_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        target = _address(str(tokens[idx].attrGet("href") or ""), env["state"])
        env["state"].links.append(target is not None)
        return "" if target is None else f'<a href="{escape(target)}">'

    def link_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return "</a>" if env["state"].links.pop() else ""

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        text = self.renderInlineAsText(tokens[idx].children, options, env)
        target = _file(str(tokens[idx].attrGet("src") or ""), env["state"])
        if target is None:
            return str(escape(text))
        return str(h.a(href=target)[h.img(src=target, alt=text, loading="lazy")])


def _class(token: Token) -> str:
    """Alignment, which Markdown asks for as an inline style."""
    return ' class="right"' if "right" in str(token.attrGet("style") or "") else ""


def _address(target: str, state: _RenderState) -> str | None:
    """Where a link leads; None for a file of the repository that is no document."""
    if target.startswith(("https:", "http:", "mailto:")):
        return target
    link = follow(state.topic, target, state.known)
    if link is None:
        return _file(target, state)
    anchor = f"#{link.anchor}" if link.anchor else ""
    return anchor if anchor and link.topic == state.topic else f"{ROOT_PATH}/{link.topic}{anchor}"


def _file(target: str, state: _RenderState) -> str | None:
    """The address of a file beside the documents; None if it lies elsewhere."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(state.topic), target))
    return None if ":" in target or path.startswith(("..", "/")) else f"{ROOT_PATH}/{path}"
