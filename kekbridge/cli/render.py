"""How data reaches the screen: tables for people, JSON for scripts; whatever came from outside is plain text without control characters.

No markup is ever interpreted and colours appear on a terminal only. Knows nothing of what it shows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal

from kekbridge.formatting import (
    SHORT_ID,
    age,
    amount,
    camel,
    clock,
    duration,
    market,
    moment,
    short_id,
    to_jsonable,
    to_text,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

__all__ = [
    "SHORT_ID",
    "Column",
    "Line",
    "age",
    "amount",
    "as_json",
    "camel",
    "clock",
    "console",
    "duration",
    "heading",
    "line",
    "lines",
    "market",
    "moment",
    "note",
    "pairs",
    "paragraph",
    "short_id",
    "table",
    "to_jsonable",
    "to_text",
]

# A pipe has no width: rows stay whole, so that grep and awk see one row per line.
_PIPE_WIDTH = 220

STATUS_STYLES: Mapping[str, str] = {
    "filled": "green",
    "accepted": "cyan",
    "partially_filled": "cyan",
    "queued": "cyan",
    "submitting": "cyan",
    "unknown": "bold yellow",
    "denied": "yellow",
    "refused": "yellow",
    "rejected": "red",
    "expired": "red",
    "canceled": "dim",
    "ignored": "dim",
    "running": "green",
    "exits_only": "yellow",
    "halted": "bold red",
    "enabled": "green",
    "disabled": "yellow",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table. `shrinks` marks the one that gives way when the terminal is narrow."""

    title: str
    justify: Literal["left", "right"] = "left"
    shrinks: bool = False
    is_status: bool = False


def table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Print one table on stdout."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        shown.add_column(
            column.title,
            justify=column.justify,
            no_wrap=not column.shrinks,
            overflow="fold" if column.shrinks else "ellipsis",
            ratio=None,
        )
    for row in rows:
        shown.add_row(*(_cell(value, column) for value, column in zip(row, columns, strict=True)))
    _show(shown)


def pairs(rows: Iterable[tuple[str, object]], *, indent: int = 0) -> None:
    """Print names and values below each other on stdout; on a terminal long values wrap under themselves.

    In a pipe each stays on its line, and rich is not imported: a daemon under a supervisor would keep its 3 MiB for one greeting.
    """
    if not sys.stdout.isatty():
        texts = [(name, to_text(value)) for name, value in rows]
        width = max((len(name) for name, _ in texts), default=0)
        for name, text in texts:
            line(f"{'':{indent}}{name:<{width}}  {text}".rstrip())
        return
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    shown = Table.grid(padding=(0, 2, 0, 0))
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in rows:
        shown.add_row(Text(name, style="bold"), Text(to_text(value), style=_style_of(value)))
    _show(Padding(shown, (0, 0, 0, indent), expand=False))


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a list: its cells, and what explains them (beside them if there is room, else below)."""

    cells: tuple[object, ...]
    detail: str = ""


def lines(titles: Mapping[str, int], shown: Sequence[Line], *, with_header: bool = True) -> None:
    """Print aligned lines on stdout; the last cell is a status. `titles` gives each column its least width.

    On a narrow terminal details go below their line; in a pipe everything of a line stays on it.
    """
    from rich.text import Text

    texts = [[to_text(cell) for cell in one.cells] for one in shown]
    widths = [
        max([least, len(title), *(len(text[index]) for text in texts)])
        for index, (title, least) in enumerate(titles.items())
    ]
    if with_header:
        _show(Text("  ".join(title.ljust(width) for title, width in zip(titles, widths, strict=True)), style="bold"))
    screen = console()
    for one, text in zip(shown, texts, strict=True):
        cells = [Text(cell.ljust(width)) for cell, width in zip(text, widths, strict=True)]
        cells[-1].stylize(_style_of(text[-1]))
        whole = Text("  ").join(cells)
        detail = to_text(one.detail) if one.detail else ""
        is_beside = not screen.is_terminal or whole.cell_len + 2 + len(detail) <= screen.width
        if detail and is_beside:
            whole.append(f"  {detail}", style="dim")
        _show(whole, is_wrapped=False)
        if detail and not is_beside:
            paragraph(detail, indent=widths[0] + 2)


def heading(text: str, *, gap: bool = True) -> None:
    """Print a line that opens a section, after an empty one."""
    from rich.text import Text

    if gap:
        line("")
    _show(Text(to_text(text), style="bold"))


def paragraph(text: str, *, indent: int = 0) -> None:
    """Print words that wrap under themselves."""
    from rich.padding import Padding
    from rich.text import Text

    _show(Padding(Text(to_text(text)), (0, 0, 0, indent), expand=False))


def line(text: str) -> None:
    """One unwrapped line on stdout: what people copy must stay in one piece."""
    sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """A message for the person, on stderr: data on stdout stays clean."""
    sys.stderr.write(f"{to_text(text)}\n")


def as_json(value: object) -> None:
    """One line of JSON on stdout, ASCII only: C1 control characters would pass through JSON unescaped."""
    sys.stdout.write(json.dumps(to_jsonable(value), separators=(",", ":")) + "\n")


def console() -> Console:
    """A console on today's stdout (tests and pipes exchange it) that interprets nothing."""
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    return Console(
        file=sys.stdout, markup=False, emoji=False, highlight=False, width=None if is_terminal else _PIPE_WIDTH
    )


def _show(shown: RenderableType, *, is_wrapped: bool = True) -> None:
    """Print on stdout without the blanks that Rich fills lines up with: they would be copied, and seen by scripts."""
    screen = console()
    with screen.capture() as capture:
        screen.print(shown, soft_wrap=not is_wrapped)
    sys.stdout.write("".join(f"{text.rstrip()}\n" for text in capture.get().splitlines()))


def _cell(value: object, column: Column) -> Text:
    from rich.text import Text

    style = _style_of(value) if column.is_status else ""
    return Text(to_text(value), style=style)


def _style_of(value: object) -> str:
    return STATUS_STYLES.get(str(value), "") if isinstance(value, (str, Enum)) else ""
