"""Output of the commands: tables for people, JSON for scripts; outside text is printed plain, without control characters.

No markup is interpreted; colours appear only on a terminal. Knows nothing about the data it prints.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal

from kekbridge.formatting import to_jsonable, to_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

# Width in a pipe: rows are not wrapped, so that grep and awk see one row per line.
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
    """One column of a table."""

    #: Heading.
    title: str
    #: Alignment of its cells.
    justify: Literal["left", "right"] = "left"
    #: True if its text wraps when the terminal is narrow.
    shrinks: bool = False
    #: True if its cells are coloured by STATUS_STYLES.
    is_status: bool = False


def table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Print one table on stdout."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        grid.add_column(
            column.title,
            justify=column.justify,
            no_wrap=not column.shrinks,
            overflow="fold" if column.shrinks else "ellipsis",
            ratio=None,
        )
    for row in rows:
        grid.add_row(*(_cell(value, column) for value, column in zip(row, columns, strict=True)))
    _show(grid)


def pairs(rows: Iterable[tuple[str, object]], *, indent: int = 0) -> None:
    """Print one name and value per line on stdout; on a terminal long values wrap within their column.

    In a pipe nothing wraps and rich is not imported: a daemon under a supervisor would keep its 3 MiB for the start message.
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

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(Text(name, style="bold"), Text(to_text(value), style=_style_of(value)))
    _show(Padding(grid, (0, 0, 0, indent), expand=False))


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a list."""

    #: Values, one per column; the last is a status.
    cells: tuple[object, ...]
    #: Explanation, printed beside the cells if there is room, else below.
    detail: str = ""


def lines(titles: Mapping[str, int], rows: Sequence[Line], *, with_header: bool = True) -> None:
    """Print aligned rows on stdout; `titles` maps each column's heading to its minimum width in characters.

    On a narrow terminal a row's detail goes below it; in a pipe a row is always one line.
    """
    from rich.text import Text

    texts = [[to_text(cell) for cell in row.cells] for row in rows]
    widths = [
        max([least, len(title), *(len(text[index]) for text in texts)])
        for index, (title, least) in enumerate(titles.items())
    ]
    if with_header:
        _show(Text("  ".join(title.ljust(width) for title, width in zip(titles, widths, strict=True)), style="bold"))
    screen = console()
    for row, text in zip(rows, texts, strict=True):
        cells = [Text(cell.ljust(width)) for cell, width in zip(text, widths, strict=True)]
        cells[-1].stylize(_style_of(text[-1]))
        whole = Text("  ").join(cells)
        detail = to_text(row.detail) if row.detail else ""
        is_beside = not screen.is_terminal or whole.cell_len + 2 + len(detail) <= screen.width
        if detail and is_beside:
            whole.append(f"  {detail}", style="dim")
        _show(whole, is_wrapped=False)
        if detail and not is_beside:
            paragraph(detail, indent=widths[0] + 2)


def heading(text: str, *, gap: bool = True) -> None:
    """Print a section heading, after an empty line if `gap`."""
    from rich.text import Text

    if gap:
        line("")
    _show(Text(to_text(text), style="bold"))


def paragraph(text: str, *, indent: int = 0) -> None:
    """Print text that wraps at the indent."""
    from rich.padding import Padding
    from rich.text import Text

    _show(Padding(Text(to_text(text)), (0, 0, 0, indent), expand=False))


def line(text: str) -> None:
    """Print one unwrapped line on stdout, so that it can be copied whole."""
    sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """Print a message on stderr, so that stdout holds only data."""
    sys.stderr.write(f"{to_text(text)}\n")


def as_json(value: object) -> None:
    """Print one line of JSON on stdout, ASCII only: JSON would leave C1 control characters unescaped."""
    sys.stdout.write(json.dumps(to_jsonable(value), separators=(",", ":")) + "\n")


def console() -> Console:
    """Return a console on the current stdout (tests replace it) that interprets no markup."""
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    return Console(
        file=sys.stdout, markup=False, emoji=False, highlight=False, width=None if is_terminal else _PIPE_WIDTH
    )


def _show(renderable: RenderableType, *, is_wrapped: bool = True) -> None:
    """Print on stdout without the trailing blanks that Rich adds, which would be copied and parsed."""
    screen = console()
    with screen.capture() as capture:
        screen.print(renderable, soft_wrap=not is_wrapped)
    sys.stdout.write("".join(f"{text.rstrip()}\n" for text in capture.get().splitlines()))


def _cell(value: object, column: Column) -> Text:
    from rich.text import Text

    style = _style_of(value) if column.is_status else ""
    return Text(to_text(value), style=style)


def _style_of(value: object) -> str:
    return STATUS_STYLES.get(str(value), "") if isinstance(value, (str, Enum)) else ""
