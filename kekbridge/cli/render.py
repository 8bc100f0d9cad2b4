"""How data reaches the screen: tables for people, JSON for scripts; whatever came from outside is plain text without control characters.

No markup is ever interpreted and colours appear on a terminal only. Knows nothing of what it shows.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

# A pipe has no width: rows stay whole, so that grep and awk see one row per line.
_PIPE_WIDTH = 220
SHORT_ID = 13
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})

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


def clean(value: object) -> str:
    """Plain printable text of anything: line ends become spaces; control, direction and invisible characters go.

    Escape sequences in an alert could otherwise clear the screen or rename the window of whoever reads the log.
    """
    text = value if isinstance(value, str) and value else plain(value)
    if text.isascii() and text.isprintable():
        return text
    spaced = text.replace("\r\n", " ").translate({9: " ", 10: " ", 13: " "})
    return "".join(character for character in spaced if unicodedata.category(character) not in _UNSAFE_CATEGORIES)


def plain(value: object) -> str:
    """The usual text of a value: decimals without exponent, times in UTC to the second, nothing as a dash."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Decimal):
        return amount(value)
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={plain(inner)}" for key, inner in value.items()) or "-"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(plain(inner) for inner in value) or "-"
    return str(value)


def amount(value: Decimal | None) -> str:
    """A decimal in plain notation without idle zeros: `1E+3` -> `1000`, `0.0100` -> `0.01`."""
    if value is None:
        return "-"
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") or "0" if "." in text else text


def moment(at: datetime | None) -> str:
    """`2026-11-22 16:08:06`, always UTC: day boundaries of the limits are UTC, too."""
    return "-" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def clock(at: datetime, today: datetime) -> str:
    """The time of day if it is today's (UTC), else day and minute: short enough for a log line."""
    utc = at.astimezone(UTC)
    return utc.strftime("%H:%M:%S" if utc.date() == today.astimezone(UTC).date() else "%m-%d %H:%M")


def short_id(identifier: str) -> str:
    """The beginning of an id, enough for `kekbridge explain`: ten characters of time, the rest chance."""
    return identifier[:SHORT_ID]


def market(symbol: str | None) -> str:
    """`PERP_BTC_USDC` -> `BTC`; what is no such name stays as it is."""
    if symbol and symbol.startswith("PERP_") and symbol.endswith("_USDC"):
        return symbol[5:-5]
    return symbol or "-"


def age(at: datetime, now: datetime) -> str:
    """`3 s ago`; a time ahead of ours reads `in 3 s`."""
    elapsed = (now - at).total_seconds()
    return f"in {duration(-elapsed)}" if elapsed < 0 else f"{duration(elapsed)} ago"


def duration(seconds: float | timedelta) -> str:
    """Two units at most: `12 ms`, `4.2 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    total = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    if total < 1:
        return f"{total * 1000:.0f} ms"
    if total < 10:
        return f"{total:.1f} s"
    whole = round(total)
    for size, name, below in ((86_400, "d", "h"), (3600, "h", "min"), (60, "min", "s")):
        if whole >= size:
            rest = whole % size // {"h": 3600, "min": 60, "s": 1}[below]
            return f"{whole // size} {name}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"


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
    """Print names and values below each other on stdout; long values wrap under themselves."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    shown = Table.grid(padding=(0, 2, 0, 0))
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in rows:
        shown.add_row(Text(name, style="bold"), Text(clean(value), style=_style_of(value)))
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

    texts = [[clean(cell) for cell in one.cells] for one in shown]
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
        detail = clean(one.detail) if one.detail else ""
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
    _show(Text(clean(text), style="bold"))


def paragraph(text: str, *, indent: int = 0) -> None:
    """Print words that wrap under themselves."""
    from rich.padding import Padding
    from rich.text import Text

    _show(Padding(Text(clean(text)), (0, 0, 0, indent), expand=False))


def line(text: str) -> None:
    """One unwrapped line on stdout: what people copy must stay in one piece."""
    sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """A message for the person, on stderr: data on stdout stays clean."""
    sys.stderr.write(f"{clean(text)}\n")


def as_json(value: object) -> None:
    """One line of JSON on stdout, ASCII only: C1 control characters would pass through JSON unescaped."""
    sys.stdout.write(json.dumps(jsonable(value), separators=(",", ":")) + "\n")


def jsonable(value: object) -> Any:
    """Plain JSON of our values: fields in camelCase as in alerts, decimals and times as text; keys of mappings stay as they are."""
    if is_dataclass(value) and not isinstance(value, type):
        return {camel(field.name): jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(inner) for key, inner in value.items()}
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(inner) for inner in value]
    return value


def camel(name: str) -> str:
    """`max_order_size` -> `maxOrderSize`."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


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
    return Text(clean(value), style=style)


def _style_of(value: object) -> str:
    return STATUS_STYLES.get(str(value), "") if isinstance(value, (str, Enum)) else ""
