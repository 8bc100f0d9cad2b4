"""Print the events of a running bridge on its terminal: one readable line each, wrapped within the terminal's width."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from kekbridge import formatting

if TYPE_CHECKING:
    from kekbridge.ops.event_lines import EventLine, Tone

_COLOURS: Final[dict[Tone, str]] = {"good": "32", "plain": "", "warning": "33", "failure": "31", "dim": "2"}
_SHORTEST_NAME: Final = 7  # of `default`
_LEAST_ROOM: Final = 20


def event_printer() -> Callable[[Sequence[EventLine]], None]:
    """A function that prints lines on stdout, which is a terminal. Names are aligned as far as they are known."""
    width_of_names = _SHORTEST_NAME

    def print_lines(lines: Sequence[EventLine]) -> None:
        nonlocal width_of_names
        width_of_names = max(width_of_names, *(len(formatting.sanitize(line.webhook)) for line in lines))
        columns = shutil.get_terminal_size().columns
        text = "".join(f"{format_line(line, columns, width_of_names, in_colour=_has_colours())}\n" for line in lines)
        sys.stdout.write(text)
        sys.stdout.flush()

    return print_lines


def format_line(line: EventLine, columns: int, width_of_names: int, *, in_colour: bool) -> str:
    """`18:01:50  default  buy 0.001 BTC  filled at 65,000  33 ms`; what does not fit goes on below its text."""
    head = f"{formatting.clock(line.at, line.at, None)}  {formatting.sanitize(line.webhook):<{width_of_names}}  "
    parts = [formatting.to_text(part) for part in (line.subject, line.what, line.took) if part]
    room = max(columns - len(head), _LEAST_ROOM)
    body = textwrap.wrap("  ".join(parts), room, drop_whitespace=True, break_on_hyphens=False) or [""]
    colour = _COLOURS[line.tone] if in_colour else ""
    shown = [f"\x1b[{colour}m{part}\x1b[0m" if colour else part for part in body]
    return head + f"\n{'':{len(head)}}".join(shown)


def _has_colours() -> bool:
    """As terminals and people ask for: https://no-color.org, and `dumb` for those without any."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
