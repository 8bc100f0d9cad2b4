"""A Markdown document as text for a terminal: headings, tables and code blocks that can be read and copied at 80 columns.

Prose wraps, a line of code never does: a copied command is whole. A table whose columns would become too narrow is printed as one block
per row. Links between documents are underlined, and named at the end with the command that shows them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, ImageItem, ListItem, Markdown, MarkdownElement, TableElement
from rich.padding import Padding
from rich.segment import Segment
from rich.text import Text
from rich.theme import Theme

from kekbridge.documents import Document, follow, topics

if TYPE_CHECKING:
    from markdown_it.token import Token

#: Widest text, in characters: longer lines are hard to read.
WIDTH: Final = 80
_GAP: Final = 2
_COMMENT: Final = "# "
# A column narrower than this, whose cells do not fit on one line, is not a column any more.
_LEAST_WIDTH: Final = 12
_MOST_LINES: Final = 7
# Longest title and value that share a line with others.
_SHORT: Final = 34
_THEME: Final = Theme(
    {
        "markdown.h1": "bold underline",
        "markdown.h2": "bold",
        "markdown.h3": "underline",
        "markdown.h4": "underline",
        "markdown.code": "bold",
        "markdown.code_block": "none",
        "markdown.a": "underline",
        "markdown.link": "underline",
        "markdown.link_url": "none",
        "markdown.table.header": "bold",
        "markdown.table.border": "dim",
        "markdown.item.bullet": "none",
        "markdown.item.number": "none",
    }
)


def render(document: Document, *, width: int) -> str:
    """The document for a terminal of so many columns."""
    width = min(width, WIDTH)
    if not document.is_markdown:
        return "".join(f"{_wrap(line, width)}\n" for line in document.text.splitlines())
    console = Console(width=width, theme=_THEME, highlight=False, emoji=False, markup=False)
    with console.capture() as capture:
        view = _View(document)
        console.print(view, crop=False)
        if view.linked:
            console.print(Text("\nLinks", style="bold"))
            console.print(*(Text(f"  kekbridge docs {topic}") for topic in view.linked), sep="\n")
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def _wrap(line: str, width: int) -> str:
    """A line of YAML or TOML; a comment wraps between words, anything else may be code and is left whole."""
    if not line.startswith(_COMMENT):
        return line
    return textwrap.fill(line, width, subsequent_indent=_COMMENT, break_long_words=False, break_on_hyphens=False)


class _Heading(Heading):
    LEVEL_ALIGN: ClassVar[dict[str, Any]] = {}  # all to the left


class _CodeBlock(CodeBlock):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = str(self.text).rstrip("\n").splitlines()
        yield from (Text(f"    {line}", no_wrap=True, overflow="ignore") for line in lines)


class _ListItem(ListItem):
    """As Rich's, but a line of code is not cut at the width."""

    def render_bullet(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._lines(" • ", console, options)

    def render_number(self, console: Console, options: ConsoleOptions, number: int, last_number: int) -> RenderResult:
        yield from self._lines(f"{number}.".rjust(len(str(last_number)) + 2) + " ", console, options)

    def _lines(self, mark: str, console: Console, options: ConsoleOptions) -> RenderResult:
        inner = options.update(width=options.max_width - len(mark))
        for number, line in enumerate(Segment.split_lines(console.render(self.elements, inner))):
            yield Segment(mark if number == 0 else " " * len(mark))
            yield from line
            yield Segment.line()


class _Picture(ImageItem):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text.assemble("[Picture: ", self.text, "]", end="")


class _Table(TableElement):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        titles = [] if self.header is None or self.header.row is None else self.header.row.cells
        rows = [[cell.content for cell in row.cells] for row in (() if self.body is None else self.body.rows)]
        columns = [[title.content, *(row[index] for row in rows)] for index, title in enumerate(titles)]
        widths = _column_widths([[cell.plain for cell in column] for column in columns], options.max_width)
        if widths is None:
            yield from _stacked([title.content.plain for title in titles], rows, options.max_width, console)
            return
        justified = [title.justify for title in titles]
        for title in titles:
            title.content.stylize("markdown.table.header")
        yield from _row([title.content for title in titles], widths, justified, console)
        yield Text((" " * _GAP).join("─" * width for width in widths), style="markdown.table.border")
        shown = [_row(row, widths, justified, console) for row in rows]
        is_tall = any(len(lines) > 1 for lines in shown)
        for number, lines in enumerate(shown):
            if is_tall and number:
                yield Text()
            yield from lines


class _View(Markdown):
    """One document. `linked`: the topics that it links, in their order."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "fence": _CodeBlock,
        "code_block": _CodeBlock,
        "image": _Picture,
        "list_item_open": _ListItem,
        "table_open": _Table,
    }

    def __init__(self, document: Document) -> None:
        super().__init__(document.text, hyperlinks=False)
        self.inlines = {*Markdown.inlines, "a"}
        self.linked: list[str] = []
        known = topics()
        for token in self.parsed:
            self._mark_links(token.children or (), document.name, known)

    def _mark_links(self, tokens: Sequence[Token], topic: str, known: Sequence[str]) -> None:
        """Underline links to files, which a terminal cannot follow, and note their topics."""
        is_file = False
        for token in tokens:
            if token.type == "link_open":
                target = str(token.attrs.get("href", ""))
                is_file = ":" not in target.partition("#")[0]
                link = follow(topic, target, known) if is_file else None
                if link is not None and link.topic not in (topic, *self.linked):
                    self.linked.append(link.topic)
            if is_file and token.type in ("link_open", "link_close"):
                token.type = f"file_{token.type}"


def _column_widths(columns: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Widths at which no word is cut and no cell is very tall; None if there are none."""
    natural = [max(map(cell_len, cells)) for cells in columns]
    widths = [max(cell_len(word) for cell in cells for word in cell.split() or [""]) for cells in columns]
    free = room - _GAP * (len(columns) - 1)
    # A column that needs no more than an equal share does not wrap, if there is room; the others divide what is left.
    even = [most if most <= free // len(columns) else least for least, most in zip(widths, natural, strict=True)]
    if sum(even) <= free:
        widths = even
    if sum(widths) > free:
        return None
    for _ in range(free - sum(widths)):
        # One character more for the column whose tallest cell is tallest.
        index = max(range(len(columns)), key=lambda i: natural[i] / max(widths[i], 1))
        if widths[index] >= natural[index]:
            break
        widths[index] += 1
    is_narrow = any(
        wanted > width * _MOST_LINES and width < _LEAST_WIDTH for wanted, width in zip(natural, widths, strict=True)
    )
    return None if is_narrow else widths


def _row(cells: Sequence[Text], widths: Sequence[int], justified: Sequence[Any], console: Console) -> list[Text]:
    """The lines of one row of a table."""
    wrapped = [cell.wrap(console, width) for cell, width in zip(cells, widths, strict=True)]
    lines = []
    for parts in zip_longest(*wrapped):
        line = Text(no_wrap=True)
        for index, part in enumerate(parts):
            text = Text() if part is None else part.copy()
            text.rstrip()
            text.align("right" if justified[index] == "right" else "left", widths[index])
            line.append(" " * (_GAP if index else 0)).append_text(text)
        lines.append(line)
    return lines


def _stacked(titles: Sequence[str], rows: Sequence[Sequence[Text]], room: int, console: Console) -> RenderResult:
    """Each row as its first cell, and below it the others with their titles: one after the other if all are short, else one a line."""
    for number, (first, *others) in enumerate(rows):
        if number:
            yield Text()
        if first.plain:
            yield first
        parts = [
            Text.assemble(f"{title}: " if title else "", cell)
            for title, cell in zip(titles[1:], others, strict=True)
            if cell.plain not in ("", "-")
        ]
        if all(cell_len(part.plain) <= _SHORT for part in parts):
            parts = [Text("; ").join(parts)]
        for part in parts:
            for position, line in enumerate(part.wrap(console, room - 4)):
                yield Padding(line, (0, 0, 0, 4 if position else 2))
