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

# Text is not wrapped into less than this.
_LEAST_ROOM = 20
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
    #: True if its text wraps between words when the terminal is narrow.
    shrinks: bool = False
    #: True if its cells are coloured by STATUS_STYLES.
    is_status: bool = False
    #: On a terminal that is too narrow, columns with 1 are left out first, then those with 2 and so on. 0: never.
    drop: int = 0


def table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Print one table on stdout.

    On a terminal that is too narrow columns are left out in their order of `drop`, and named on stderr; if what must stay does not fit
    either, each row is printed as one line per column. No word and no number is ever cut.
    """
    from rich.table import Table

    screen = console()
    whole = [tuple(row) for row in rows]
    texts = [[to_text(cell) for cell in row] for row in whole]
    shown = list(range(len(columns)))
    widths: list[int] | None = None
    if screen.is_terminal:
        shown = _fitting(columns, texts, screen.width)
        if dropped := [column.title.strip() for index, column in enumerate(columns) if index not in shown]:
            note(f"Not shown for lack of room: {', '.join(dropped)}; widen the terminal, or use --json.")
        widths = _widths([columns[i] for i in shown], [[row[i] for i in shown] for row in texts], screen.width)
        if widths is None:
            _show_stacked([columns[i] for i in shown], [[row[i] for i in shown] for row in whole])
            return
    grid = Table(box=None, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, index in enumerate(shown):
        column = columns[index]
        grid.add_column(
            column.title,
            justify=column.justify,
            no_wrap=not column.shrinks,
            overflow="fold",
            width=None if widths is None else widths[number],
        )
    for row in whole:
        grid.add_row(*(_cell(row[index], columns[index]) for index in shown))
    _show(grid, is_wrapped=False)


def _widths(columns: Sequence[Column], texts: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Widths of the columns: shrinking ones get what the others leave, at least their longest word. None: there is no room for that."""
    left = width - _least_width(columns, texts)
    if left < 0:
        return None
    found = []
    for index, column in enumerate(columns):
        cells = [row[index] for row in texts]
        least, natural = _width(column, cells), _width(column, cells, is_whole=True)
        found.append(least + min(natural - least, left))
        left -= found[-1] - least
    return found


def _fitting(columns: Sequence[Column], texts: Sequence[Sequence[str]], width: int) -> list[int]:
    """Indexes of the columns that fit, or that are never left out."""
    shown = list(range(len(columns)))
    for index in sorted((i for i in shown if columns[i].drop), key=lambda i: columns[i].drop):
        if _least_width([columns[i] for i in shown], [[row[i] for i in shown] for row in texts]) <= width:
            break
        shown.remove(index)
    return shown


def _least_width(columns: Sequence[Column], texts: Sequence[Sequence[str]]) -> int:
    """Width of a table whose shrinking columns are as narrow as their longest word."""
    return sum(_width(column, [row[i] for row in texts]) + 2 for i, column in enumerate(columns)) - 2


def _width(column: Column, cells: Sequence[str], *, is_whole: bool = False) -> int:
    """Least width of a column; with `is_whole` the width at which nothing wraps."""
    from rich.cells import cell_len

    texts = [column.title, *cells]
    if column.shrinks and not is_whole:
        texts = [word for text in texts for word in text.split()]
    return max(map(cell_len, texts), default=1)


def _show_stacked(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Print each row as lines of heading and value, with an empty line between rows."""
    for number, row in enumerate(rows):
        if number:
            line("")
        pairs((column.title.strip(), value) for column, value in zip(columns, row, strict=True))


def pairs(rows: Iterable[tuple[str, object]], *, indent: int = 0) -> None:
    """Print one name and value per line on stdout; on a terminal long values wrap between words, within their column.

    A word that does not fit, such as a URL or a key, is left whole: the terminal breaks it, and it can be copied. In a pipe nothing wraps
    and rich is not imported: a daemon under a supervisor would keep its 3 MiB for the start message.
    """
    texts = [(name, value, to_text(value)) for name, value in rows]
    width = max((len(name) for name, _, _ in texts), default=0)
    if not sys.stdout.isatty():
        for name, _, text in texts:
            line(f"{'':{indent}}{name:<{width}}  {text}".rstrip())
        return
    import textwrap

    from rich.text import Text

    room = max(console().width - indent - width - 2, 1)
    for name, value, text in texts:
        parts = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
        for number, part in enumerate(parts):
            label = name if number == 0 else ""
            row = Text(f"{'':{indent}}").append(f"{label:<{width}}", style="bold").append("  ")
            _show(row.append(part, style=_style_of(value)), is_wrapped=False)


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a list."""

    #: Values, one per column; the last is a status.
    cells: tuple[object, ...]
    #: Explanation, printed beside the cells if there is room, else below.
    detail: str = ""


def lines(
    titles: Mapping[str, int], rows: Sequence[Line], *, with_header: bool = True, drops: Sequence[str] = ()
) -> None:
    """Print aligned rows on stdout; `titles` maps each column's heading to its minimum width in characters.

    On a narrow terminal a row's detail goes below it, and so do the columns that `drops` names, in that order, until the row fits. In a
    pipe a row is always one line.
    """
    from rich.text import Text

    texts = [[to_text(cell) for cell in row.cells] for row in rows]
    widths = [
        max([least, len(title), *(len(text[index]) for text in texts)])
        for index, (title, least) in enumerate(titles.items())
    ]
    screen = console()
    names = list(titles)
    shown = list(range(len(names)))
    for title in drops:
        if not screen.is_terminal or sum(widths[index] + 2 for index in shown) - 2 <= screen.width:
            break
        shown.remove(names.index(title))
    if with_header:
        _show(Text("  ".join(names[index].ljust(widths[index]) for index in shown), style="bold"), is_wrapped=False)
    for row, text in zip(rows, texts, strict=True):
        cells = [Text(text[index].ljust(widths[index])) for index in shown]
        cells[-1].stylize(_style_of(text[-1]))
        whole = Text("  ").join(cells)
        detail = to_text(row.detail) if row.detail else ""
        is_beside = not screen.is_terminal or whole.cell_len + 2 + len(detail) <= screen.width
        if detail and is_beside:
            whole.append(f"  {detail}", style="dim")
        _show(whole, is_wrapped=False)
        below = [
            f"{name.partition(' ')[0].lower()} {text[index]}"
            for index, name in enumerate(names)
            if index not in shown and text[index] not in ("-", "0")
        ]
        if detail and not is_beside:
            below.append(detail)
        if below:
            paragraph(", ".join(below), indent=2)


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


def hanging(head: str, text: str) -> None:
    """Print a line whose text goes on below its beginning on a terminal; in a pipe it is one line."""
    shown = to_text(text)
    if not sys.stdout.isatty():
        line(f"{head}{shown}")
        return
    import textwrap

    room = max(console().width - len(head), _LEAST_ROOM)
    parts = textwrap.wrap(shown, room, break_long_words=False, break_on_hyphens=False) or [""]
    line(head + f"\n{'':{len(head)}}".join(parts))


def line(text: str) -> None:
    """Print one unwrapped line on stdout, so that it can be copied whole."""
    sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """Print a message on stderr, so that stdout holds only data; on a terminal it wraps between words."""
    shown = to_text(text)
    if sys.stderr.isatty():
        import shutil
        import textwrap

        width = max(shutil.get_terminal_size().columns, _LEAST_ROOM)
        shown = textwrap.fill(shown, width, break_long_words=False, break_on_hyphens=False, replace_whitespace=False)
    sys.stderr.write(f"{shown}\n")


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
